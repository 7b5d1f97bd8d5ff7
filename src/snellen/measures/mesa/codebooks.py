"""Codebooks: maps that a predictor may remember, of which the context picks one, and nothing is optimised.

In few dimensions a hundred remembered matrices predict nearly what least squares does. So the entries are not only
guessed but taken from whom the codebook is to be compared with: the maps that it answers with after contexts that are
not judged, brought to few by k-means. A model that has K maps in its weights shows them so.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

_ROUNDS = 8  # of k-means: from seeds that are far apart it hardly moves after


def codebook(
    x: Float[Tensor, "n pos dx"],
    y: Float[Tensor, "n pos dy"],
    *,
    entries: Float[Tensor, "k dy dx"],
    temperature: float | Tensor,
    at: int | None = None,
) -> Float[Tensor, "n places dy"]:
    """Σ_k p_k W_k x_t, p_k ∝ exp(−Σ_{s<t} ‖y_s − W_k x_s‖² / (2 temperature)): Bayes' answer for one W of the entries.

    `temperature` is the variance of the noise; near 0 the entry that fits best alone is left. Known by A_t and B_t.
    """
    if at is None:
        places = [codebook(x, y, entries=entries, temperature=temperature, at=t) for t in range(x.shape[1])]
        return torch.cat(places, dim=1)
    entries = entries.to(x)
    known, targets = x[:, :at], y[:, :at]
    squares = (entries.mT @ entries).flatten(1)
    misfit = (known.mT @ known).flatten(1) @ squares.mT - 2 * (targets.mT @ known).flatten(1) @ entries.flatten(1).mT
    share = (-0.5 * misfit / temperature).softmax(-1)
    answer = (share @ entries.flatten(1)).reshape(len(x), *entries.shape[1:])
    said: Tensor = x[:, at : at + 1] @ answer.mT
    return said


def recalled(answers: Float[Tensor, "n dy dx"], size: int) -> Float[Tensor, "k dy dx"]:
    """At most `size` maps that stand for the answers: k-means from seeds of which each is farthest from those before.

    Such seeds find K maps that repeat themselves exactly as soon as each was seen once. Deterministic.
    """
    points = answers.detach().double().flatten(1)
    seeds = [points.mean(0)] if size == 1 else [points[(points - points.mean(0)).square().sum(1).argmin()]]
    far = (points - seeds[0]).square().sum(1)
    while len(seeds) < size and float(far.max()) > 0:
        seeds.append(points[far.argmax()])
        far = torch.minimum(far, (points - seeds[-1]).square().sum(1))
    centres = torch.stack(seeds)
    for _ in range(_ROUNDS):
        nearest = torch.cdist(points, centres).argmin(1)
        count = torch.zeros(len(centres), dtype=points.dtype, device=points.device).index_add_(
            0, nearest, torch.ones_like(points[:, 0])
        )
        total = torch.zeros_like(centres).index_add_(0, nearest, points)
        centres = torch.where(count[:, None] > 0, total / count.clamp_min(1)[:, None], centres)
    return centres.reshape(-1, *answers.shape[1:])


def least_squares(x: Float[Tensor, "n pos dx"], y: Float[Tensor, "n pos dy"]) -> Float[Tensor, "n dy dx"]:
    """Each sequence's own map, by all of its pairs; the least one where these do not determine it."""
    found: Tensor = torch.linalg.pinv(x.double()) @ y.double()
    return found.mT
