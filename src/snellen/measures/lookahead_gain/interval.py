"""The interval of a gain, its two ends by two ways, without any resampling.

A fitted mix that has not earned its place is dropped, and a number that is exactly 0 unless something was earned has no
standard error to speak of: no resampling of it holds what it says (docs/lookahead-gain.md gives the coverage). So

- the *lower* end is that of mixes which were fitted without the units that judge them: of the mix itself and of the
  half-and-half mix of it with the control, log(½ + ½ mix/control), whichever is greater. Where the author follows the
  mix, the second has about three quarters of the gain and half of the noise. The least over all controls counts, none
  of them dropped.
- the *upper* end is the greatest over all settings, each fixed on the whole text, of its own upper end: a bound on what
  the best setting could gain.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from snellen.measures.lookahead_gain.fit import Rows, Table
from snellen.results import statistics
from snellen.results.estimates import Estimate

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Sums rows by unit and says how sure their mean is. unit: [n] of each row; tokens: [units] rows of each."""

    unit: NDArray[np.int32]
    tokens: Floats
    level: float

    @classmethod
    def of(cls, unit: NDArray[np.int32], units: int, level: float) -> Judge:
        return cls(unit=unit, tokens=np.bincount(unit, minlength=units).astype(np.float64), level=level)

    def sums(self, rows: Floats) -> Floats:
        """[n] → [units]."""
        return np.bincount(self.unit, weights=rows, minlength=len(self.tokens)).astype(np.float64)

    def mean(self, rows: Floats) -> float:
        return float(rows.sum() / self.tokens.sum())

    def lower(self, mix: Floats, control: Floats, *, half: bool = True) -> float:
        """Of log mix − log control, [n] each, or of the half-and-half mix where that is surer."""
        over = mix - control
        tried = [over, np.logaddexp(over, 0.0) - np.log(2.0)] if half else [over]
        tops = np.stack([self.sums(one) for one in tried])
        return float(statistics.mean(tops, self.tokens).low(self.level).max())

    def symmetric(self, rows: Floats) -> Estimate:
        """The t interval of the mean of rows, [n]: of settings that are given, or were fitted on other units."""
        found = statistics.mean(self.sums(rows), self.tokens)
        if not np.isfinite(found.error):
            return Estimate(value=float(found.value), reason="one unit says nothing of others")
        return Estimate(value=float(found.value), low=float(found.low(self.level)), high=float(found.high(self.level)))

    def estimate(
        self, mix: Floats, controls: Iterable[Floats], stubborn: Iterable[Floats], upper: float, *, half: bool = True
    ) -> Estimate:
        """A gain.

        Parameters
        ----------
        mix, controls
            [n] log-probabilities; the value is over the best control.
        stubborn
            [n] further controls that only the lower end must beat: those that are never dropped.
        upper
            From `ceiling`.
        half
            Whether the half-and-half mix may speak for a gain. Not for a placebo: a permutation of two candidates is
            the right one half of the time, and half of a right factor is no scrambled one.
        """
        controls = list(controls)
        value = self.mean(mix) - max(self.mean(one) for one in controls)
        low = min(self.lower(mix, one, half=half) for one in [*controls, *stubborn])
        return Estimate(value=value, low=min(low, value), high=max(upper, value))


def ceiling(
    rows: Rows,
    base: Floats,
    table: Table,
    subset: NDArray[np.integer],
    against: Floats,
    level: float,
    *,
    taus: NDArray[np.integer],
    own: Ints | None = None,
) -> float:
    """The greatest upper end over all fixed settings with these exponents α, nats a token.

    Parameters
    ----------
    base, table
        Of `Rows.base` and `fit.build`.
    against
        [units] log-likelihood of the control over naive, fitted without the units that judge it.
    taus
        Bases to try; those that are themselves fitted (`Rows.sharpened`) are left out.
    own
        [units] a base for each unit, tried too: what the arm falls back to in the fold of the unit.
    """
    tokens = rows.tokens.sum(axis=0)
    greatest = -np.inf
    for plain, linear, geometric in _bases(rows, base, table, taus, own):
        over = plain - against
        smooth = geometric[subset[subset < len(geometric)]]
        options = [linear[subset].sum(axis=2), smooth, _gated(linear[subset])]
        for option in options:
            top = option.reshape(-1, rows.units) + over
            if len(top):
                greatest = max(greatest, float(statistics.mean(top, tokens).high(level).max()))
    return greatest


def _bases(
    rows: Rows, base: Floats, table: Table, taus: Sequence[int] | NDArray[np.integer], own: Ints | None
) -> Iterator[tuple[Floats, Floats, Floats]]:
    """[units], [alphas, weights, gates, units] and [finite alphas, weights, units] of each base."""
    for t in taus:
        if t < len(rows.tau):
            yield base[t], table.linear[t], table.geometric[t]
    if own is not None and own.max() >= len(rows.tau):
        at = np.arange(rows.units)
        linear = np.moveaxis(table.linear[own, :, :, :, at], 0, -1)
        yield base[own, at], linear, np.moveaxis(table.geometric[own, :, :, at], 0, -1)


def _gated(linear: Floats) -> Floats:
    """[alphas, units] for each α the best weight of each gate on the whole text, none where none gains."""
    sums = linear.sum(axis=-1)  # [alphas, weights, gates]
    best = sums.argmax(axis=1)[:, None, :, None]
    cells = np.take_along_axis(linear, best, axis=1)[:, 0]  # [alphas, gates, units]
    gains = (cells.sum(axis=-1) > 0)[..., None]
    chosen: Floats = np.where(gains, cells, 0.0).sum(axis=1)
    return chosen
