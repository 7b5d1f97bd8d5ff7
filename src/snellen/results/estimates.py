"""A number with its interval, or the reason why there is none."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Self


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """None: not defined, and then `reason` says why. A value without an interval has a reason, too."""

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None

    @classmethod
    def undefined(cls, reason: str) -> Self:
        return cls(value=None, reason=reason)

    @classmethod
    def of(cls, value: float, low: float | None, high: float | None, reason: str) -> Self:
        """`reason`: what is said where the value is no number, or has no interval."""
        if not math.isfinite(value):
            return cls.undefined(reason)
        return cls(value=float(value), low=low, high=high, reason=reason if low is None else None)

    def within(self, low: float, high: float) -> Self:
        """The same with an interval that ends where the number must: a t interval knows nothing of that."""
        if self.low is None or self.high is None:
            return self
        return replace(self, low=max(self.low, low), high=min(self.high, high))

    def as_dict(self) -> dict[str, float | str | None]:
        said = {} if self.reason is None else {"reason": self.reason}
        return {"value": self.value, "low": self.low, "high": self.high, **said}

    def row(self, name: str = "value") -> dict[str, float | None]:
        """Three cells of a table."""
        low, high = ("low", "high") if name == "value" else (f"{name}_low", f"{name}_high")
        return {name: self.value, low: self.low, high: self.high}

    def above(self, threshold: float) -> bool | None:
        """True and False where the whole interval lies on one side; None where it does not, or is not defined."""
        if self.low is None or self.high is None:
            return None
        return True if self.low >= threshold else False if self.high < threshold else None
