"""Predictors in context with their settings fitted: to the data, or to what a model predicts.

Both are wanted, and mean different things. A rival *fitted to the data* is the best that the algorithm can do on the
task: does the model do as well? One *fitted to the model* is the algorithm as the model would have to run it: is that
what the model does? Whichever: fitted on some tasks, judged on others (`comparison`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import optimize
from torch import Tensor

from snellen.errors import InputError, Refused
from snellen.measures.mesa import codebooks, online, others, predictors

Floats = NDArray[np.float64]
Predictor = Callable[..., Tensor]
Kind = Literal["optimiser", "other"]

_POINTS = 25  # of the grid over one setting
_SIDE = 9  # of the grid over two


@dataclass(frozen=True, kw_only=True)
class Rival:
    """An algorithm with its settings: `rival(x, y)` predicts as those in `predictors` do."""

    name: str
    kind: Kind
    predictor: Predictor = field(repr=False)
    settings: Mapping[str, float]
    moments: bool = False  # see Family

    def __call__(
        self, x: Float[Tensor, "n pos dx"], y: Float[Tensor, "n pos dy"], *, at: int | None = None
    ) -> Float[Tensor, "n places dy"]:
        return self.predictor(x, y, at=at, **self.settings)


@dataclass(frozen=True, kw_only=True)
class Family:
    """An algorithm whose settings are to be fitted, each between two positive bounds on a logarithmic scale.

    `ranges` are in units of `scale(x, at)`, the mean eigenvalue of A_t, to the power given.
    moments: predictions depend on the pairs through A_t and B_t alone, so that fewer pairs with the same will do.
    recalls: the predictor is given so many maps, `entries`, that are taken from answers (`codebooks.recalled`).
    """

    name: str
    kind: Kind
    predictor: Predictor = field(repr=False)
    ranges: Mapping[str, tuple[float, float, int]]  # low, high, power of the scale
    moments: bool = True
    recalls: int = 0

    def fitted(
        self,
        x: Float[Tensor, "n pos dx"],
        y: Float[Tensor, "n pos dy"],
        aim: Float[Tensor, "n dy"],
        *,
        at: int,
        answers: Float[Tensor, "k dy dx"] | None = None,
    ) -> tuple[Rival, float]:
        """The settings whose predictions at position `at` are nearest to `aim` in the mean square; and that distance.

        aim: the targets y_t (fitted to the data), or a model's predictions (fitted to the model). A grid first, since
        the error has several minima in places (rates beyond stability), then a descent from its best point.
        answers: maps that whoever the aim is of answers with after other contexts, for what recalls.

        Raises
        ------
        InputError
            No answers, for a family that recalls them.
        Refused
            No settings in the range give finite predictions.
        """
        x, y, aim = x[:, : at + 1].double(), y[:, : at + 1].double(), aim.double()
        unit = scale(x, at)
        names = list(self.ranges)
        bounds = [(np.log(low * unit**power), np.log(high * unit**power)) for low, high, power in self.ranges.values()]

        predictor = self.predictor
        if self.recalls:
            if answers is None:
                raise InputError(f"answers: {self.name} needs maps to take its entries from; give some")
            predictor = partial(predictor, entries=codebooks.recalled(answers, self.recalls))
        place = at
        if self.moments:
            x, y = predictors.compressed(x, y, at)
            place = x.shape[1] - 1

        @torch.no_grad()
        def error(logs: Sequence[float] | Floats) -> float:
            found = predictor(x, y, at=place, **self._settings(names, logs))[:, 0]
            value = float((found - aim).square().sum(-1).mean())
            return value if np.isfinite(value) else np.inf

        best = _minimum(error, bounds)
        if not np.isfinite(error(best)):
            raise Refused(
                f"{self.name}: no settings give finite predictions at position {at}; are the inputs too large?"
            )
        settings = self._settings(names, best)
        rival = Rival(name=self.name, kind=self.kind, predictor=predictor, settings=settings, moments=self.moments)
        return rival, error(best)

    def _settings(self, names: Sequence[str], logs: Sequence[float] | Floats) -> dict[str, float]:
        found = {name: float(np.exp(value)) for name, value in zip(names, logs, strict=True)}
        if "bound" in found:  # fitted as what it exceeds the ridge by, so that any two numbers make an interval
            found["bound"] += found["ridge"]
        return found


def scale(x: Float[Tensor, "n pos dx"], at: int) -> float:
    """Mean eigenvalue of A_t = Σ_{s<t} x_s x_sᵀ over sequences; raises InputError where no pair stands before `at`."""
    if at < 1:
        raise InputError(f"position {at}: there is no pair before it, so nothing to learn from; take a later one")
    value = float(x[:, :at].double().square().sum((1, 2)).mean()) / x.shape[-1]
    if not np.isfinite(value) or value <= 0:
        raise InputError(f"x: the mean square before position {at} is {value}; must be finite and above 0")
    return value


def _minimum(
    error: Callable[[Sequence[float] | Floats], float], bounds: Sequence[tuple[float, float]]
) -> Sequence[float]:
    """A grid, then scipy's minimiser about its best point: Brent's in one dimension, Nelder and Mead's in two."""
    side = _POINTS if len(bounds) == 1 else _SIDE
    axes = [np.linspace(low, high, side) for low, high in bounds]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(bounds))
    values = np.array([error(point) for point in points])
    first = points[int(values.argmin())]
    if not np.isfinite(values.min()):
        return list(first)
    steps = np.array([axis[1] - axis[0] for axis in axes])
    if len(bounds) == 1:
        around = (max(first[0] - steps[0], bounds[0][0]), min(first[0] + steps[0], bounds[0][1]))
        found = optimize.minimize_scalar(lambda v: error([v]), bounds=around, method="bounded", options={"xatol": 1e-6})
        best = [float(found.x)]
    else:
        simplex = np.vstack([first, *(first + 0.5 * step * unit for step, unit in zip(steps, np.eye(2), strict=True))])
        simplex = np.clip(simplex, *np.transpose(bounds))
        found = optimize.minimize(
            error, first, method="Nelder-Mead", bounds=bounds,
            options={"initial_simplex": simplex, "xatol": 1e-4, "fatol": 1e-8 * values.min(), "maxfev": 120},
        )  # fmt: skip
        best = [float(v) for v in found.x]
    return best if error(best) <= values.min() else list(first)


