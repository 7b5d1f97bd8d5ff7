"""Score the first token of line-final words in couplets, where a rhyme constrains what comes and where it does not.

    OMP_NUM_THREADS=1 python scripts/genres/line_ends.py ARCHIVES TEXTS RUNS MODEL [--documents N] [--couplets N]

Of each couplet that rhymes by CMUdict both ends are scored: the second, which must rhyme, and the first, which is free.
Each is predicted from the eight lines before its own and its own up to there. The run is RUNS/line-ends-MODEL.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import rhyme
import score
from fetch import archive
from run import read

import snellen
from snellen.texts.encode import Encoded, encode

CONTEXT = 8  # lines


def final_word(encoded: Encoded, text: str, start: int, end: int) -> int | None:
    """The token that begins the last word of the line text[start:end], or None where no token begins with it.

    A token begins with the word if it holds the word's first letter and nothing before it but a blank.
    """
    word = rhyme.last_word(text[start:end])
    if not word:
        return None
    at = text.lower().rindex(word, start, end)
    token = int(np.searchsorted(encoded.start, at, side="right")) - 1
    while encoded.end[token] <= at:  # the parts of a split character after the first cover nothing
        token += 1
    return token if text[encoded.start[token] : at].strip(" ") == "" else None


def targets(
    document: int, encoded: Encoded, text: str, known: rhyme.Pronunciations, count: int
) -> list[tuple[score.Span, int]]:
    """Up to `count` rhyming couplets spread evenly over the poem: (span, 0 first line or 1 second line) of each end."""
    lines = text.rstrip("\n").split("\n")
    starts = np.cumsum([0, *(len(line) + 1 for line in lines)])
    found: list[list[tuple[score.Span, int]]] = []
    for at in range(CONTEXT, len(lines) - 1, 2):
        if not rhyme.rhymes(known, rhyme.last_word(lines[at]), rhyme.last_word(lines[at + 1])):
            continue
        pair = []
        for role in (0, 1):
            line = at + role
            token = final_word(encoded, text, int(starts[line]), int(starts[line]) + len(lines[line]))
            if token is not None:
                begin = int(np.searchsorted(encoded.start, starts[line - CONTEXT]))
                pair.append((score.Span(document=document, begin=begin, first=token, last=token + 1), role))
        if len(pair) == 2:
            found.append(pair)
    chosen = np.linspace(0, len(found) - 1, min(count, len(found))).round().astype(int)
    return [end for i in chosen for end in found[i]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archives", type=Path)
    parser.add_argument("texts", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("model")
    parser.add_argument("--documents", type=int, default=28)
    parser.add_argument("--couplets", type=int, default=5, help="couplets of each document")
    settings = parser.parse_args()
    subject = snellen.load(settings.model)
    documents = read(settings.texts / "couplets.jsonl", settings.documents)
    known = rhyme.pronunciations(archive(settings.archives, "cmudict"))
    found = [
        end
        for i, document in enumerate(documents)
        for end in targets(i, encode(subject.tokenizer, document), document.text, known, settings.couplets)
    ]
    name = f"line-ends-{Path(settings.model).name}"
    about = {"genre": "line ends", "model": settings.model, "roles": [role for _, role in found]}
    spans = [span for span, _ in found]
    score.score(subject, documents, spans, settings.runs / name, widths=(8,), about=about, look_for_runs=False)


if __name__ == "__main__":
    main()
