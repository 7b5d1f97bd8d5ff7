"""Bad inputs to every command and to the Python interface: of the parser's own declarations, and of lists."""

from __future__ import annotations

import itertools
import typing
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from scripts.abuse import calls, foreign, words
from scripts.abuse.trials import Check, Trial, unchecked
from scripts.abuse.world import World, command

# Words for an option of a kind, none of which it has.
NEVER: dict[Any, Sequence[str]] = {
    int: ("", "x", "1.5", "nan", "inf", "-1", "1e3", "2,5", "--", "\x1b[31m", "٣x"),
    float: ("", "x", "nan", "-inf", "-0.5", "1,5", "\u202e1", "1e", "--"),
    bool: ("maybe", "2", "\x1b]0;x\x07"),
    typing.Literal: ("", "nope", "FLOAT32 ", "\u202enope"),
}
# And some that it may have: finished or refused, but one of the two, and soon.
EVER: dict[Any, Sequence[str]] = {
    int: ("0", "1000000000000000000000000000000", "007"),
    float: ("0", "1e-320", "1e308", "inf"),
    str: ("", " ", "\x1b]0;x\x07", "\u202ex", "x" * 10_000, "../..", "/dev/full"),
    Path: ("", "/dev/full", "/dev/null", "/proc/x/y", "/proc/self/mem", "\u202e.txt", "x" * 300, "x/" * 3000, "."),
}
MANY = "100000"  # of what can be counted: refused, or as much work as it says
_WORK = {"evolve --population", "evolve --generations", "generate --count"}  # of that length
_LONG = ("organisms", "sweep")  # what these accept takes minutes
# Negative numbers that have a meaning.
_SIGNED = {"--repetition"}


def planned(world: World, *, seed: int, short: bool) -> Iterator[Trial]:
    """All of them; in the short form each few of what is generated."""
    step = 10 if short else 1
    yield from itertools.islice(generated(world), seed % step, None, step)
    yield from words.planned(world, short=short)
    yield from foreign.planned(world, short=short)
    yield from calls.planned(world, short=short)


def bases(world: World) -> dict[str, list[str]]:
    """A quick and right way to call each command, in an empty folder."""
    return {
        "exam": [*world.exam(Path("run")), "--quiet"],
        "compare": ["compare", str(world / "run"), str(world / "other")],
        "report": ["report", str(world / "nothing")],
        "convert": ["convert", str(world / "model"), "new"],
        "evolve": world.evolve(),
        "generate": world.generate("--quiet"),
        "organisms": ["organisms", "--list"],
        "sweep": ["sweep", "stunting", "--only", "nonsense"],
        "train": ["train", str(world / "train.toml"), "--check"],
    }


def generated(world: World) -> Iterator[Trial]:
    """For every option of every command: words of other kinds, extremes, nothing, and twice."""
    from snellen.cli import app

    for name, base in bases(world).items():
        for argument in app[name].assemble_argument_collection():
            option = next((one for one in argument.names if one.startswith("--")), None)
            if option is None:
                continue
            kinds = list(_kinds(argument.hint))
            for word in dict.fromkeys(word for kind in kinds for word in NEVER.get(kind, ())):
                if set(kinds) & {str, Path} or (word == "-0.5" and option in _SIGNED):
                    continue
                glued = f"{option}={word}"
                yield _trial(name, [*_without(base, option), glued], glued, None)
            if name in _LONG:
                continue
            for word in dict.fromkeys(word for kind in kinds for word in EVER.get(kind, ())):
                glued = f"{option}={word}"
                yield _trial(name, [*_without(base, option), glued], glued, unchecked)
            if int in kinds:
                yield _many(name, base, option)
            several = _several(argument.hint)
            if not several and bool not in kinds:
                value = {int: "3", float: "0.5"}.get(kinds[0], "x")
                other = {int: "4", float: "0.6"}.get(kinds[0], "y")
                twice = [option, value, option, other]
                yield _trial(name, [*_without(base, option), *twice], f"{option} twice", None)
            if bool not in kinds and not several:
                yield _trial(name, [*_without(base, option), option], f"{option} without a value", None)
        for more in (["--nonsense"], ["--nonsense", "1"], ["a", "b", "c", "d"], ["-x"], ["--=1"]):
            yield _trial(name, [*base, *more], " ".join(more), None)


def _trial(name: str, arguments: Sequence[str], what: str, check: Check | None) -> Trial:
    said = what if len(what) < 60 else f"{what[:40]}… ({len(what)} characters)"
    shown = " ".join(one if len(one) < 80 else f"{one[:60]}…" for one in ["snellen", *arguments])
    return Trial(
        name=f"input {name} {said.encode('unicode_escape').decode()}.",
        act=command(arguments),
        check=check,
        shown=shown.encode("unicode_escape").decode(),
    )


def _many(name: str, base: Sequence[str], option: str) -> Trial:
    works = f"{name} {option}" in _WORK
    loud = [word for word in _without(base, option) if not (works and word == "--quiet")]
    trial = _trial(name, [*loud, f"{option}={MANY}"], f"{option}={MANY}", unchecked)
    return replace(trial, long=works, seconds=30 if works else 240)


def _kinds(hint: Any) -> Iterator[Any]:
    """The plain kinds that a hint is made of."""
    if typing.get_origin(hint) is typing.Literal:
        yield typing.Literal
    elif inside := [one for one in typing.get_args(hint) if one not in (type(None), ...)]:
        for one in inside:
            yield from _kinds(one)
    else:
        yield hint


def _several(hint: Any) -> bool:
    members = (hint, *typing.get_args(hint))
    return any(typing.get_origin(one) in (list, tuple) for one in members)


def _without(base: Sequence[str], option: str) -> list[str]:
    """The base without that option and its values."""
    found, skipping = [], False
    for word in base:
        if word == option:
            skipping = True
        elif skipping and not word.startswith("--"):
            continue
        else:
            skipping = False
            found.append(word)
    return found
