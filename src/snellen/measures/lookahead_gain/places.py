"""Where in a text a token stands: its class, its place in the line, whether it is part of a memorised passage."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from snellen.measures.base import Scored

CLASSES = ("word start", "inside a word", "line start", "punctuation", "other")
APOSTROPHES = ("'", "’")


def follows(scored: Scored) -> NDArray[np.bool_]:
    """[n] does the row's token stand right after the token of the row before it?"""
    after = np.zeros(len(scored), dtype=np.bool_)
    after[1:] = (scored.document[1:] == scored.document[:-1]) & (scored.index[1:] == scored.index[:-1] + 1)
    return after


def places(scored: Scored) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Class (index into `CLASSES`) and line position of each row, from the characters alone.

    Line position: number of tokens of the same line before this one; the token with the line break ends its line,
    unless text follows the break inside the same token, which then is the line's first. −1 where no line break and
    no beginning of the document has been scored yet, so that the position is not known.

    Class: `other` has nothing but blanks (or no character of its own); `punctuation` no letter or digit; `line
    start` is the first token of a line that is not blank; `word start` begins a word: it starts with a blank, stands
    after a gap or after a character that belongs to no word, or the vocabulary says so; the rest is `inside a word`.
    An apostrophe after a word belongs to the word.
    """
    n = len(scored)
    kind = np.empty(n, dtype=np.int64)
    position = np.full(n, -1, dtype=np.int32)
    after = follows(scored)
    at, fresh, word = -1, False, False  # place in the line; nothing but blanks in it so far; the text ends in a word
    for i, piece in enumerate(scored.pieces):
        if not after[i]:
            known = bool(scored.start[i] == 0 or scored.index[i] == 0)
            at, fresh, word = (0, True, False) if known else (-1, False, False)
            gap = True
        else:
            gap = bool(scored.start[i] > scored.end[i - 1])
        _, broken, tail = piece.rpartition("\n")
        blank = not piece.strip()
        opens = bool(broken) and bool(tail.strip())
        position[i] = 0 if opens else at
        if blank:
            kind[i] = CLASSES.index("other")
        elif not any(map(str.isalnum, piece)):
            kind[i] = CLASSES.index("punctuation")
        elif opens or fresh:
            kind[i] = CLASSES.index("line start")
        else:
            inside = word and not gap and not piece[0].isspace()
            elided = inside and piece.startswith(APOSTROPHES)
            starts = not inside or (bool(scored.starts_word[scored.token[i]]) and not elided)
            kind[i] = CLASSES.index("word start" if starts else "inside a word")
        if broken and not opens:
            at, fresh = 0, True
        else:
            at = 1 if opens else at + 1 if at >= 0 else -1
            fresh = fresh and blank
        if piece:
            last = piece[-1]
            word = last.isalnum() or (last in APOSTROPHES and (word if len(piece) == 1 else piece[-2].isalnum()))
    return kind, position


def memorised(scored: Scored, run: int) -> NDArray[np.bool_]:
    """[n] inside a run of at least `run` consecutive tokens of a document, each the model's most probable one.

    Greedy decoding would reproduce such a run word for word.
    """
    greedy = scored.rank == 0
    after = follows(scored)
    begins = greedy & ~(after & np.r_[False, greedy[:-1]])
    number = np.cumsum(begins)
    length = np.bincount(number[greedy], minlength=int(number.max(initial=0)) + 1)
    result: NDArray[np.bool_] = greedy & (length[number] >= run)
    return result


def bins(values: NDArray[np.floating], edges: Sequence[float], unit: str) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """[n] right-open bin of each value, and the names of the bins."""
    names = [f"below {edges[0]:g} {unit}"]
    names += [f"{low:g} to {high:g} {unit}" for low, high in pairwise(edges)]
    names.append(f"{edges[-1]:g} {unit} or more")
    return np.digitize(values, edges).astype(np.int64), tuple(names)


def line_bins(position: NDArray[np.int32]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """[n] bin of the line position (token 1 is the line's first), and the names of the bins."""
    names = ("token 1", "token 2", "tokens 3-4", "tokens 5-8", "tokens 9-16", "token 17 or later", "unknown")
    group = np.digitize(position, [1, 2, 4, 8, 16]).astype(np.int64)
    return np.where(position < 0, 6, group), names
