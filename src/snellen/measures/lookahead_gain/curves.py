"""The arms at every width and horizon, fitted and judged on the same folds, and the gains between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from snellen.measures.base import Scored
from snellen.measures.lookahead_gain import apply
from snellen.measures.lookahead_gain.arms import Candidates, Survivors, most_probable, placebo, without_factor
from snellen.measures.lookahead_gain.detectable import Detectable, detectable
from snellen.measures.lookahead_gain.fit import Rows, Table, build, contenders
from snellen.measures.lookahead_gain.interval import Judge, ceiling
from snellen.measures.lookahead_gain.selection import Selected, Setting, finish, select, tempered
from snellen.results.estimates import Estimate

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
CONTROLS = ("naive", "temperature", "horizon 1", "same candidates")
ARMS = (*CONTROLS, "lookahead", "placebo")
COARSE = 6  # exponents of the base that every mixing arm may use, beside those that the temperature arm picks


@dataclass(frozen=True, kw_only=True)
class Fit:
    """An arm, fitted without the units that judge it.

    settings: by fold; log_probs: [n] log of the mix at the real token, each row under the setting of its fold; whole:
    the setting fitted on the whole text, for the record (nothing is judged with it).
    """

    settings: tuple[Setting, ...]
    log_probs: Floats
    whole: Setting


@dataclass(frozen=True, kw_only=True)
class Problem:
    """The judged rows, and how they are folded and judged."""

    scored: Scored
    fine: Rows  # with every exponent: for the arm `temperature`
    rows: Rows  # with the exponents of the mixing arms
    fold: NDArray[np.int8]
    judge: Judge
    temperature: Fit
    always: Ints  # those of `rows.tau` that the temperature arm picks: the bases that a mix falls back to
    seed: int
    nested: bool  # may the mixes build on what `horizon 1` is
    allowed: NDArray[np.bool_] | None = None  # [folds, bases], see `selection.select`
    fallback: Ints | None = None  # [folds] the base that an arm is where its mix is dropped

    @classmethod
    def of(
        cls, scored: Scored, fine: Rows, fold: NDArray[np.int8], *, level: float, tempered_base: bool, seed: int
    ) -> Problem:
        base = fine.base()
        settings = tempered(fine, base, fold)
        picked = np.unique([setting.tau for setting in settings])
        temperature = Fit(
            settings=settings,
            log_probs=apply.log_probs(fine, [], settings, fold),
            whole=tempered(fine, base, np.full(fine.units, -1))[0],
        )
        one = np.zeros(1, dtype=np.int64)
        kept = _exponents(fine, picked) if tempered_base else one
        always = np.flatnonzero(np.isin(kept, picked)) if tempered_base else one
        rows = replace(fine, tau=fine.tau[kept], log_z=fine.log_z[:, kept])
        return cls(
            scored=scored, fine=fine, rows=rows, fold=fold, judge=Judge.of(fine.unit, fine.units, level),
            temperature=temperature, always=always, seed=seed, nested=tempered_base,
        )  # fmt: skip

    def on_top_of(self, fits: Mapping[str, Fit]) -> Problem:
        """The problem whose arms build on the best of these controls (on the whole text), and become it without a mix.

        So an arm that has nothing to add is equal to that control, and one that has something adds it to the best.
        """
        best = max(fits, key=lambda name: float(fits[name].log_probs.sum()))
        problem = self._with_sharpened(fits[best].settings) if best == "horizon 1" else self
        bases = []
        for k, setting in enumerate(fits[best].settings):
            if best == "temperature":
                bases.append(int(np.flatnonzero(self.rows.tau == self.fine.tau[setting.tau])[0]))
            elif setting.kind == "none":
                bases.append(setting.tau)
            else:
                assert problem.allowed is not None
                bases.append(int(np.flatnonzero(problem.allowed[k])[-1]))
        return replace(problem, fallback=np.asarray(bases))

    def _with_sharpened(self, settings: Sequence[Setting]) -> Problem:
        """The problem whose bases include what `horizon 1` is: in each fold the mix that was fitted without it."""
        arm, found, users = horizon_one(self), list[Setting](), list[list[int]]()
        for k, setting in enumerate(settings):
            if setting.kind == "none":
                continue
            same = [i for i, other in enumerate(found) if _equal(setting, other)]
            if same:
                users[same[0]].append(k)
            else:
                found.append(setting)
                users.append([k])
        allowed = np.ones((len(settings), len(self.rows.tau) + len(found)), dtype=bool)
        for i, folds in enumerate(users):
            allowed[:, len(self.rows.tau) + i] = np.isin(np.arange(len(settings)), folds)
        bases = tuple(apply.sharpened(self.rows, arm, setting) for setting in found)
        return replace(self, rows=replace(self.rows, sharpened=bases), allowed=allowed)

    def base_of_units(self) -> Ints:
        """[units] the base that an arm falls back to where the unit is judged."""
        bases = np.zeros(int(self.fold.max()) + 1, dtype=np.int64) if self.fallback is None else self.fallback
        out: Ints = bases[self.fold]
        return out

    def examined(self, arm: Candidates, subsets: Sequence[Sequence[int]] | None = None) -> Examined:
        """An arm's tables, and its fits without each fold and on the whole text, for each subset of the exponents α."""
        base, table = self.rows.base(), build(self.rows, arm)
        if subsets is None:
            subsets = [range(len(self.rows.alphas))]
        chosen = [np.asarray(subset, dtype=np.int64) for subset in subsets]
        taus = contenders(self.rows, base, table, chosen, self.always)
        nowhere = np.full(self.rows.units, -1)
        return Examined(
            problem=self,
            arm=arm,
            base=base,
            table=table,
            taus=taus,
            subsets=chosen,
            folds=select(self.rows, base, table, self.fold, chosen, taus=taus, allowed=self.allowed),
            whole=select(self.rows, base, table, nowhere, chosen, taus=taus),
        )

    def fit(self, alternatives: Sequence[Examined], which: int = 0, *, drop: bool = True) -> Fit:
        """An arm from its alternatives, with the `which`-th subset of the exponents."""
        settings = finish(
            [one.folds[which] for one in alternatives],
            None if self.fallback is None else self.fallback.tolist(),
            drop=drop,
        )
        return Fit(
            settings=settings,
            log_probs=apply.log_probs(self.rows, [one.arm for one in alternatives], settings, self.fold),
            whole=finish([one.whole[which] for one in alternatives], drop=drop)[0],
        )


