"""Pieces, checkpoints and folders, damaged in every way, and then read or resumed: the same numbers, or a refusal."""

from __future__ import annotations

import json
import os
import random
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from scripts.abuse.trials import Check, Ended, Trial, unchecked
from scripts.abuse.world import World, differing, digest, run_prints, snellen, trained_prints

Dice = random.Random
NASTY: list[Any] = [
    None, -1, 0, 1.5, 1e308, 10**30, True, "", "x", "\x1b]0;x\x07\u202e", "../..", "/dev/full", [], {}, [[]],
    [None], {"": None}, float("nan"), float("inf"), "9" * 5000,
]  # fmt: skip


def _cut(path: Path, dice: Dice, _: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: dice.randrange(max(1, len(content)))])


def _empty(path: Path, _dice: Dice, _: Path) -> None:
    path.write_bytes(b"")


def _garbage(path: Path, dice: Dice, _: Path) -> None:
    path.write_bytes(dice.randbytes(dice.randrange(1, 400)))


def _nul(path: Path, _dice: Dice, _: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def _flip(path: Path, dice: Dice, _: Path) -> None:
    content = bytearray(path.read_bytes()) or bytearray(1)
    for _time in range(dice.choice([1, 1, 5])):
        content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    path.write_bytes(content)


def _stretch(path: Path, dice: Dice, _: Path) -> None:
    content = bytearray(path.read_bytes())
    at = dice.randrange(max(1, len(content)))
    content[at : at + 64] = dice.randbytes(len(content[at : at + 64]))
    path.write_bytes(content)


def _longer(path: Path, dice: Dice, _: Path) -> None:
    with path.open("ab") as file:
        file.write(dice.randbytes(dice.randrange(1, 300)))


def _digit(path: Path, dice: Dice, _: Path) -> None:
    content = bytearray(path.read_bytes()) or bytearray(1)
    places = [i for i, byte in enumerate(content) if 0x30 <= byte <= 0x39]
    content[dice.choice(places or [0])] = 0x30 + dice.randrange(10)
    path.write_bytes(content)


def _deep(path: Path, dice: Dice, _: Path) -> None:
    path.write_bytes(
        dice.choice([b"[" * 100_000, b'{"schema": 1, "findings": ' + b"[" * 10_000 + b"]" * 10_000 + b"}"])
    )


def _gone(path: Path, _dice: Dice, _: Path) -> None:
    path.unlink()


def _folder(path: Path, dice: Dice, _: Path) -> None:
    path.unlink()
    path.mkdir()
    if dice.random() < 0.5:
        (path / path.name).write_bytes(b"{}")


def _fifo(path: Path, _dice: Dice, _: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _link(path: Path, dice: Dice, _: Path) -> None:
    path.unlink()
    path.symlink_to(dice.choice(["/dev/zero", "/dev/full", "/dev/null", "nowhere", path.name, "/proc/self/mem", "."]))


def _sibling(path: Path, dice: Dice, _: Path) -> None:
    """Two pieces exchanged."""
    others = sorted(p for p in path.parent.iterdir() if p != path and p.is_file() and p.name != ".lock")
    if others:
        other = dice.choice(others)
        mine, theirs = path.read_bytes(), other.read_bytes()
        path.write_bytes(theirs)
        other.write_bytes(mine)


def _another(path: Path, dice: Dice, whole: Path) -> None:
    """Any file of the folder in its place."""
    files = sorted(p for p in whole.rglob("*") if p.is_file())
    path.write_bytes(dice.choice(files).read_bytes())


def _entry(path: Path, dice: Dice, _: Path) -> None:
    """JSON with one entry exchanged, taken out or added; of what is no JSON, a stretch."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        places: list[tuple[Any, Any]] = []
        _places(content, places)
        inside, key = dice.choice(places)
    except (ValueError, IndexError):
        return _stretch(path, dice, path)
    if dice.random() < 0.2:
        del inside[key]
    else:
        inside[key] = dice.choice(NASTY)
    path.write_text(json.dumps(content), encoding="utf-8")
    return None


def _places(content: Any, found: list[tuple[Any, Any]]) -> None:
    entries = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in entries:
        found.append((content, key))
        _places(value, found)


WAYS: dict[str, Callable[[Path, Dice, Path], None]] = {
    "cut": _cut, "empty": _empty, "garbage": _garbage, "nul": _nul, "flip": _flip, "stretch": _stretch,
    "longer": _longer, "digit": _digit, "deep": _deep, "gone": _gone, "folder": _folder, "fifo": _fifo, "link": _link,
    "sibling": _sibling, "another": _another, "entry": _entry,
}  # fmt: skip


def planned(world: World, *, seed: int, short: bool) -> Iterator[Trial]:
    """Each damage to each file, as often as the form has room for."""
    run, train = run_prints(world / "run"), trained_prints(world / "trained")
    table, gain = digest(world / "gain" / "findings.json"), run_prints(world / "gain")

    def numbers(folder: Path, ended: Ended) -> str | None:
        return differing(run_prints(folder / "run"), run) or _findings_shown(world / "run", ended)

    def gained(folder: Path, ended: Ended) -> str | None:
        return differing(run_prints(folder / "run"), gain)

    def trained(folder: Path, ended: Ended) -> str | None:
        return differing(trained_prints(folder / "trained"), train)

    del table
    exam = lambda folder: snellen(*world.exam(folder / "run"))  # noqa: E731
    kinds: list[tuple[str, str, int, Callable[[Path], int], Check]] = [
        ("compare", "gain", 1500, lambda f: snellen("compare", f / "run", world / "other", "--json"), _compared(world)),
        ("compare second", "gain", 700, lambda f: snellen("compare", world / "other", f / "run"), _compared(world, 1)),
        ("report", "gain", 900, lambda f: snellen("report", f / "run"), _drawn(world)),
        ("shown", "run", 350, exam, numbers),
        ("resumed", "half", 250, exam, numbers),
        ("trained", "half-trained/trained", 130, lambda f: snellen(*world.train(f)), trained),
        ("finished training", "trained", 60, lambda f: snellen(*world.train(f)), trained),
        ("model", "model", 330, lambda f: snellen("generate", f / "run", "--max-new-tokens", "2"), unchecked),
        ("lookahead", "trained", 60, lambda f: snellen("generate", f / "trained", "--max-new-tokens", "2"), unchecked),
        ("evolved", "evolved.json", 110, _go_on(world), unchecked),
    ]
    share = 0.04 if short else 1.0
    for kind, source, most, act, check in kinds:
        where = world / source
        files = _files(where, kind)
        for number in range(round(most * share)):
            dice = random.Random(zlib.crc32(f"{seed} {kind} {number}".encode()))
            file, way = files[number % len(files)], list(WAYS)[dice.randrange(len(WAYS))]
            yield Trial(
                name=f"damage {kind} {number} {way} {file}.",
                act=_damaging(where, file, way, dice, act, "trained" if "trained" in source else "run"),
                check=check,
                shown=f"{way} {source}/{file}, then {kind}",
            )


def _files(where: Path, kind: str) -> Sequence[str]:
    if where.is_file():
        return ["."]
    names = sorted(str(p.relative_to(where)) for p in where.rglob("*") if p.is_file() and p.name != ".lock")
    if kind == "report" or kind.startswith("compare"):
        return [name for name in names if name != "report.html"]
    if kind == "lookahead":
        return ["lookahead.json"]
    return names


def _damaging(
    where: Path, file: str, way: str, dice: Dice, act: Callable[[Path], int], called: str
) -> Callable[[Path], int]:
    def acting(folder: Path) -> int:
        there = folder / called
        if where.is_file():
            shutil.copy(where, there)
        else:
            shutil.copytree(where, there)
        WAYS[way](there / file, dice, where if where.is_dir() else where.parent / "model")
        return act(folder)

    return acting


def _go_on(world: World) -> Callable[[Path], int]:
    return lambda folder: snellen(*world.evolve("--from", str(folder / "run"), "--out", str(folder / "new.json")))


def _compared(world: World, place: int = 0) -> Check:
    """The comparison says what it says of the whole runs. (Computed once, in a process of its own.)"""
    known: list[str] = []

    def check(folder: Path, ended: Ended) -> str | None:
        if not known:
            from scripts.abuse.trials import apart

            pair = [world / "gain", world / "other"]
            pair = pair[::-1] if place else pair
            flags = [] if place else ["--json"]
            known.append(apart(lambda: snellen("compare", *pair, *flags), into=folder / "truth").out)
        said = ended.out.replace(str(folder / "run"), str(world / "gain"))
        return None if said.split() == known[0].split() else "another comparison"

    return check


def _drawn(world: World) -> Check:
    """The report is drawn again byte for byte, but for the chart's own state."""
    known = digest(world / "gain" / "report.html")
    return lambda folder, ended: None if digest(folder / "run" / "report.html") == known else "another report"


def _findings_shown(run: Path, ended: Ended) -> str | None:
    known = json.loads((run / "findings.json").read_text())["findings"]
    try:
        shown = json.loads(ended.out)
    except ValueError:
        return "no JSON was printed"
    found = shown.get("findings", shown) if isinstance(shown, dict) else shown
    return None if found == known else "other findings were printed"
