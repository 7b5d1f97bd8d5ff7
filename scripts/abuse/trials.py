"""One trial: something done to Snellen in a process of its own, how it ended, and the judgement of that."""

from __future__ import annotations

import os
import re
import resource
import select
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

REFUSED, SAME, FINISHED = "refused in one line", "same result", "finished"
INTERRUPTED, AT_WORK = "interrupted", "at work, and says so"
TRACEBACK, SILENT, HANGS = "traceback", "silent difference", "neither refused nor finished"
GOOD, BAD = (REFUSED, SAME, FINISHED, INTERRUPTED, AT_WORK), (TRACEBACK, SILENT, HANGS)

SECONDS = 60.0  # after which a trial has neither been refused nor finished
MEMORY = 3 << 30  # bytes beyond what the parent has: who asks for more is told that there is none
_OUT, _ERR = "stdout", "stderr"
_PROGRESS = re.compile(r"\d+ of \d+|\d%|run on \d+ rows")
_FAULT = re.compile(r"^Traceback \(most recent call last\)|this is a fault of Snellen|Fatal Python error", re.M)


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a process ended."""

    code: int | None  # None: it had to be stopped; negative: by that signal
    out: str
    err: str
    seconds: float


# What is wrong with a result, in words; None: it is that of the undisturbed command.
Check = Callable[[Path, Ended], str | None]


def unchecked(folder: Path, ended: Ended) -> None:
    """Of what may finish with effects of its own."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """`act` runs in a new process, in an empty folder of its own, and returns an exit code."""

    name: str
    act: Callable[[Path], int]
    shown: str  # what is done, for who wants to see it again
    check: Check | None = None  # of what may finish; None: it has to be refused
    seconds: float = SECONDS
    long: bool = False  # much work was asked for: it need not be over by then, where progress is told


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What came of a trial."""

    trial: Trial
    outcome: str
    why: str
    ended: Ended = field(repr=False)


def judged(trial: Trial, ended: Ended, folder: Path) -> Verdict:
    """Which of the outcomes it is."""

    def so(outcome: str, why: str = "") -> Verdict:
        return Verdict(trial=trial, outcome=outcome, why=why, ended=ended)

    if ended.code is None and trial.long and _PROGRESS.search(ended.err):
        return so(AT_WORK)
    if ended.code is None:
        return so(HANGS, f"stopped after {ended.seconds:.0f} s")
    said = ended.err + ended.out
    if ended.code not in (0, 2, 3, 130) or _FAULT.search(said):
        lines = [line for line in said.strip().splitlines() if line.strip()]
        return so(TRACEBACK, f"exit {ended.code}: {lines[-1][:300] if lines else 'no word'}")
    if ended.code == 130:
        return so(INTERRUPTED)
    if ended.code == 2:
        last = [line for line in ended.err.splitlines() if line.startswith("snellen: ")]
        if len(last) != 1 or not ended.err.rstrip().splitlines()[-1].startswith("snellen: "):
            return so(TRACEBACK, f"exit 2, not with one line: {ended.err.strip()[-300:]!r}")
        if re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", last[0]):
            return so(SILENT, f"the line acts on a terminal: {last[0][:200]!r}")
        return so(REFUSED, last[0])
    if trial.check is None:
        return so(SILENT, f"exit {ended.code}: accepted, and had to be refused")
    wrong = trial.check(folder, ended)
    if wrong is not None:
        return so(SILENT, wrong)
    return so(FINISHED if trial.check is unchecked else SAME)


def apart(action: Callable[[], int], *, seconds: float = SECONDS, memory: int | None = None, into: Path) -> Ended:
    """Run it in a forked process that leads a group of its own; its streams go to files in `into`."""
    child = Child(action, into=into, seconds=seconds, memory=memory)
    while not child.over(0.2):
        pass
    return child.ended()


class Child:
    """A process that is waited for, and stopped when its time is over."""

    def __init__(self, action: Callable[[], int], *, into: Path, seconds: float, memory: int | None = None) -> None:
        into.mkdir(parents=True, exist_ok=True)
        self._into, self._began, self._limit = into, time.monotonic(), seconds
        self._code: int | None = None
        sys.stdout.flush()
        sys.stderr.flush()
        with warnings.catch_warnings():  # of threads that might hold locks: none is at work in who forks here
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if self.pid == 0:
            _child(action, into, memory)
        self._watch = os.pidfd_open(self.pid)

    def over(self, patience: float) -> bool:
        """Whether it has ended, after that many seconds at most."""
        if select.select([self._watch], [], [], patience)[0]:
            self._code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        elif time.monotonic() - self._began > self._limit:
            os.killpg(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        else:
            return False
        self._seconds = time.monotonic() - self._began
        os.close(self._watch)
        return True

    def ended(self) -> Ended:
        """How it ended."""
        out, err = ((self._into / name).read_text(encoding="utf-8", errors="surrogateescape") for name in (_OUT, _ERR))
        return Ended(code=self._code, out=out, err=err, seconds=self._seconds)


def _child(action: Callable[[], int], into: Path, memory: int | None) -> None:
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number, name in ((1, _OUT), (2, _ERR)):
            file = os.open(into / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.dup2(file, number)
            os.close(file)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        empty = os.open(os.devnull, os.O_RDONLY)
        os.dup2(empty, 0)
        if memory is not None:
            held = int(re.findall(r"VmData:\s+(\d+)", Path("/proc/self/status").read_text())[0]) << 10
            resource.setrlimit(resource.RLIMIT_DATA, (held + memory, resource.RLIM_INFINITY))
        code = action()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except (OSError, ValueError):
            code = code or 1
        os._exit(code)


def run(trials: Iterable[Trial], root: Path, *, processes: int) -> Iterator[Verdict]:
    """All of them, so many at a time; each in a folder below `root` that is gone afterwards."""
    waiting, running = iter(trials), []  # type: ignore[var-annotated]
    number = 0
    while True:
        while len(running) < processes and (trial := next(waiting, None)) is not None:
            number += 1
            folder = root / f"{number:05d}"
            (folder / "here").mkdir(parents=True)
            running.append((trial, folder, _started(trial, folder)))
        if not running:
            return
        for one in list(running):
            trial, folder, child = one
            if child.over(0.01):
                running.remove(one)
                yield judged(trial, child.ended(), folder / "here")
                shutil.rmtree(folder, ignore_errors=True)


def _started(trial: Trial, folder: Path) -> Child:
    def action() -> int:
        os.chdir(folder / "here")
        return trial.act(folder / "here")

    return Child(action, into=folder, seconds=trial.seconds, memory=MEMORY)
