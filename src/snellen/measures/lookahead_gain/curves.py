"""The arms at every width and horizon, fitted and judged on the same resamples, and the gains between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from snellen.measures.base import Scored
from snellen.measures.lookahead_gain import apply
from snellen.measures.lookahead_gain.arms import Candidates, Survivors, most_probable, placebo, without_factor
from snellen.measures.lookahead_gain.fit import Rows, build, contenders
from snellen.measures.lookahead_gain.selection import Fallback, Fit, Selection, Setting, finish, select, tempered
from snellen.results.statistics import Resamples

Floats = NDArray[np.float64]
CONTROLS = ("naive", "temperature", "horizon 1", "same candidates")
ARMS = (*CONTROLS, "lookahead", "placebo")
COARSE = 6  # exponents of the base that every mixing arm may use, beside those that the temperature arm picks


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number with its interval and its value in each resample."""

    value: float
    low: float | None
    high: float | None
    replicates: Floats


@dataclass(frozen=True, kw_only=True)
class Problem:
    """The judged rows and how they are resampled. counts: [units, 1 + r], the whole text first."""

    scored: Scored
    fine: Rows  # with every exponent: for the arm `temperature`
    rows: Rows  # with the exponents of the mixing arms
    fold: NDArray[np.int8]
    counts: Floats
    resamples: Resamples
    temperature: Fit
    always: NDArray[np.int64]  # those of `rows.tau` that the temperature arm picks: the bases that a mix falls back to
    seed: int
    nested: bool  # may the mixes build on what `horizon 1` is
    allowed: NDArray[np.bool_] | None = None  # [folds, bases], see `selection.select`
    fallback: Fallback | None = None

    @classmethod
    def of(
        cls, scored: Scored, fine: Rows, fold: NDArray[np.int8], resamples: Resamples, *, tempered_base: bool, seed: int
    ) -> Problem:
        counts = np.concatenate([np.ones((fine.units, 1)), resamples.counts], axis=1)
        base = fine.base()
        temperature = replace(
            tempered(fine, base, counts, fold),
            whole=tempered(fine, base, counts[:, :1], np.full(fine.units, -1)).settings[0],
        )
        one = np.zeros(1, dtype=np.int64)
        kept = _exponents(fine, temperature.taus) if tempered_base else one
        always = np.flatnonzero(np.isin(kept, temperature.taus)) if tempered_base else one
        rows = replace(fine, tau=fine.tau[kept], log_z=fine.log_z[:, kept])
        return cls(
            scored=scored, fine=fine, rows=rows, fold=fold, counts=counts, resamples=resamples,
            temperature=temperature, always=always, seed=seed, nested=tempered_base,
        )  # fmt: skip

    def on_top_of(self, fits: Mapping[str, Fit]) -> Problem:
        """The problem whose arms build on the best of these controls (on the whole text), and become it without a mix.

        So an arm that has nothing to add is equal to that control, and one that has something adds it to the best.
        """
        best = max(fits, key=lambda name: float(fits[name].held[0]))
        problem = self._with_sharpened(fits[best]) if best == "horizon 1" else self
        bases = []
        for k, setting in enumerate(fits[best].settings):
            if best == "temperature":
                bases.append(int(np.flatnonzero(self.rows.tau == self.fine.tau[setting.tau])[0]))
            elif setting.kind == "none":
                bases.append(setting.tau)
            else:
                assert problem.allowed is not None
                bases.append(int(np.flatnonzero(problem.allowed[k])[-1]))
        return replace(problem, fallback=Fallback(by_fold=fits[best].by_fold, bases=np.asarray(bases)))

    def _with_sharpened(self, fit: Fit) -> Problem:
        """The problem whose bases include what `horizon 1` is: in each fold the mix that was fitted without it."""
        arm, found, users = horizon_one(self), list[Setting](), list[list[int]]()
        for k, setting in enumerate(fit.settings):
            if setting.kind == "none":
                continue
            same = [i for i, other in enumerate(found) if _equal(setting, other)]
            if same:
                users[same[0]].append(k)
            else:
                found.append(setting)
                users.append([k])
        allowed = np.ones((len(fit.settings), len(self.rows.tau) + len(found)), dtype=bool)
        for i, folds in enumerate(users):
            allowed[:, len(self.rows.tau) + i] = np.isin(np.arange(len(fit.settings)), folds)
        bases = tuple(apply.sharpened(self.rows, arm, setting) for setting in found)
        return replace(self, rows=replace(self.rows, sharpened=bases), allowed=allowed)

    @property
    def tokens(self) -> Floats:
        """[1 + r] rows in the whole text and in each resample."""
        total: Floats = self.rows.tokens.sum(axis=0) @ self.counts
        return total

    def estimate(self, sums: Floats) -> Estimate:
        """Sums of log-likelihood, [1 + r] → the mean a token with its interval."""
        means = sums / self.tokens
        low, high = self.resamples.interval(float(means[0]), means[1:])
        return Estimate(value=float(means[0]), low=low, high=high, replicates=means[1:])

    def judge(self, arm: Candidates, subsets: Sequence[Sequence[int]] | None = None) -> list[Judgement]:
        """An arm cross-fitted on every resample, once for each subset of the exponents α."""
        base, table = self.rows.base(), build(self.rows, arm)
        if subsets is None:
            subsets = [range(len(self.rows.alphas))]
        chosen = [np.asarray(subset, dtype=np.int64) for subset in subsets]
        taus = contenders(self.rows, base, table, chosen, self.always)
        judged = select(self.rows, base, table, self.counts, self.fold, chosen, taus=taus, allowed=self.allowed)
        nowhere, once = np.full(self.rows.units, -1), self.counts[:, :1]
        whole = select(self.rows, base, table, once, nowhere, chosen, taus=taus)
        return [Judgement(judged=one, whole=other) for one, other in zip(judged, whole, strict=True)]

    def fit(self, alternatives: Sequence[Judgement]) -> Fit:
        """An arm from its alternatives, each of which was judged."""
        whole = finish([alternative.whole for alternative in alternatives]).settings[0]
        return replace(finish([alternative.judged for alternative in alternatives], self.fallback), whole=whole)


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """One alternative of an arm: fitted in each fold and resample, and on the whole text."""

    judged: Selection
    whole: Selection


