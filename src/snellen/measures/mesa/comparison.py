"""A model beside predictors in context: do they say the same, and does it depend on the query in the same way?

All at the last position of each sequence, over many tasks (sequences, each with a rule of its own). Rivals are fitted
on tasks of their own, which are not judged. f is what the model predicts, r what the rival does, f′ and r′ the same
after the context of another rule (`Task.swapped`), J the derivative by the query.

difference   mean ‖f − r‖
cosine       mean cos(J_f, J_r), all entries of a Jacobian as one vector
slope        mean ‖J_f − J_r‖
explained    1 − Σ‖f − r‖² / Σ‖f − Bx‖², with Bx the best linear prediction of f from the query alone: the share of what
             the context does to the model's predictions that the rival explains; 1 is all, 0 is none
follows      2 Σ(f − f′)·(r − r′) / (Σ‖f − f′‖² + Σ‖r − r′‖²): how far the model's predictions move as the rival's do
             when the context is swapped; 1 is the same, 0 not at all
context use  ½ Σ‖f − f′‖² / Σ‖f − mean f‖²: the share of the model's variance that is due to the context

Whether the numbers could tell an optimiser from what is none is asked of the rivals alone: `mimics` are those that do
not optimise, fitted to the *optimiser* that is nearest to the model, and how much of it they explain.

Derivatives as predictions in von Oswald et al. 2022 (arXiv 2212.07677, figure 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from snellen.errors import InputError
from snellen.measures.mesa.codebooks import least_squares
from snellen.measures.mesa.estimates import Over
from snellen.measures.mesa.examination import Function, Place, Predict, Said, examine, of_model, of_rival
from snellen.measures.mesa.rivals import FAMILIES, RIDGE, Family, Kind, Rival
from snellen.organisms.sequences import Sequences, Task
from snellen.results.estimates import Estimate

FittedTo = Literal["data", "model", "optimiser"]
_SAME = 1e-3  # of the variance: less than this apart in fit, the simpler of two rivals is named
_ROUNDING = 1e-6  # of the variance: what is left in float32 of a model that is exactly linear in the query


@dataclass(frozen=True, kw_only=True)
class Comparing:
    """tasks: judged. fitting: others, on which rivals are fitted. lags: see `Task.pairs`. block: sequences at once.

    recalled: tasks, others again, whose answers codebooks take their entries from.
    to_data: all rivals are fitted to the data too, not ridge regression alone; no verdict needs it.
    """

    tasks: int = 10_000
    fitting: int = 1024
    recalled: int = 2048
    lags: int = 1
    block: int = 256
    resamples: int = 1000
    level: float = 0.95
    to_data: bool = True

    def __post_init__(self) -> None:
        for name, least in (
            ("tasks", 8),
            ("fitting", 8),
            ("recalled", 8),
            ("lags", 1),
            ("block", 1),
            ("resamples", 100),
        ):
            if getattr(self, name) < least:
                raise InputError(f"{name} = {getattr(self, name)}: must be at least {least}")
        if not 0.5 <= self.level < 1:
            raise InputError(f"level = {self.level}: must lie in [0.5, 1)")


@dataclass(frozen=True, kw_only=True)
class Against:
    """One rival, fitted to the data or to the model, beside the model. `shuffled`: with another rule's context."""

    name: str
    kind: Kind
    fitted_to: FittedTo
    settings: dict[str, float]
    fit: float  # mean ‖aim − r‖² on the fitting tasks
    loss: Estimate
    difference: Estimate
    cosine: Estimate
    slope: Estimate
    explained: Estimate
    follows: Estimate
    shuffled_difference: Estimate
    shuffled_cosine: Estimate
    shuffled_explained: Estimate
    no_cosine: int  # tasks in which one of the two does not depend on the query


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """loss, context_use: of the model. moved: the context use of the ridge regression that is fitted to the data.

    variance: of what rivals are fitted to, on the fitting tasks.
    """

    task: str
    tasks: int
    seed: int
    loss: Estimate
    context_use: Estimate
    moved: Estimate
    rivals: tuple[Against, ...]
    mimics: tuple[Against, ...]  # beside the optimiser nearest to the model, not beside the model
    variance: dict[FittedTo, float]
    method: str

    def of(self, fitted_to: FittedTo, kind: Kind | None = None) -> tuple[Against, ...]:
        return tuple(r for r in self.rivals if r.fitted_to == fitted_to and kind in (None, r.kind))

    def nearest(self, kind: Kind, fitted_to: FittedTo = "model") -> Against:
        """The rival that fits best on the fitting tasks, so that its numbers on the others are not the best of many.

        Of optimisers within a thousandth of the variance of the best the first in the families' order, the simplest:
        one step of gradient descent is also Chebyshev's polynomial with a large bound, and layers that transform
        nothing. What does not optimise is taken at its best.
        """
        rivals = self.of(fitted_to, kind)
        least = min(rival.fit for rival in rivals)
        enough = least + (_SAME * self.variance[fitted_to] if kind == "optimiser" else 0.0)
        return next(rival for rival in rivals if rival.fit <= enough)

    def closest(self) -> Against:
        """The optimiser that fits the model best, simple or not."""
        return _best(self.of("model", "optimiser"))

    def mimic(self) -> Against | None:
        """What does not optimise and fits that optimiser best."""
        return _best(self.mimics) if self.mimics else None

    def rows(self) -> list[dict[str, Any]]:
        """One a rival, numbers with `_low` and `_high` beside them: for tables."""
        return [_row(rival) for rival in self.rivals]


