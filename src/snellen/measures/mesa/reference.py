"""Slow and obvious twins of `predictors`, in float64: a weight matrix for each position, as the algorithms are told."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

Weights = Callable[[Tensor, Tensor], Tensor]


def _each(x: Tensor, y: Tensor, weights: Weights) -> Tensor:
    """ŷ_t = W_t x_t, with W_t of A_t [n dx dx] and B_t [n dy dx]."""
    x, y = x.double(), y.double()
    out = []
    for t in range(x.shape[1]):
        known, targets = x[:, :t], y[:, :t]
        out.append((weights(known.mT @ known, targets.mT @ known) @ x[:, t, :, None])[..., 0])
    return torch.stack(out, dim=1)


def gradient_descent(
    x: Float[Tensor, "n pos dx"], y: Float[Tensor, "n pos dy"], *, rate: float, steps: int = 1
) -> Float[Tensor, "n pos dy"]:
    """W ← W − rate ∇_W ½ Σ_{s<t} ‖y_s − W x_s‖², from zero."""

    def weights(A: Tensor, B: Tensor) -> Tensor:
        W = torch.zeros_like(B)
        for _ in range(steps):
            W = W - rate * (W @ A - B)
        return W

    return _each(x, y, weights)


def preconditioned(
    x: Float[Tensor, "n pos dx"], y: Float[Tensor, "n pos dy"], *, kind: str, order: int, ridge: float, bound: float
) -> Float[Tensor, "n pos dy"]:
    """Gradient descent with weight decay: one rate for Neumann; for Chebyshev one over each root of his polynomial."""
    half = (bound - ridge) / 2
    if kind == "neumann":
        rates = [2 / (ridge + bound)] * (order + 1)
    else:
        angles = [math.pi * (i + 0.5) / (order + 1) for i in range(order + 1)]
        rates = [1 / (ridge + half - half * math.cos(angle)) for angle in angles]

    def weights(A: Tensor, B: Tensor) -> Tensor:
        W = torch.zeros_like(B)
        for rate in rates:
            W = W - rate * (W @ A + ridge * W - B)
        return W

    return _each(x, y, weights)


def ridge(x: Float[Tensor, "n pos dx"], y: Float[Tensor, "n pos dy"], *, ridge: float) -> Float[Tensor, "n pos dy"]:
    """argmin_W ½ Σ_{s<t} ‖y_s − W x_s‖² + ½ ridge ‖W‖²."""
    return _each(x, y, lambda A, B: B @ torch.linalg.inv(A + ridge * torch.eye(A.shape[-1], dtype=A.dtype)))


def interleaved(
    x: Float[Tensor, "n pos dx"], y: Float[Tensor, "n pos dy"], *, rate: float, curvature: float, layers: int
) -> Float[Tensor, "n pos dy"]:
    """One token after another, layer by layer."""
    now, targets = list(x.double().unbind(1)), list(y.double().unbind(1))
    for _ in range(layers):
        now = [
            q - curvature * sum((k * (k * q).sum(-1, keepdim=True) for k in now[:t]), torch.zeros_like(q))
            for t, q in enumerate(now)
        ]
    return torch.stack(
        [
            rate
            * sum((v * (k * q).sum(-1, keepdim=True) for k, v in zip(now[:t], targets, strict=False)), 0 * targets[0])
            for t, q in enumerate(now)
        ],
        dim=1,
    )


def kernel_average(
    x: Float[Tensor, "n pos dx"], y: Float[Tensor, "n pos dy"], *, bandwidth: float, scale: float
) -> Float[Tensor, "n pos dy"]:
    """The targets so far, weighted by exp(−‖x_t − x_s‖² / (2 bandwidth²)); zero where there is none."""
    x, y = x.double(), y.double()
    out = [torch.zeros_like(y[:, 0])]
    for t in range(1, x.shape[1]):
        near = torch.exp(-(x[:, :t] - x[:, t : t + 1]).square().sum(-1) / (2 * bandwidth**2))
        out.append(scale * (near[..., None] * y[:, :t]).sum(1) / near.sum(1, keepdim=True))
    return torch.stack(out, dim=1)


def delta_rule(
    x: Float[Tensor, "n pos dx"], y: Float[Tensor, "n pos dy"], *, rate: float, forget: float = 0.0,
    normalised: bool = False,
) -> Float[Tensor, "n pos dy"]:  # fmt: skip
    """One pair after another: W ← γ W, then W ← W + rate (y − W x) xᵀ."""
    x, y = x.double(), y.double()
    W, out = torch.zeros(len(x), y.shape[-1], x.shape[-1], dtype=x.dtype), []
    for x_t, y_t in zip(x.unbind(1), y.unbind(1), strict=True):
        out.append((W @ x_t[..., None])[..., 0])
        W = (1 - forget) * W
        error = y_t - (W @ x_t[..., None])[..., 0]
        step = rate / x_t.square().sum(-1)[:, None, None] if normalised else rate
        W = W + step * error[..., None] * x_t[:, None]
    return torch.stack(out, dim=1)


def _forgetting(x: Tensor, y: Tensor, forget: float, weights: Weights) -> Tensor:
    """As `_each`, with A and B that decay before each pair is added."""
    x, y = x.double(), y.double()
    A, B = torch.zeros_like(x[:, 0, :, None] * x[:, 0, None]), torch.zeros_like(y[:, 0, :, None] * x[:, 0, None])
    out = []
    for x_t, y_t in zip(x.unbind(1), y.unbind(1), strict=True):
        out.append((weights(A, B) @ x_t[..., None])[..., 0])
        A = (1 - forget) * A + x_t[..., None] * x_t[:, None]
        B = (1 - forget) * B + y_t[..., None] * x_t[:, None]
    return torch.stack(out, dim=1)


def decaying_step(
    x: Float[Tensor, "n pos dx"], y: Float[Tensor, "n pos dy"], *, rate: float, forget: float
) -> Float[Tensor, "n pos dy"]:
    return _forgetting(x, y, forget, lambda A, B: rate * B)


def forgetting_ridge(
    x: Float[Tensor, "n pos dx"], y: Float[Tensor, "n pos dy"], *, ridge: float, forget: float
) -> Float[Tensor, "n pos dy"]:
    unit = torch.eye(x.shape[-1], dtype=torch.float64)
    return _forgetting(x, y, forget, lambda A, B: B @ torch.linalg.inv(A + ridge * unit))


def momentum(
    x: Float[Tensor, "n pos dx"], y: Float[Tensor, "n pos dy"], *, rate: float, momentum: float, steps: int
) -> Float[Tensor, "n pos dy"]:
    """V ← momentum V − rate ∇_W, W ← W + V."""

    def weights(A: Tensor, B: Tensor) -> Tensor:
        W = V = torch.zeros_like(B)
        for _ in range(steps):
            V = momentum * V - rate * (W @ A - B)
            W = W + V
        return W

    return _each(x, y, weights)


def conjugate(
    x: Float[Tensor, "n pos dx"], y: Float[Tensor, "n pos dy"], *, ridge: float, steps: int
) -> Float[Tensor, "n pos dy"]:
    """By what it is: of all B z with z in the Krylov space of (A + ridge I) and x the z of least error in its norm."""
    x, y = x.double(), y.double()
    out = []
    for t in range(x.shape[1]):
        rows = []
        for x_n, y_n in zip(x, y, strict=True):
            matrix = x_n[:t].T @ x_n[:t] + ridge * torch.eye(x.shape[-1], dtype=x.dtype)
            space = [x_n[t]]
            for _ in range(min(steps, x.shape[-1], t + 1) - 1):
                space.append(matrix @ space[-1])
            basis = torch.stack(space, dim=1)
            z = basis @ torch.linalg.solve(basis.T @ matrix @ basis, basis.T @ x_n[t])
            rows.append(y_n[:t].T @ (x_n[:t] @ z))
        out.append(torch.stack(rows))
    return torch.stack(out, dim=1)


def codebook(
    x: Float[Tensor, "n pos dx"], y: Float[Tensor, "n pos dy"], *, entries: Float[Tensor, "k dy dx"], temperature: float
) -> Float[Tensor, "n pos dy"]:
    """Each entry's likelihood, pair by pair."""
    x, y = x.double(), y.double()
    log_likelihood = torch.zeros(len(x), len(entries), dtype=x.dtype)
    out = []
    for x_t, y_t in zip(x.unbind(1), y.unbind(1), strict=True):
        says = torch.einsum("koi,ni->nko", entries.double(), x_t)
        out.append((log_likelihood.softmax(-1)[..., None] * says).sum(1))
        log_likelihood = log_likelihood - (y_t[:, None] - says).square().sum(-1) / (2 * temperature)
    return torch.stack(out, dim=1)