@dataclass(frozen=True, kw_only=True)
class Examined:
    """One alternative of an arm: its tables, and what was selected in [subsets][folds]."""

    problem: Problem = field(repr=False)
    arm: Candidates
    base: Floats
    table: Table
    taus: Ints
    subsets: Sequence[Ints]
    folds: Sequence[Sequence[Selected]]
    whole: Sequence[Sequence[Selected]]

    def ceiling(self, against: Floats, which: int = 0) -> float:
        """The most that any fixed setting of it may gain over a control, [units] over naive; nats a token."""
        problem = self.problem
        return ceiling(
            problem.rows, self.base, self.table, self.subsets[which], against, problem.judge.level,
            taus=self.taus, own=problem.base_of_units(),
        )  # fmt: skip


def _equal(one: Setting, other: Setting) -> bool:
    plain = ("kind", "tau", "alpha", "choice")
    return all(getattr(one, name) == getattr(other, name) for name in plain) and bool(
        (one.weights == other.weights).all()
    )


def _exponents(fine: Rows, picked: Ints) -> Ints:
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
class Common:
    """The arms that depend on neither width nor horizon; sharpening: what `horizon 1` gains over the simpler two."""

    fits: Mapping[str, Fit]
    sharpening: Estimate


@dataclass(frozen=True, kw_only=True)
class Point:
    """One width and horizon of one search, "beam" or "particles".

    gain, placebo: over the best control; over_same: of the fitted lookahead over `same candidates`; fixed: α → the
    gain of `lookahead` with that α alone; candidates: mean number of first tokens that survive; detectable: the gain
    that would have been found.

    At horizon 1 only the first three arms exist and the gain is that of `horizon 1` over naive and temperature.
    """

    width: int
    horizon: int
    fits: Mapping[str, Fit]
    gain: Estimate
    placebo: Estimate | None = None
    over_same: Estimate | None = None
    fixed: Mapping[float, Estimate]
    candidates: float
    detectable: Detectable | None = None
    search: str = "beam"

    @property
    def controls(self) -> tuple[str, ...]:
        return CONTROLS if self.horizon > 1 else CONTROLS[:2]

    @property
    def best(self) -> str:
        """The best control on the whole text (the simpler one of equals)."""
        return max(self.controls, key=lambda name: float(self.fits[name].log_probs.sum()))


