"""One rule for what a picture makes of a number: noise must look like noise.

No automatic scale ends closer to zero than a floor that means something, and no average is coloured whose interval
holds zero. Above the floor a scale follows the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

MEAN = 0.02  # nats a token, of an average: a token 2 % more or less probable
TOKEN = 0.2  # nats, of one token: a fifth more or less probable
LOSS = 0.2  # nats: the least that an axis of losses spans, which has no zero to show
SHARE = 0.05  # of a share: five in a hundred
_ROOM = 0.04
_PARTS = (0.02, 0.1, 0.3, 1.0)


def edges(values: NDArray[Any] | Sequence[float], floor: float) -> list[float]:
    """Four round steps up to about the 99th percentile of |values|, at least to `floor`: where the colours change."""
    known = np.abs(np.asarray(values, dtype=np.float64))
    known = known[np.isfinite(known)]
    largest = max(float(np.quantile(known, 0.99)) if len(known) else 0.0, floor)
    power = 10.0 ** math.floor(math.log10(largest) + 1e-9)
    top = next(step * power for step in (1, 2, 5, 10) if step * power >= largest * 0.999)
    return [round(top * part, 12) for part in _PARTS]


def sure(entry: Mapping[str, Any]) -> bool:
    """Whether the interval leaves out zero; without one nothing is sure."""
    low, high = entry.get("low"), entry.get("high")
    return low is not None and high is not None and bool(low > 0 or high < 0)


def ends(points: Iterable[Mapping[str, Any]]) -> list[float]:
    """All that an axis must show of points with intervals."""
    found = (point.get(key) for point in points for key in ("low", "value", "high"))
    return [float(value) for value in found if value is not None and math.isfinite(value)]


def around_zero(values: Sequence[float], floor: float) -> tuple[float, float]:
    """The ends of an axis of differences: all values, and `floor` to both sides of zero."""
    low, high = min(-floor, *values), max(floor, *values)
    room = _ROOM * (high - low)
    return low - room, high + room


def spanning(values: Sequence[float], least: float) -> tuple[float, float]:
    """The ends of an axis that need not show zero: all values, and no less than `least` from end to end."""
    low, high = min(values), max(values)
    room = max(_ROOM * (high - low), (least - (high - low)) / 2)
    return low - room, high + room


def holding(values: Sequence[float], low: float, high: float) -> tuple[float, float]:
    """The ends of an axis that shows all values and from `low` to `high`, what can be at all."""
    low, high = min(low, *values), max(high, *values)
    room = _ROOM * (high - low)
    return low - room, high + room


def reaches(floor: float, unit: str = "nats") -> str:
    """The rule in a caption."""
    return f" The axis reaches at least \u00b1{floor:g}{f' {unit}' if unit else ''}."
