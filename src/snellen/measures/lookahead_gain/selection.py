"""Fitting and judging on every resample at once, from the tables of `fit`.

For each resample of units and each fold: sum the calibration units, take the best setting, return the sum over the
fold's own units. No optimiser and no starting point, and the same rule for every arm:

- the best calibration log-likelihood less one nat a free parameter (AIC): τ ≠ 1, α, each non-zero weight, the width
  of `horizon 1`, and all that a sharpened base has of these;
- a gated weight is 0 in a bin unless its calibration gain there exceeds one standard error over units;
- the whole mix is dropped unless its calibration gain over the best base exceeds the penalty and one standard error
  over units. The arm then becomes that base, or the given `Fallback`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from snellen.measures.lookahead_gain.fit import Rows, Table
from snellen.results.statistics import standard_error

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Kind = Literal["none", "linear", "geometric", "gated"]
KINDS: tuple[Kind, ...] = ("none", "linear", "geometric", "gated")
BLOCK_BYTES = 20_000_000  # of sums over units held at once; small enough for the processor's cache


@dataclass(frozen=True, kw_only=True)
class Selection:
    """For each fold and resample the best mix of a table, and the base that it must beat. All [folds, resamples]."""

    score: Floats  # penalised calibration log-likelihood over naive, nats
    base_score: Floats
    gain: Floats  # calibration gain over the best base, nats, not penalised
    error: Floats  # its standard error over units
    held: Floats  # sum over the fold's units, over naive
    base_held: Floats
    kind: Ints  # index into KINDS
    tau: Ints
    base_tau: Ints
    alpha: Ints  # index into `Rows.alphas`
    weights: Floats  # [folds, resamples, gates]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One fitted mix. tau: index of its base among `Rows.tau` and, after these, `Rows.sharpened`.

    weights: [gates], equal unless gated, 0 for kind `none` (the base alone).
    """

    kind: Kind
    tau: int
    alpha: int
    weights: Floats
    choice: int = 0  # which of an arm's alternatives: the widths of `horizon 1`


@dataclass(frozen=True, kw_only=True)
class Fit:
    """An arm fitted and judged: held-out sums over naive, [resamples], and the settings of the first resample by fold.

    by_fold: [folds, resamples] the sums of each fold's own units; taus: which bases were picked in any fold of any
    resample; whole: the setting fitted on the whole text, for the record (nothing is judged with it).
    """

    by_fold: Floats
    settings: tuple[Setting, ...]
    taus: Ints
    whole: Setting | None = None

    @property
    def held(self) -> Floats:
        total: Floats = self.by_fold.sum(axis=0)
        return total


@dataclass(frozen=True, kw_only=True)
class Fallback:
    """What an arm is in a fold where its mix is dropped: [folds, resamples] held-out sums, and the base by fold."""

    by_fold: Floats
    bases: Ints


