"""Files that appear whole or not at all, errors of the file system in one line, and the lock of a folder."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from snellen.errors import InputError

fcntl: Any
try:
    import fcntl
except ImportError:  # no advisory locks on this system: two processes in one run are then the user's care
    fcntl = None

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_BARRED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG}


@contextlib.contextmanager
def guarded(path: Path) -> Iterator[None]:
    """Says in one line what the file system refused, and that nothing is lost."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            problem, mend = "the disk is full", "free some space; the same command then resumes the run"
        elif error.errno in _BARRED:
            problem, mend = error.strerror or str(error), "choose a folder that can be written with --out"
        else:
            raise
        raise InputError(f"cannot write {path}: {problem}; {mend}") from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that appears under its name only once it is whole and on the disk."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with guarded(path):
        try:
            with open(temporary, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    with replacing(path) as file:
        file.write(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False).encode())


def write_table(path: Path, table: pa.Table) -> None:
    with guarded(path.parent):
        path.parent.mkdir(exist_ok=True)
    with replacing(path) as file:
        pq.write_table(table, file, compression="zstd", write_page_checksum=True)


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    return pq.read_table(path, columns=columns, page_checksum_verification=True)


def read_schema(path: Path) -> pa.Schema:
    return pq.read_schema(path)


def lock(folder: Path) -> int | None:
    """Hold `folder/.lock`. The kernel lets go of it when the holder dies, however it dies."""
    if fcntl is None:
        return None
    path = folder / ".lock"
    while True:
        with guarded(path):
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(handle, 32, 0).decode(errors="replace") or "?"
            os.close(handle)
            raise InputError(
                f"{folder} is being written by process {holder}; wait for it or choose another --out"
            ) from None
        except OSError:  # a file system without locks
            return handle
        with contextlib.suppress(FileNotFoundError):
            if os.stat(path).st_ino == os.fstat(handle).st_ino:
                os.truncate(handle, 0)
                os.pwrite(handle, str(os.getpid()).encode(), 0)
                return handle
        os.close(handle)  # the former holder removed the file between our open and our lock


def unlock(folder: Path, handle: int) -> None:
    (folder / ".lock").unlink(missing_ok=True)
    os.close(handle)
