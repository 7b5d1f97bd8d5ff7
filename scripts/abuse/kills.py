"""Commands killed at any moment, and then given again: the same result as of one that was never killed."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from scripts.abuse.commands import Command, commands, undisturbed, watch
from scripts.abuse.trials import Trial, apart
from scripts.abuse.world import World

KILLS, FEW = 72, 14
_ENDS = (0, 2, 130, -signal.SIGKILL, -signal.SIGTERM)


def planned(world: World, *, seed: int, short: bool) -> Iterator[Trial]:
    """At changes of the disk and at random moments between; by SIGKILL, SIGTERM and SIGINT; sometimes twice."""
    for one in commands(world):
        peace = undisturbed(world, one.name)
        for number in range(max(1, round(one.share * (FEW if short else KILLS)))):
            dice = random.Random(f"{seed} {one.name} {number}")
            sign = dice.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
            times = [dice.random() for _ in range(dice.choice([1, 1, 1, 2]))]
            by_change = dice.random() < 0.6
            moments = [round(time * peace.changes) if by_change else time * peace.seconds for time in times]
            what = "change of the disk" if by_change else "second"
            yield Trial(
                name=f"kill {one.name} {number}.",
                act=_killed(one, moments, sign),
                check=peace.check(one.prints),
                shown=f"{one.name}: {sign.name} at {what} {' and '.join(f'{m:.4g}' for m in moments)}; then once more",
                seconds=120,
            )


def _killed(one: Command, moments: list[int | float], sign: signal.Signals) -> Callable[[Path], int]:
    def act(folder: Path) -> int:
        one.setup(folder)
        for number, moment in enumerate(moments):

            def dying(moment: int | float = moment, number: int = number) -> int:
                strike_at(folder, moment, lambda: os.kill(os.getpid(), sign))
                return one.again(folder) if number else one.act(folder)

            ended = apart(dying, into=folder.parent / "log")
            if ended.code not in _ENDS or "Traceback" in ended.err:
                sys.stderr.write(ended.err)
                return 1
        return one.again(folder)

    return act


def strike_at(folder: Path, moment: int | float, strike: Callable[[], None]) -> None:
    """Once, before that change of the disk (a whole number) or after so many seconds."""
    if isinstance(moment, float):
        signal.signal(signal.SIGALRM, lambda *_: strike())
        signal.setitimer(signal.ITIMER_REAL, max(0.001, moment))
        return
    left = [moment]

    def fire(_event: str) -> None:
        left[0] -= 1
        if left[0] == -1:
            strike()

    watch(folder, fire)
