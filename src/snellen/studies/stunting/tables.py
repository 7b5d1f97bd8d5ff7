"""What came out, over seeds, each number with a t interval, and its difference to the ordinary training of the seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import scipy.stats

from snellen.studies.stunting.variants import VARIANTS

LEVEL = 0.95
BASE = "ordinary"

Result = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Mean:
    """Over `n` seeds, with a t interval; fewer than three have none."""

    value: float
    low: float | None
    high: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Mean:
        n = len(values)
        value = sum(values) / n
        if n < 3:
            return cls(value=value, low=None, high=None, n=n)
        error = math.sqrt(sum((x - value) ** 2 for x in values) / (n - 1) / n)
        reach = float(scipy.stats.t.ppf((1 + LEVEL) / 2, n - 1)) * error
        return cls(value=value, low=value - reach, high=value + reach, n=n)

    def within(self, low: float, high: float) -> Mean:
        """With an interval that ends where the number must, as a share does at 0 and 1."""
        if self.low is None or self.high is None:
            return self
        return replace(self, low=max(self.low, low), high=min(self.high, high))


def _over_author(region: str) -> Callable[[Result, Mapping[str, Any]], float | None]:
    return lambda result, look: look["losses"][region] - result["author"][region]


def _gain(search: str, name: str) -> Callable[[Result, Mapping[str, Any]], float | None]:
    return lambda result, look: None if look[search] is None else look[search][name]


def _amplified(search: str) -> Callable[[Result, Mapping[str, Any]], float | None]:
    def value(result: Result, look: Mapping[str, Any]) -> float | None:
        return None if look[search] is None else look[search]["amplified"] - result["author"]["decision"]

    return value


# Losses in nats a token over the author of the language, who is the best possible predictor of it.
QUANTITIES: dict[str, Callable[[Result, Mapping[str, Any]], float | None]] = {
    "decision": _over_author("decision"),
    "amplified": _amplified("monitor"),
    "gain": _gain("monitor", "gain"),
    "placebo": _gain("monitor", "placebo"),
    "amplified by the beam": _amplified("beam"),
    "gain of the beam": _gain("beam", "gain"),
    "states": _over_author("states"),
    "verdict": _over_author("verdict"),
    "probe": lambda result, look: look["probe"][-1],
    "probe, middle": lambda result, look: look["probe"][1],
    "probe, untrained": lambda result, look: result["untrained_probe"][-1],
    "cost": lambda result, look: result["cost"],
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One variant at one step. difference: to the ordinary training of the same seeds."""

    variant: str
    step: int
    means: Mapping[str, Mean | None]
    difference: Mapping[str, Mean | None]


def rows(results: Sequence[Result], step: int | None = None) -> list[Row]:
    """A row a variant at `step` (None: the last), in the order of `VARIANTS`."""
    by_name: dict[str, dict[int, Result]] = {}
    for result in results:
        by_name.setdefault(result["variant"], {})[result["seed"]] = result
    order = [one.name for one in VARIANTS]
    names = sorted(by_name, key=lambda name: order.index(name) if name in order else len(order))
    base = by_name.get(BASE, {})
    out = []
    for name in names:
        seeds = by_name[name]
        at = step if step is not None else max(look["step"] for one in seeds.values() for look in one["looks"])
        means: dict[str, Mean | None] = {}
        difference: dict[str, Mean | None] = {}
        for quantity in QUANTITIES:
            own = _values(quantity, seeds, at)
            theirs = _values(quantity, base, at)
            gaps = [own[seed] - theirs[seed] for seed in own if seed in theirs]
            low, high = (0.0, 1.0) if quantity.startswith("probe") else (-math.inf, math.inf)
            means[quantity] = Mean.of(list(own.values())).within(low, high) if own else None
            difference[quantity] = Mean.of(gaps) if gaps and name != BASE else None
        out.append(Row(variant=name, step=at, means=means, difference=difference))
    return out


def _values(quantity: str, seeds: Mapping[int, Result], step: int) -> dict[int, float]:
    found = {}
    for seed, result in seeds.items():
        look = next((one for one in result["looks"] if one["step"] == step), None)
        value = None if look is None else QUANTITIES[quantity](result, look)
        if value is not None:
            found[seed] = value
    return found


def markdown(
    results: Sequence[Result], quantities: Sequence[str], *, step: int | None = None, difference: bool = False
) -> str:
    """A table of means with their intervals, or of their differences to the ordinary training."""
    head = "| trained | " + " | ".join(quantities) + " |\n|---|" + "---|" * len(quantities)
    lines = []
    for row in rows(results, step):
        means = row.difference if difference else row.means
        if any(means[quantity] is not None for quantity in quantities):
            lines.append(f"| {row.variant} | " + " | ".join(shown(means[q], q) for q in quantities) + " |")
    return "\n".join([head, *lines])


def document(results: Sequence[Result]) -> str:
    """All tables of the results page."""
    steps = sorted({look["step"] for result in results for look in result["looks"]})
    parts = [
        ("At the end", ["decision", "amplified", "gain", "placebo", "states", "verdict"], steps[-1], False),
        ("At the end, less the ordinary training of the same seed", ["decision", "amplified", "gain"], steps[-1], True),
        ("With the beam that was trained against", ["amplified by the beam", "gain of the beam"], steps[-1], False),
        (
            "Is the decision represented before it is made",
            ["probe", "probe, middle", "probe, untrained"],
            steps[-1],
            False,
        ),
        *((f"The gain, step {step}", ["decision", "gain", "probe"], step, False) for step in steps[:-1]),
    ]
    return "\n\n".join(
        f"## {title}\n\n{markdown(results, quantities, step=step, difference=difference)}"
        for title, quantities, step, difference in parts
    )


def shown(mean: Mean | None, quantity: str) -> str:
    """A mean as a table has it."""
    if mean is None:
        return ""
    digits = 0 if quantity == "cost" else 2 if quantity.startswith("probe") else 3
    text = f"{mean.value:.{digits}f}"
    return text if mean.low is None else f"{text} [{mean.low:.{digits}f}, {mean.high:.{digits}f}]"
