"""Files that appear whole or not at all, what the file system refuses in one line, and reading what may be damaged."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from snellen.errors import InputError

_SAID = {
    errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk is full", errno.EFBIG: "the disk is full",
    errno.EMFILE: "too many open files", errno.ENFILE: "too many open files",
}  # fmt: skip
_MEND = {
    "the disk is full": "free some space; the same command then resumes the run",
    "too many open files": "allow more (ulimit -n), or work with fewer --processes",
}
_ABOUT_PATHS = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ENOENT,
    errno.EEXIST, errno.ENOTEMPTY, errno.ELOOP, errno.EINVAL, errno.ENXIO, errno.ENODEV, errno.EXDEV, errno.EBUSY,
    errno.ETXTBSY, errno.EMLINK, errno.ESTALE,
}  # fmt: skip
_KINDS = {
    stat.S_ISDIR: "a folder", stat.S_ISFIFO: "a pipe", stat.S_ISSOCK: "a socket", stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}  # fmt: skip
_LONGEST = 100  # bytes of a file's name in that of its draft: a name may have 255, and the draft's is longer

# What a foreign or damaged file makes of the code that reads it. MemoryError: of a size that stands in it.
UNREADABLE = (
    OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError, MemoryError,
    AssertionError, pa.ArrowException,
)  # fmt: skip


def refusal(error: OSError) -> tuple[str, str] | None:
    """What the file system refused, and the mend; None for an error that is not about files or room for them."""
    if isinstance(error, BrokenPipeError | ConnectionError) or error.errno is None:
        return None
    said = _SAID.get(error.errno)
    if said is not None:
        return said, _MEND[said]
    if error.errno in _ABOUT_PATHS:
        return os.strerror(error.errno), "choose a place that can be written"
    return None


@contextlib.contextmanager
def guarded(path: Path) -> Iterator[None]:
    """Says in one line what the file system refused, and that nothing is lost."""
    try:
        yield
    except OSError as error:
        found = refusal(error)
        if found is None:
            raise
        raise InputError(f"cannot write {path}: {found[0]}; {found[1]}") from error


def kind_of(mode: int) -> str | None:
    """What stands there, in words; None for a regular file."""
    return next((word for test, word in _KINDS.items() if test(mode)), None if stat.S_ISREG(mode) else "no file")


def writable_path(path: Path) -> Path:
    """Where a file of this name is to appear: behind symbolic links, as writing into it would do.

    Raises
    ------
    InputError
        Something stands there that is no regular file (replacing it would destroy a device, a pipe, a folder), or it
        is what this very process prints to.
    """
    with guarded(path):
        try:
            there = os.stat(path)
        except FileNotFoundError:  # nothing yet, or a link to a file that is to come
            return Path(os.path.realpath(path)) if path.is_symlink() else path
        kind = kind_of(there.st_mode)
        if kind is not None:
            raise InputError(f"cannot write {path}: it is {kind}, which is not replaced; name a file")
        for stream in (1, 2):
            with contextlib.suppress(OSError):
                if os.path.samestat(os.fstat(stream), there):
                    raise InputError(f"cannot write {path}: what the command prints goes there; name another file")
        return Path(os.path.realpath(path)) if path.is_symlink() else path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that appears under its name only once it is whole and on the disk. See `writable_path` for links."""
    target = writable_path(path)
    stem = os.fsencode(target.name)[:_LONGEST].decode(errors="ignore")
    temporary = target.with_name(f".{stem}.{os.getpid()}.tmp")
    with guarded(path):
        try:
            temporary.unlink(missing_ok=True)  # of an earlier process with our number
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as file:
                with contextlib.suppress(FileNotFoundError):  # who could not read the old one cannot read the new
                    os.chmod(temporary, stat.S_IMODE(os.stat(target).st_mode))
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def json_text(content: Any, *, indent: int | None = 2) -> str:
    """JSON of any text: half characters, of file names that are no UTF-8, as JSON's escapes."""
    text = json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False)
    return re.sub("[\ud800-\udfff]", lambda match: f"\\u{ord(match[0]):04x}", text)


def write_json(path: Path, content: Mapping[str, Any] | Sequence[Any]) -> None:
    with replacing(path) as file:
        file.write(json_text(content).encode())


def write_table(path: Path, table: pa.Table) -> None:
    with guarded(path.parent):
        path.parent.mkdir(exist_ok=True)
    with replacing(path) as file:
        pq.write_table(table, file, compression="zstd", write_page_checksum=True)


@contextlib.contextmanager
def reading(path: Path, *, mend: str) -> Iterator[None]:
    """Around whatever makes sense of a file that others can have written: what breaks is the file's fault, and said so.

    Raises
    ------
    InputError
        In place of what is raised inside.
    """
    try:
        yield
    except InputError:
        raise
    except UNREADABLE as error:
        raise InputError(f"{path} cannot be read ({brief(error)}); {mend}") from error


def brief(error: BaseException) -> str:
    """An exception in some words."""
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    if isinstance(error, KeyError):
        return f"no {error.args[0]!r}" if error.args else "an entry is missing"
    text = " ".join(str(error).split())
    return text if 0 < len(text) <= 160 else f"{text[:157]}…" if text else type(error).__name__


def opened(path: Path) -> BinaryIO:
    """A regular file, or what a link to one leads to, for reading: a pipe would wait for ever, a folder be many files.

    Raises
    ------
    InputError
        Something else stands there.
    OSError
        Nothing does, or it cannot be read.
    """
    kind = kind_of(os.stat(path).st_mode)
    if kind is not None:
        raise InputError(f"{path} cannot be read: it is {kind}, not a file")
    return open(path, "rb")


def read_bytes(path: Path) -> bytes:
    with opened(path) as file:
        return file.read()


def sha256_of(path: Path) -> str:
    found = hashlib.sha256()
    with opened(path) as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def parse_json(content: bytes) -> Any:
    """Strictly: UTF-8, and no number that JSON does not have. Raises what is in `UNREADABLE`."""

    def refused(name: str) -> None:
        raise ValueError(f"{name} is no number of JSON")

    return json.loads(content.decode("utf-8"), parse_constant=refused)


def read_json(path: Path) -> Any:
    return parse_json(read_bytes(path))


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    # By its handle: given a path, Arrow would read a whole folder of that name, and columns out of names above it.
    with opened(path) as file:
        return pq.read_table(file, columns=columns, page_checksum_verification=True)


def read_schema(path: Path) -> pa.Schema:
    with opened(path) as file:
        return pq.read_schema(file)
