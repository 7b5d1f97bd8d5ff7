"""The documents of an exam, read as a stream: what is known of each is kept, its text is not.

A text is read again where it is needed, from the file that it stands in; one that is no longer the same is refused.
What was given in memory, or comes from a pipe, stays in memory.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, overload

import pyarrow as pa

from snellen.errors import InputError
from snellen.texts.files import Held, Line, Notes, Place, documents_of
from snellen.texts.read import Document, files_of, named

_TOLD_EVERY = 1000  # documents


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of a document without its text; notes: what reading changed."""

    name: str
    sha256: str  # of its text
    characters: int
    notes: Notes
    place: Place


class Corpus(Sequence[Document]):
    """Documents that are read when they are asked for: one after another, or one of them."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.entries = tuple(entries)

    @classmethod
    def of(cls, documents: Iterable[Document]) -> Corpus:
        """Those that are in memory already, and stay there."""
        if isinstance(documents, Corpus):
            return documents
        return cls(_entry(one.name, one.text, one.notes, Held(one.text)) for one in documents)

    @classmethod
    def of_files(
        cls,
        paths: Sequence[str | os.PathLike[str]],
        *,
        field: str = "text",
        told: Callable[[float], None] = lambda share: None,
    ) -> Corpus:
        """Files, folders and patterns, as `read_documents` takes them, but one that is named twice is read twice.

        told: hears which share of the files has been read.

        Raises
        ------
        InputError
            As `read_documents`: every document is read once, so that what is wrong is found before any work.
        """
        return cls(_stream(named(files_of(paths)), field, told))

    @property
    def names(self) -> list[str]:
        return [entry.name for entry in self.entries]

    def key(self) -> dict[str, dict[str, int | str]]:
        """Which texts these are, as a run's key has it: one digest over the names and digests of all of them."""
        found = hashlib.sha256()
        for entry in self.entries:
            found.update(json.dumps([entry.name, entry.sha256]).encode() + b"\n")
        return {"texts": {"documents": len(self.entries), "sha256": found.hexdigest()}}

    def __len__(self) -> int:
        return len(self.entries)

    @overload
    def __getitem__(self, index: int) -> Document: ...
    @overload
    def __getitem__(self, index: slice) -> Corpus: ...
    def __getitem__(self, index: int | slice) -> Document | Corpus:
        if isinstance(index, slice):
            return Corpus(self.entries[index])
        return _read(self.entries[index], None)

    def __iter__(self) -> Iterator[Document]:
        opened: BinaryIO | None = None
        path: Path | None = None
        try:
            for entry in self.entries:
                place = entry.place
                if isinstance(place, Line) and place.path != path:  # one opening for all lines of a file
                    if opened is not None:
                        opened.close()
                    opened, path = _open(entry, place.path), place.path
                yield _read(entry, opened)
        finally:
            if opened is not None:
                opened.close()


def _entry(name: str, text: str, notes: Notes, place: Place) -> Entry:
    return Entry(name, hashlib.sha256(text.encode()).hexdigest(), len(text), notes, place)


def _stream(files: Sequence[tuple[Path, str]], field: str, told: Callable[[float], None]) -> Iterator[Entry]:
    sizes = [path.stat().st_size if path.is_file() else 0 for path, _ in files]
    total, before, number = max(1, sum(sizes)), 0, 0
    told(0.0)
    for (path, own), size in zip(files, sizes, strict=True):
        for name, text, notes, place in documents_of(path, own, field):
            number += 1
            if number % _TOLD_EVERY == 0:
                told((before + (place.begin if isinstance(place, Line) else 0)) / total)
            yield _entry(name, text, notes, place)
        before += size
        told(before / total if before < total else 1.0)
    told(1.0)


def _open(entry: Entry, path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise _changed(entry) from error


def _read(entry: Entry, opened: BinaryIO | None) -> Document:
    place = entry.place
    try:
        text = place.read(opened) if isinstance(place, Line) else place.read()
    except (OSError, ValueError, LookupError, TypeError, pa.ArrowException) as error:
        raise _changed(entry) from error
    if not isinstance(place, Held) and hashlib.sha256(text.encode("utf-8", "replace")).hexdigest() != entry.sha256:
        raise _changed(entry)
    return Document(entry.name, text, entry.notes)


def _changed(entry: Entry) -> InputError:
    return InputError(
        f"text {entry.name!r}: its file was changed or taken away since this command began: leave it as it is and "
        "begin again"
    )
