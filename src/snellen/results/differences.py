"""Intervals of a difference between two runs, and of log-likelihoods summed over units."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from snellen.results.coverage import Sums
from snellen.results.findings import Finding
from snellen.results.statistics import REFUSED_BELOW, mean

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Value:
    """A number with its interval; None with a reason where there is none."""

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None


def from_intervals(point: float, pair: tuple[Finding, Finding], level: float) -> Value:
    """The two intervals joined: the squares of what reaches down from the one and up from the other are added.

    That is right for intervals that are not symmetric too (Zou and Donner 2008, MOVER). The two are taken for
    independent; of one text they usually move together, and the interval is then too wide, never too narrow.
    """
    if any(f.low is None or f.high is None or f.value is None for f in pair):
        return Value(value=point, reason="one of the runs has no interval")
    if any(f.level != level for f in pair):
        return Value(value=point, reason="the two intervals have different levels")
    first, second = ((f.value or 0.0, f.low or 0.0, f.high or 0.0) for f in pair)
    down = float(np.hypot(second[0] - second[1], first[2] - first[0]))
    up = float(np.hypot(second[2] - second[0], first[0] - first[1]))
    return Value(value=point, low=point - down, high=point + up)


def _welch(point: float, errors: list[float], freedoms: list[float], level: float) -> Value:
    total = sum(error**2 for error in errors)
    if total == 0:
        return Value(value=point, low=point, high=point)
    freedom = total**2 / sum(error**4 / own for error, own in zip(errors, freedoms, strict=True))
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
    found = [mean(top, bottom) for top, bottom in zip(tops, bottoms, strict=True)]
    if paired and len(samples) == 2:
        moved = [
            sign * (top - ratio * bottom) / (bottom.sum() - bottom)
            for sign, top, ratio, bottom in zip(signs, tops, ratios, bottoms, strict=True)
        ]
        error = float(np.sqrt((n[0] - 1) / n[0] * (np.sum(moved, axis=0) ** 2).sum()))
        reach = float(stats.t.ppf((1 + level) / 2, min(one.freedom for one in found))) * error
        return Value(value=point, low=point - reach, high=point + reach)
    return _welch(point, [float(one.error) for one in found], [one.freedom for one in found], level)