def select(
    rows: Rows,
    base: Floats,
    table: Table,
    counts: Floats,
    fold: NDArray[np.integer],
    subsets: Sequence[NDArray[np.integer]],
    *,
    taus: NDArray[np.integer] | None = None,
    allowed: NDArray[np.bool_] | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> list[Selection]:
    """Fit and judge on every resample, once for each subset of the exponents α.

    Parameters
    ----------
    base
        [bases, units] from `Rows.base`.
    counts
        [units, r] how often each unit is in each resample.
    fold
        [units] fold in which a unit is judged, by a fit on all others. −1 is judged nowhere: with −1 throughout the
        one fold returned is a fit on everything.
    subsets
        Indices into `rows.alphas`, each ascending.
    taus
        Which bases to try (`contenders`); all by default.
    allowed
        [folds, bases] which bases a fold may use: one that was fitted on a fold's own units must not judge them.
    """
    tried: Ints = np.arange(len(base)) if taus is None else taus.astype(np.int64)
    base, table = base[tried], Table(linear=table.linear[tried], geometric=table.geometric[tried])
    step = max(1, block_bytes // (8 * 4 * table.linear[..., 0].size))
    step = min(step, counts.shape[1])
    # the sum over gates has its own rows, so that the linear mix costs no pass over the gated ones
    arrays = (base, table.linear, table.geometric, table.linear.sum(axis=3))
    flat = [array.reshape(int(np.prod(array.shape[:-1])), rows.units) for array in arrays]
    parts = [fold == k for k in range(max(1, int(fold.max()) + 1))]
    unjudged = fold < 0
    groups = [*parts, unjudged] if unjudged.any() else parts
    split = [[np.ascontiguousarray(array[:, group]) for array in flat] for group in groups]
    shapes = [array.shape[:-1] for array in arrays]
    blocks: list[list[Selection]] = []
    for start in range(0, counts.shape[1], step):
        drawn = counts[:, start : start + step]
        sums = [
            [(array @ drawn[group]).reshape(*shape, drawn.shape[1]) for array, shape in zip(own, shapes, strict=True)]
            for own, group in zip(split, groups, strict=True)
        ]
        total = [sum(parts_[1:], start=parts_[0]) for parts_ in zip(*sums, strict=True)]
        by_fold = []
        for k, (part, held) in enumerate(zip(parts, sums, strict=False)):
            calibration = [whole - inside for whole, inside in zip(total, held, strict=True)]
            weights = drawn * ~part[:, None]
            usable = np.ones(len(tried), dtype=bool) if allowed is None else allowed[k, tried]
            cost = np.where(usable, rows.cost[tried], np.inf)
            by_fold.append(_fold(rows, cost, base, table, weights, calibration, held, subsets))
        blocks.append([_stack([one[i] for one in by_fold]) for i in range(len(subsets))])
    joined = [_join([block[i] for block in blocks]) for i in range(len(subsets))]
    return [replace(one, tau=tried[one.tau], base_tau=tried[one.base_tau]) for one in joined]


def _fold(
    rows: Rows,
    cost: Floats,
    base: Floats,
    table: Table,
    counts: Floats,
    calibration: Sequence[Floats],
    held: Sequence[Floats],
    subsets: Sequence[NDArray[np.integer]],
) -> list[Selection]:
    """One fold; every array [1, r] (so that folds can be stacked)."""
    base_sum, linear_sum, geometric_sum, linear_all = calibration
    base_held, linear_held, geometric_held, _ = held
    gates, resamples = linear_sum.shape[3:]
    at = np.arange(resamples)
    base_score = base_sum - cost[:, None]  # [bases, r]
    best_tau = base_score.argmax(axis=0)
    gated_all = np.maximum(linear_sum.max(axis=2) - 1.0, 0.0).sum(axis=2)  # [taus, alphas, r]
    tokens = rows.tokens
    drawn = counts.T[:, None]  # [r, 1, units]
    out = []
    for subset in subsets:
        finite = subset[subset < geometric_sum.shape[1]]
        t1, a1, w1, s1 = _best(linear_all[:, subset] + base_score[:, None, None] - 2.0)
        options = [(s1, t1, subset[a1], np.repeat(rows.weights[w1][:, None], gates, axis=1))]
        gains = [table.linear[t1, subset[a1], w1].sum(axis=1)]
        helds = [linear_held[t1, subset[a1], w1, :, at].sum(axis=1)]
        if len(finite):
            t2, a2, w2, s2 = _best(geometric_sum[:, finite] + base_score[:, None, None] - 2.0)
            options.append((s2, t2, finite[a2], np.repeat(rows.weights[w2][:, None], gates, axis=1)))
            gains.append(table.geometric[t2, finite[a2], w2])
            helds.append(geometric_held[t2, finite[a2], w2, at])
        else:
            options.append((np.full(resamples, -np.inf), t1, subset[a1], np.zeros((resamples, gates))))
            gains.append(np.zeros_like(gains[0]))
            helds.append(np.zeros_like(helds[0]))
        t3, place, _, _ = _best((gated_all[:, subset] + base_score[:, None] - 1.0)[:, :, None])
        a3 = subset[place]
        by_weight = linear_sum[t3, a3, :, :, at]  # [r, weights, gates]
        w3 = by_weight.argmax(axis=1)  # [r, gates]
        worth = by_weight.max(axis=1) - 1.0
        gate = np.arange(gates)
        unit_gain = table.linear[t3[:, None], a3[:, None], w3, gate]  # [r, gates, units]
        open_ = (worth > 0) & (worth + 1.0 > standard_error(unit_gain, tokens, drawn))
        options.append(
            (
                np.where(open_, worth, 0.0).sum(axis=1) + base_score[t3, at] - 1.0,
                t3,
                a3,
                np.where(open_, rows.weights[w3], 0.0),
            )
        )
        gains.append(np.where(open_[..., None], unit_gain, 0.0).sum(axis=1))
        held3 = linear_held[t3[:, None], a3[:, None], w3, gate, at[:, None]]
        helds.append(np.where(open_, held3, 0.0).sum(axis=1))

        kind = np.stack([option[0] for option in options]).argmax(axis=0)
        score, tau, alpha = (np.stack([option[i] for option in options])[kind, at] for i in range(3))
        unit = np.stack(gains)[kind, at] + base[tau] - base[best_tau]  # [r, units]
        out.append(
            Selection(
                score=score[None],
                base_score=base_score[best_tau, at][None],
                gain=(unit * counts.T).sum(axis=1)[None],
                error=standard_error(unit, tokens.sum(axis=0), counts.T)[None],
                held=(np.stack(helds)[kind, at] + base_held[tau, at])[None],
                base_held=base_held[best_tau, at][None],
                kind=(kind + 1)[None],
                tau=tau[None],
                base_tau=best_tau[None],
                alpha=alpha[None],
                weights=np.stack([option[3] for option in options])[kind, at][None],
            )
        )
    return out


def _best(score: Floats) -> tuple[Ints, Ints, Ints, Floats]:
    """Where the maximum over the first three axes of [taus, alphas, weights, r] is, and what it is."""
    flat = score.reshape(-1, score.shape[-1])
    place = flat.argmax(axis=0)
    t, a, w = np.unravel_index(place, score.shape[:3])
    return t, a, w, flat[place, np.arange(flat.shape[1])]


def _stack(selections: Sequence[Selection], axis: int = 0) -> Selection:
    names = [f.name for f in fields(Selection)]
    return Selection(**{name: np.concatenate([getattr(s, name) for s in selections], axis=axis) for name in names})


def _join(selections: Sequence[Selection]) -> Selection:
    return _stack(selections, axis=1)


def finish(alternatives: Sequence[Selection], fallback: Fallback | None = None) -> Fit:
    """Choose among the alternatives of an arm (one nat for that), then drop the mix where it has not earned it."""
    scores = np.stack([s.score for s in alternatives]) - (1.0 if len(alternatives) > 1 else 0.0)
    choice = scores.argmax(axis=0)
    folds, resamples = np.indices(choice.shape)

    def of(name: str) -> NDArray[Any]:
        picked: NDArray[Any] = np.stack([getattr(s, name) for s in alternatives])[choice, folds, resamples]
        return picked

    score = scores[choice, folds, resamples]
    used = (score > of("base_score")) & (of("gain") > of("error"))
    by_fold = np.where(used, of("held"), of("base_held") if fallback is None else fallback.by_fold)
    tau = np.where(used, of("tau"), of("base_tau") if fallback is None else fallback.bases[:, None])
    kind, alpha, weights = of("kind"), of("alpha"), of("weights")
    settings = tuple(
        Setting(
            kind=KINDS[int(kind[k, 0])] if used[k, 0] else "none",
            tau=int(tau[k, 0]),
            alpha=int(alpha[k, 0]),
            weights=weights[k, 0] if used[k, 0] else np.zeros(weights.shape[2]),
            choice=int(choice[k, 0]),
        )
        for k in range(len(choice))
    )
    return Fit(by_fold=by_fold, settings=settings, taus=np.unique(tau))


def tempered(rows: Rows, base: Floats, counts: Floats, fold: NDArray[np.integer]) -> Fit:
    """The arm `temperature`: the best τ of the calibration units (one nat for τ ≠ 1)."""
    penalty = (rows.tau[: len(base)] != 1).astype(np.float64)
    held, settings, picked = [], [], []
    for k in range(max(1, int(fold.max()) + 1)):
        part = fold == k
        best = (base[:, ~part] @ counts[~part] - penalty[:, None]).argmax(axis=0)
        held.append((base[:, part] @ counts[part])[best, np.arange(len(best))])
        settings.append(Setting(kind="none", tau=int(best[0]), alpha=0, weights=np.zeros(rows.gates)))
        picked.append(best)
    return Fit(by_fold=np.stack(held), settings=tuple(settings), taus=np.unique(picked))
