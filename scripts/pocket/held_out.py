"""What is held out: which stretch of which work, and the shingles that no training text may share with it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

LIMIT = 10_000  # characters of each document that ship; the whole stretch is kept out of training
SHINGLE = 8  # words
MERGE = 400  # characters: cuts nearer than this are one cut (another edition of the same passage)


@dataclass(frozen=True)
class Stretch:
    """From the first occurrence of `begin` (at a line start) up to the next `end` after it (None: the end)."""

    document: str
    work: str
    begin: str | None = None
    end: str | None = None
    ships: bool = True  # not where the author died less than 70 years ago: public domain in the US, not everywhere


STRETCHES = (
    Stretch("fiction-persuasion", "austen-persuasion", "Chapter 8\n", "Chapter 9\n"),
    Stretch("fiction-pride-and-prejudice", "austen-pride", "Chapter 34\n", "Chapter 35\n"),
    Stretch("fiction-father-brown", "chesterton-brown", "XII. The Fairy Tale", None),
    Stretch("fiction-ball-and-cross", "chesterton-ball", "XII. THE DESERT ISLAND", "XIII. "),
    Stretch("fiction-moby-dick", "melville-moby_dick", "CHAPTER 40\n", "CHAPTER 42\n"),
    Stretch("children-alice", "carroll-alice", "CHAPTER XI. ", None),
    Stretch("children-white-pigeon", "edgeworth-parents", "THE WHITE PIGEON.", "THE BIRTHDAY PRESENT."),
    Stretch("children-nightingale", "bryant-stories", "THE NIGHTINGALE", "MARGERY'S GARDEN", ships=False),
    Stretch("children-buster-bear", "burgess-busterbrown", "XVIII\n", "XXII\n", ships=False),
    Stretch("scripture-ruth", "bible-kjv", "The Book of Ruth\n", "The First Book of Samuel\n"),
    Stretch("scripture-jonah", "bible-kjv", "Jonah\n", "Micah\n"),
    Stretch("scripture-ecclesiastes", "bible-kjv", "Ecclesiastes\n", "The Song of Solomon\n"),
    Stretch("verse-paradise-lost", "milton-paradise", "Book VII\n", "Book VIII\n"),
    Stretch("verse-leaves-of-grass", "whitman-leaves", "[BOOK XXII. ", "[BOOK XXIII]"),
    Stretch("verse-songs-of-experience", "blake-poems", " SONGS OF EXPERIENCE\n", "THE BOOK of THEL"),
    Stretch("couplets-rape-of-the-lock", "poetry:3064390:3064700"),
    Stretch("couplets-deserted-village", "poetry:910635:910880"),
    Stretch("drama-tempest", "the-tempest"),
    Stretch("drama-othello", "othello", "ACT III\n", "ACT IV\n"),
    Stretch("drama-much-ado", "much-ado-about-nothing", "ACT II\n", "ACT III\n"),
    Stretch("speech-1790-washington", "1790_george_washington_n"),
    Stretch("speech-1862-lincoln", "1862_abraham_lincoln_r"),
    Stretch("speech-1941-roosevelt", "1941_franklin_d_roosevelt_d"),
    Stretch("speech-1999-clinton", "1999_william_j_clinton_d"),
    Stretch("lexicon-devils-dictionary", "bierce-devil", "MACE, ", "OATH, "),
)


def span(stretch: Stretch, text: str) -> tuple[int, int]:
    def at(mark: str, after: int) -> int:
        found = re.compile("^" + re.escape(mark), re.M).search(text, after)
        if not found:
            raise SystemExit(f"{stretch.document}: {mark!r} is not in {stretch.work}")
        return found.start()

    start = at(stretch.begin, 0) if stretch.begin else 0
    return start, at(stretch.end, start + 1) if stretch.end else len(text)


def shipped(text: str) -> str:
    """The first LIMIT characters, back to the end of a line or sentence."""
    text = text.strip("\n") + "\n"
    if len(text) <= LIMIT:
        return text
    ends = [m.end() for m in re.finditer(r"\n|[.!?][\"']? ", text[:LIMIT])]
    return text[: ends[-1]].rstrip() + "\n"


_WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?")


def shingles(text: str, size: int = SHINGLE) -> Iterator[tuple[int, int, int]]:
    """(hash, start, end) of every run of `size` words, case and punctuation aside."""
    words = [(m.group(), m.start(), m.end()) for m in _WORD.finditer(text.lower())]
    for i in range(len(words) - size + 1):
        run = words[i : i + size]
        words_of_run = " ".join(word for word, _, _ in run)
        # not hash(): Python salts it, and then no two runs would keep the same texts
        code = int.from_bytes(hashlib.blake2b(words_of_run.encode(), digest_size=8).digest())
        yield code, run[0][1], run[-1][2]


def without(text: str, banned: set[int]) -> tuple[list[str], int]:
    """`text` in pieces, with every sentence or line cut out that shares a shingle; and the number of cuts."""
    cuts: list[list[int]] = []
    for code, start, end in shingles(text):
        if code in banned:
            if cuts and start - cuts[-1][1] < MERGE:
                cuts[-1][1] = max(end, cuts[-1][1])
            else:
                cuts.append([start, end])
    pieces, at = [], 0
    for start, end in cuts:
        borders = [m.end() for m in re.finditer(r"\n|[.!?;:][\"']? ", text[at:start])]
        pieces.append(text[at : at + borders[-1]] if borders else "")
        after = re.compile(r"\n|[.!?;:][\"']? ").search(text, end)
        at = max(at, after.end() if after else len(text))
    pieces.append(text[at:])
    return [piece for piece in pieces if len(piece.strip()) > 200 or not cuts], len(cuts)
