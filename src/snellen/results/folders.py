"""Whose a folder is, and who writes into it: one guard and one lock for all commands that write folders."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from filelock import FileLock, Timeout

from snellen.errors import InputError
from snellen.results.files import guarded, kind_of

LOCK = ".lock"
P = ParamSpec("P")
T = TypeVar("T")


def is_leftover(name: str) -> bool:
    """Of a command of ours that ended, however it ended: nothing that anybody needs."""
    return name == LOCK or (name.startswith(".") and name.endswith(".tmp"))


def contents(folder: Path, *, mend: str) -> list[str]:
    """Names of what stands in a folder, without leftovers of ours; nothing where it does not exist yet.

    Raises
    ------
    InputError
        It is a file, or cannot be read.
    """
    try:
        mode = os.stat(folder).st_mode
        if kind_of(mode) != "a folder":
            raise InputError(f"{folder} is {kind_of(mode) or 'a file'}, not a folder; {mend}")
        return sorted(entry.name for entry in os.scandir(folder) if not is_leftover(entry.name))
    except FileNotFoundError:
        if folder.is_symlink():
            raise InputError(f"{folder} is a link that leads nowhere; {mend}") from None
        return []
    except NotADirectoryError:
        raise InputError(f"cannot write {folder}: something above it is a file; {mend}") from None
    except OSError as error:
        raise InputError(f"{folder}: {os.strerror(error.errno or 0)}; {mend}") from error


def refuse_foreign(folder: Path, *, ours: Callable[[str], bool], what: str, mend: str) -> bool:
    """Does something of ours stand there already? `ours` knows its names; `what` says what would make it ours.

    Raises
    ------
    InputError
        Something else stands there: it could be lost.
    """
    names = contents(folder, mend=mend)
    foreign = [name for name in names if not ours(name)]
    if foreign:
        raise InputError(f"{folder} is not empty and {what} (there is {foreign[0]!r}); {mend}")
    return bool(names)


def refuse_overlap(folder: Path, source: Path, *, mend: str) -> None:
    """A model's own folder, one in it or one above it is no place to write: its weights would be mixed up or lost.

    Raises
    ------
    InputError
        `folder` is one of these.
    """
    here, there = Path(os.path.realpath(folder)), Path(os.path.realpath(source))
    if here == there:
        where = "is the folder that the model is read from"
    elif there in here.parents:
        where = f"lies inside {source}, which the model is read from"
    elif here in there.parents:
        where = f"holds {source}, which the model is read from"
    else:
        return
    raise InputError(f"{folder} {where}, and would be written over or mixed up with it; {mend}")


@contextlib.contextmanager
def locked(folder: Path, *, mend: str = "choose another --out") -> Iterator[None]:
    """Make the folder and hold its lock. The kernel lets go of it when the holder dies, however it dies.

    A folder that was made for this and in which nothing was written is taken away again.

    Raises
    ------
    InputError
        Another process holds it, or the folder cannot be written.
    """
    new = not folder.exists()
    held = lock(folder, mend=mend)
    try:
        yield
    finally:
        unlock(held)
        if new:
            with contextlib.suppress(OSError):
                if [entry.name for entry in os.scandir(folder)] == [LOCK]:
                    (folder / LOCK).unlink()
                    folder.rmdir()


def lock(folder: Path, *, mend: str = "choose another --out") -> FileLock | None:
    """As `locked`, until `unlock`; None on a file system without locks. The file stays: others may be waiting at it."""
    path = folder / LOCK
    with guarded(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            kind = "a link" if path.is_symlink() else kind_of(os.lstat(path).st_mode)
            if kind is not None:  # opening it would change what it leads to
                raise InputError(f"{path} is {kind}, not the file that keeps two commands apart; remove it")
        held = FileLock(path, timeout=0, thread_local=False, mode=0o644)
        try:
            held.acquire()
        except Timeout:
            raise InputError(f"{folder} is being written by process {_holder(path)}; wait for it or {mend}") from None
        except NotImplementedError:
            return None
    with contextlib.suppress(OSError):  # for the line above alone
        path.write_text(str(os.getpid()), encoding="ascii")
    return held


def unlock(held: FileLock | None) -> None:
    if held is not None:
        held.release()


def alone(
    *, ours: Callable[[str], bool], what: str
) -> Callable[[Callable[Concatenate[Path, P], T]], Callable[Concatenate[Path, P], T]]:
    """For work whose first argument is the folder of its results: nobody else writes there meanwhile, and it holds
    nothing but such results before. ours, what: as of `refuse_foreign`."""

    def holding(work: Callable[Concatenate[Path, P], T]) -> Callable[Concatenate[Path, P], T]:
        @functools.wraps(work)
        def inner(folder: Path, /, *args: P.args, **kwargs: P.kwargs) -> T:
            refuse_foreign(folder, ours=ours, what=what, mend="choose another --out")
            with locked(folder):
                return work(folder, *args, **kwargs)

        return inner

    return holding


def _holder(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")[:32].strip() or "?"
    except (OSError, ValueError):
        return "?"
