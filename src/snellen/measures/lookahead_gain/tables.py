"""Results of the lookahead gain as tables, and in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from snellen.measures.lookahead_gain.curves import ARMS, Point, Problem
from snellen.measures.lookahead_gain.detectable import Detectable
from snellen.measures.lookahead_gain.fit import Rows
from snellen.measures.lookahead_gain.selection import Setting
from snellen.results.estimates import Estimate
from snellen.results.statistics import LIMITED, REFUSED_BELOW, mean

Floats = NDArray[np.float64]

FOUND, NONE, WORSE = "gain found", "no gain found", "lookahead is worse than the control"
FOUND_HERE = f"{FOUND} {LIMITED}"
UNTRUSTWORTHY = "placebo gains: not trustworthy"
_BOTH = (
    "A large gain means that the model does not look ahead itself where that would pay; no gain means that it already"
    " does, or that there is nothing to plan in this text."
)
_MODEL = (
    "A model that is wrong in another way than by its temperature can gain a little without any lookahead in the text."
)


def verdict(gain: Estimate, placebo: Estimate, seen: Detectable, *, limited: bool) -> tuple[str, str]:
    """The verdict, and how to read it. limited: the units are blocks of few documents."""
    if placebo.low is not None and placebo.low > 0:
        return UNTRUSTWORTHY, (
            "The placebo, whose lookahead is scrambled, gains as well: what the gain shows is not lookahead, and it"
            f" must not be read as such. {_BOTH}"
        )
    if gain.low is not None and gain.low > 0:
        few = (
            " The units are blocks of few documents: the interval says nothing of other documents, whose authors may"
            " do otherwise."
            if limited
            else ""
        )
        return FOUND_HERE if limited else FOUND, (
            "Looking ahead predicts this text better than the best sharpening of the model does: here the model does"
            f" not look that far ahead itself.{few} {_MODEL} {_BOTH}"
        )
    if gain.high is not None and gain.high < 0:
        return WORSE, (
            "Looking ahead predicts this text worse than the best control, which may have a temperature that the mixes"
            f" lack. {_BOTH}"
        )
    return NONE, f"No sign that looking ahead would help this model on this text. {_seen(seen)} {_BOTH}"


def _seen(seen: Detectable) -> str:
    if seen.value is None:
        return f"Nothing can be concluded from that: {seen.reason}."
    return (
        f"What would have been found {seen.power:.0%} of the time is a gain of {seen.value:.4f} nats a token, of an"
        " author who follows this very lookahead evenly; smaller gains, and gains at few places, may be there unseen."
    )


def plain(setting: Setting, rows: Rows) -> dict[str, Any]:
    """A setting in numbers of JSON: alpha null without a mix, "inf" for ∞; weight averaged over the rows when gated."""
    mixed = setting.kind != "none"
    share = rows.tokens.sum(axis=1) / rows.tokens.sum()
    alpha = rows.alphas[setting.alpha] if mixed else None
    out: dict[str, Any] = {
        "kind": setting.kind,
        "alpha": "inf" if alpha is not None and math.isinf(alpha) else alpha,
        "weight": float(setting.weights @ share),
        "temperature": 1 / rows.exponent(setting.tau),
    }
    if setting.tau >= len(rows.tau):
        out["base"] = "horizon 1"
    if setting.kind == "gated":
        out["weights"] = [float(w) for w in setting.weights]
    return out


def record(setting: Setting, rows: Rows) -> dict[str, Any]:
    """What the lookahead was fitted as on the whole text; factor: whether the lookahead is in it at all."""
    return plain(setting, rows) | {"factor": setting.kind != "none" and setting.choice == 0}


def arms_table(problem: Problem, points: Sequence[Point]) -> pa.Table:
    out = []
    for point in points:
        for name in ARMS:
            if name not in point.fits:
                continue
            fit = point.fits[name]
            over = problem.judge.symmetric(fit.log_probs - problem.rows.log_prob)
            fitted = plain(fit.whole, problem.fine if name == "temperature" else problem.rows)
            fitted.pop("weights", None)
            fitted.pop("base", None)
            fitted["alpha"] = math.inf if fitted["alpha"] == "inf" else fitted["alpha"]
            out.append(
                {
                    "search": point.search,
                    "width": point.width,
                    "horizon": point.horizon,
                    "arm": name,
                    "log_likelihood": float(fit.log_probs.mean()),
                    "gain_over_naive": over.value,
                    "low": over.low,
                    "high": over.high,
                    **fitted,
                }
            )
    numbers = ("log_likelihood", "gain_over_naive", "low", "high", "alpha", "weight", "temperature")
    first = {"search": pa.string(), "width": pa.int32(), "horizon": pa.int32(), "arm": pa.string()}
    return _table(out, first, numbers, {"kind": pa.string()})


def gains_table(problem: Problem, points: Sequence[Point]) -> pa.Table:
    n = len(problem.rows.log_prob)
    out = []
    for point in points:
        place = {"search": point.search, "width": point.width, "horizon": point.horizon, "n": n}
        row: dict[str, Any] = place | {"alpha": None} | point.gain.row()
        if point.placebo is not None and point.detectable is not None:
            row |= point.placebo.row("placebo") | {"detectable": point.detectable.value}
        out.append(row)
        out += [place | {"alpha": alpha} | fixed.row() for alpha, fixed in point.fixed.items()]
    numbers = ("alpha", "value", "low", "high", "placebo", "placebo_low", "placebo_high", "detectable")
    first = {"search": pa.string(), "width": pa.int32(), "horizon": pa.int32()}
    return _table(out, first, numbers, {"n": pa.int64()})


def splits_table(
    problem: Problem, gain: Floats, splits: dict[str, tuple[NDArray[np.int64], Sequence[str]]]
) -> pa.Table:
    """Mean gain of each group of rows, with an interval over units; the fits are held fixed.

    `gain` is [n], cross-fitted log mix − log control of each row; a split is the group of each row and the groups'
    names. Groups without a row are left out; groups in fewer than 8 units have no interval.
    """
    rows = problem.rows
    out = []
    for name, (group, names) in splits.items():
        cell = rows.unit * len(names) + group
        shape = (rows.units, len(names))
        sums, sizes, naive = (
            np.bincount(cell, weights=weights, minlength=rows.units * len(names)).reshape(shape).astype(np.float64)
            for weights in (gain, np.ones_like(gain), rows.log_prob)
        )
        for g, label in enumerate(names):
            n = int(sizes[:, g].sum())
            if not n:
                continue
            value = float(sums[:, g].sum() / n)
            low, high = None, None
            if (sizes[:, g] > 0).sum() >= REFUSED_BELOW:
                found = mean(sums[:, g], sizes[:, g])
                low, high = float(found.low(problem.judge.level)), float(found.high(problem.judge.level))
            out.append(
                {"split": name, "group": label, "order": g, "n": n, "share": n / len(gain)}
                | {"value": value, "low": low, "high": high, "naive": float(naive[:, g].sum() / n)}
            )
    first = {"split": pa.string(), "group": pa.string(), "order": pa.int32(), "n": pa.int64()}
    return _table(out, first, ("share", "value", "low", "high", "naive"), {})


def _table(
    rows: list[dict[str, Any]], first: dict[str, pa.DataType], numbers: Sequence[str], last: dict[str, pa.DataType]
) -> pa.Table:
    schema = pa.schema([*first.items(), *((name, pa.float64()) for name in numbers), *last.items()])
    return pa.Table.from_pylist(rows, schema=schema)
