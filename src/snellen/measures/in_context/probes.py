"""Linear probes by layer: can what the examples imply be read from the position that answers?

Ridge regression on one position's residual stream, cross-fitted by pair of prompts, penalty chosen inside the training
part: the largest whose leave-one-out error is within one standard error of the least (Breiman et al. 1984). Without
that rule a hundred rows of hundreds of features explain "−0.3" of what is not there, and layers cannot be compared.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int
from numpy import ndarray

from snellen.results import statistics
from snellen.results.estimates import Estimate
from snellen.results.samples import Sample

FOLDS = 5
PENALTIES = np.geomspace(1e-4, 1e4, 17)  # of the mean squared length of a row
FLAT = 1e-6  # a direction that varies less than this share of the widest one is rounding, and left alone


def predictions(
    states: Float[ndarray, "rows model"], target: Float[ndarray, "rows"], fold: Int[ndarray, "rows"]
) -> tuple[Float[ndarray, "rows"], Float[ndarray, "rows"]]:
    """Of each row from the rows of the other folds: the probe's, and their mean."""
    out, plain = np.empty(len(target)), np.empty(len(target))
    for part in np.unique(fold):
        test, train = fold == part, fold != part
        plain[test] = target[train].mean()
        out[test] = _ridge(states[train], target[train], states[test])
    return out, plain


def _ridge(
    states: Float[ndarray, "train model"], target: Float[ndarray, "train"], new: Float[ndarray, "test model"]
) -> Float[ndarray, "test"]:
    centre, spread = states.mean(axis=0), states.std(axis=0)
    scale = np.where(spread > FLAT * max(spread.max(), 1e-30), spread, np.inf)
    inside, outside = (states - centre) / scale, (new - centre) / scale
    level = target.mean()
    left, singular, right = np.linalg.svd(inside, full_matrices=False)
    square, along = singular**2, left.T @ (target - level)
    # The same for all penalties: rows have as many squared units as there are features that vary.
    unit = max(square.sum() / len(states), 1e-30)
    errors = []
    for penalty in PENALTIES * unit:
        shrunk = square / (square + penalty)
        kept = (left**2) @ shrunk + 1 / len(states)  # the leverage of each row, the mean's own included
        errors.append(((target - level - left @ (shrunk * along)) / np.maximum(1 - kept, 1e-6)) ** 2)
    chosen = PENALTIES[_simplest(np.stack(errors))] * unit
    weights = right.T @ (singular / (square + chosen) * along)
    found: ndarray = level + outside @ weights
    return found


def _simplest(errors: Float[ndarray, "penalties rows"]) -> int:
    """The largest penalty whose mean error is within one standard error of the least."""
    means = errors.mean(axis=1)
    least = int(means.argmin())
    allowed = means[least] + errors[least].std(ddof=1) / np.sqrt(errors.shape[1])
    return int(np.flatnonzero(means <= allowed)[-1])


def explained(
    states: Float[ndarray, "rows layers model"],
    target: Float[ndarray, "rows"],
    pair: Int[ndarray, "rows"],
    sample: Sample,
    *,
    seed: int,
) -> list[Estimate]:
    """Share of the target's variance that a probe of each layer explains in prompts that it was not fitted on.

    At most 1; below 0 where it is worse than the mean. The interval is over pairs of prompts, for probes as they were
    fitted.
    """
    fold = statistics.folds(sample.units, parts=FOLDS, seed=seed)[pair]
    wrong, spread = [], []
    for layer in range(states.shape[1]):
        found, plain = predictions(states[:, layer].astype(np.float64), target, fold)
        wrong.append((target - found) ** 2)
        spread.append((target - plain) ** 2)
    grouped = replace(sample, unit=pair)
    layers = grouped.ratios(np.stack(wrong, axis=1), np.stack(spread, axis=1), less_from=1.0)
    return [one.within(-np.inf, 1) for one in layers]


def table(found: dict[tuple[str, str], list[Estimate]]) -> pa.Table:
    """By target and prompts (in order, shuffled)."""
    rows = [
        {"target": target, "prompts": prompts, "layer": layer, **estimate.row()}
        for (target, prompts), layers in found.items()
        for layer, estimate in enumerate(layers)
    ]
    return pa.Table.from_pylist(rows)


def best(layers: list[Estimate]) -> tuple[int, Estimate]:
    """The layer above the embedding that explains most, and how much."""
    values = [-np.inf if one.value is None else one.value for one in layers[1:]]
    place = 1 + int(np.argmax(values))
    return place, layers[place]
