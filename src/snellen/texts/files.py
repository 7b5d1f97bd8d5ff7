"""One file of text after another, a document at a time: nothing is held but the document that is being read.

Whatever is wrong with a file is one clear line that names the file, the place and the mend.
"""

from __future__ import annotations

import bisect
import contextlib
import functools
import io
import itertools
import json
import os
import re
import stat
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from snellen.errors import InputError

_IMPOSSIBLE = re.compile("[\0\ud800-\udfff]")
_WAITS = 10.0  # seconds for whoever writes into a pipe to open it
_BATCH = 1024  # rows of a Parquet file that are read at once
Notes = tuple[str, ...]


@dataclass(frozen=True)
class Plain:
    """Where the text of a document stands: a whole file."""

    path: Path

    def read(self) -> str:
        return _decode(_bytes(self.path), self.path)[0]


@dataclass(frozen=True)
class Line:
    """A line of JSON: `size` bytes from byte `begin` on."""

    path: Path
    begin: int
    size: int
    field: str

    def read(self, opened: BinaryIO | None = None) -> str:
        """opened: the file, where it is open already."""
        with contextlib.nullcontext(opened) if opened is not None else _opened(self.path) as file:
            file.seek(self.begin)
            return _as_in_a_file(str(json.loads(file.read(self.size).decode())[self.field]))[0]


@dataclass(frozen=True)
class Cell:
    """A row of a Parquet file, counted from 0."""

    path: Path
    row: int
    field: str

    def read(self) -> str:
        about = os.stat(self.path)
        starts = _groups(self.path, about.st_mtime_ns, about.st_size)
        group = bisect.bisect_right(starts, self.row) - 1
        column = _column(self.path, about.st_mtime_ns, about.st_size, group, self.field)
        return _as_in_a_file(str(column[self.row - starts[group]].as_py()))[0]


@dataclass(frozen=True)
class Held:
    """In memory: what was given so, or comes from a pipe, which cannot be read twice."""

    text: str

    def read(self) -> str:
        return self.text


Place = Plain | Line | Cell | Held
Found = tuple[str, str, Notes, Place]  # name, text, what reading changed, where it stands


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


def documents_of(path: Path, name: str, field: str) -> Iterator[Found]:
    """The documents of one file, in order. Raises InputError for what is wrong with it."""
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        yield from _parquet(path, name, field)
    elif suffix in (".jsonl", ".ndjson"):
        yield from _json_lines(path, name, field)
    elif suffix == ".json":
        raise InputError(
            f"text {str(path)!r}: a .json file is not a list of documents: write one JSON object a line "
            f"(jq -c '.[]' {path.name} > {path.stem}.jsonl)"
        )
    else:
        text, notes = _decode(_bytes(path), path)
        if not text.strip():
            raise InputError(f"text {str(path)!r}: nothing but white space in it: leave it out")
        yield name, text, notes, Plain(path) if _stays(path) else Held(text)


def _json_lines(path: Path, name: str, field: str) -> Iterator[Found]:
    piped = None if _stays(path) else _bytes(path)
    notes = _checked(path, piped)
    any_text, begin = False, 0
    with _opened(path, piped) as file:
        for number, raw in enumerate(file, start=1):
            line = raw.decode("utf-8").removesuffix("\n")
            if number == 1:
                line = line.removeprefix("\ufeff")
            here, begin = begin, begin + len(raw)
            if not line.strip():
                continue
            where = f"text {str(path)!r}, line {number}"
            text = _field_of(line, where, field)
            if text and text.strip():
                any_text = True
                check_characters(text, f"{where}, field {field!r}")
                document, changed = _as_in_a_file(text)
                size = len(line.encode())
                skipped = len(raw.removesuffix(b"\n")) - size  # a byte-order mark
                kept = Line(path, here + skipped, size, field) if piped is None else Held(document)
                yield f"{name}:{number}", document, notes + changed, kept
    if not any_text:
        raise InputError(f"text {str(path)!r}: no line with any text in field {field!r}: leave the file out")


def _field_of(line: str, where: str, field: str) -> str | None:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{where}: not JSON ({error.msg} at column {error.colno}): each line must be one JSON object"
        ) from error
    except (RecursionError, ValueError) as error:  # nested too deep; a number of too many digits
        raise InputError(f"{where}: JSON that cannot be read ({error}): each line must be one flat object") from error
    if not isinstance(row, dict):
        raise InputError(
            f"{where}: a JSON {type(row).__name__}, not an object: write it as {{{json.dumps(field)}: ...}}"
        )
    if field not in row:
        raise InputError(f"{where}: no field {field!r}; {_choices(row)}")
    text = row[field]
    if text is not None and not isinstance(text, str):
        raise InputError(f"{where}: field {field!r} is a {type(text).__name__}, not a string; {_choices(row)}")
    return text


def _parquet(path: Path, name: str, field: str) -> Iterator[Found]:
    where = f"text {str(path)!r}"
    if not os.access(path, os.R_OK):
        _bytes(path)  # raises with the reason
    any_text = False
    for number, text in enumerate(_rows(path, where, field), start=1):
        if text and text.strip():
            any_text = True
            check_characters(text, f"{where}, row {number}, column {field!r}")
            document, changed = _as_in_a_file(text)
            yield f"{name}:{number}", document, changed, Cell(path, number - 1, field)
    if not any_text:
        raise InputError(f"{where}: no row with any text in column {field!r}: leave the file out")


