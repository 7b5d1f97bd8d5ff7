"""Intervals of a difference between two runs, and of log-likelihoods summed over units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from snellen.results.coverage import Sums
from snellen.results.findings import Finding
from snellen.results.statistics import PERCENTILE_FROM, REFUSED_BELOW, holding

Floats = NDArray[np.float64]
_RESAMPLES = 2000


@dataclass(frozen=True, kw_only=True)
class Value:
    """A number with its interval; None with a reason where there is none."""

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None


def percentiles(point: float, first: Floats, second: Floats, level: float, paired: bool) -> Value:
    if not paired:
        # Every draw of one run against some draw of the other: the order carries no information then.
        size = max(len(first), len(second))
        rng = np.random.default_rng(0)
        first, second = rng.permutation(np.resize(first, size)), rng.permutation(np.resize(second, size))
    draws = second - first
    draws = draws[np.isfinite(draws)]
    if len(draws) < 100:
        return Value(value=point, reason="too few resamples are defined in both runs")
    low, high = holding(point, *np.quantile(draws, [(1 - level) / 2, (1 + level) / 2]))
    return Value(value=point, low=low, high=high)


def from_intervals(point: float, pair: tuple[Finding, Finding], n: list[int], level: float) -> Value:
    errors = []
    for finding, units in zip(pair, n, strict=True):
        if finding.low is None or finding.high is None or units < REFUSED_BELOW:
            return Value(value=point, reason="one of the runs has no interval")
        errors.append((finding.high - finding.low) / 2 / stats.t.ppf((1 + finding.level) / 2, units - 1))
    return _welch(point, errors, n, level)


def _welch(point: float, errors: list[float], n: list[int], level: float) -> Value:
    total = sum(error**2 for error in errors)
    if total == 0:
        return Value(value=point, low=point, high=point)
    freedom = total**2 / sum(error**4 / (units - 1) for error, units in zip(errors, n, strict=True))
    half = float(stats.t.ppf((1 + level) / 2, freedom) * np.sqrt(total))
    return Value(value=point, low=point - half, high=point + half)


def interval(samples: list[Sums], count: str, level: float, *, paired: bool) -> Value:
    """Of Σ log-likelihood / Σ count for one sample, of second minus first for two."""
    tops, bottoms = [s.log_prob for s in samples], [getattr(s, count) for s in samples]
    signs = [1.0] if len(samples) == 1 else [-1.0, 1.0]
    if any(bottom.sum() == 0 for bottom in bottoms):
        return Value(value=None, reason=f"no {count} that both runs scored")
    ratios = [top.sum() / bottom.sum() for top, bottom in zip(tops, bottoms, strict=True)]
    point = float(sum(sign * ratio for sign, ratio in zip(signs, ratios, strict=True)))
    if not np.isfinite(point):
        return Value(value=None, reason="a scored token has probability zero: its log-likelihood is not finite")
    n = [len(top) for top in tops]
    if min(n) < REFUSED_BELOW:
        return Value(value=point, reason=f"{min(n)} units are too few for an interval (at least {REFUSED_BELOW})")
    if min(n) < PERCENTILE_FROM:
        residuals = [
            sign * (top - ratio * bottom) / bottom.mean()
            for sign, top, ratio, bottom in zip(signs, tops, ratios, bottoms, strict=True)
        ]
        if paired:
            residuals = [np.sum(residuals, axis=0)]
        errors = [float(r.std(ddof=1) / np.sqrt(len(r))) for r in residuals]
        return _welch(point, errors, [len(r) for r in residuals], level)

    def statistic(*drawn: NDArray[np.intp], axis: int = -1) -> Any:
        # One set of drawn units for all samples when paired, one for each when not.
        sets = drawn if len(drawn) == len(samples) else drawn * len(samples)
        parts = zip(signs, tops, bottoms, sets, strict=True)
        return sum(s * t[np.int64(d)].sum(axis=axis) / b[np.int64(d)].sum(axis=axis) for s, t, b, d in parts)

    data = (np.arange(n[0]),) if paired else tuple(np.arange(size) for size in n)
    found = stats.bootstrap(
        data, statistic, n_resamples=_RESAMPLES, confidence_level=level, method="percentile",
        vectorized=True, batch=200, rng=np.random.default_rng(0),
    )  # fmt: skip
    low, high = holding(point, found.confidence_interval.low, found.confidence_interval.high)
    return Value(value=point, low=low, high=high)
