"""Numbers over documents, prompts or stretches of text, with their intervals."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from snellen.results import statistics
from snellen.results.estimates import Estimate
from snellen.results.shares import difference_interval, effective_units, share_interval
from snellen.results.statistics import Resamples

LOST = "no unit has any of it"
FEW = f"fewer than {statistics.REFUSED_BELOW} units have any of it"


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Rows, grouped into the units that are resampled. One row or more a unit; rows have equal weight.

    flat: why a mean has no interval where all rows have the same number, which resampling takes for certainty; None
          where it is certainty, and the interval has no width.
    limited: the rows are blocks of few documents, and what is found holds for these only.
    """

    unit: Int[ndarray, "rows"]
    units: int
    kind: str
    resamples: Resamples
    flat: str | None = None
    limited: bool = False

    @classmethod
    def of_texts(
        cls, document: Int[ndarray, "rows"], kind: str, *, number: int, level: float, seed: int, flat: str | None = None
    ) -> Sample:
        """Documents where they can be units (`results.statistics.are_units`), else the rows themselves, which are cut
        side by side from the texts and are blocks of them. `kind`: of the rows. `Refused` for fewer than 8.
        """
        _, unit, sizes = np.unique(document, return_inverse=True, return_counts=True)
        units = len(sizes)
        if not statistics.are_units(sizes):
            blocks = cls.of_rows(len(document), kind, number=number, level=level, seed=seed, flat=flat)
            return replace(blocks, limited=True)
        drawn = statistics.resamples(units, number=number, level=level, seed=seed)
        return cls(unit=unit.astype(np.int64), units=units, kind="documents", resamples=drawn, flat=flat)

    @classmethod
    def of_rows(cls, rows: int, kind: str, *, number: int, level: float, seed: int, flat: str | None = None) -> Sample:
        drawn = statistics.resamples(rows, number=number, level=level, seed=seed)
        return cls(unit=np.arange(rows), units=rows, kind=kind, resamples=drawn, flat=flat)

    def sums(self, values: Float[ndarray, "rows columns"]) -> Float[ndarray, "units columns"]:
        out = np.zeros((self.units, values.shape[1]))
        np.add.at(out, self.unit, values.astype(np.float64))
        return out

    def ratios(
        self,
        top: Float[ndarray, "rows columns"],
        bottom: Float[ndarray, "rows columns"],
        *,
        less_from: float | None = None,
    ) -> list[Estimate]:
        """Σ top / Σ bottom of each column with its t interval; with `less_from`, that number minus the ratio."""
        return [
            self._ratio(above, below, less_from)
            for above, below in zip(self.sums(top).T, self.sums(bottom).T, strict=True)
        ]

    def _ratio(
        self, top: Float[ndarray, "units"], bottom: Float[ndarray, "units"], less_from: float | None
    ) -> Estimate:
        found = statistics.mean(top, bottom)
        value, reach = float(found.value), float(found.reach(self.resamples.level))
        if less_from is not None:
            value = less_from - value
        if not np.isfinite(value):
            return Estimate.undefined(LOST)
        if (bottom > 0).sum() < statistics.REFUSED_BELOW:
            return Estimate(value=value, reason=FEW)
        return Estimate(value=value, low=value - reach, high=value + reach)

    def means(self, values: Float[ndarray, "rows columns"]) -> list[Estimate]:
        found = self.ratios(values, np.ones(values.shape))
        if self.flat is None:
            return found
        same = np.ptp(values, axis=0) == 0
        return [
            Estimate(value=float(column[0]), reason=self.flat) if alike else one
            for one, column, alike in zip(found, values.T, same, strict=True)
        ]

    def mean(self, values: Float[ndarray, "rows"]) -> Estimate:
        return self.means(values[:, None])[0]

    def share(self, values: Float[ndarray, "rows"] | Bool[ndarray, "rows"]) -> Estimate:
        """The share of rows that have a property (0 or 1; between, of what a row holds several of), with its exact
        interval in so many units (`results.shares`): 0 of 40 is at most 8.8 % (95 %).

        Where no row has it, or all do, each unit counts in full, however many rows it has.
        """
        value, low, high = self._share(values)
        return Estimate(value=value, low=low, high=high)

    def share_difference(self, own: Bool[ndarray, "rows"], other: Bool[ndarray, "rows"]) -> Estimate:
        """The share of `own` minus that of `other`, of the same rows."""
        first, second = self._share(other), self._share(own)
        low, high = difference_interval(first, second)
        return Estimate(value=second[0] - first[0], low=low, high=high)

    def _share(self, values: Float[ndarray, "rows"] | Bool[ndarray, "rows"]) -> tuple[float, float, float]:
        value = float(values.mean())
        size = np.bincount(self.unit, minlength=self.units)
        units = float(self.units) if value in (0, 1) else effective_units(size)
        return value, *share_interval(value, units, self.resamples.level)
