"""Disks that are full, read-only or broken at each write: a refusal in one line, and afterwards the same result."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from scripts.abuse.commands import Command, Undisturbed, commands, undisturbed, watch
from scripts.abuse.trials import Trial, apart
from scripts.abuse.world import World

ERRORS = (errno.ENOSPC, errno.EROFS, errno.EIO, errno.EACCES, errno.EDQUOT)
FULL = (errno.ENOSPC, errno.EDQUOT)  # from such a disk files can be taken away
_NEWNS, _PRIVATE = 0x20000, 1 << 18 | 1 << 14
_LEAST = 6000  # bytes that a file may have in any case: what is said goes to one


def planned(world: World, *, seed: int, short: bool) -> Iterator[Trial]:
    """Each change of the disk refused; no file longer than so much (what is written outside Python meets that too);
    and, where this process may mount one, a real small disk."""
    mounts = may_mount(world.root)
    for one in commands(world):
        peace = undisturbed(world, one.name)
        step = 30 if short else 1 if peace.changes < 40 else 3
        for number in range(seed % step, peace.changes, step):
            code = ERRORS[(number // step) % len(ERRORS)]
            yield _trial(
                one, peace, f"{errno.errorcode[code]} at change {number} of {peace.changes}", _raising(number, code)
            )
        sizes = sorted(
            {max(_LEAST, size - 1) for size in peace.sizes} | {max(_LEAST, size // 2) for size in peace.sizes}
        )
        for size in sizes[:: 6 if short else 1]:
            yield _trial(one, peace, f"no file above {size} bytes", _limiting(size))
        if mounts and one.name != "report":  # which needs a whole run to begin with
            total = sum(peace.sizes)
            for part in (0.5,) if short else (0.02, 0.1, 0.25, 0.4, 0.6, 0.8, 0.95):
                yield _trial(one, peace, f"a disk of {part:.2f} of what it needs", _mounting(int(total * part)))


def _trial(one: Command, peace: Undisturbed, what: str, starve: Callable[[Path], None]) -> Trial:
    def act(folder: Path) -> int:
        one.setup(folder)

        def starving() -> int:
            starve(folder)
            if not any(folder.iterdir()):  # another disk than before
                one.setup(folder)
            return one.act(folder)

        ended = apart(starving, into=folder.parent / "log")
        if ended.code == 0 and "a disk of" in what:  # gone with the process that mounted it
            return one.again(folder)
        if ended.code == 0:
            return 0
        lines = ended.err.rstrip().splitlines()
        if ended.code != 2 or "Traceback" in ended.err or not lines or not lines[-1].startswith("snellen: "):
            sys.stderr.write(ended.err)
            return 1
        return one.again(folder)

    return Trial(
        name=f"disk {one.name}: {what}.",
        act=act,
        check=peace.check(one.prints),
        shown=f"{one.name} with {what}; then once more without",
        seconds=120,
    )


def _raising(number: int, code: int) -> Callable[[Path], None]:
    def starve(folder: Path) -> None:
        left = [number]

        def fire(event: str) -> None:
            left[0] -= 1
            if left[0] < 0 and not (event in ("os.remove", "os.rmdir") and code in FULL):  # a full disk stays full
                raise OSError(code, os.strerror(code))

        watch(folder, fire)

    return starve


def _limiting(size: int) -> Callable[[Path], None]:
    return lambda folder: resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def _mounting(size: int) -> Callable[[Path], None]:
    def starve(folder: Path) -> None:
        _mount(folder, max(size, 16384))
        os.chdir(folder)

    return starve


def _mount(folder: Path, size: int) -> None:
    """A disk of that size at the folder, for this process alone. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    for done in (
        lambda: libc.unshare(_NEWNS),
        lambda: libc.mount(b"none", b"/", None, _PRIVATE, None),
        lambda: libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, f"size={size}".encode()),
    ):
        if done() != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def may_mount(root: Path) -> bool:
    """Whether this process may mount a disk; it is tried in another one."""
    folder = root / "mounted"
    folder.mkdir(exist_ok=True)

    def trying() -> int:
        _mount(folder, 65536)
        return 0

    return apart(trying, into=root / "log").code == 0
