"""Predictors in context whose kind is known: optimisers, and what is none, on a regression of `dim` entries.

Each is written out as it is told, without the module that is tried on it, and says something at the last position only,
where models are compared.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from snellen.measures.mesa.comparison import Comparing
from snellen.measures.mesa.examination import Predict
from snellen.measures.mesa.rivals import (
    DELTA,
    FORGETTING,
    NORMALISED,
    OTHERS,
    RIDGE,
    conjugate,
    gradient_descent,
    momentum,
)
from snellen.organisms.regression import LinearRegression

# One of each kind: the others are nearly the same functions, and each costs its time.
FAMILIES = (
    gradient_descent(1),
    gradient_descent(3),
    RIDGE,
    DELTA,
    NORMALISED,
    conjugate(2),
    momentum(4),
    *FORGETTING,
    *OTHERS,
)
DIMS = (2, 5, 10)
COMPARING = Comparing(tasks=400, fitting=256, recalled=2048, resamples=200, to_data=False)

Ending = Callable[[Tensor, Tensor, Tensor], Tensor]  # pairs x [n pos dx] and y [n pos dy], a query [n dx]: [n dy]


def task(dim: int) -> LinearRegression:
    return LinearRegression(dim=dim, context=2 * dim)


def model(ending: Ending) -> Predict:
    def predict(inputs: Tensor) -> Tensor:
        x, y = inputs[..., :-1].double(), inputs[..., -1:].double()
        out = ending(x[:, :-1], y[:, :-1], x[:, -1])
        return torch.cat([torch.zeros_like(y[:, :-1]), out[:, None]], dim=1).to(inputs.dtype)

    return predict


def _times(W: Tensor, q: Tensor) -> Tensor:
    return (W @ q[..., None])[..., 0]


def _moments(x: Tensor, y: Tensor, keep: float = 1.0) -> tuple[Tensor, Tensor]:
    age = torch.arange(x.shape[1] - 1, -1, -1, dtype=x.dtype)
    weighted = x * (keep**age)[:, None]
    return x.mT @ weighted, y.mT @ weighted


def descent(x: Tensor, y: Tensor, q: Tensor, *, rates: list[float], momentum: float = 0.0) -> Tensor:
    A, B = _moments(x, y)
    W = V = torch.zeros_like(B)
    for rate in rates:
        V = momentum * V + rate * (B - W @ A)
        W = W + V
    return _times(W, q)


def ridge(x: Tensor, y: Tensor, q: Tensor, *, ridge: float, keep: float = 1.0) -> Tensor:
    A, B = _moments(x, y, keep)
    return _times(B @ torch.linalg.inv(A + ridge * torch.eye(A.shape[-1], dtype=A.dtype)), q)


def step(x: Tensor, y: Tensor, q: Tensor, *, rate: float, keep: float) -> Tensor:
    return rate * _times(_moments(x, y, keep)[1], q)


def online(
    x: Tensor, y: Tensor, q: Tensor, *, rate: float, keep: float = 1.0, normalised: bool = False, sign: bool = False
) -> Tensor:
    W = torch.zeros(len(x), y.shape[-1], x.shape[-1], dtype=x.dtype)
    for x_t, y_t in zip(x.unbind(1), y.unbind(1), strict=True):
        W = keep * W
        error = y_t - _times(W, x_t)
        error = error.sign() if sign else error
        length = rate / x_t.square().sum(-1)[:, None, None] if normalised else rate
        W = W + length * error[..., None] * x_t[:, None]
    return _times(W, q)


def krylov(x: Tensor, y: Tensor, q: Tensor, *, steps: int, ridge: float) -> Tensor:
    """The best z in the Krylov space of A + ridge I and q."""
    A, B = _moments(x, y)
    A = A + ridge * torch.eye(A.shape[-1], dtype=A.dtype)
    space = [q]
    for _ in range(steps - 1):
        space.append(_times(A, space[-1]))
    basis = torch.stack(space, dim=-1)
    z = basis @ torch.linalg.solve(basis.mT @ A @ basis, basis.mT @ q[..., None])
    return (B @ z)[..., 0]


def codebook(x: Tensor, y: Tensor, q: Tensor, *, size: int, temperature: float | None = None) -> Tensor:
    """Remembers `size` rules of the task; the context picks one, or weighs them."""
    entries = LinearRegression(dim=x.shape[-1]).draw(size, seed=999).hidden.double()
    misfit = (y[:, None] - torch.einsum("koi,nti->nkto", entries, x)).square().sum((2, 3))
    if temperature is None:
        return _times(entries[misfit.argmin(1)], q)
    return _times(torch.einsum("nk,koi->noi", (-0.5 * misfit / temperature).softmax(1), entries), q)


def average(x: Tensor, y: Tensor, q: Tensor, *, scores: Callable[[Tensor, Tensor], Tensor], scale: float) -> Tensor:
    return scale * (scores(x, q).softmax(1)[..., None] * y).sum(1)


def near(x: Tensor, q: Tensor, *, width: float) -> Tensor:
    return -(x - q[:, None]).square().sum(-1) / (2 * width**2)


def likeness(x: Tensor, q: Tensor, *, width: float) -> Tensor:
    return _times(x, q) / width**2


def nudged(x: Tensor, y: Tensor, q: Tensor, *, by: float) -> Tensor:
    """Ridge regression, not quite: off by what a trained model is off by, a smooth function of all."""
    said = ridge(x, y, q, ridge=0.1)
    return said + by * torch.sin(2 * q.sum(-1, keepdim=True) + 2 * y[:, -1])


def optimisers(dim: int) -> dict[str, Ending]:
    rate = 0.6 / dim
    return {
        "1 step of gradient descent": partial(descent, rates=[rate]),
        "3 steps of gradient descent": partial(descent, rates=[rate] * 3),
        "4 steps with momentum": partial(descent, rates=[rate] * 4, momentum=0.5),
        "ridge regression": partial(ridge, ridge=0.1),
        "ridge regression that forgets": partial(ridge, ridge=0.1, keep=0.8),
        "a step that forgets": partial(step, rate=rate, keep=0.8),
        "delta rule": partial(online, rate=0.3),
        "delta rule that forgets": partial(online, rate=0.3, keep=0.9),
        "normalised delta rule": partial(online, rate=0.8, normalised=True),
        "2 steps of conjugate gradients": partial(krylov, steps=2, ridge=0.1),
    }


def others(dim: int) -> dict[str, Ending]:
    return {
        "codebook of 1": partial(codebook, size=1),
        "codebook of 10": partial(codebook, size=10),
        "codebook of 100": partial(codebook, size=100),
        "codebook of 1000": partial(codebook, size=1000),
        "codebook of 100, weighed": partial(codebook, size=100, temperature=0.1),
        "codebook of 1000, weighed": partial(codebook, size=1000, temperature=0.1),
        "codebook of 10000": partial(codebook, size=10_000),
        "last target": lambda x, y, q: y[:, -1],
        "mean target": lambda x, y, q: y.mean(1),
        "nearest neighbour": partial(average, scores=partial(near, width=0.02), scale=1.0),
        "kernel average": partial(average, scores=partial(near, width=0.5), scale=1.5),
        "softmax attention": partial(average, scores=partial(likeness, width=0.5), scale=1.5),
    }


def strangers(dim: int) -> dict[str, Ending]:
    """Optimisers that are not compared: subgradient descent on the absolute error."""
    return {"updates by the error's sign": partial(online, rate=0.1, sign=True)}


def between(dim: int) -> dict[str, Ending]:
    return {f"ridge regression, off by {by}": partial(nudged, by=by) for by in (0.01, 0.1)}
