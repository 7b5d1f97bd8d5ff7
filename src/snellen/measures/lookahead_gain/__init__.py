"""Does looking ahead help this model predict this text, and is it more than sharpening would give?

The lookahead gain: held-out log-likelihood of the best fitted mix of the model with
its own lookahead, minus that of the best of four controls that do not look ahead. `docs/lookahead-gain.md` gives the
definitions, the choices and the experiments behind them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from snellen.errors import InputError
from snellen.measures.base import Measure, Measured, Scored
from snellen.measures.lookahead_gain import apply, tables
from snellen.measures.lookahead_gain.arms import Survivors
from snellen.measures.lookahead_gain.curves import Common, Point, Problem, arms_of, point, shared
from snellen.measures.lookahead_gain.places import CLASSES, bins, line_bins, memorised, places
from snellen.measures.lookahead_gain.rows import check, rows_of, take
from snellen.measures.lookahead_gain.words import word_mode
from snellen.results import statistics
from snellen.results.findings import Finding
from snellen.results.statistics import Units

SPLIT_ENTROPY = (0.5, 1.0, 2.0, 3.0, 4.0, 5.0)  # nats


@dataclass(frozen=True, kw_only=True)
class LookaheadGain(Measure):
    """Settings of the measure; α and weights are the grids on which every arm is fitted."""

    name: ClassVar[str] = "lookahead-gain"
    question: ClassVar[str] = "Does looking ahead help this model predict this text, beyond what sharpening gives?"

    base: Literal["tempered", "naive"] = "tempered"
    alphas: tuple[float, ...] = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, math.inf)
    weights: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2, 0.3, 0.45, 0.6, 0.8, 0.95)
    folds: int = 5
    level: float = 0.95
    memorised_run: int = 20

    def __post_init__(self) -> None:
        if self.base not in ("tempered", "naive"):
            raise InputError(f"base = {self.base!r}: must be 'tempered' or 'naive'")
        if not self.alphas or not all(a >= 0 for a in self.alphas) or list(self.alphas) != sorted(set(self.alphas)):
            raise InputError(f"alphas = {self.alphas}: must be rising numbers from 0 to inf")
        if math.isinf(self.alphas[0]):
            raise InputError(f"alphas = {self.alphas}: at least one must be finite")
        if not self.weights or not all(0 < w < 1 for w in self.weights):
            raise InputError(f"weights = {self.weights}: must lie above 0 and below 1 (0 is always tried)")
        if not 2 <= self.folds <= statistics.REFUSED_BELOW:
            raise InputError(f"folds = {self.folds}: must lie between 2 and {statistics.REFUSED_BELOW}")
        if not 0.5 <= self.level < 1:
            raise InputError(f"level = {self.level}: must lie in [0.5, 1)")
        if self.memorised_run < 2:
            raise InputError(f"memorised_run = {self.memorised_run}: must be at least 2")

    def measure(self, scored: Scored, *, seed: int) -> Measured:
        """Fit and judge all arms at every width and horizon; `Refused` where the data cannot carry that."""
        check(scored)
        order = np.lexsort((scored.index, scored.document))
        text = take(scored, order)
        possible = np.isfinite(text.log_prob)
        excluded = {} if possible.all() else {"the naive probability is zero": int((~possible).sum())}
        judged = take(text, np.flatnonzero(possible))
        where = _where(text, possible, self.memorised_run)
        problem, units = self._problem(judged, seed)
        problem, common = shared(problem)
        points: list[Point] = []
        survivors = None
        # Each fit takes about as long as another; what is made of them, about as long as three.
        fits = judged.horizon * len(judged.beams) + (0 if judged.particles is None else judged.horizon - 1)
        for width in sorted(judged.beams):
            survivors = Survivors.of(judged.beams[width], judged)
            for horizon in range(1, judged.horizon + 1):
                scored.tell(len(points) / (fits + 3))
                points.append(point(problem, common, survivors, width, horizon, each_alpha=True))
        assert survivors is not None
        full = points[-1]
        scored.tell(len(points) / (fits + 3))
        sampled = _sampled(problem, common)
        scored.tell(fits / (fits + 3))
        gain, placebo, seen = full.gain, full.placebo, full.detectable
        assert placebo is not None
        assert seen is not None
        columns = _columns(problem, full, survivors) | where
        said, reading = tables.verdict(gain, placebo, seen, limited=units.limited)
        finding = Finding(
            measure=self.name,
            question=self.question,
            value=gain.value,
            unit="nats per token",
            low=gain.low,
            high=gain.high,
            level=self.level,
            n={"tokens": len(judged), "units": problem.rows.units, "documents": len(np.unique(judged.document))},
            excluded=excluded,
            control={
                "arms": {name: float(fit.log_probs.mean()) for name, fit in full.fits.items()},
                "best": full.best,
                "placebo": placebo.as_dict(),
            },
            detectable=seen.as_dict(),
            verdict=said,
            reading=reading,
            settings=self._settings(full, seed) | {"fit": tables.record(full.fits["lookahead"].whole, problem.rows)},
            details={
                "units": {"kind": units.kind, "interval": "t"},
                "by_horizon": [_by_horizon(p) for p in points if p.width == full.width],
                "by_width": [_by_width(p) for p in [*points, *sampled] if p.horizon == full.horizon],
                "memorised": self._memorised(problem, full, where["memorised"]),
                "words": word_mode(problem, full.width),
            },
        )
        gains = columns["lookahead_log_prob"] - columns["control_log_prob"]
        figures = {
            "arms": tables.arms_table(problem, [*points, *sampled]),
            "gains": tables.gains_table(problem, [*points, *sampled]),
            "splits": tables.splits_table(problem, gains, _splits(judged, where)),
        }
        columns["token_class"] = np.asarray(CLASSES)[columns["token_class"]]
        given = order[possible]
        return Measured(
            finding=finding,
            tables=figures,
            columns={name: _spread(name, values, given, len(scored)) for name, values in columns.items()},
        )

    def _problem(self, judged: Scored, seed: int) -> tuple[Problem, Units]:
        units = statistics.units(judged.document)
        rows = rows_of(judged, units, self.alphas, self.weights)
        fold = statistics.folds(units.count, parts=self.folds, seed=seed)
        tempered = self.base == "tempered"
        return Problem.of(judged, rows, fold, level=self.level, tempered_base=tempered, seed=seed), units

    def _settings(self, full: Point, seed: int) -> dict[str, Any]:
        plain: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        plain["alphas"] = ["inf" if math.isinf(a) else a for a in self.alphas]
        plain["weights"] = list(self.weights)
        return plain | {"width": full.width, "horizon": full.horizon, "seed": seed}

    def _memorised(self, problem: Problem, full: Point, mask: NDArray[np.bool_]) -> dict[str, Any]:
        """Share of tokens in memorised runs, and the headline gain fitted and judged without them."""
        out: dict[str, Any] = {"run": self.memorised_run, "share": float(mask.mean()), "n": int(mask.sum())}
        rest = np.flatnonzero(~mask)
        out |= {"value": None, "low": None, "high": None, "reason": None}
        if not mask.any():
            return out | {"reason": "no token is in such a run: the gain without them is the gain itself"}
        left = len(np.unique(problem.rows.unit[rest]))
        if left < statistics.REFUSED_BELOW:
            return out | {"reason": f"without them {left} units are left; at least {statistics.REFUSED_BELOW} needed"}
        scored = take(problem.scored, rest)
        fine = replace(
            problem.fine, log_prob=problem.fine.log_prob[rest], log_z=problem.fine.log_z[rest],
            unit=problem.fine.unit[rest], gate=problem.fine.gate[rest],
        )  # fmt: skip
        tempered = self.base == "tempered"
        smaller = Problem.of(scored, fine, problem.fold, level=self.level, tempered_base=tempered, seed=problem.seed)
        survivors = Survivors.of(scored.beams[full.width], scored)
        smaller, common = shared(smaller)
        again = point(smaller, common, survivors, full.width, full.horizon, each_alpha=False)
        return out | again.gain.row() | {"reason": again.gain.reason}


def _sampled(problem: Problem, common: Common) -> list[Point]:
    """The gain at every horizon from sampled completions, if there are any: what no width of a beam cuts off."""
    particles = problem.scored.particles
    if particles is None:
        return []
    survivors = Survivors.of(particles, problem.scored)
    count = particles.tokens.shape[2]
    depths = range(2, problem.scored.horizon + 1)
    return [point(problem, common, survivors, count, depth, each_alpha=False) for depth in depths]


def _by_width(at: Point) -> dict[str, Any]:
    """The full horizon at one width; `particles` of them stand for an infinite one."""
    assert at.placebo is not None
    return {
        "search": at.search,
        "width" if at.search == "beam" else "particles": at.width,
        **at.gain.row(),
        "best_control": at.best,
        "candidates": at.candidates,
        "placebo": at.placebo.as_dict(),
    }


def _by_horizon(at: Point) -> dict[str, Any]:
    """One row of the eye chart: the gain at a horizon, and what of it the factor alone makes."""
    row: dict[str, Any] = {"horizon": at.horizon, "is": "lookahead" if at.horizon > 1 else "sharpening"}
    row |= at.gain.row() | {"best_control": at.best, "candidates": at.candidates}
    for name, other in (("placebo", at.placebo), ("over_same_candidates", at.over_same)):
        if other is not None:
            row[name] = other.as_dict()
    if at.detectable is not None:
        row["detectable"] = at.detectable.value
    return row


def _columns(problem: Problem, full: Point, survivors: Survivors) -> dict[str, NDArray[Any]]:
    """What each judged token got from the mix and from the best control, cross-fitted."""
    rows, fold, text = problem.rows, problem.fold, problem.scored
    arms = arms_of(problem, survivors, full.width, full.horizon)
    mixed, settings = [arms["lookahead"], arms["same candidates"]], full.fits["lookahead"].settings
    top = text.top_log_probs.astype(np.float64)
    tokens, probs = apply.most_probable(rows, text.top_tokens, top, mixed, settings, fold)
    return {
        "unit": rows.unit,
        "fold": fold[rows.unit],
        "lookahead_log_prob": full.fits["lookahead"].log_probs,
        "control_log_prob": full.fits[full.best].log_probs,
        "mix_tokens": tokens,
        "mix_probs": probs,
    }


def _where(text: Scored, possible: NDArray[np.bool_], run: int) -> dict[str, NDArray[Any]]:
    kind, position = places(text)
    found: dict[str, NDArray[Any]] = {"token_class": kind, "line_position": position, "memorised": memorised(text, run)}
    return {name: values[possible] for name, values in found.items()}


def _splits(judged: Scored, where: dict[str, NDArray[Any]]) -> dict[str, tuple[NDArray[np.int64], Sequence[str]]]:
    return {
        "class": (where["token_class"], CLASSES),
        "entropy": bins(judged.entropy, SPLIT_ENTROPY, "nats"),
        "line position": line_bins(where["line_position"]),
        "memorised": (where["memorised"].astype(np.int64), ("no", "yes")),
    }


_ABSENT: dict[str, Any] = {
    "unit": -1, "fold": -1, "lookahead_log_prob": -np.inf, "control_log_prob": -np.inf, "token_class": CLASSES[-1],
    "line_position": -1, "memorised": False, "mix_tokens": -1, "mix_probs": 0,
}  # fmt: skip
_FLOAT32 = ("lookahead_log_prob", "control_log_prob")


def _spread(name: str, values: NDArray[Any], places: NDArray[np.integer], n: int) -> NDArray[Any]:
    """Values of the judged rows at their places among all n rows, as they were given."""
    kind = np.float32 if name in _FLOAT32 else values.dtype
    out = np.full((n, *values.shape[1:]), _ABSENT[name], dtype=kind)
    out[places] = values
    return out
