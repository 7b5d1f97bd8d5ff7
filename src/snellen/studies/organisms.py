"""The self-test: organisms are raised and examined, and what is found is held against what is known of them.

For each examination and seed: another language of the same kind (its rules are drawn by the seed), another
model, another text. What is judged is the mean over seeds, with the interval that follows from those of the seeds;
each seed is shown, and none may contradict.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from snellen.errors import Refused
from snellen.measures.lookahead_gain import LookaheadGain
from snellen.organisms.cache import Tell
from snellen.studies.decisions import score_decisions
from snellen.studies.examinations import EXAMINATIONS, Examination

LEAST_GAIN = 0.3  # nats a decision: where a gain is expected, the interval lies above this
MARGIN = 0.0005  # nats: a dose may lie so far outside its interval, which one in twenty does by chance
NOTHING = 0.03  # nats a decision: where none is, the interval lies within this on both sides
_TEXT = 5  # stream of random numbers: the judged text is none that the model was trained on


@dataclass(frozen=True, kw_only=True)
class Estimate:
    value: float
    low: float
    high: float

    def inside(self, bound: float) -> bool:
        return -bound < self.low and self.high < bound

    @property
    def reach(self) -> float:
        """The end of the interval that is further from zero."""
        return max(abs(self.low), abs(self.high))


@dataclass(frozen=True, kw_only=True)
class Point:
    """The gain and its placebo at one width and horizon, nats a decision."""

    width: int
    horizon: int
    gain: Estimate
    placebo: Estimate


@dataclass(frozen=True, kw_only=True)
class SeedResult:
    """One examination with one seed; `refused` says why there is no number."""

    examination: str
    seed: int
    points: Sequence[Point]
    losses: Mapping[str, float]  # of the decision, nats: naive, control, author
    training: Mapping[str, Any]
    seconds: float
    refused: str | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """An examination over its seeds: what was expected, what was found, and whether the one is the other."""

    name: str
    says: str
    organism: str
    expects: str
    width: int
    horizon: int
    points: Sequence[Point]
    seeds: Sequence[SeedResult]
    room: float | None
    objections: Sequence[str]

    @property
    def passed(self) -> bool:
        return not self.objections

    @property
    def found(self) -> Point | None:
        return next((p for p in self.points if (p.width, p.horizon) == (self.width, self.horizon)), None)


def examine(one: Examination, seed: int, tell: Tell = lambda line: None) -> SeedResult:
    """Raise the organism (or take it from the cache), score its decisions, measure the gain."""
    began = time.monotonic()
    try:
        model, moment = one.subject(seed, tell)
        language = one.text(seed)
        text = language.sample(one.sequences, seed=[seed, _TEXT])
        scored = score_decisions(model, language, text, widths=one.widths, horizon=one.horizon, units=one.units)
        measured = LookaheadGain().measure(scored, seed=seed)
    except Refused as error:
        return SeedResult(
            examination=one.name, seed=seed, points=(), losses={}, training={},
            seconds=time.monotonic() - began, refused=str(error),
        )  # fmt: skip
    arms = measured.finding.control["arms"]
    places = list(language.decisions)
    return SeedResult(
        examination=one.name,
        seed=seed,
        points=[
            Point(
                width=row["width"], horizon=row["horizon"],
                gain=Estimate(value=row["value"], low=row["low"], high=row["high"]),
                placebo=Estimate(value=row["placebo"], low=row["placebo_low"], high=row["placebo_high"]),
            )
            for row in measured.tables["gains"].to_pylist()
            if row["alpha"] is None and row["horizon"] > 1
        ],
        losses={
            "naive": -float(arms["naive"]),
            "control": -float(arms[measured.finding.control["best"]]),
            "author": float(-language.log_probs(text)[:, places].mean()),
        },
        training={} if moment is None else {"step": moment.step, "attempt": moment.attempt, **moment.losses},
        seconds=time.monotonic() - began,
    )  # fmt: skip


def pooled(estimates: Sequence[Estimate]) -> Estimate:
    """The mean of independent estimates; each arm of its interval is the root of the summed squares, over their number.

    The interval is about the mean of these seeds: how far another seed may lie from it is what the seeds show.
    """
    n = len(estimates)
    value = sum(e.value for e in estimates) / n
    down = math.sqrt(sum((e.value - e.low) ** 2 for e in estimates)) / n
    up = math.sqrt(sum((e.high - e.value) ** 2 for e in estimates)) / n
    return Estimate(value=value, low=value - down, high=value + up)


def judge(one: Examination, results: Sequence[SeedResult]) -> Row:
    """All seeds of one examination as a row, with everything that speaks against it."""
    objections = [f"seed {r.seed}: no number ({r.refused})" for r in results if r.refused is not None]
    whole = [r for r in results if r.refused is None]
    points = [
        Point(
            width=p.width,
            horizon=p.horizon,
            gain=pooled([r.points[i].gain for r in whole]),
            placebo=pooled([r.points[i].placebo for r in whole]),
        )
        for i, p in enumerate(whole[0].points if whole else ())
    ]
    width = one.widths[-1]
    for point in points:
        if point.width == width and one.expects == "dose" and point.horizon == one.horizon:
            objections += _dosed(one, point, float(np.mean([one.dose(r.seed) for r in whole])))
        elif point.width == width and one.expects in ("gain", "nothing"):
            objections += _objections(one, point)
    if one.expects in ("gain", "nothing"):
        for result in whole:
            objections += _contradictions(one, result)
    return Row(
        name=one.name, says=one.says, organism=one.organism, expects=one.expects, width=width, horizon=one.horizon,
        points=points, seeds=results, room=one.room, objections=objections,
    )  # fmt: skip


def _objections(one: Examination, point: Point) -> list[str]:
    found = []
    at = f"horizon {point.horizon}"
    if one.expects == "gain" and point.horizon == one.horizon:
        if point.gain.low <= LEAST_GAIN:
            found.append(f"{at}: the gain's interval {_shown(point.gain)} is not above {LEAST_GAIN}")
    elif not point.gain.inside(NOTHING):
        found.append(f"{at}: the gain's interval {_shown(point.gain)} is not within ±{NOTHING}")
    if not point.placebo.inside(NOTHING):
        found.append(f"{at}: the placebo's interval {_shown(point.placebo)} is not within ±{NOTHING}")
    return found


def _dosed(one: Examination, point: Point, dose: float) -> list[str]:
    found = []
    if not point.gain.low - MARGIN <= dose <= point.gain.high + MARGIN:
        found.append(f"the interval {_shown(point.gain, 4)} does not hold the gain that is there, {dose:+.4f}")
    if one.found and point.gain.low <= 0:
        found.append(f"a gain of {dose:+.4f} was not found: {_shown(point.gain, 4)}")
    return found


def _contradictions(one: Examination, result: SeedResult) -> list[str]:
    """A single seed is less certain than all together: its interval must not exclude what is expected."""
    found = []
    for point in result.points:
        if point.width != one.widths[-1]:
            continue
        gains = one.expects == "gain" and point.horizon == one.horizon
        if gains and point.gain.low <= 0:
            found.append(f"seed {result.seed}, horizon {point.horizon}: the gain's interval reaches 0")
        if not gains and abs(point.gain.value) >= NOTHING:
            found.append(f"seed {result.seed}, horizon {point.horizon}: the gain is {point.gain.value:+.3f}")
    return found


def _shown(estimate: Estimate, digits: int = 3) -> str:
    return f"[{estimate.low:+.{digits}f}, {estimate.high:+.{digits}f}]"


def as_dict(row: Row) -> dict[str, Any]:
    """A row as JSON has it."""
    return {**asdict(row), "passed": row.passed}


__all__ = ["EXAMINATIONS", "Estimate", "Point", "Row", "SeedResult", "as_dict", "examine", "judge", "pooled"]
