"""All organisms, all seeds, a few at a time: each organism and seed is raised and examined in one process."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from snellen.errors import InputError
from snellen.organisms import chart
from snellen.studies import pool
from snellen.studies.examinations import EXAMINATIONS, Examination, asked, chosen
from snellen.studies.organisms import Row, SeedResult, as_dict, examine, judge

SEEDS = 3  # below this a result is shown and not filed
# Seconds on one quiet core, roughly: the longest begin first, so that no process is left with one at the end.
_COST = {"internalised": 90, "couplets": 60, "deep planner": 50, "planner": 40, "planless": 40, "markov": 40}

Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Rows in the order of `EXAMINATIONS`; complete: every examination, and seeds enough to be filed."""

    rows: Sequence[Row]
    seeds: int
    complete: bool
    seconds: float
    when: str = field(default_factory=lambda: datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"))

    @property
    def passed(self) -> bool:
        return all(row.passed for row in self.rows)

    def as_dict(self) -> dict[str, Any]:
        """The outcome as JSON has it; the code that it belongs to beside it."""
        return {
            "schema": chart.SCHEMA, "code": chart.code_hash(), "when": self.when, "seeds": self.seeds,
            "complete": self.complete, "passed": self.passed, "seconds": round(self.seconds, 1),
            "rows": [as_dict(row) for row in self.rows],
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Job:
    """The examinations of one organism with one seed."""

    organism: str
    seed: int
    examinations: tuple[Examination, ...]


def self_test(
    *,
    seeds: int = SEEDS,
    only: Sequence[str] = (),
    processes: int | None = None,
    tell: Tell = lambda line: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Outcome:
    """Examine the organisms; a whole self-test is filed for the reports of exams (`organisms.chart`).

    Numbers do not depend on `processes`: each works with one thread. `progress` is told how many of the jobs are done.

    Raises
    ------
    InputError
        No seeds, no processes, or an unknown name.
    """
    wanted = asked(seeds, only, processes)
    began = time.monotonic()
    jobs = _jobs(wanted, seeds)
    results: list[SeedResult] = []
    progress(0, len(jobs))
    for done, (found, said) in enumerate(pool.run(_work, jobs, pool.at_once(processes, len(jobs))), start=1):
        results += found
        for line in said:
            tell(line)
        progress(done, len(jobs))
    rows = [
        judge(one, sorted((r for r in results if r.examination == one.name), key=lambda r: r.seed)) for one in wanted
    ]
    complete = len(wanted) == len(EXAMINATIONS) and seeds >= SEEDS
    outcome = Outcome(rows=rows, seeds=seeds, complete=complete, seconds=time.monotonic() - began)
    if complete:
        try:
            chart.keep(outcome.as_dict())
        except InputError as error:
            tell(f"the outcome is not kept ({error}): reports will say that nothing was examined")
    return outcome


def _jobs(wanted: Sequence[Examination], seeds: int) -> list[Job]:
    organisms = dict.fromkeys(one.organism for one in wanted)
    return [
        Job(organism=name, seed=seed, examinations=tuple(one for one in wanted if one.organism == name))
        for name in sorted(organisms, key=lambda name: -_COST.get(name, 0))
        for seed in range(seeds)
    ]


def _work(job: Job) -> tuple[list[SeedResult], list[str]]:
    said: list[str] = []
    found = [examine(one, job.seed, said.append) for one in job.examinations]
    return found, said


__all__ = ["Outcome", "chosen", "self_test"]
