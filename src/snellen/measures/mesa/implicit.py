"""The weights that a model's predictions imply: ask it many queries after the same context, and fit a linear map.

Akyürek et al. 2022, *What learning algorithm is in-context learning?* (arXiv 2211.15661), section 4: the implicit
linear weight difference is the mean squared distance between the maps that two predictors imply.

Probe queries are the queries of other sequences. Where the token at a position is also the target of the one before
(systems), a probe changes that pair as well, in rivals as in the model: no predictor is quite linear in such a query.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from snellen.errors import InputError
from snellen.measures.mesa.estimates import Over
from snellen.measures.mesa.examination import Function, Place, Predict, examine, of_model, of_rival
from snellen.measures.mesa.rivals import Rival
from snellen.organisms.sequences import Sequences, Task
from snellen.results.estimates import Estimate


@dataclass(frozen=True, kw_only=True)
class Implied:
    """weights: least squares over the probes, without intercept. left, spread: of held-out probes, summed squares."""

    weights: Float[Tensor, "n out query"]
    left: Float[Tensor, "n"]
    spread: Float[Tensor, "n"]


@dataclass(frozen=True, kw_only=True)
class Distance:
    """squared: mean ‖Ŵ − W‖² (Frobenius), as in Akyürek et al. relative: its root over the root of mean ‖W‖²."""

    squared: Estimate
    relative: Estimate


@dataclass(frozen=True, kw_only=True)
class ImplicitWeights:
    """r2: on held-out probes, how much of what the model says after a context is linear in the query.

    distances: from the model's implied weights to those of each rival, to the "true" ones, and as a control to the true
    ones of another sequence ("another's").
    """

    r2: Estimate
    distances: dict[str, Distance]
    tasks: int
    probes: int


def implicit_weights(
    predict: Predict,
    task: Task,
    sequences: Sequences,
    *,
    rivals: Mapping[str, Rival],
    probes: int | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> ImplicitWeights:
    """Implied weights at the last position, compared; intervals over sequences.

    probes: for the fit, and as many more for r2; None: 4 for each entry of a query.

    Raises
    ------
    InputError
        Fewer probes than a query has entries, or fewer sequences than probes are drawn from.
    Refused
        Fewer than 8 sequences, or predictions that are not finite.
    """
    place = Place.of(task, sequences, lags=1)
    probes = 4 * place.query if probes is None else probes
    if probes < place.query:
        raise InputError(f"probes = {probes}: a query has {place.query} entries; give at least so many")
    if len(sequences) <= 2 * probes:
        raise InputError(f"{len(sequences)} sequences: their queries are the probes, so give more than {2 * probes}")
    over = Over.of(len(sequences), number=resamples, level=level, seed=seed)
    model = implied(of_model(predict, place), sequences, place, probes=probes)
    others = {
        name: implied(of_rival(rival, task, place), sequences, place, probes=probes).weights
        for name, rival in rivals.items()
    }
    if sequences.hidden.shape == model.weights.shape:
        true = sequences.hidden.double()
        others |= {"true": true, "another's": true.roll(1, dims=0)}
    return ImplicitWeights(
        r2=over.statistic(
            [model.left.numpy(), model.spread.numpy()],
            lambda left, spread: 1 - left / spread,
            "the model says the same whatever the query",
        ),
        distances={name: _distance(model.weights, other, over) for name, other in others.items()},
        tasks=len(sequences),
        probes=probes,
    )


def implied(function: Function, sequences: Sequences, place: Place, *, probes: int) -> Implied:
    """Ŵ of each sequence; the probes of sequence i are the queries of those that follow it."""
    n, at, size = len(sequences), place.position, place.query
    queries = sequences.inputs[:, at, :size]
    asked, said = [], []
    for shift in range(1, 2 * probes + 1):
        probe = queries.roll(-shift, dims=0)
        inputs, targets = sequences.inputs.clone(), sequences.targets
        inputs[:, at, :size] = probe
        if place.wired:
            targets = targets.clone()
            targets[:, at - 1] = probe
        asked.append(probe.double())
        said.append(
            examine(function, replace(sequences, inputs=inputs, targets=targets), place, jacobian=False).predictions
        )
    x, y = torch.stack(asked, dim=1), torch.stack(said, dim=1)
    weights = torch.linalg.lstsq(x[:, :probes], y[:, :probes]).solution.mT
    rest = y[:, probes:]
    left = (rest - x[:, probes:] @ weights.mT).square().sum((1, 2))
    spread = (rest - rest.mean(1, keepdim=True)).square().sum((1, 2))
    assert len(weights) == n
    return Implied(weights=weights, left=left, spread=spread)


def _distance(weights: Tensor, other: Tensor, over: Over) -> Distance:
    apart, size = ((x.square().sum((1, 2))).numpy() for x in (weights - other, other))
    return Distance(
        squared=over.mean(apart),
        relative=over.statistic([apart, size], lambda a, b: (a / b) ** 0.5, "the weights compared with are zero"),
    )
