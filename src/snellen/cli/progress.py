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
        self._done = self._total = 0
        self._stage = ""
        self._first = self._began = self._told = self._shown = 0.0

    def say(self, line: str) -> None:
        if self._quiet:
            return
        line = shown(line)
        if self._bar is not None:
            self._bar[0].console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def windows(self, folder: Path, done: int, total: int) -> None:
        self._folder, self._done, self._total = folder, done, total
        self._show("scoring", done / max(1, total), f"scored {done} of {total} windows", step=True)

    def within(self, share: float) -> None:
        line = f"scored {self._done} of {self._total} windows and {share:.0%} of the next"
        self._show("scoring", (self._done + share) / max(1, self._total), line)

    def stage(self, name: str, share: float, now: str) -> None:
        self._show(name, share, f"{name}: {share:.0%}, {now}" if now else f"{name}: {share:.0%}")

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

    def _show(self, stage: str, share: float, line: str, *, step: bool = False) -> None:
        """A stage at its beginning and end, and in between now and then, the more so at a step of it (`step`)."""
        begin, end = stage != self._stage, share >= 1
        if begin:
            self.close()
            self._stage, self._first, self._began = stage, share, time.monotonic()
        if self._quiet:
            return
        if self._terminal:
            self._draw(stage, share, line)
        elif begin or (end and step) or self._due(share, step=step):
            self._told, self._shown = time.monotonic(), share
            print(f"{line}{self._left(share)}", file=sys.stderr, flush=True)
        if end:
            self.close()

    def _due(self, share: float, *, step: bool) -> bool:
        # A line when both some time and some share of the work have gone by, or a long time.
        waited = time.monotonic() - self._told
        return waited >= _EVERY_SECONDS or (step and waited >= 1 and share - self._shown >= _EVERY_SHARE)

    def _left(self, share: float) -> str:
        fresh = share - self._first
        if fresh <= 0 or share >= 1:
            return ""
        return f", about {duration((time.monotonic() - self._began) / fresh * (1 - share))} left"

    def _draw(self, stage: str, share: float, line: str) -> None:
        from rich import progress
        from rich.console import Console as RichConsole

        if self._bar is None:
            if share >= 1:
                return
            bar = progress.Progress(
                progress.TextColumn("{task.fields[line]}", markup=False),
                progress.BarColumn(),
                progress.TimeElapsedColumn(),
                progress.TextColumn("{task.fields[left]}"),
                console=RichConsole(stderr=True),
                transient=True,
            )
            bar.start()
            self._bar = bar, bar.add_task(stage, total=1.0, left="", line=line)
        self._bar[0].update(self._bar[1], completed=share, left=self._left(share).lstrip(", "), line=line)


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
