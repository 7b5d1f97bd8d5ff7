"""Fitting, fold by fold, from the tables of `fit`.

For each fold: sum the other folds' units, take the best setting. No optimiser and no starting point, and the same rule
for every arm:

- the best calibration log-likelihood less one nat a free parameter (AIC): τ ≠ 1, α, each non-zero weight, the width
  of `horizon 1`, and all that a sharpened base has of these;
- a gated weight is 0 in a bin unless its calibration gain there exceeds one standard error over units;
- the whole mix is dropped unless its calibration gain over the best base exceeds the penalty and one standard error
  over units. The arm then becomes that base, or the one that it is given to fall back to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from snellen.measures.lookahead_gain.fit import Rows, Table
from snellen.results.statistics import standard_error

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Kind = Literal["none", "linear", "geometric", "gated"]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One fitted mix. tau: index of its base among `Rows.tau` and, after these, `Rows.sharpened`.

    weights: [gates], equal unless gated, 0 for kind `none` (the base alone).
    """

    kind: Kind
    tau: int
    alpha: int  # index into `Rows.alphas`
    weights: Floats
    choice: int = 0  # which of an arm's alternatives: the widths of `horizon 1`


@dataclass(frozen=True, kw_only=True)
class Selected:
    """The best mix of a table on the calibration units of one fold, and the base that it must beat."""

    setting: Setting
    score: float  # penalised calibration log-likelihood over naive, nats
    base: int
    base_score: float
    gain: float  # calibration gain over the best base, nats, not penalised
    error: float  # its standard error over units


@dataclass(frozen=True, kw_only=True)
class _Option:
    """A candidate for the best mix: its penalised score and its calibration units over its base, [units]."""

    setting: Setting
    score: float
    unit: Floats


def select(
    rows: Rows,
    base: Floats,
    table: Table,
    fold: NDArray[np.integer],
    subsets: Sequence[NDArray[np.integer]],
    *,
    taus: NDArray[np.integer] | None = None,
    allowed: NDArray[np.bool_] | None = None,
) -> list[list[Selected]]:
    """Fit without each fold in turn, once for each subset of the exponents α: [subsets][folds].

    Parameters
    ----------
    base
        [bases, units] from `Rows.base`.
    fold
        [units] fold in which a unit is judged, by a fit on all others. With −1 throughout the one fit returned is a
        fit on everything.
    subsets
        Indices into `rows.alphas`, each ascending.
    taus
        Which bases to try (`contenders`); all by default.
    allowed
        [folds, bases] which bases a fold may use: one that was fitted on a fold's own units must not judge them.
    """
    tried: Ints = np.arange(len(base)) if taus is None else taus.astype(np.int64)
    base, table = base[tried], Table(linear=table.linear[tried], geometric=table.geometric[tried])
    out: list[list[Selected]] = [[] for _ in subsets]
    for k in range(max(1, int(fold.max()) + 1)):
        calibration = fold != k
        usable = np.ones(len(tried), dtype=bool) if allowed is None else allowed[k, tried]
        cost = np.where(usable, rows.cost[tried], np.inf)
        seen = _Seen(rows=rows, cost=cost, base=base, table=table, kept=calibration, tried=tried)
        for found, subset in zip(out, subsets, strict=True):
            found.append(seen.best(subset))
    return out


