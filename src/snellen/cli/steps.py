"""What `snellen train` tells while it trains: short lines on standard error, with the time left."""

from __future__ import annotations

import time
from collections.abc import Mapping

from snellen.cli.progress import Console, duration

_EVERY_SECONDS = 10.0


class Steps(Console):
    """A line for what is logged, and one now and then in between."""

    def __init__(self, *, quiet: bool = False) -> None:
        super().__init__(quiet=quiet)
        self._step = self._steps = self._begun_at = 0
        self._output: str | None = None

    def begin(self, output: str, step: int, steps: int) -> None:
        """Training goes on after `step`; it began anew where that is 0."""
        self._output, self._step, self._steps, self._begun_at = output, step, steps, step
        self._began = self._told = time.monotonic()
        self.say(f"training {steps:,} steps" if not step else f"going on after step {step:,} of {steps:,}")

    def at(self, step: int) -> None:
        """A step was made."""
        self._step = step
        if time.monotonic() - self._told >= _EVERY_SECONDS:
            self.tell({})

    def tell(self, figures: Mapping[str, float]) -> None:
        """`figures` by what they are called, at the step that was made last."""
        self._told = time.monotonic()
        shown = "".join(f", {name} {value:.4g}" for name, value in figures.items())
        self.say(f"step {self._step:,} of {self._steps:,}{shown}{self._remaining()}")

    def state(self) -> str:
        if self._output is None:
            return ": nothing was changed"
        done = f"{self._step:,} of {self._steps:,} steps were made"
        return f": {done}, checkpoints are kept in {self._output}; the same command resumes"

    def _remaining(self) -> str:
        made = self._step - self._begun_at
        if made <= 0 or self._step >= self._steps:
            return ""
        seconds = (time.monotonic() - self._began) / made * (self._steps - self._step)
        return f", about {duration(seconds)} left"
