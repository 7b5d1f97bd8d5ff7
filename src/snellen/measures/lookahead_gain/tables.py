"""Results of the lookahead gain as tables, and in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from snellen.measures.lookahead_gain.curves import ARMS, Estimate, Point, Problem
from snellen.measures.lookahead_gain.fit import Rows
from snellen.measures.lookahead_gain.selection import Setting
from snellen.results.statistics import ratios

Floats = NDArray[np.float64]

FOUND, NONE, WORSE = "gain found", "no gain found", "lookahead is worse than the control"
UNTRUSTWORTHY = "placebo gains: not trustworthy"
_BOTH = (
    "A large gain means that the model does not look ahead itself where that would pay; no gain means that it already"
    " does, or that there is nothing to plan in this text."
)


def verdict(gain: Estimate, placebo: Estimate) -> tuple[str, str]:
    """The verdict, and how to read it."""
    if placebo.low is not None and placebo.low > 0:
        return UNTRUSTWORTHY, (
            "The placebo, whose lookahead is scrambled, gains as well: what the gain shows is not lookahead, and it"
            f" must not be read as such. {_BOTH}"
        )
    if gain.low is not None and gain.low > 0:
        return FOUND, (
            "Looking ahead predicts this text better than the best sharpening of the model does: here the model does"
            f" not look that far ahead itself. {_BOTH}"
        )
    if gain.high is not None and gain.high < 0:
        return WORSE, (
            "Looking ahead predicts this text worse than the best control, which may choose among more tokens: the text"
            " does not go where the model's own futures are most probable, or the model looks ahead already."
            f" {_BOTH}"
        )
    return NONE, (
        "The interval contains zero: no sign that looking ahead would help this model on this text, which is not the"
        f" same as a gain of zero. {_BOTH}"
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


def arms_table(problem: Problem, points: Sequence[Point]) -> pa.Table:
    naive = float(problem.rows.log_prob.mean())
    out = []
    for point in points:
        for name in ARMS:
            if name not in point.fits:
                continue
            over = problem.estimate(point.fits[name].held)
            whole = point.fits[name].whole
            assert whole is not None
            fitted = plain(whole, problem.fine if name == "temperature" else problem.rows)
            fitted.pop("weights", None)
            fitted.pop("base", None)
            fitted["alpha"] = math.inf if fitted["alpha"] == "inf" else fitted["alpha"]
            out.append(
                {
                    "search": point.search,
                    "width": point.width,
                    "horizon": point.horizon,
                    "arm": name,
                    "log_likelihood": naive + over.value,
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
        gain = problem.estimate(point.gain())
        place = {"search": point.search, "width": point.width, "horizon": point.horizon, "n": n}
        row: dict[str, Any] = dict(place)
        row |= {"value": gain.value, "low": gain.low, "high": gain.high, "alpha": None}
        if "placebo" in point.fits:
            scrambled = problem.estimate(point.gain("placebo"))
            row |= {"placebo": scrambled.value, "placebo_low": scrambled.low, "placebo_high": scrambled.high}
        out.append(row)
        for alpha, held in point.fixed.items():
            fixed = problem.estimate(held - point.control)
            row = place | {"alpha": alpha}
            out.append(row | {"value": fixed.value, "low": fixed.low, "high": fixed.high})
    numbers = ("alpha", "value", "low", "high", "placebo", "placebo_low", "placebo_high")
    first = {"search": pa.string(), "width": pa.int32(), "horizon": pa.int32()}
    return _table(out, first, numbers, {"n": pa.int64()})


def splits_table(
    problem: Problem, gain: Floats, splits: dict[str, tuple[NDArray[np.int64], Sequence[str]]]
) -> pa.Table:
    """Mean gain of each group of rows, with an interval over units; the fits are held fixed.

    `gain` is [n], cross-fitted log mix − log control of each row; a split is the group of each row and the groups'
    names. Groups without a row are left out; groups in fewer than 8 units, or missing from one resample in twenty,
    have no interval.
    """
    rows, counts = problem.rows, problem.resamples.counts
    out = []
    for name, (group, names) in splits.items():
        cell = rows.unit * len(names) + group
        shape = (rows.units, len(names))
        sums, sizes, naive = (
            np.bincount(cell, weights=weights, minlength=rows.units * len(names)).reshape(shape).astype(np.float64)
            for weights in (gain, np.ones_like(gain), rows.log_prob)
        )
        replicates = ratios(sums, sizes, counts)
        for g, label in enumerate(names):
            n = int(sizes[:, g].sum())
            if not n:
                continue
            value = float(sums[:, g].sum() / n)
            low, high = None, None
            if (sizes[:, g] > 0).sum() >= 8:
                low, high = problem.resamples.interval(value, replicates[g])
            out.append(
                {"split": name, "group": label, "order": g, "n": n, "share": n / len(gain)}
                | {"value": value, "low": low, "high": high, "naive": float(naive[:, g].sum() / n)}
            )
    first = {"split": pa.string(), "group": pa.string(), "order": pa.int32(), "n": pa.int64()}
    return _table(out, first, ("share", "value", "low", "high", "naive"), {})


def resamples_table(problem: Problem, gain: Estimate) -> pa.Table:
    return pa.table(
        {
            "resample": np.arange(len(gain.replicates), dtype=np.int32),
            "value": gain.replicates,
            "method": pa.array([problem.resamples.method] * len(gain.replicates)).dictionary_encode(),
        }
    )


def _table(
    rows: list[dict[str, Any]], first: dict[str, pa.DataType], numbers: Sequence[str], last: dict[str, pa.DataType]
) -> pa.Table:
    schema = pa.schema([*first.items(), *((name, pa.float64()) for name in numbers), *last.items()])
    return pa.Table.from_pylist(rows, schema=schema)