class _Seen:
    """What one fold may look at: its calibration units, summed once for all subsets."""

    def __init__(
        self, *, rows: Rows, cost: Floats, base: Floats, table: Table, kept: NDArray[np.bool_], tried: Ints
    ) -> None:
        self.rows, self.base, self.table, self.kept, self.tried = rows, base, table, kept, tried
        counts = kept.astype(np.float64)
        self.score = base @ counts - cost  # [bases]
        self.linear = table.linear @ counts  # [bases, alphas, weights, gates]
        self.geometric = table.geometric @ counts
        self.fallback = int(self.score.argmax())
        self.gates = self.linear.shape[3]

    def best(self, subset: NDArray[np.integer]) -> Selected:
        options = [self._linear(subset), *self._geometric(subset), self._gated(subset)]
        picked = max(options, key=lambda one: one.score)
        over = picked.unit + self.base[picked.setting.tau] - self.base[self.fallback]
        tokens = self.rows.tokens.sum(axis=0)
        return Selected(
            setting=_renamed(picked.setting, int(self.tried[picked.setting.tau])),
            score=picked.score,
            base=int(self.tried[self.fallback]),
            base_score=float(self.score[self.fallback]),
            gain=float(over[self.kept].sum()),
            error=float(standard_error(over, tokens, self.kept.astype(np.float64))),
        )

    def _linear(self, subset: NDArray[np.integer]) -> _Option:
        score = self.linear[:, subset].sum(axis=3) + self.score[:, None, None] - 2.0
        t, a, w = np.unravel_index(int(score.argmax()), score.shape)
        alpha = int(subset[a])
        weights = np.full(self.gates, self.rows.weights[w])
        setting = Setting(kind="linear", tau=int(t), alpha=alpha, weights=weights)
        return _Option(setting=setting, score=float(score[t, a, w]), unit=self.table.linear[t, alpha, w].sum(axis=0))

    def _geometric(self, subset: NDArray[np.integer]) -> list[_Option]:
        finite = subset[subset < self.geometric.shape[1]]
        if not len(finite):
            return []
        score = self.geometric[:, finite] + self.score[:, None, None] - 2.0
        t, a, w = np.unravel_index(int(score.argmax()), score.shape)
        alpha = int(finite[a])
        weights = np.full(self.gates, self.rows.weights[w])
        setting = Setting(kind="geometric", tau=int(t), alpha=alpha, weights=weights)
        return [_Option(setting=setting, score=float(score[t, a, w]), unit=self.table.geometric[t, alpha, w])]

    def _gated(self, subset: NDArray[np.integer]) -> _Option:
        worth = np.maximum(self.linear[:, subset].max(axis=2) - 1.0, 0.0).sum(axis=2)  # [bases, subset]
        t, a = np.unravel_index(int((worth + self.score[:, None]).argmax()), worth.shape)
        alpha, gate = int(subset[a]), np.arange(self.gates)
        by_weight = self.linear[t, alpha]  # [weights, gates]
        w = by_weight.argmax(axis=0)
        worth_of = by_weight[w, gate] - 1.0
        cells = self.table.linear[t, alpha, w, gate]  # [gates, units]
        error = standard_error(cells, self.rows.tokens, self.kept.astype(np.float64))
        open_ = (worth_of > 0) & (worth_of + 1.0 > error)
        setting = Setting(kind="gated", tau=int(t), alpha=alpha, weights=np.where(open_, self.rows.weights[w], 0.0))
        score = float(worth_of[open_].sum() + self.score[t] - 1.0)
        return _Option(setting=setting, score=score, unit=cells[open_].sum(axis=0))


def _renamed(setting: Setting, tau: int, choice: int = 0) -> Setting:
    return Setting(kind=setting.kind, tau=tau, alpha=setting.alpha, weights=setting.weights, choice=choice)


def finish(
    alternatives: Sequence[Sequence[Selected]], fallback: Sequence[int] | None = None, *, drop: bool = True
) -> tuple[Setting, ...]:
    """Choose among the alternatives of an arm (one nat for that), then drop the mix where it has not earned it.

    `alternatives` is [alternatives][folds]; fallback: [folds] the base that the arm then is (by default the best base
    of its calibration units). Without `drop` the best mix is kept, whatever it has earned.
    """
    settings = []
    charge = 1.0 if len(alternatives) > 1 else 0.0
    for k, ones in enumerate(zip(*alternatives, strict=True)):
        choice = int(np.argmax([one.score for one in ones]))
        best = ones[choice]
        if not drop or (best.score - charge > best.base_score and best.gain > best.error):
            settings.append(_renamed(best.setting, best.setting.tau, choice))
            continue
        base = best.base if fallback is None else fallback[k]
        none = np.zeros_like(best.setting.weights)
        settings.append(Setting(kind="none", tau=base, alpha=best.setting.alpha, weights=none, choice=choice))
    return tuple(settings)


def tempered(rows: Rows, base: Floats, fold: NDArray[np.integer]) -> tuple[Setting, ...]:
    """The arm `temperature`: the best τ of the calibration units (one nat for τ ≠ 1)."""
    penalty = (rows.tau[: len(base)] != 1).astype(np.float64)
    return tuple(
        Setting(
            kind="none",
            tau=int((base[:, fold != k].sum(axis=1) - penalty).argmax()),
            alpha=0,
            weights=np.zeros(rows.gates),
        )
        for k in range(max(1, int(fold.max()) + 1))
    )