def shared(problem: Problem) -> tuple[Problem, Common]:
    """The arms that depend on neither width nor horizon, and the problem in which the others can build on them."""
    temperature = problem.temperature
    bare = replace(temperature.settings[0], tau=0)
    naive = Fit(settings=(bare,) * len(temperature.settings), log_probs=problem.rows.log_prob, whole=bare)
    near = [problem.examined(one) for one in horizon_one(problem)]
    fits = {"naive": naive, "temperature": temperature, "horizon 1": problem.fit(near)}
    judge, simple = problem.judge, [naive.log_probs, temperature.log_probs]
    against = judge.sums(max(simple, key=lambda one: float(one.sum())) - problem.rows.log_prob)
    upper = max(one.ceiling(against) for one in near)
    sharpening = judge.estimate(fits["horizon 1"].log_probs, simple, [], upper)
    return (problem.on_top_of(fits) if problem.nested else problem), Common(fits=fits, sharpening=sharpening)


def point(
    problem: Problem, common: Common, survivors: Survivors, width: int, horizon: int, *, each_alpha: bool
) -> Point:
    """Fit and judge the arms of one width and horizon."""
    search = "beam" if survivors.log_weights is None else "particles"
    surviving = survivors.lookahead(horizon, problem.rows.alphas[:1]).factors[0] > -np.inf
    candidates = float(surviving.sum(axis=1).mean())
    if horizon == 1:
        return Point(
            width=width, horizon=1, fits=common.fits, gain=common.sharpening, fixed={}, candidates=candidates,
            search=search,
        )  # fmt: skip
    everything = list(range(len(problem.rows.alphas)))
    subsets = [everything, *([a] for a in everything if each_alpha)]
    arms = arms_of(problem, survivors, width, horizon)
    same = problem.examined(arms["same candidates"], subsets)
    fits = dict(common.fits) | {"same candidates": problem.fit([same])}
    controls = [fits[name].log_probs for name in CONTROLS]
    stubborn = [problem.fit([same], drop=False).log_probs]
    judge = problem.judge
    against = judge.sums(max(controls, key=lambda one: float(one.sum())) - problem.rows.log_prob)
    found: dict[str, Estimate] = {}
    fixed: dict[float, Estimate] = {}
    same_held = judge.sums(fits["same candidates"].log_probs - problem.rows.log_prob)
    for name in ("lookahead", "placebo"):
        own = problem.examined(arms[name], subsets if name == "lookahead" else subsets[:1])
        for which in range(len(own.subsets)):
            fit = problem.fit([own, same], which)
            upper = max(one.ceiling(against, which) for one in (own, same))
            estimate = judge.estimate(fit.log_probs, controls, stubborn, upper, half=name == "lookahead")
            if which == 0:
                fits[name], found[name] = fit, estimate
                over = judge.estimate(fit.log_probs, controls[-1:], stubborn, own.ceiling(same_held))
                found[f"{name} over same candidates"] = over
            else:
                fixed[problem.rows.alphas[which - 1]] = estimate
    return Point(
        width=width,
        horizon=horizon,
        fits=fits,
        gain=found["lookahead"],
        placebo=found["placebo"],
        over_same=found["lookahead over same candidates"],
        fixed=fixed,
        candidates=candidates,
        detectable=detectable(problem, arms["lookahead"]),
        search=search,
    )
