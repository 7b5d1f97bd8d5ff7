"""Who is told how far an exam is."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class Progress(Protocol):
    """The command line has one for terminals and one for files; a program may bring its own."""

    def say(self, line: str) -> None:
        """Something begins."""

    def windows(self, folder: Path, done: int, total: int) -> None:
        """`done` of `total` windows are scored and on disk."""

    def within(self, share: float) -> None:
        """That share of the window that comes next is scored."""

    def stage(self, name: str, share: float, now: str) -> None:
        """That share of a later stage is done (0 where it begins); `now` says what comes next, if anything."""


class Silent:
    """Nobody listens."""

    def say(self, line: str) -> None:
        pass

    def windows(self, folder: Path, done: int, total: int) -> None:
        pass

    def within(self, share: float) -> None:
        pass

    def stage(self, name: str, share: float, now: str) -> None:
        pass
