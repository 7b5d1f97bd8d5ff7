"""Which documents a user means: files, folders and patterns, strings, and the texts that ship with Snellen."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from snellen.errors import InputError
from snellen.results.files import kind_of
from snellen.texts.files import check_characters, documents_of

__all__ = ["Document", "bundled", "check_characters", "documents_from", "read_documents"]

ROWS = (".jsonl", ".ndjson", ".parquet")  # many documents a file
PLAIN = (".txt", ".md", ".text", ".markdown", ".rst", ".tex")  # what a folder is searched for, beside ROWS
_GLOB = frozenset("*?[")


@dataclass(frozen=True)
class Document:
    """A text with the name under which results speak of it."""

    name: str
    text: str
    notes: tuple[str, ...] = ()  # what reading changed: a byte-order mark, line ends

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


def read_documents(paths: Sequence[str | os.PathLike[str]], *, field: str = "text") -> list[Document]:
    """Read files, folders and patterns, in the order given.

    ``.jsonl`` and ``.ndjson`` hold one document a line, ``.parquet`` one a row; any other file is one document
    in UTF-8. A folder stands for all text, JSON-lines and Parquet files inside, at any depth, sorted, hidden
    ones left out. A pattern that no shell has expanded is expanded. A file named twice is read once. A
    byte-order mark is removed and CRLF becomes LF, both noted in `Document.notes`. Rows that are null or
    white space only are skipped: there is nothing in them to score.

    Parameters
    ----------
    paths
        Files, folders or patterns.
    field
        The field or column that holds the text of a row.

    Returns
    -------
    list[Document]
        Named after their files (shortened by the folders that all share), rows with ``:LINE`` behind it.

    Raises
    ------
    InputError
        Missing, unreadable, empty, binary or not UTF-8; JSON wrong or without the field: what, where, the mend.
    """
    files = list(dict.fromkeys(_expand(paths)))
    return [
        Document(name, text, notes)
        for path, own in named(files)
        for name, text, notes, _ in documents_of(path, own, field)
    ]


def files_of(paths: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """The files that paths, folders and patterns stand for, in the order given; one that is named twice stands twice.

    Raises
    ------
    InputError
        One of them is not there, or stands for nothing.
    """
    return list(_expand(paths))


def named(files: Sequence[Path]) -> list[tuple[Path, str]]:
    """Each file with the name that results call it by. Raises InputError for none."""
    if not files:
        raise InputError("no text files given: name at least one file, folder or pattern")
    once = list(dict.fromkeys(files))
    names = dict(zip(once, _names(once), strict=True))
    return [(file, names[file]) for file in files]


def documents_from(
    texts: str | os.PathLike[str] | Document | Iterable[str | os.PathLike[str] | Document],
    *,
    field: str = "text",
) -> list[Document]:
    """What the Python interface accepts as texts: one or several.

    The type decides, never what happens to lie on the disk: a `str` is a text itself, a `pathlib.Path` is a
    file, a folder or a pattern, a `Document` is itself. A `str` that is the name of an existing file is
    refused as a likely slip.

    Raises
    ------
    InputError
        As `read_documents`; for an empty text, an empty sequence or another type.
    """
    if isinstance(texts, str | os.PathLike | Document):
        texts = [texts]
    documents: list[Document] = []
    for number, one in enumerate(texts, start=1):
        if isinstance(one, Document):
            documents.append(one)
        elif isinstance(one, str):
            if _names_a_file(one):
                raise InputError(
                    f"text {number}: the string {one!r} is the name of a file; a string is a text itself here: "
                    f"give pathlib.Path({one!r}) to read the file"
                )
            documents.append(Document(f"text {number}", one))
        elif isinstance(one, os.PathLike):
            documents += read_documents([one], field=field)
        else:
            raise InputError(f"text {number} is a {type(one).__name__}: must be a string, a pathlib.Path or a Document")
        if isinstance(one, str | Document):
            check_characters(documents[-1].text, f"text {documents[-1].name!r}")
        if isinstance(one, str | Document) and not documents[-1].text.strip():
            raise InputError(f"text {documents[-1].name!r}: nothing but white space in it: leave it out")
    if not documents:
        raise InputError("no texts given: give at least one string, pathlib.Path or Document")
    return documents


def bundled() -> list[Document]:
    """The held-out documents that ship with the bundled model, which has not seen them.

    Raises
    ------
    InputError
        If this installation came without them.
    """
    folder = Path(str(resources.files("snellen").joinpath("models", "pocket", "held-out")))
    files = sorted(folder.glob("*.txt"))
    if not files:
        raise InputError(
            f"the bundled texts are missing from this installation (no *.txt in {folder}): reinstall snellen"
        )
    return [Document(document.name.removesuffix(".txt"), document.text) for document in read_documents(files)]


def _expand(paths: Sequence[str | os.PathLike[str]]) -> Iterator[Path]:
    for given in paths:
        path = Path(given).expanduser()
        if path.is_dir():
            inside = [
                file
                for file in sorted(path.rglob("*"))
                if file.suffix.lower() in PLAIN + ROWS
                and file.is_file()
                and not any(part.startswith(".") for part in file.relative_to(path).parts)
            ]
            if not inside:
                raise InputError(
                    f"text {str(given)!r}: no text files in the folder ({', '.join('*' + s for s in PLAIN + ROWS)}):"
                    " name the files themselves"
                )
            yield from inside
        elif path.exists():
            kind = kind_of(os.stat(path).st_mode)
            if kind is not None and not path.is_fifo():  # a device need never end
                raise InputError(f"text {str(given)!r}: is {kind}, not a file: name files")
            yield path
        elif _GLOB & set(str(path)):
            found = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
            files = [file for file in found if file.is_file()]
            if not files:
                raise InputError(f"text {str(given)!r}: no file matches the pattern (from {Path.cwd()})")
            yield from files
        else:
            raise InputError(f"text {str(given)!r}: no such file (looked in {path.absolute().parent})")


def _names(files: Sequence[Path]) -> list[str]:
    """The files' own names, or where those repeat, their paths below the folder that all share."""
    names = [file.name for file in files]
    if len(set(names)) == len(names):
        return names
    absolute = [file.absolute() for file in files]
    shared = os.path.commonpath([file.parent for file in absolute])
    return [file.relative_to(shared).as_posix() for file in absolute]


def _names_a_file(text: str) -> bool:
    if len(text) > 1024 or "\n" in text or "\0" in text:
        return False
    try:
        return Path(text).is_file()
    except OSError:
        return False
