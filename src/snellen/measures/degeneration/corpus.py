"""Diversity of all texts together, and what it would be without each of the units.

How many different words a corpus has depends on its size, and a bootstrap resample, in which texts occur twice, is a
corpus with fewer. So these numbers get no bootstrap: each unit is left out once (jackknife), which needs only what
belongs to that unit alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from snellen.measures.degeneration.repetition import grams

ZIPF_LEAST = 10  # kinds of tokens that a slope is fitted through, at least
ZIPF_COUNT = 2  # occurrences: tokens that occur once make a plateau that says how small the corpus is


@dataclass(frozen=True, kw_only=True)
class Diversity:
    """A number of a whole corpus, and of the corpus without each unit. NaN where it is not defined."""

    whole: float
    without: Float[ndarray, "units"]


def distinct(tokens: Int[ndarray, "texts length"], unit: Int[ndarray, "texts"], n: int) -> Diversity:
    """distinct-n: different n-grams of all texts over their number (Li et al. 2016)."""
    counts = _counts(grams(tokens, n), unit)
    kinds, total = len(counts), counts.sum()
    own = ((counts > 0) & (counts.sum(axis=1, keepdims=True) == counts)).sum(axis=0)  # in no other unit
    return Diversity(whole=kinds / total, without=(kinds - own) / (total - counts.sum(axis=0)))


def zipf(tokens: Int[ndarray, "texts length"], unit: Int[ndarray, "texts"]) -> Diversity:
    """Zipf's exponent s of token frequencies, count ∝ rank^−s."""
    counts = _counts(grams(tokens, 1), unit)
    total = counts.sum(axis=1)
    without = [exponent(total - counts[:, u]) for u in range(counts.shape[1])]
    return Diversity(whole=exponent(total), without=np.array(without))


def exponent(counts: Int[ndarray, "kinds"]) -> float:
    """s by least squares of log count on log rank, over the tokens that occur at least twice.

    The value leans on the size of the corpus, so that only corpora of equal size can be compared. NaN where fewer
    than ten kinds occur twice.
    """
    ordered = np.sort(counts[counts >= ZIPF_COUNT])[::-1]
    if len(ordered) < ZIPF_LEAST:
        return float("nan")
    rank = np.log(np.arange(1, len(ordered) + 1))
    return -slope(rank, np.log(ordered))


def slope(x: Float[ndarray, "points"], y: Float[ndarray, "points"]) -> float:
    centred = x - x.mean()
    return float(centred @ y / (centred @ centred))


def without_each(
    statistic: Callable[[Int[ndarray, "texts length"]], float],
    tokens: Int[ndarray, "texts length"],
    unit: Int[ndarray, "texts"],
) -> Diversity:
    """The slow twin of all of the above: the statistic of each smaller corpus, from its texts."""
    left = [statistic(tokens[unit != u]) for u in range(int(unit.max()) + 1)]
    return Diversity(whole=statistic(tokens), without=np.array(left))


def _counts(found: Int[ndarray, "texts grams"], unit: Int[ndarray, "texts"]) -> Int[ndarray, "kinds units"]:
    """How often each kind occurs in each unit."""
    kinds, units = int(found.max()) + 1, int(unit.max()) + 1
    where = found * units + unit[:, None]
    return np.bincount(where.ravel(), minlength=kinds * units).reshape(kinds, units)