def _rows(path: Path, where: str, field: str) -> Iterator[str | None]:
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            if field not in schema.names:
                raise InputError(f"{where}: no column {field!r}; {_choices(schema.names)}")
            kind = schema.field(field).type
            if pa.types.is_dictionary(kind):
                kind = kind.value_type
            if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
                raise InputError(f"{where}: column {field!r} holds {kind}, not strings; {_choices(schema.names)}")
            for batch in file.iter_batches(_BATCH, columns=[field]):
                for value in batch.column(field):
                    number += 1
                    yield value.as_py()
    except UnicodeDecodeError as error:  # Parquet promises UTF-8, and nobody checks
        raise InputError(
            f"{where}, row {number}, column {field!r}: not UTF-8 (byte {error.start} of the text, counted from 0, "
            f"is 0x{error.object[error.start]:02x}): write the file again from texts in UTF-8"
        ) from error
    except (pa.ArrowException, OSError, KeyError) as error:
        line = str(error).split("\n")[0]
        raise InputError(f"{where}: not a readable Parquet file ({line}): write it again") from error


@functools.lru_cache(maxsize=8)
def _groups(path: Path, changed: int, size: int) -> list[int]:
    """The first row of each row group; changed, size: of the file, so that another in its place is another."""
    about = pq.read_metadata(path)
    rows = (about.row_group(group).num_rows for group in range(about.num_row_groups))
    return [0, *itertools.accumulate(rows)][:-1]


@functools.lru_cache(maxsize=1)
def _column(path: Path, changed: int, size: int, group: int, field: str) -> pa.ChunkedArray:
    """Documents are asked for in their order, and a group holds many."""
    with pq.ParquetFile(path) as file:
        return file.read_row_group(group, columns=[field]).column(field)


def _stays(path: Path) -> bool:
    """Whether it can be read a second time: a file, and no pipe."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return True  # reading it says what is wrong


def _opened(path: Path, content: bytes | None = None) -> BinaryIO:
    return path.open("rb") if content is None else io.BytesIO(content)


def _bytes(path: Path) -> bytes:
    try:
        return _piped(path) if path.is_fifo() else path.read_bytes()
    except IsADirectoryError:
        raise InputError(f"text {str(path)!r}: a folder: name the files in it") from None
    except OSError as error:
        raise InputError(
            f"text {str(path)!r}: cannot be read ({error.strerror or error}): check its permissions"
        ) from error


def _checked(path: Path, content: bytes | None) -> Notes:
    """What holds of a file of lines as a whole: that it is text, and what reading changes; without holding it."""
    try:
        with _opened(path, content) as file:
            head, begin, breaks = file.read(3), 0, False
            _refuse_head(head, path)
            file.seek(0)
            wrong: tuple[int, int] | None = None
            for line in file:
                _refuse_nul(line, begin, path)
                breaks = breaks or line.endswith(b"\r\n")
                try:
                    line.decode("utf-8")
                except UnicodeDecodeError as error:
                    wrong = wrong or (begin + error.start, line[error.start])
                begin += len(line)
    except OSError:
        _bytes(path)  # raises with the reason
        raise
    if wrong is not None:
        raise _not_utf8(path, *wrong)
    mark = ("byte-order mark removed",) if head == b"\xef\xbb\xbf" else ()
    return (*mark, *(("CRLF line ends read as LF",) if breaks else ()))


def _decode(raw: bytes, path: Path) -> tuple[str, Notes]:
    """The file's characters, and what was changed in reading them."""
    _refuse_head(raw, path)
    _refuse_nul(raw, 0, path)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error.start, raw[error.start]) from error
    return _as_in_a_file(text)


def _refuse_head(head: bytes, path: Path) -> None:
    where = f"text {str(path)!r}"
    if not head:
        raise InputError(f"{where}: the file is empty (0 bytes): leave it out")
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise InputError(
            f"{where}: UTF-16, not UTF-8 (it begins with the bytes {head[:2].hex(' ')}): "
            f"convert it: iconv -f UTF-16 -t UTF-8 {path.name} > {path.stem}-utf8{path.suffix}"
        )


def _refuse_nul(raw: bytes, begin: int, path: Path) -> None:
    nul = raw.find(b"\0")
    if nul >= 0:
        raise InputError(
            f"text {str(path)!r}: binary, not text (a NUL byte at byte {begin + nul}, counted from 0): "
            "give plain text in UTF-8"
        )


def _not_utf8(path: Path, place: int, byte: int) -> InputError:
    return InputError(
        f"text {str(path)!r}: not UTF-8 (byte {place}, counted from 0, is 0x{byte:02x}): if it is "
        f"Latin-1, convert it: iconv -f LATIN1 -t UTF-8 {path.name} > {path.stem}-utf8{path.suffix}"
    )


def _piped(path: Path) -> bytes:
    """All that comes through a pipe. Raises InputError where nobody opens its other end: that would be for ever."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as file:
        until = time.monotonic() + _WAITS
        while (begin := file.read(1)) == b"":  # None: somebody has opened it, and has written nothing yet
            if time.monotonic() > until:
                raise InputError(
                    f"text {str(path)!r}: a pipe into which nobody has written for {_WAITS:.0f} s: name a file, or "
                    "begin what writes into it first"
                )
            time.sleep(0.02)
        os.set_blocking(file.fileno(), True)
        return (begin or b"") + file.readall()


def _as_in_a_file(text: str) -> tuple[str, Notes]:
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
