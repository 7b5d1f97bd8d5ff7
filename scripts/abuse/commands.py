"""The commands that write, as they are killed and starved of disk: what they leave, and how one goes on."""

from __future__ import annotations

import functools
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.abuse.trials import Check, Ended, apart
from scripts.abuse.world import World, differing, digest, run_prints, snellen, trained_prints

_EVENTS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod")  # of Python's audit, about names


@dataclass(frozen=True, kw_only=True)
class Command:
    """act: the command; again: what its user does after it failed; prints: what must be the same in the end."""

    name: str
    act: Callable[[Path], int]
    again: Callable[[Path], int]
    prints: Callable[[Path], dict[str, str]]
    share: float  # of all kills
    setup: Callable[[Path], object] = lambda folder: None  # before it, undisturbed


@dataclass(frozen=True, kw_only=True)
class Undisturbed:
    """One run of a command in peace."""

    prints: dict[str, str]
    changes: int  # of the disk, by names
    sizes: tuple[int, ...]  # of the files that it left, bytes
    seconds: float

    def check(self, prints: Callable[[Path], dict[str, str]]) -> Check:
        """Of a trial's folder."""

        def same(folder: Path, ended: Ended) -> str | None:
            return differing(prints(folder), self.prints)

        return same


def commands(world: World) -> list[Command]:
    """All that write."""

    def exam(measures: str, folder: Path) -> int:
        return snellen(*world.exam(folder / "run", measures=measures))

    def exam_prints(folder: Path) -> dict[str, str]:
        return run_prints(folder / "run") | {"report": str((folder / "run" / "report.html").is_file())}

    def train(folder: Path) -> int:
        return snellen("train", folder / "train.toml", "--json", "--deploy")

    def convert(folder: Path) -> int:
        return snellen("convert", world / "model", folder / "model")

    def convert_again(folder: Path) -> int:
        """What stands there is whole, or says that it is not; else it is done again."""
        there = folder / "model"
        return 0 if there.is_dir() and any(there.iterdir()) else convert(folder)

    def files(folder: Path) -> dict[str, str]:
        return {path.name: digest(path) for path in sorted((folder / "model").glob("*")) if path.name != ".lock"}

    def page(folder: Path, *more: str) -> int:
        return snellen(*world.generate("--tree", str(folder / "page.html"), *more))

    def page_again(folder: Path) -> int:
        return 0 if (folder / "page.html").exists() else page(folder)

    def evolve(folder: Path, *more: str) -> int:
        return snellen(*world.evolve("--out", str(folder / "evolved.json"), *more))

    def evolve_again(folder: Path) -> int:
        """What is kept can be gone on from; then all of it once more."""
        there = folder / "evolved.json"
        if there.exists() and (code := snellen(*world.evolve("--from", str(there)))):
            return code
        return evolve(folder, *["--overwrite"] * there.exists())

    def population(folder: Path) -> dict[str, str]:
        content = json.loads((folder / "evolved.json").read_text())
        content.get("cost", {}).pop("seconds", None)
        return {name: json.dumps(value) for name, value in content.items() if name not in ("when", "seconds")}

    def finished(folder: Path) -> None:
        shutil.copytree(world / "gain", folder / "run", ignore=shutil.ignore_patterns("report.html"))

    def report(folder: Path) -> int:
        return snellen("report", folder / "run")

    return [
        Command(name="exam", act=functools.partial(exam, "mean"), again=functools.partial(exam, "mean"),
                prints=exam_prints, share=0.3),
        Command(name="exam in full", act=functools.partial(exam, "lookahead-gain"),
                again=functools.partial(exam, "lookahead-gain"), prints=exam_prints, share=0.15),
        Command(name="exam in context", act=functools.partial(exam, "in-context"),
                again=functools.partial(exam, "in-context"), prints=exam_prints, share=0.1),
        Command(name="train", act=train, again=train, prints=lambda f: trained_prints(f / "trained"), share=0.2,
                setup=world.train),
        Command(name="convert", act=convert, again=convert_again, prints=files, share=0.08),
        Command(name="generate", act=page, again=page_again, prints=lambda f: {"page": digest(f / "page.html")},
                share=0.05),
        Command(name="evolve", act=evolve, again=evolve_again, prints=population, share=0.07),
        Command(name="report", act=report, again=report, prints=lambda f: {"r": digest(f / "run/report.html")},
                share=0.05, setup=finished),
    ]  # fmt: skip


@functools.cache
def undisturbed(world: World, name: str) -> Undisturbed:
    """How it goes in peace. Raises RuntimeError where it does not."""
    one = next(command for command in commands(world) if command.name == name)
    folder = world.root / "undisturbed" / f"{os.getpid()} {name}" / "here"
    folder.mkdir(parents=True)
    one.setup(folder)

    def counting() -> int:
        counted: list[str] = []
        watch(folder, counted.append)
        os.chdir(folder)
        code = one.act(folder)
        (folder.parent / "changes").write_text(str(len(counted)))
        return code

    ended = apart(counting, into=folder.parent / "log")
    if ended.code != 0:
        raise RuntimeError(f"{name} in peace ended with {ended.code}: {ended.err[-2000:]}")
    sizes = sorted({path.stat().st_size for path in folder.rglob("*") if path.is_file()})
    return Undisturbed(
        prints=one.prints(folder),
        changes=int((folder.parent / "changes").read_text()),
        sizes=tuple(sizes),
        seconds=ended.seconds,
    )


def watch(below: Path, fire: Callable[[str], None]) -> None:
    """Call `fire` before each change of the disk below a folder that Python makes, as long as this process lives:
    names that are made, renamed and removed, and each fsync; its name is the event's."""
    inside = os.path.realpath(below)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in _EVENTS:
            return
        if event == "open" and not _writes(*arguments[1:]):
            return
        path = arguments[0]
        if isinstance(path, str | bytes | os.PathLike) and os.path.abspath(os.fsdecode(path)).startswith(inside):
            fire(event)

    sync = os.fsync

    def syncing(number: int) -> None:
        fire("fsync")
        sync(number)

    os.fsync = syncing  # type: ignore[assignment]
    sys.addaudithook(hook)


def _writes(mode: object, flags: object) -> bool:
    if isinstance(mode, str):
        return any(letter in mode for letter in "wax+")
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
