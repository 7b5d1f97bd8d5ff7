"""What an optimiser in context would predict: at every position, from the pairs before it and the query at it.

The least-squares problem of position t is ½ Σ_{s<t} ‖y_s − W x_s‖² (+ ½ λ‖W‖²), with A_t = Σ_{s<t} x_s x_sᵀ and B_t =
Σ_{s<t} y_s x_sᵀ. Everything here but `interleaved` predicts ŷ_t = B_t z_t, and the algorithms differ in how they make
z_t of the query: a polynomial in A_t, or (A_t + λI)⁻¹. Neither A_t nor B_t is formed: their products with vectors are
linear attention over the pairs before t, which is also how a transformer would have to do it, a layer each.

All are differentiable in x and y and keep their dtype; examine in float64. `at`: one position alone, for a fraction of
the work, [n 1 dy]. Slow twins: `snellen.measures.mesa.reference`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from snellen.attention import mesa_attention
from snellen.errors import InputError

KINDS = ("neumann", "chebyshev")


@dataclass(frozen=True, kw_only=True)
class _Context:
    """Queries [n places dx], and how they attend to what stands before them, without softmax."""

    x: Float[Tensor, "n pos dx"]
    y: Float[Tensor, "n pos dy"]
    at: int | None

    def __post_init__(self) -> None:
        if self.x.ndim != 3 or self.y.ndim != 3 or self.x.shape[:2] != self.y.shape[:2]:
            raise InputError(
                f"x is {list(self.x.shape)} and y {list(self.y.shape)}: both must be [n, pos, size], as of task.pairs()"
            )
        if self.at is not None and not 0 <= self.at < self.x.shape[1]:
            raise InputError(f"at = {self.at}: there are positions 0 to {self.x.shape[1] - 1}")

    @property
    def queries(self) -> Float[Tensor, "n places dx"]:
        return self.x if self.at is None else self.x[:, self.at : self.at + 1]

    def attend(
        self, z: Float[Tensor, "n places dx"], values: Float[Tensor, "n pos dv"]
    ) -> Float[Tensor, "n places dv"]:
        """Σ_{s<t} values_s (x_s·z_t)."""
        if self.at is not None:
            return (z @ self.x[:, : self.at].mT) @ values[:, : self.at]
        return (z @ self.x.mT).tril(-1) @ values

    def gram(self, z: Float[Tensor, "n places dx"]) -> Float[Tensor, "n places dx"]:
        """A_t z_t."""
        return self.attend(z, self.x)

    def predict(self, z: Float[Tensor, "n places dx"]) -> Float[Tensor, "n places dy"]:
        """B_t z_t."""
        return self.attend(z, self.y)


def gradient_descent(
    x: Float[Tensor, "n pos dx"],
    y: Float[Tensor, "_n _pos dy"],
    *,
    rate: float | Tensor,
    steps: int = 1,
    at: int | None = None,
) -> Float[Tensor, "n places dy"]:
    """`steps` steps W ← W + rate (B_t − W A_t) from W = 0, applied to x_t (von Oswald et al. 2022, arXiv 2212.07677).

    One step is unnormalised linear attention, rate Σ_{s<t} y_s (x_s·x_t); k are z = rate Σ_{i<k} (I − rate A)^i x.
    """
    _at_least("steps", steps, 1)
    context = _Context(x=x, y=y, at=at)
    z = rate * context.queries
    for _ in range(steps - 1):
        z = z + rate * (context.queries - context.gram(z))
    return context.predict(z)


def preconditioned(
    x: Float[Tensor, "n pos dx"],
    y: Float[Tensor, "_n _pos dy"],
    *,
    kind: str,
    order: int,
    ridge: float | Tensor,
    bound: float | Tensor,
    at: int | None = None,
) -> Float[Tensor, "n places dy"]:
    """The query is multiplied by a polynomial p(A_t) ≈ (A_t + ridge I)⁻¹ of degree `order`; one step then finishes.

    So many layers precondition and the last one descends (von Oswald et al. 2023, arXiv 2309.05858, section on the
    construction for several layers). `bound`: the eigenvalues of A_t + ridge I are taken to lie in [ridge, bound];
    one number for all sequences, since weights can hold no more.

    "neumann":   c Σ_{i≤order} (I − c (A + ridge I))^i with c = 2 / (ridge + bound); this is the same function as
                 order + 1 steps of gradient descent with rate c and weight decay `ridge`.
    "chebyshev": the polynomial of that degree whose largest relative error on the interval is least.
    """
    if kind not in KINDS:
        raise InputError(f"kind = {kind!r}: there is {' and '.join(map(repr, KINDS))}")
    _at_least("order", order, 0)
    _positive("ridge", ridge)
    if not bool(torch.as_tensor(bound > ridge)):
        raise InputError(f"bound = {bound}: must be above the ridge ({ridge}), the least eigenvalue that there can be")
    context = _Context(x=x, y=y, at=at)
    solve = _neumann if kind == "neumann" else _chebyshev
    z = solve(context.queries, lambda z: context.gram(z) + ridge * z, order, ridge, bound)
    return context.predict(z)


Times = Callable[[Tensor], Tensor]


def _neumann(query: Tensor, times: Times, order: int, low: float | Tensor, high: float | Tensor) -> Tensor:
    rate = 2 / (low + high)
    z = rate * query
    for _ in range(order):
        z = z + rate * (query - times(z))
    return z


def _chebyshev(query: Tensor, times: Times, order: int, low: float | Tensor, high: float | Tensor) -> Tensor:
    """Chebyshev's semi-iteration, from zero: order + 1 steps of the three-term recurrence."""
    centre, half = (high + low) / 2, (high - low) / 2
    ratio = half / centre
    left = query
    step = query / centre
    z = step
    weight = ratio
    for _ in range(order):
        left = left - times(step)
        before, weight = weight, 1 / (2 / ratio - weight)
        step = weight * before * step + 2 * weight / half * left
        z = z + step
    return z


