"""Progress on standard error: a bar with the time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from snellen.cli.terminal import shown

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_EVERY_SECONDS, _EVERY_SHARE = 10.0, 0.05


class Console:
    """What a command tells while it runs; see `runner.Progress`."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._terminal = sys.stderr.isatty()
        self._bar: tuple[Progress, TaskID] | None = None
        self._folder: Path | None = None
        self._done = self._total = self._first = 0
        self._began = self._told = 0.0
        self._share = self._part = 0.0

    def say(self, line: str) -> None:
        if self._quiet:
            return
        line = shown(line)
        if self._bar is not None:
            self._bar[0].console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def windows(self, folder: Path, done: int, total: int) -> None:
        begin = self._folder is None
        self._folder, self._done, self._total, self._part = folder, done, total, 0.0
        if begin:
            self._first, self._began = done, time.monotonic()
        if self._quiet:
            return
        if self._terminal:
            self._draw()
        elif begin or done == total or self._due():
            self._told, self._share = time.monotonic(), done / max(1, total)
            print(f"scored {done} of {total} windows{self._left()}", file=sys.stderr, flush=True)
        if done == total:
            self.close()

    def within(self, share: float) -> None:
        self._part = share
        if self._quiet:
            return
        if self._terminal:
            self._draw()
        elif time.monotonic() - self._told >= _EVERY_SECONDS:
            self._told = time.monotonic()
            part = f"scored {self._done} of {self._total} windows and {share:.0%} of the next"
            print(f"{part}{self._left()}", file=sys.stderr, flush=True)

    def state(self) -> str:
        """What an interrupted command had done and how to go on."""
        if self._folder is None:
            return ": nothing was changed"
        kept = f"{self._done} of {self._total} windows are kept in {self._folder}"
        return f": {kept}; the same command resumes"

    def close(self) -> None:
        if self._bar is not None:
            self._bar[0].stop()
            self._bar = None

    def _due(self) -> bool:
        # A line when both some time and some share of the work have gone by, or a long time.
        waited = time.monotonic() - self._told
        return waited >= _EVERY_SECONDS or (
            waited >= 1 and self._done / max(1, self._total) - self._share >= _EVERY_SHARE
        )

    def _left(self) -> str:
        fresh = self._done - self._first + self._part
        if fresh <= 0 or self._done >= self._total:
            return ""
        seconds = (time.monotonic() - self._began) / fresh * (self._total - self._done - self._part)
        return f", about {duration(seconds)} left"

    def _draw(self) -> None:
        from rich import progress
        from rich.console import Console as RichConsole

        if self._bar is None:
            if self._done == self._total:
                return
            bar = progress.Progress(
                progress.TextColumn("scoring"),
                progress.BarColumn(),
                progress.TextColumn("{task.fields[done]}/{task.total} windows"),
                progress.TimeElapsedColumn(),
                progress.TextColumn("{task.fields[left]}"),
                console=RichConsole(stderr=True),
                transient=True,
            )
            bar.start()
            self._bar = bar, bar.add_task("", total=self._total, left="", done=0)
        self._bar[0].update(
            self._bar[1], completed=self._done + self._part, left=self._left().lstrip(", "), done=self._done
        )


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
