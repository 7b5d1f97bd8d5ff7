"""Optimisers that forget, and those that take one pair after another: same signature as `predictors`.

γ = 1 − forget is what a pair's part keeps at each pair that follows it; ŷ_t is what the weights after pair t − 1 say.
Slow twins: `snellen.measures.mesa.reference`.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from snellen.attention import mesa_attention
from snellen.errors import InputError


def delta_rule(
    x: Float[Tensor, "n pos dx"],
    y: Float[Tensor, "n pos dy"],
    *,
    rate: float | Tensor,
    forget: float | Tensor = 0.0,
    normalised: bool = False,
    at: int | None = None,
) -> Float[Tensor, "n places dy"]:
    """One pass of W ← γ W + rate (y_s − γ W x_s) x_sᵀ from W = 0 (Widrow and Hoff's rule; with γ the gated delta rule).

    normalised: rate / ‖x_s‖² in place of the rate (normalised least mean squares). All places at once: with
    M_ts = γ^(t−1−s) rate_s x_t·x_s for s < t the errors U solve (I + γ M) U = Y, and ŷ = M U.
    """
    stop = x.shape[1] if at is None else at
    known, targets = x[:, :stop], y[:, :stop]
    square = known.square().sum(-1)
    # A pair with x = 0 teaches nothing, at any rate.
    rates = rate / torch.where(square > 0, square, 1.0) if normalised else rate * torch.ones_like(square)
    kept = 1 - forget
    among = (known @ known.mT) * _ages(stop, kept, like=x) * rates[:, None]
    errors: Tensor = torch.linalg.solve_triangular(
        torch.eye(stop, dtype=x.dtype, device=x.device) + kept * among, targets, upper=False, unitriangular=True
    )
    if at is None:
        return among @ errors
    weights = (x[:, at : at + 1] @ known.mT) * _ages(at + 1, kept, like=x)[-1:, :at] * rates[:, None]
    return weights @ errors


def decaying_step(
    x: Float[Tensor, "n pos dx"],
    y: Float[Tensor, "n pos dy"],
    *,
    rate: float | Tensor,
    forget: float | Tensor,
    at: int | None = None,
) -> Float[Tensor, "n places dy"]:
    """rate Σ_{s<t} γ^(t−1−s) y_s (x_s·x_t): one step on a loss that forgets, linear attention with decay."""
    queries = x if at is None else x[:, at : at + 1]
    ages = _ages(x.shape[1], 1 - forget, like=x)
    return rate * ((queries @ x.mT) * (ages if at is None else ages[at : at + 1])) @ y


def forgetting_ridge(
    x: Float[Tensor, "n pos dx"],
    y: Float[Tensor, "n pos dy"],
    *,
    ridge: float | Tensor,
    forget: float | Tensor,
    at: int | None = None,
) -> Float[Tensor, "n places dy"]:
    """Recursive least squares with forgetting: pair s < t counts γ^(t−1−s), the ridge does not decay."""
    if not bool(torch.as_tensor(ridge > 0)):
        raise InputError(f"ridge = {ridge}: must be above 0")
    if at is None:
        late = [torch.cat([torch.zeros_like(part[:, :1]), part[:, :-1]], dim=1)[:, :, None] for part in (x, y)]
        strength = torch.as_tensor(ridge, dtype=x.dtype, device=x.device).reshape(1, 1)
        decay = torch.as_tensor(1 - forget, dtype=x.dtype, device=x.device).log().expand(*x.shape[:2], 1)
        solved: Tensor = mesa_attention(x[:, :, None], *late, ridge=strength, log_decay=decay, form="mesanet")
        return solved[:, :, 0]
    known = x[:, :at]
    counted = known * _ages(at + 1, 1 - forget, like=x)[-1, :at, None]
    matrix = known.mT @ counted + ridge * torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    z: Tensor = torch.linalg.solve(matrix, x[:, at : at + 1].mT)
    return (counted @ z).mT @ y[:, :at]


def _ages(places: int, kept: float | Tensor, *, like: Tensor) -> Float[Tensor, "places places"]:
    """γ^(t−1−s) for s < t (row t), 0 for others."""
    place = torch.arange(places, dtype=like.dtype, device=like.device)
    age = (place[:, None] - place - 1).clamp_min(0)
    return (torch.as_tensor(kept, dtype=like.dtype, device=like.device) ** age).tril(-1)
