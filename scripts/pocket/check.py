"""Count once more what training and held-out text share, from the files themselves.

    python scripts/pocket/check.py CORPUS

A twin of prepare.py's own count that shares no code with it but the word pattern: plain sets of word tuples.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from pathlib import Path

POCKET = Path(__file__).resolve().parents[2] / "src" / "snellen" / "models" / "pocket"
SIZES = (8, 13)


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+(?:'[a-z]+)?", text.lower())


def runs(text: str, size: int) -> set[tuple[str, ...]]:
    found = words(text)
    return set(zip(*(found[i:] for i in range(size)), strict=False))


def main(corpus: Path) -> None:
    evidence = json.loads((corpus / "evidence.json").read_text())
    held: dict[int, set[tuple[str, ...]]] = {size: set() for size in SIZES}
    for name, record in evidence["held-out"].items():
        raw = (POCKET / "held-out" / f"{name}.txt").read_bytes()
        assert hashlib.sha256(raw).hexdigest() == record["sha256"], name
        for size in SIZES:
            held[size] |= runs(raw.decode(), size)
    digest = hashlib.sha256((corpus / "train.jsonl").read_bytes()).hexdigest()
    assert digest == evidence["training"]["sha256"], "train.jsonl is not the one that evidence.json describes"
    shared = dict.fromkeys(SIZES, 0)
    with (corpus / "train.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            text = json.loads(line)["text"]
            for size in SIZES:
                shared[size] += len(runs(text, size) & held[size])
    print(json.dumps({"shared runs of words": shared, "runs in held-out text": {n: len(s) for n, s in held.items()}}))
    if any(shared.values()):
        raise SystemExit("training and held-out text overlap")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
