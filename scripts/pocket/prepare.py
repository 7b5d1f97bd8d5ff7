"""Package archives -> training corpus, held-out documents, and the evidence that they do not overlap.

    python scripts/pocket/prepare.py ARCHIVES CORPUS

ARCHIVES holds the files named in sources.py; CORPUS receives train.jsonl and evidence.json.
The held-out documents go straight into the package.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections import Counter
from pathlib import Path

import works
from held_out import STRETCHES, Stretch, shingles, shipped, span, without

POCKET = Path(__file__).resolve().parents[2] / "src" / "snellen" / "models" / "pocket"
CHUNK = 1500  # characters: the grain of removing duplicates among training works
DUPLICATE = 0.5  # a chunk goes when so much of it was seen before


def apart(found: list[works.Work], poem_lines: list[str]) -> tuple[dict[str, str], dict[str, str], list[works.Work]]:
    """(documents as shipped, whole stretches, works without the stretches)."""
    whole: dict[str, str] = {}
    texts = {work.name: work.text for work in found}
    by_work: dict[str, list[Stretch]] = {}
    for stretch in STRETCHES:
        by_work.setdefault(stretch.work, []).append(stretch)
    pieces: list[works.Work] = []
    for name, stretches in by_work.items():
        if name.startswith("poetry:"):
            first, last = map(int, name.split(":")[1:])
            whole[stretches[0].document] = works.clean.plain("\n".join(poem_lines[first:last]).encode())
            continue
        for stretch in stretches:
            start, end = span(stretch, texts[name])
            whole[stretch.document] = texts[name][start:end]
    for work in found:
        cuts = sorted(span(stretch, work.text) for stretch in by_work.get(work.name, ()))
        at = 0
        for start, end in [*cuts, (len(work.text), len(work.text))]:
            if len(work.text[at:start].strip()) > 200:
                pieces.append(works.Work(name=work.name, source=work.source, text=work.text[at:start]))
            at = end
    ships = {stretch.document for stretch in STRETCHES if stretch.ships}
    return {name: shipped(text) for name, text in whole.items() if name in ships}, whole, pieces


def unrepeated(pieces: list[works.Work], dropped: Counter[str]) -> list[works.Work]:
    """Leave out chunks that an earlier work had (13-word shingles, one in four looked at)."""
    seen: set[int] = set()
    kept = []
    for work in pieces:
        new: set[int] = set()
        run = ""
        for chunk in re.findall(rf"(?s).{{1,{CHUNK}}}(?:\n|$|(?<=[.!?]) )|.{{1,{CHUNK}}}", work.text):
            codes = [code for code, _, _ in shingles(chunk, 13) if code % 4 == 0]
            if codes and sum(code in seen for code in codes) > DUPLICATE * len(codes):
                dropped[work.source] += len(chunk)
                if len(run.strip()) > 200:
                    kept.append(works.Work(name=work.name, source=work.source, text=run))
                run = ""
                continue
            new.update(codes)
            run += chunk
        seen |= new  # a work may repeat itself (refrains); only other works count
        if len(run.strip()) > 200:
            kept.append(works.Work(name=work.name, source=work.source, text=run))
    return kept


def main(archives: Path, corpus: Path) -> None:
    readers = (works.gutenberg, works.austen, works.plays, works.speeches, works.lexicons)
    found = [work for read in readers for work in read(archives)]
    poems, poem_lines = works.poetry(archives)
    documents, whole, pieces = apart(found + poems, poem_lines)
    banned = {code for text in whole.values() for code, _, _ in shingles(text)}

    training: list[works.Work] = []
    cuts: Counter[str] = Counter()
    for work in pieces:
        left, count = without(work.text, banned)
        cuts[work.source] += count
        training += [works.Work(name=work.name, source=work.source, text=text) for text in left]
    repeated: Counter[str] = Counter()
    training = unrepeated(training, repeated)

    shared = {
        size: sum(code in codes for work in training for code, _, _ in shingles(work.text, size))
        for size in (8, 13)
        for codes in [{code for text in documents.values() for code, _, _ in shingles(text, size)}]
    }
    if shared[8] or shared[13]:
        raise SystemExit(f"training and held-out text share {shared} shingles")

    corpus.mkdir(parents=True, exist_ok=True)
    with (corpus / "train.jsonl").open("w", encoding="utf-8") as out:
        for work in training:
            record = {"work": work.name, "source": work.source, "text": work.text}
            out.write(json.dumps(record, ensure_ascii=False) + "\n")
    target = POCKET / "held-out"
    target.mkdir(parents=True, exist_ok=True)
    for old in target.glob("*.txt"):
        old.unlink()
    for name, text in documents.items():
        (target / f"{name}.txt").write_bytes(text.encode())
    characters: Counter[str] = Counter()
    for work in training:
        characters[work.source] += len(work.text)
    evidence = {
        "training": {
            "sha256": hashlib.sha256((corpus / "train.jsonl").read_bytes()).hexdigest(),
            "documents": len(training),
            "characters": dict(characters),
            "cut for sharing 8 words with held-out text": dict(cuts),
            "characters dropped as repeated": dict(repeated),
        },
        "shared shingles (words: count)": {str(size): count for size, count in shared.items()},
        "held-out": {
            name: {"sha256": hashlib.sha256(text.encode()).hexdigest(), "bytes": len(text.encode())}
            for name, text in sorted(documents.items())
        },
    }
    (corpus / "evidence.json").write_text(json.dumps(evidence, indent=1) + "\n")
    print(json.dumps(evidence, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
