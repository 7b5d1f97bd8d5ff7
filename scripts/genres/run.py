"""Score each genre with each model.

    OMP_NUM_THREADS=1 python scripts/genres/run.py TEXTS RUNS MODEL [--genres …] [--documents N] [--size N] [--skip N]

MODEL is what `snellen.load` takes; the runs are RUNS/GENRE-MODEL. A stopped run resumes. With --skip other documents
are taken, to see whether something comes back: RUNS/GENRE-MODEL-after-N.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import score

import snellen
from snellen.texts.encode import encode
from snellen.texts.read import Document

GENRES = ("couplets", "prose", "encyclopaedia", "chess", "code")
CONTEXT = 96  # tokens before each scored one, where the document has them
REACH = 216  # a span begins at most here: with its 24 tokens the window is at most 241


def read(path: Path, count: int, skip: int = 0) -> list[Document]:
    rows = [json.loads(line) for line in path.open(encoding="utf-8")]
    return [Document(row["name"], row["text"]) for row in rows[skip : skip + count]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("model")
    parser.add_argument("--genres", nargs="+", default=GENRES, choices=GENRES)
    parser.add_argument("--documents", type=int, default=20)
    parser.add_argument("--size", type=int, default=24, help="tokens scored of each document")
    parser.add_argument("--skip", type=int, default=0, help="documents of the file that are left out first")
    settings = parser.parse_args()
    subject = snellen.load(settings.model)
    for genre in settings.genres:
        documents = read(settings.texts / f"{genre}.jsonl", settings.documents, settings.skip)
        lengths = [len(encode(subject.tokenizer, document)) for document in documents]
        spans = [
            score.one_span(i, length, size=settings.size, context=CONTEXT, reach=REACH)
            for i, length in enumerate(lengths)
        ]
        name = f"{genre}-{Path(settings.model).name}" + (f"-after-{settings.skip}" if settings.skip else "")
        places = f", documents {settings.skip + 1} to {settings.skip + len(documents)}"
        text = genre + places if settings.skip else genre
        score.score(subject, documents, spans, settings.runs / name, about={"genre": text, "model": settings.model})


if __name__ == "__main__":
    main()