def momentum(
    x: Float[Tensor, "n pos dx"],
    y: Float[Tensor, "_n _pos dy"],
    *,
    rate: float | Tensor,
    momentum: float | Tensor,
    steps: int,
    at: int | None = None,
) -> Float[Tensor, "n places dy"]:
    """`steps` steps of Polyak's heavy ball from W = 0: V ← momentum V + rate (B_t − W A_t), W ← W + V."""
    _at_least("steps", steps, 1)
    context = _Context(x=x, y=y, at=at)
    move = z = rate * context.queries
    for _ in range(steps - 1):
        move = momentum * move + rate * (context.queries - context.gram(z))
        z = z + move
    return context.predict(z)


def conjugate(
    x: Float[Tensor, "n pos dx"],
    y: Float[Tensor, "_n _pos dy"],
    *,
    ridge: float | Tensor,
    steps: int,
    at: int | None = None,
) -> Float[Tensor, "n places dy"]:
    """`steps` steps of conjugate gradients for (A_t + ridge I) z = x_t from z = 0, each of the length that is best."""
    _at_least("steps", steps, 1)
    _positive("ridge", ridge)
    context = _Context(x=x, y=y, at=at)
    left = direction = context.queries
    z = torch.zeros_like(left)
    size = left.square().sum(-1, keepdim=True)
    solved = size.detach() * torch.finfo(x.dtype).eps ** 1.5  # then only rounding is left
    for _ in range(steps):
        active = size > solved
        image = context.gram(direction) + ridge * direction
        bent = torch.where(active, (direction * image).sum(-1, keepdim=True), 1.0)
        length = torch.where(active, size, 0.0) / bent
        z = z + length * direction
        left = left - length * image
        before, size = torch.where(active, size, 1.0), left.square().sum(-1, keepdim=True)
        direction = left + torch.where(active, size, 0.0) / before * direction
    return context.predict(z)


def ridge(
    x: Float[Tensor, "n pos dx"], y: Float[Tensor, "_n _pos dy"], *, ridge: float | Tensor, at: int | None = None
) -> Float[Tensor, "n places dy"]:
    """Ridge regression on the pairs before t, solved exactly: B_t (A_t + ridge I)⁻¹ x_t.

    All positions: the mesa-layer's attention with keys and values one place late. Raises `Refused` where the dtype
    cannot carry the solve (see `mesa_attention`).
    """
    _positive("ridge", ridge)
    context = _Context(x=x, y=y, at=at)
    if at is None:
        late = [torch.cat([torch.zeros_like(part[:, :1]), part[:, :-1]], dim=1)[:, :, None] for part in (x, y)]
        strength = torch.as_tensor(ridge, dtype=x.dtype, device=x.device).reshape(1, 1)
        solved: Tensor = mesa_attention(x[:, :, None], *late, ridge=strength)
        return solved[:, :, 0]
    known = x[:, :at]
    matrix = known.mT @ known + ridge * torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    z: Tensor = torch.linalg.solve(matrix, context.queries.mT)
    return context.predict(z.mT)


def interleaved(
    x: Float[Tensor, "n pos dx"],
    y: Float[Tensor, "_n _pos dy"],
    *,
    rate: float | Tensor,
    curvature: float | Tensor,
    layers: int,
    at: int | None = None,
) -> Float[Tensor, "n places dy"]:
    """Layers that transform all tokens, keys as well as queries, and one step of gradient descent on what they made.

    x_t ← x_t − curvature Σ_{s<t} x_s (x_s·x_t), `layers` times: what von Oswald et al. 2022 call GD++, made causal, so
    that each key is transformed by what stood before *it*. ŷ_t = rate Σ_{s<t} y_s (x_s·x_t).
    """
    _at_least("layers", layers, 0)
    stop = None if at is None else at + 1
    x, y = x[:, :stop], y[:, :stop]
    for _ in range(layers):
        x = x - curvature * _Context(x=x, y=y, at=None).gram(x)
    context = _Context(x=x, y=y, at=at)
    return rate * context.predict(context.queries)


def compressed(
    x: Float[Tensor, "n pos dx"], y: Float[Tensor, "n pos dy"], at: int
) -> tuple[Float[Tensor, "n few dx"], Float[Tensor, "n few dy"]]:
    """At most dx pairs with the A and B of those before `at`, and then the query: with x = QR, the pairs (R, Qᵀy)."""
    if at <= x.shape[-1]:
        return x[:, : at + 1], y[:, : at + 1]
    q, r = torch.linalg.qr(x[:, :at])
    return torch.cat([r, x[:, at : at + 1]], dim=1), torch.cat([q.mT @ y[:, :at], y[:, at : at + 1]], dim=1)


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise InputError(f"{name} = {value}: must be at least {least}")


def _positive(name: str, value: float | Tensor) -> None:
    if not bool(torch.as_tensor(value > 0)):
        raise InputError(f"{name} = {value}: must be above 0")