def _equal(one: Setting, other: Setting) -> bool:
    plain = ("kind", "tau", "alpha", "choice")
    return all(getattr(one, name) == getattr(other, name) for name in plain) and bool(
        (one.weights == other.weights).all()
    )


def _exponents(fine: Rows, picked: NDArray[np.int64]) -> NDArray[np.int64]:
    """Indices of the exponents of the mixing arms: 1, some over the whole range, and all that `temperature` picks."""
    logs = np.log(fine.tau)
    coarse = [int(np.abs(logs - at).argmin()) for at in np.linspace(logs.min(), logs.max(), COARSE)]
    return np.unique([0, *coarse, *picked.tolist()])


def near_widths(scored: Scored) -> list[int]:
    """1, 2, 4 … and all of the naive top tokens: the widths among which `horizon 1` chooses."""
    most = scored.top_tokens.shape[1]
    return [*(2**i for i in range(most.bit_length()) if 2**i < most), most]


def horizon_one(problem: Problem) -> list[Candidates]:
    return [most_probable(problem.scored, w, problem.rows.alphas) for w in near_widths(problem.scored)]


def arms_of(problem: Problem, survivors: Survivors, width: int, depth: int) -> dict[str, Candidates]:
    """The three arms of a width and depth that share their candidates.

    `lookahead` and `placebo` may also do without their factor, as `same candidates` does (`point`).
    """
    lookahead = survivors.lookahead(depth, problem.rows.alphas)
    return {
        "same candidates": without_factor(lookahead),
        "lookahead": lookahead,
        "placebo": placebo(lookahead, [problem.seed, 3, width, depth]),
    }


@dataclass(frozen=True, kw_only=True)
class Point:
    """One width and horizon of one search, "beam" or "particles".

    fixed: α → held-out sums of `lookahead` with that α alone; candidates: mean number of first tokens that survive.

    At horizon 1 only the first three arms exist and the gain is that of `horizon 1` over naive and temperature.
    """

    width: int
    horizon: int
    fits: Mapping[str, Fit]
    fixed: Mapping[float, Floats]
    candidates: float
    search: str = "beam"

    @property
    def controls(self) -> tuple[str, ...]:
        return CONTROLS if self.horizon > 1 else CONTROLS[:2]

    @property
    def judged(self) -> str:
        return "lookahead" if self.horizon > 1 else "horizon 1"

    @property
    def control(self) -> Floats:
        """[1 + r] the best control of each resample."""
        best: Floats = np.max([self.fits[name].held for name in self.controls], axis=0)
        return best

    @property
    def best(self) -> str:
        """The best control on the whole text (the simpler one of equals)."""
        return max(self.controls, key=lambda name: float(self.fits[name].held[0]))

    def gain(self, name: str | None = None) -> Floats:
        return self.fits[name or self.judged].held - self.control


def shared(problem: Problem) -> tuple[Problem, dict[str, Fit]]:
    """The arms that depend on neither width nor horizon, and the problem in which the others can build on them."""
    temperature = problem.temperature
    bare = replace(temperature.settings[0], tau=0)
    naive = replace(
        temperature,
        by_fold=np.zeros_like(temperature.by_fold),
        settings=(bare,) * len(temperature.settings),
        whole=bare,
    )
    fits = {
        "naive": naive,
        "temperature": temperature,
        "horizon 1": problem.fit([problem.judge(one)[0] for one in horizon_one(problem)]),
    }
    return (problem.on_top_of(fits) if problem.nested else problem), fits


def point(
    problem: Problem, common: Mapping[str, Fit], survivors: Survivors, width: int, horizon: int, *, each_alpha: bool
) -> Point:
    """Fit and judge the arms of one width and horizon."""
    fits = dict(common)
    fixed: dict[float, Floats] = {}
    surviving = survivors.lookahead(horizon, problem.rows.alphas[:1]).factors[0] > -np.inf
    candidates = float(surviving.sum(axis=1).mean())
    if horizon > 1:
        everything = list(range(len(problem.rows.alphas)))
        subsets = [everything, *([a] for a in everything if each_alpha)]
        arms = arms_of(problem, survivors, width, horizon)
        same = problem.judge(arms["same candidates"], subsets)
        fits["same candidates"] = problem.fit(same[:1])
        for name in ("lookahead", "placebo"):
            own = problem.judge(arms[name], subsets if name == "lookahead" else subsets[:1])
            fits[name], *rest = (problem.fit(pair) for pair in zip(own, same, strict=False))
            fixed.update(zip(problem.rows.alphas, (fit.held for fit in rest), strict=False))
    search = "beam" if survivors.log_weights is None else "particles"
    return Point(width=width, horizon=horizon, fits=fits, fixed=fixed, candidates=candidates, search=search)
