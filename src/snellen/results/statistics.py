"""Units, folds and intervals: what every measure on text needs to say how sure it is.

Tokens of a text are not independent, so the token is never the unit. The *unit* is a document; where there are few,
contiguous blocks of text, and what is said then holds for these documents only. A mean over tokens is a ratio of sums
over units with a t interval (`mean`). A statistic that is no mean is computed again in each resample; to make that
cheap, a resample is given as a column of *counts* (how often each unit was drawn), and statistics are written as
weighted sums over units.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from snellen.errors import Refused

Floats = NDArray[np.float64]

PERCENTILE_FROM = 20  # units from which a percentile bootstrap is used; below, a t interval
REFUSED_BELOW = 8  # units
DOCUMENTS_FROM = 8  # documents from which they are the units
# Documents of equal length that tell as much as these (Kish): with fewer one or two of them decide everything.
EFFECTIVE_FROM = 4.0
LIMITED = "in these documents only"  # what a verdict says where the units are blocks of few documents
BLOCK = 50  # tokens: the shortest block that counts as a unit
USUAL_BLOCK = 200  # tokens: blocks are this long where that leaves between 20 and 50 of them
MOST_BLOCKS = 50


@dataclass(frozen=True, kw_only=True)
class Units:
    """of_row: [n] unit of each row, numbered in the order of the text; count: how many there are."""

    of_row: NDArray[np.int32]
    count: int
    kind: Literal["documents", "blocks"]

    @property
    def limited(self) -> bool:
        """Whether what is found holds for these documents only: blocks of them say nothing of other documents."""
        return self.kind == "blocks"


def units(document: NDArray[np.integer]) -> Units:
    """Documents where there are at least 8; otherwise contiguous blocks of at least 50 tokens.

    Blocks of one document are alike in what its author does, so that an interval over them holds for these documents
    only: two authors who differ pass for a gain of all authors otherwise. The same where one or two documents hold
    nearly all the text (fewer than 4 effective ones, Kish's (Σm)²/Σm²).

    Parameters
    ----------
    document
        [n] non-negative, the document of each row; rows of a document stand together.

    Raises
    ------
    Refused
        Fewer than 8 units: no interval can be vouched for.
    """
    starts = np.flatnonzero(np.r_[True, document[1:] != document[:-1]]) if len(document) else np.zeros(0, int)
    lengths = np.diff(np.r_[starts, len(document)])
    if len(starts) != len(np.unique(document)):
        raise ValueError("document: rows of a document must stand together")
    if are_units(lengths):
        return Units(
            of_row=np.repeat(np.arange(len(starts)), lengths).astype(np.int32),
            count=len(starts),
            kind="documents",
        )
    stretches = _stretches(lengths)
    target = int(np.clip(len(document) // USUAL_BLOCK, PERCENTILE_FROM, MOST_BLOCKS))
    size = max(BLOCK, len(document) // target)
    while size > BLOCK and _blocks(stretches, size).sum() < target:
        size -= 1
    blocks = _blocks(stretches, size)
    count = int(blocks.sum())
    if count < REFUSED_BELOW:
        raise Refused(
            f"{len(document)} tokens in {len(starts)} document(s) make {count} blocks of {BLOCK} tokens, and an"
            f" interval needs at least {REFUSED_BELOW}: give more text, or raise --limit (at least"
            f" {REFUSED_BELOW * BLOCK} scored tokens, more where documents are no multiples of a block)"
        )
    pieces = [np.arange(length) * b // length for length, b in zip(stretches, blocks, strict=True)]
    first = np.r_[0, np.cumsum(blocks)[:-1]]
    of_row = np.concatenate([piece + start for piece, start in zip(pieces, first, strict=True)])
    return Units(of_row=of_row.astype(np.int32), count=count, kind="blocks")


def are_units(sizes: NDArray[np.integer]) -> bool:
    """Whether documents of these sizes are enough to be the units."""
    return len(sizes) >= DOCUMENTS_FROM and effective(sizes) >= EFFECTIVE_FROM


def effective(sizes: NDArray[np.integer] | Floats) -> float:
    """Kish's number of units of equal size that tell as much: (Σm)²/Σm²."""
    sizes = np.asarray(sizes, dtype=np.float64)
    square = float((sizes**2).sum())
    return float(sizes.sum() ** 2 / square) if square else 0.0


@dataclass(frozen=True, kw_only=True)
class Mean:
    """Means over tokens: Σ top / Σ bottom over units, their standard errors, and the degrees of freedom."""

    value: Floats
    error: Floats
    freedom: float

    def quantile(self, level: float) -> float:
        """t of a two-sided interval of this level."""
        return float(stats.t.ppf((1 + level) / 2, self.freedom))

    def reach(self, level: float) -> Floats:
        """Half the width of a two-sided t interval."""
        reach: Floats = self.quantile(level) * self.error
        return reach

    def low(self, level: float) -> Floats:
        low: Floats = self.value - self.reach(level)
        return low

    def high(self, level: float) -> Floats:
        high: Floats = self.value + self.reach(level)
        return high


def mean(top: Floats, bottom: Floats) -> Mean:
    """Ratio estimator with its delete-one jackknife error, linearised, and t with Kish's number of units less one.

    `top` is [..., units], `bottom` [units], the size of each unit (0: the unit holds nothing of it and does not
    count). With units of one size this is the t interval of a mean. Leaving out a unit moves the ratio by
    (top_u − value·bottom_u) / (Σ bottom − bottom_u), so that a long document is not trusted for having drawn the
    ratio to itself (Cochran 1977, §6.4; Efron and Stein 1981). Fewer than two units: the error is ∞.
    """
    there = bottom > 0
    top, bottom = top[..., there], bottom[there]
    n, total = len(bottom), bottom.sum()
    if n < 2:
        nothing = np.full(top.shape[:-1], np.nan) if n == 0 else top.sum(axis=-1) / total
        return Mean(value=nothing, error=np.full(top.shape[:-1], np.inf), freedom=1.0)
    value = top.sum(axis=-1) / total
    moved = (top - value[..., None] * bottom) / (total - bottom)
    error = np.sqrt((n - 1) / n * (moved**2).sum(axis=-1))
    return Mean(value=value, error=error, freedom=max(effective(bottom) - 1, 1.0))


def _stretches(lengths: NDArray[np.integer]) -> NDArray[np.int64]:
    """Documents shorter than a block are joined with the next (the last with the one before)."""
    joined: list[int] = []
    waiting = 0
    for length in lengths:
        waiting += int(length)
        if waiting >= BLOCK:
            joined.append(waiting)
            waiting = 0
    if waiting:
        if joined:
            joined[-1] += waiting
        else:
            joined.append(waiting)
    return np.asarray(joined, dtype=np.int64)


def _blocks(stretches: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    return np.maximum(stretches // size, np.where(stretches >= BLOCK, 1, 0))


def folds(count: int, *, parts: int, seed: int) -> NDArray[np.int8]:
    """[count] fold of each unit: random, of equal size up to one unit."""
    if not 2 <= parts <= min(count, 127):
        raise ValueError(f"folds = {parts}: must lie between 2 and the number of units ({count})")
    order = np.random.default_rng([seed, 1]).permutation(count)
    out = np.empty(count, dtype=np.int8)
    out[order] = np.arange(count) % parts
    return out


@dataclass(frozen=True, kw_only=True)
class Resamples:
    """counts: [units, r] how often each unit is in each resample."""

    counts: Floats
    method: Literal["percentile bootstrap", "jackknife t"]
    level: float

    def interval(self, point: float, replicates: Floats) -> tuple[float | None, float | None]:
        """Interval of a statistic from its value in each resample.

        Undefined replicates (NaN: the resample holds nothing of a group) are left out while they are at most one
        in twenty; beyond that there is no interval and None is returned. The interval holds `point`, which the
        percentiles of a statistic that resampling pushes to one side (the best of several, say) need not.
        """
        usable = replicates[np.isfinite(replicates)]
        if not np.isfinite(point) or len(usable) < 0.95 * len(replicates):
            return None, None
        tail = (1 - self.level) / 2
        if self.method == "percentile bootstrap":
            return holding(point, *np.quantile(usable, [tail, 1 - tail]))
        r = len(usable)
        error = np.sqrt((r - 1) / r * np.sum((usable - usable.mean()) ** 2))
        reach = stats.t.ppf(1 - tail, r - 1) * error
        return float(point - reach), float(point + reach)


def holding(point: float, low: float, high: float) -> tuple[float, float]:
    """The interval, reaching to `point` where it ends before: a number outside its own interval says nothing."""
    return min(float(low), float(point)), max(float(high), float(point))


def resamples(count: int, *, number: int, level: float, seed: int) -> Resamples:
    """Bootstrap resamples of the units (from 20 units on), or each set that lacks one (8 to 19 units).

    The resamples are drawn by `scipy.stats.bootstrap`, from a statistic that counts; a percentile interval of any
    statistic of `counts` is then the one that `scipy.stats.bootstrap` gives for it with the same generator.
    """
    if count < REFUSED_BELOW:
        raise Refused(f"{count} units: an interval needs at least {REFUSED_BELOW}; give more text")
    if count < PERCENTILE_FROM:
        return Resamples(counts=1.0 - np.eye(count), method="jackknife t", level=level)

    def counting(sample: NDArray[np.int64], axis: int = -1) -> Floats:
        drawn = np.moveaxis(np.atleast_2d(sample), axis, -1)
        flat = drawn + count * np.arange(len(drawn))[:, None]
        return np.bincount(flat.ravel(), minlength=count * len(drawn)).reshape(len(drawn), count).T.astype(np.float64)

    result = stats.bootstrap(
        (np.arange(count),),
        counting,
        n_resamples=number,
        batch=max(1, min(number, 10_000_000 // count)),
        vectorized=True,
        method="percentile",
        confidence_level=level,
        rng=np.random.default_rng([seed, 2]),
    )
    return Resamples(counts=result.bootstrap_distribution, method="percentile bootstrap", level=level)


def ratios(top: Floats, bottom: Floats, counts: Floats) -> Floats:
    """Σ_u counts·top / Σ_u counts·bottom for each group and resample; NaN where nothing of the group was drawn.

    `top` and `bottom` are [units, groups], `counts` [units, r]; returns [groups, r].
    """
    total = bottom.T @ counts
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(total > 0, (top.T @ counts) / total, np.nan)


def standard_error(top: Floats, bottom: Floats, counts: Floats) -> Floats:
    """Standard error of the *sum* Σ_u counts·top, by the spread of units about their common ratio.

    Linearised ratio estimator: with g = Σ top / Σ bottom, the square is U/(U−1) · Σ_u counts·(top_u − g·bottom_u)²,
    U = Σ counts. Arrays broadcast, units last; fewer than two units give ∞.
    """
    total = (counts * bottom).sum(axis=-1, keepdims=True)
    ratio = (counts * top).sum(axis=-1, keepdims=True) / np.where(total > 0, total, 1.0)
    drawn = np.broadcast_to(counts, np.broadcast_shapes(counts.shape, top.shape)).sum(axis=-1)
    square = (counts * (top - ratio * bottom) ** 2).sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        result: Floats = np.where(drawn > 1, np.sqrt(square * drawn / (drawn - 1)), np.inf)
    return result
