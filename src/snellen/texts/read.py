"""Reading documents: one of text files, JSON lines, Parquet; every wrong file is one clear line."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from snellen.errors import InputError
from snellen.results.files import kind_of

ROWS = (".jsonl", ".ndjson", ".parquet")  # many documents a file
PLAIN = (".txt", ".md", ".text", ".markdown", ".rst", ".tex")  # what a folder is searched for, beside ROWS
_GLOB = frozenset("*?[")
_IMPOSSIBLE = re.compile("[\0\ud800-\udfff]")


@dataclass(frozen=True)
class Document:
    """A text with the name under which results speak of it."""

    name: str
    text: str
    notes: tuple[str, ...] = ()  # what reading changed: a byte-order mark, line ends

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


def check_characters(text: str, where: str) -> None:
    """Refuse what no UTF-8 text holds, and what begins no text, whatever way it came in: files cannot hold the first.

    Raises
    ------
    InputError
        A lone half of a surrogate pair, as JSON and Python can write it, or NUL.
    """
    found = _IMPOSSIBLE.search(text)
    if found is not None:
        code = ord(found[0])
        what = "a NUL character" if code == 0 else f"half of a surrogate pair (U+{code:04X})"
        raise InputError(
            f"{where}: {what} at character {found.start()}, counted from 0, which is no character of a text: "
            "remove or replace it"
        )


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
    if not files:
        raise InputError("no text files given: name at least one file, folder or pattern")
    names = _names(files)
    documents: list[Document] = []
    for path, name in zip(files, names, strict=True):
        suffix = path.suffix.lower()
        if suffix == ".parquet":
            documents += _parquet(path, name, field)
        elif suffix in (".jsonl", ".ndjson"):
            documents += _json_lines(path, name, field)
        elif suffix == ".json":
            raise InputError(
                f"text {str(path)!r}: a .json file is not a list of documents: write one JSON object a line "
                f"(jq -c '.[]' {path.name} > {path.stem}.jsonl)"
            )
        else:
            text, notes = _decode(path)
            if not text.strip():
                raise InputError(f"text {str(path)!r}: nothing but white space in it: leave it out")
            documents.append(Document(name, text, notes))
    return documents


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


def text_key(documents: Sequence[Document]) -> dict[str, list[list[str]]]:
    """Which texts these are, as a run records it."""
    return {"texts": [[document.name, document.sha256] for document in documents]}


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
            if (kind := kind_of(os.stat(path).st_mode)) is not None:  # a pipe would wait for ever, a device never end
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


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except IsADirectoryError:
        raise InputError(f"text {str(path)!r}: a folder: name the files in it") from None
    except OSError as error:
        raise InputError(
            f"text {str(path)!r}: cannot be read ({error.strerror or error}): check its permissions"
        ) from error


def _decode(path: Path) -> tuple[str, tuple[str, ...]]:
    """The file's characters, and what was changed in reading them."""
    raw = _bytes(path)
    where = f"text {str(path)!r}"
    if not raw:
        raise InputError(f"{where}: the file is empty (0 bytes): leave it out")
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise InputError(
            f"{where}: UTF-16, not UTF-8 (it begins with the bytes {raw[:2].hex(' ')}): "
            f"convert it: iconv -f UTF-16 -t UTF-8 {path.name} > {path.stem}-utf8{path.suffix}"
        )
    nul = raw.find(b"\0")
    if nul >= 0:
        raise InputError(
            f"{where}: binary, not text (a NUL byte at byte {nul}, counted from 0): give plain text in UTF-8"
        )
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{where}: not UTF-8 (byte {error.start}, counted from 0, is 0x{raw[error.start]:02x}): if it is "
            f"Latin-1, convert it: iconv -f LATIN1 -t UTF-8 {path.name} > {path.stem}-utf8{path.suffix}"
        ) from error
    return _as_in_a_file(text)


def _json_lines(path: Path, name: str, field: str) -> list[Document]:
    content, notes = _decode(path)
    documents: list[Document] = []
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"text {str(path)!r}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(
                f"{where}: not JSON ({error.msg} at column {error.colno}): each line must be one JSON object"
            ) from error
        except (RecursionError, ValueError) as error:  # nested too deep; a number of too many digits
            raise InputError(
                f"{where}: JSON that cannot be read ({error}): each line must be one flat object"
            ) from error
        if not isinstance(row, dict):
            raise InputError(
                f"{where}: a JSON {type(row).__name__}, not an object: write it as {{{json.dumps(field)}: ...}}"
            )
        if field not in row:
            raise InputError(f"{where}: no field {field!r}; {_choices(row)}")
        text = row[field]
        if text is not None and not isinstance(text, str):
            raise InputError(f"{where}: field {field!r} is a {type(text).__name__}, not a string; {_choices(row)}")
        if text and text.strip():
            check_characters(text, f"{where}, field {field!r}")
            document, changed = _as_in_a_file(text)
            documents.append(Document(f"{name}:{number}", document, notes + changed))
    if not documents:
        raise InputError(f"text {str(path)!r}: no line with any text in field {field!r}: leave the file out")
    return documents


def _parquet(path: Path, name: str, field: str) -> list[Document]:
    where = f"text {str(path)!r}"
    if not os.access(path, os.R_OK):
        _bytes(path)  # raises with the reason
    try:
        schema = pq.read_schema(path)
        if field not in schema.names:
            raise InputError(f"{where}: no column {field!r}; {_choices(schema.names)}")
        column = pq.read_table(path, columns=[field]).column(field)
    except (pa.ArrowException, OSError, KeyError) as error:
        line = str(error).split("\n")[0]
        raise InputError(f"{where}: not a readable Parquet file ({line}): write it again") from error
    kind = column.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise InputError(f"{where}: column {field!r} holds {kind}, not strings; {_choices(schema.names)}")
    documents: list[Document] = []
    for number, text in enumerate(_rows(column, where, field), start=1):
        if text and text.strip():
            check_characters(text, f"{where}, row {number}, column {field!r}")
            document, changed = _as_in_a_file(text)
            documents.append(Document(f"{name}:{number}", document, changed))
    if not documents:
        raise InputError(f"{where}: no row with any text in column {field!r}: leave the file out")
    return documents


def _rows(column: pa.ChunkedArray, where: str, field: str) -> Iterator[str | None]:
    for number, value in enumerate(column, start=1):
        try:
            yield value.as_py()
        except UnicodeDecodeError as error:  # Parquet promises UTF-8, and nobody checks
            raise InputError(
                f"{where}, row {number}, column {field!r}: not UTF-8 (byte {error.start} of the text, counted from 0, "
                f"is 0x{error.object[error.start]:02x}): write the file again from texts in UTF-8"
            ) from error


def _as_in_a_file(text: str) -> tuple[str, tuple[str, ...]]:
    """The text without a byte-order mark and with LF, and what was changed."""
    notes: list[str] = []
    if text.startswith("\ufeff"):
        text = text[1:]
        notes.append("byte-order mark removed")
    if "\r\n" in text:
        text = text.replace("\r\n", "\n")
        notes.append("CRLF line ends read as LF")
    return text, tuple(notes)


def _choices(names: Iterable[str]) -> str:
    known = [repr(name) for name in names]
    return f"it has {', '.join(known) or 'none'}: choose one with field=... (--field)"


def _names_a_file(text: str) -> bool:
    if len(text) > 1024 or "\n" in text or "\0" in text:
        return False
    try:
        return Path(text).is_file()
    except OSError:
        return False