def compare(
    predict: Predict,
    task: Task,
    *,
    seed: int,
    comparing: Comparing | None = None,
    families: Sequence[Family] = FAMILIES,
) -> Comparison:
    """Compare a model with algorithms on tasks that it has not seen; see the head of this module for the numbers.

    seed: draws the tasks; take one that the model was not trained with. Give `task` with a rule for each sequence
    (not `fixed()`): with one rule for all, all good predictors agree.

    Raises
    ------
    InputError
        `predict` gives something of another shape, families without ridge regression (it says whether contexts differ).
    Refused
        Predictions that are not finite.
    """
    how = comparing or Comparing()
    if not any(family.name == "ridge regression" for family in families):
        raise InputError("families: must hold RIDGE, by which it is judged whether the contexts differ")
    every = task.draw(how.fitting + how.tasks + how.recalled, seed=seed)
    fitting, judged, asked = every[: how.fitting], every[how.fitting : -how.recalled], every[-how.recalled :]
    swapped = task.swapped(judged, seed=seed)
    place = Place.of(task, judged, lags=how.lags)
    bench = _Bench(
        task=task, place=place, fitting=fitting, judged=judged, swapped=swapped, asked=asked,
        over=Over.of(how.tasks, number=how.resamples, level=how.level, seed=seed), how=how,
    )  # fmt: skip
    own = bench.looked_at(of_model(predict, place))
    fits: dict[FittedTo, tuple[Tensor, Tensor | None]] = {
        "data": (task.pairs(fitting, lags=how.lags)[1][:, place.position], None),
        "model": (own.on_fitting, own.answers),
    }
    found: list[tuple[Rival, Against]] = []
    for fitted_to, (aim, answers) in fits.items():
        asked_of = families if fitted_to == "model" or how.to_data else [RIDGE]
        found += [bench.beside(own, family, fitted_to, aim, answers) for family in asked_of]
    rivals = tuple(against for _, against in found)
    ridge, _ = next(one for one in found if one[1].name == "ridge regression")
    mimics: tuple[Against, ...] = ()
    if any(family.kind == "optimiser" for family in families):
        best = _best([rival for rival in rivals if (rival.fitted_to, rival.kind) == ("model", "optimiser")])
        nearest = bench.looked_at(bench.function(next(rival for rival, against in found if against is best)))
        mimics = tuple(
            bench.beside(nearest, family, "optimiser", nearest.on_fitting, nearest.answers)[1]
            for family in families
            if family.kind == "other"
        )
    aims = {name: aim for name, (aim, _) in fits.items()}
    return Comparison(
        task=task.name, tasks=how.tasks, seed=seed, loss=own.loss(own.said),
        context_use=_context_use(own.said, own.swapped, own.over), moved=bench.moved(ridge),
        rivals=rivals, mimics=mimics,
        variance={name: float((aim - aim.mean(0)).double().square().sum(-1).mean()) for name, aim in aims.items()},
        method=own.over.resamples.method,
    )  # fmt: skip


def _best(rivals: Sequence[Against]) -> Against:
    return min(rivals, key=lambda rival: rival.fit)


@dataclass(frozen=True, kw_only=True)
class _Bench:
    """The sequences, and what is done with each function of them."""

    task: Task
    place: Place
    fitting: Sequences
    judged: Sequences
    swapped: Sequences
    asked: Sequences
    over: Over
    how: Comparing

    def looked_at(self, function: Function) -> _Own:
        """What others are then put beside: a model, or an optimiser."""
        on_fitting = self._said(function, self.fitting, jacobian=False).predictions
        return _Own(
            said=self._said(function, self.judged),
            swapped=self._said(function, self.swapped, jacobian=False),
            target=self.judged.targets[:, self.place.position].double(),
            context_free=_context_free(self.task, self.fitting, self.judged, on_fitting, self.place),
            over=self.over,
            on_fitting=on_fitting,
            # With lags the query is more than the token that a derivative is taken by.
            answers=self._said(function, self.asked).jacobian if self.place.lags == 1 else None,
        )

    def beside(
        self, own: _Own, family: Family, fitted_to: FittedTo, aim: Tensor, answers: Tensor | None
    ) -> tuple[Rival, Against]:
        """answers None: what least squares finds in each context."""
        x, y = self.task.pairs(self.fitting, lags=self.how.lags)
        if family.recalls and answers is None:
            answers = least_squares(*self.task.pairs(self.asked, lags=self.how.lags))
        rival, error = family.fitted(x, y, aim, at=self.place.position, answers=answers)
        function = self.function(rival)
        said, elsewhere = self._said(function, self.judged), self._said(function, self.swapped)
        return rival, own.against(rival, fitted_to, error, said, elsewhere)

    def moved(self, rival: Rival) -> Estimate:
        said, elsewhere = (
            self._said(self.function(rival), some, jacobian=False) for some in (self.judged, self.swapped)
        )
        return _context_use(said, elsewhere, self.over)

    def function(self, rival: Rival) -> Function:
        return of_rival(rival, self.task, self.place, moments=rival.moments)

    def _said(self, function: Function, sequences: Sequences, *, jacobian: bool = True) -> Said:
        return examine(function, sequences, self.place, jacobian=jacobian, block=self.how.block)


