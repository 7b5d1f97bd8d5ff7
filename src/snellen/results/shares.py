"""Intervals of shares: how many of the documents, prompts or pairs have a property, none and all included.

One interval for all of them, so that seeing something never tells less than seeing nothing. Resampling does not give
one: it takes *0 of 23* for certainty, and an exact interval put in its place there alone is wider than what resampling
makes of *1 of 32*.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Int
from numpy import ndarray
from scipy import stats


def effective_units(size: Int[ndarray, "units"]) -> float:
    """To how many units of equal size those of `size` rows amount: (Σ n)² / Σ n² (Kish 1965, *Survey Sampling*).

    It is p(1 − p) / se² where the rows of a unit all say the same, the most that they can depend on each other: with
    Σ (n / Σ n)² p(1 − p) for se². Estimated from the data, se² is smaller wherever a unit is of two minds, and says
    very little where few units have the property: one row of one unit would count as if all rows were independent,
    and the interval would shrink at the first thing seen. So nothing is estimated, and the result is at most the
    number of units, which it is for units of equal size.
    """
    return float(size.sum() ** 2 / np.square(size, dtype=np.float64).sum())


def share_interval(share: float, units: float, level: float) -> tuple[float, float]:
    """Clopper and Pearson's exact interval of `share` in so many units; neither that nor the count need be whole.

    The quantiles of Beta(x, n − x + 1) and Beta(x + 1, n − x) at x = n · share, as Korn and Graubard (1998, *Survey
    Methodology* 24, 193–201) have it for samples that come in clusters. (Their correction by Student's t is for an n
    that was estimated; it is 1 for one that was not.) Both ends rise with the share and move apart with fewer units.
    """
    if not (0 <= share <= 1 and units > 0):
        raise ValueError(f"share = {share}, units = {units}: must lie in [0, 1] and above 0")
    tail, hits = (1 - level) / 2, share * units
    misses = units - hits
    low = 0.0 if share == 0 else float(stats.beta.ppf(tail, hits, misses + 1))
    high = 1.0 if share == 1 else float(stats.beta.ppf(1 - tail, hits + 1, misses))
    return min(low, share), max(high, share)


def difference_interval(first: tuple[float, float, float], second: tuple[float, float, float]) -> tuple[float, float]:
    """Of second minus first, each (share, low, high): the distances to their ends, squared and added (Newcombe 1998,
    *Statistics in Medicine* 17, 873–890, method 10).

    Exact for neither, but it never takes two equal shares for a certain difference of 0, and it grows with what is
    seen as the intervals do. For the same units twice it is too wide rather than too narrow where they agree by more
    than chance.
    """
    (p, p_low, p_high), (q, q_low, q_high) = first, second
    return q - p - math.hypot(q - q_low, p_high - p), q - p + math.hypot(q_high - q, p - p_low)
