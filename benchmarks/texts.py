"""What a large text costs an exam that scores a small part of it: CPU time, memory, and the size of `run.json`.

`python benchmarks/texts.py` measures each text in a process of its own, on the bundled model with a measure that asks
for nothing but the model's own predictions, so that what is left is reading, encoding, planning and recording.
`--write docs/performance.md` puts the table there. The texts are made of shuffled sentences of the bundled ones.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMIT = 2000
SIZES = {
    "1,000,000 characters, one file": (1, 1_000_000),
    "10,000,000 characters, one file": (1, 10_000_000),
    "1,000,000 characters, 1,000 documents": (1_000, 1_000_000),
    "10,000,000 characters, 10,000 documents": (10_000, 10_000_000),
    "10,000,000 characters, 100,000 documents": (100_000, 10_000_000),
}


def make(place: Path, documents: int, characters: int) -> Path:
    """One text file, or one document a line."""
    from snellen.texts.read import bundled

    sentences = [part for one in bundled() for part in re.split(r"(?<=[.!?])\s+", one.text) if part.strip()]
    rng, each = random.Random(0), characters // documents
    file = place / ("text.txt" if documents == 1 else "text.jsonl")
    with file.open("w", encoding="utf-8") as out:
        for number in range(documents):
            text, size = [f"{number}."], 0  # no two are the same
            while size < each:
                text.append(rng.choice(sentences))
                size += len(text[-1]) + 1
            whole = " ".join(text)[:each]
            out.write(whole if documents == 1 else json.dumps({"text": whole}) + "\n")
    return file


def measure(file: Path, out: Path) -> None:
    """In a process of its own: one exam, and what it took."""
    from dataclasses import dataclass
    from typing import ClassVar

    import snellen
    from snellen.measures.base import Measure, Measured, Scored
    from snellen.results.findings import Finding

    @dataclass(frozen=True, kw_only=True)
    class Mean(Measure):
        name: ClassVar[str] = "mean"
        question: ClassVar[str] = "How likely is the text?"
        needs: ClassVar[frozenset[str]] = frozenset()

        def measure(self, scored: Scored, *, seed: int) -> Measured:
            value = float(scored.log_prob.astype(float).mean())
            return Measured(
                finding=Finding(
                    measure=self.name, question=self.question, value=value, unit="nats/token", low=None, high=None,
                    level=0.95, n={"tokens": len(scored)}, excluded={}, control={}, verdict="-", reading="-",
                    settings={}, reason="no interval",
                )
            )  # fmt: skip

    def peak() -> float:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1000  # type: ignore[index]

    subject = snellen.load("pocket", device="cpu")
    before, began = peak(), time.process_time()
    run = snellen.exam(subject, file, limit=LIMIT, measures=[Mean()], out=out, report=False)
    found = {
        "seconds": time.process_time() - began,
        "peak": peak() - before,
        "run.json": (out / "run.json").stat().st_size,
        "value": run.findings[0].value,
        "windows": run.content["progress"]["windows"],
    }
    print(json.dumps(found))


def table(only: str) -> list[str]:
    lines = [
        "| text | windows | CPU seconds | peak beyond the loaded model, MB | run.json, kB | mean log p |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, (documents, characters) in SIZES.items():
        if only not in name:
            continue
        with tempfile.TemporaryDirectory() as place:
            file = make(Path(place), documents, characters)
            done = subprocess.run(
                [sys.executable, __file__, "--one", str(file), "--out", f"{place}/run"], capture_output=True, text=True
            )
            if done.returncode:
                raise SystemExit(done.stderr)
            found = json.loads(done.stdout.splitlines()[-1])
        lines.append(
            f"| {name} | {found['windows']} | {found['seconds']:.1f} | {found['peak']:.0f} | "
            f"{found['run.json'] / 1000:.0f} | {found['value']:.6f} |"
        )
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="texts whose name contains this")
    parser.add_argument("--write", type=Path)
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one is not None:
        measure(given.one, given.out)
        return
    lines = table(given.only)
    if given.write is not None:
        page = given.write.read_text(encoding="utf-8")
        start, end = "<!-- texts -->", "<!-- /texts -->"
        before, after = page[: page.index(start) + len(start)], page[page.index(end) :]
        given.write.write_text(before + "\n" + "\n".join(lines) + "\n" + after, encoding="utf-8")


if __name__ == "__main__":
    main()