def _context_free(
    task: Task, fitting: Sequences, judged: Sequences, predictions: Tensor, place: Place
) -> Float[Tensor, "n out"]:
    """The best linear prediction of the model's predictions from the query alone, with an intercept."""

    def design(sequences: Sequences) -> Tensor:
        x = task.pairs(sequences, lags=place.lags)[0][:, place.position].double()
        return torch.cat([x, torch.ones_like(x[:, :1])], dim=1)

    weights: Tensor = torch.linalg.lstsq(design(fitting), predictions, driver="gelsd").solution
    return design(judged) @ weights


@dataclass(frozen=True, kw_only=True)
class _Own:
    """The side of the model, or of an optimiser in its place."""

    said: Said
    swapped: Said
    target: Float[Tensor, "n out"]
    context_free: Float[Tensor, "n out"]
    over: Over
    on_fitting: Float[Tensor, "m out"]
    answers: Float[Tensor, "k out query"] | None

    def loss(self, said: Said) -> Estimate:
        return self.over.mean(0.5 * _square(said.predictions - self.target))

    def against(self, rival: Rival, fitted_to: FittedTo, fit: float, said: Said, swapped: Said) -> Against:
        cosine = _cosine(self.said, said)
        moved, rival_moved = self.said.predictions - self.swapped.predictions, said.predictions - swapped.predictions
        return Against(
            name=rival.name, kind=rival.kind, fitted_to=fitted_to, settings=dict(rival.settings), fit=fit,
            loss=self.loss(said),
            difference=self._difference(said),
            cosine=self._mean_cosine(cosine),
            slope=self.over.mean(np.sqrt(_square(self.said.slope - said.slope))),
            explained=self._explained(said),
            follows=self.over.statistic(
                [_dot(moved, rival_moved), _square(moved) + _square(rival_moved)],
                lambda cross, both: np.where(both > 0, 2 * cross / both, np.nan),
                "neither the model nor the rival moves when the context is swapped",
            ),
            shuffled_difference=self._difference(swapped),
            shuffled_cosine=self._mean_cosine(_cosine(self.said, swapped)),
            shuffled_explained=self._explained(swapped),
            no_cosine=int(np.isnan(cosine).sum()),
        )  # fmt: skip

    def _difference(self, said: Said) -> Estimate:
        return self.over.mean(np.sqrt(_square(self.said.predictions - said.predictions)))

    def _mean_cosine(self, cosine: Float[ndarray, "tasks"]) -> Estimate:
        if np.isnan(cosine).mean() > 0.5:
            return Estimate(value=None, reason="in most tasks one of the two does not depend on the query")
        return self.over.mean(cosine)

    def _explained(self, said: Said) -> Estimate:
        mine = self.said.predictions
        return self.over.statistic(
            [_square(mine - said.predictions), _square(mine - self.context_free), _square(mine - mine.mean(0))],
            lambda left, spread, whole: np.where(spread > _ROUNDING * whole, 1 - left / spread, np.nan),
            "the model's predictions are linear in the query alone: the context does nothing that could be explained",
        )


def _context_use(said: Said, swapped: Said, over: Over) -> Estimate:
    mine = said.predictions
    return over.statistic(
        [_square(mine - swapped.predictions), _square(mine - mine.mean(0))],
        lambda moved, whole: np.where(whole > 0, 0.5 * moved / whole, np.nan),
        "the same prediction in every task",
    )


def _cosine(first: Said, second: Said) -> Float[ndarray, "tasks"]:
    """NaN where one of the two does not depend on the query at all."""
    norms = np.sqrt(_square(first.slope) * _square(second.slope))
    with np.errstate(divide="ignore", invalid="ignore"):
        cosine: Float[ndarray, "tasks"] = np.where(norms > 0, _dot(first.slope, second.slope) / norms, np.nan)
    return cosine


def _dot(first: Float[Tensor, "n k"], second: Float[Tensor, "n k"]) -> Float[ndarray, "n"]:
    return (first * second).sum(-1).detach().cpu().numpy()


def _square(x: Float[Tensor, "n k"]) -> Float[ndarray, "n"]:
    return _dot(x, x)


def _row(rival: Against) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, value in asdict(rival).items():
        if isinstance(getattr(rival, name), Estimate):
            row |= {name: value["value"], f"{name}_low": value["low"], f"{name}_high": value["high"]}
        else:
            row[name] = value
    return row