def gradient_descent(steps: int) -> Family:
    name = "1 step of gradient descent" if steps == 1 else f"{steps} steps of gradient descent"
    return Family(
        name=name, kind="optimiser", predictor=partial(predictors.gradient_descent, steps=steps),
        ranges={"rate": (1e-4, 10.0, -1)},
    )  # fmt: skip


def preconditioned(kind: str, order: int) -> Family:
    return Family(
        name=f"{kind.capitalize()} {order}, then a step", kind="optimiser",
        predictor=partial(predictors.preconditioned, kind=kind, order=order),
        ranges={"ridge": (1e-4, 1e2, 1), "bound": (1e-1, 1e2, 1)},
    )  # fmt: skip


def interleaved(layers: int) -> Family:
    return Family(
        name=f"{layers} transforming {'layer' if layers == 1 else 'layers'}, then a step", kind="optimiser",
        predictor=partial(predictors.interleaved, layers=layers),
        ranges={"rate": (1e-4, 10.0, -1), "curvature": (1e-3, 3.0, -1)}, moments=False,
    )  # fmt: skip


RIDGE = Family(name="ridge regression", kind="optimiser", predictor=predictors.ridge, ranges={"ridge": (1e-5, 1e3, 1)})


def momentum(steps: int) -> Family:
    return Family(
        name=f"{steps} steps with momentum", kind="optimiser", predictor=partial(predictors.momentum, steps=steps),
        ranges={"rate": (1e-3, 10.0, -1), "momentum": (1e-2, 1.0, 0)},
    )  # fmt: skip


def conjugate(steps: int) -> Family:
    name = f"{steps} {'step' if steps == 1 else 'steps'} of conjugate gradients"
    return Family(
        name=name, kind="optimiser", predictor=partial(predictors.conjugate, steps=steps),
        ranges={"ridge": (1e-5, 1e3, 1)},
    )  # fmt: skip


def codebook(size: int) -> Family:
    return Family(
        name=f"codebook of {size}", kind="other", predictor=codebooks.codebook,
        ranges={"temperature": (1e-6, 1e2, 1)}, recalls=size,
    )  # fmt: skip


_RATES = (1e-4, 1e2, -1)  # of one pair alone, of which there may be many
_FORGET = {"forget": (1e-3, 0.9, 0)}

DELTA = Family(
    name="delta rule", kind="optimiser", predictor=online.delta_rule, ranges={"rate": _RATES}, moments=False
)  # fmt: skip
NORMALISED = Family(
    name="normalised delta rule", kind="optimiser", predictor=partial(online.delta_rule, normalised=True),
    ranges={"rate": (1e-3, 2.0, 0)}, moments=False,
)  # fmt: skip
FORGETTING = (
    Family(
        name="a step that forgets", kind="optimiser", predictor=online.decaying_step,
        ranges={"rate": _RATES} | _FORGET, moments=False,
    ),
    Family(
        name="delta rule that forgets", kind="optimiser", predictor=online.delta_rule,
        ranges={"rate": _RATES} | _FORGET, moments=False,
    ),
    Family(
        name="ridge regression that forgets", kind="optimiser", predictor=online.forgetting_ridge,
        ranges={"ridge": (1e-5, 1e3, 1)} | _FORGET, moments=False,
    ),
)  # fmt: skip

# From simple to involved: of those that fit a model equally well the first is named.
OPTIMISERS: tuple[Family, ...] = (
    *(gradient_descent(steps) for steps in (1, 2, 3, 4, 8)),
    RIDGE,
    *(preconditioned("neumann", order) for order in (2, 4)),
    *(preconditioned("chebyshev", order) for order in (1, 2, 3, 4, 6)),
    interleaved(1),
    DELTA,
    NORMALISED,
    *(conjugate(steps) for steps in (1, 2, 3)),
    momentum(4),
    *FORGETTING,
)

CODEBOOKS = tuple(codebook(size) for size in (1, 10, 100, 1000))

AVERAGES: tuple[Family, ...] = (
    Family(
        name="last target", kind="other", predictor=others.last_target,
        ranges={"scale": (1e-3, 10.0, 0)}, moments=False,
    ),
    Family(
        name="mean target", kind="other", predictor=others.mean_target,
        ranges={"scale": (1e-3, 10.0, 0)}, moments=False,
    ),
    Family(
        name="kernel average", kind="other", predictor=others.kernel_average,
        ranges={"bandwidth": (3e-2, 10.0, 0), "scale": (1e-3, 10.0, 0)}, moments=False,
    ),
)  # fmt: skip

OTHERS = AVERAGES + CODEBOOKS
FAMILIES = OPTIMISERS + OTHERS
