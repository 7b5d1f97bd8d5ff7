"""The gain counted in words: completions vote for the first *word* they spell, not for the first token.

A word runs from a token that begins one (`Scored.starts_word`) to the next such token. At a position where the text
begins a word, what is judged is the distribution over words u given that a word begins there:

    naive       p(u) = p(tokens of u) · p(a word begins after u) / p(a word begins here)
    lookahead   q(u) ∝ Σ p(c)^α over survivors c that begin with the whole of u and go on to the next word
    control     q(u) ∝ p(tokens of u)^α over the same words: what comes after the word is taken away
    placebo     lookahead's factor over the control, permuted over the words of the position

A survivor that is still inside its first word at the horizon votes for no word: its share of q stays with the naive
prediction, in all arms alike. Mixing is linear and the base is naive (the normaliser of p(u)^τ over all words is not
known), with the same grids, penalties, folds and intervals as in token mode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snellen.lookahead import mixing
from snellen.measures.base import Beams, Scored
from snellen.measures.lookahead_gain.curves import Problem
from snellen.measures.lookahead_gain.fit import Rows, Table
from snellen.measures.lookahead_gain.interval import Judge, ceiling
from snellen.measures.lookahead_gain.places import follows
from snellen.measures.lookahead_gain.selection import Setting, finish, select
from snellen.results.estimates import Estimate
from snellen.results.statistics import REFUSED_BELOW

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def real_words(scored: Scored) -> tuple[Ints, Ints, Floats]:
    """Rows that begin a word, the row after each word (−1 where it was not scored), and naive log p(word)."""
    begins = np.flatnonzero(scored.starts_word[scored.token])
    stretch = np.cumsum(~follows(scored))
    after = np.full(len(begins), -1, dtype=np.int64)
    together = stretch[begins[1:]] == stretch[begins[:-1]]
    after[:-1][together] = begins[1:][together]
    so_far = np.r_[0.0, np.cumsum(scored.log_prob, dtype=np.float64)]
    start = scored.log_word_start.astype(np.float64)
    naive = so_far[after] - so_far[begins] + start[after] - start[begins]
    return begins, after, np.where(after >= 0, naive, -np.inf)


def paths(beams: Beams) -> tuple[NDArray[np.int32], Floats]:
    """[n, width, depth] tokens and log-probabilities of the survivors of the last depth; −1 and −∞ where empty."""
    n, depth, width = beams.tokens.shape
    tokens = np.full((n, width, depth), -1, dtype=np.int32)
    steps = np.full((n, width, depth), -np.inf)
    slot = np.broadcast_to(np.arange(width), (n, width))
    alive = beams.tokens[:, -1] >= 0
    for d in reversed(range(depth)):
        tokens[:, :, d] = np.where(alive, np.take_along_axis(beams.tokens[:, d], slot, axis=1), -1)
        steps[:, :, d] = np.where(alive, np.take_along_axis(beams.log_probs[:, d], slot, axis=1), -np.inf)
        slot = np.where(alive, np.take_along_axis(beams.parents[:, d], slot, axis=1), 0).astype(np.int64)
        slot = np.maximum(slot, 0)
    return tokens, steps


def candidates(scored: Scored, beams: Beams, rows: Ints, after: Ints) -> tuple[Floats, Ints, Floats, Ints]:
    """For each word row: log p of each survivor's first word, the slot that stands for the word, totals, the hit.

    first : [n, width] log p(tokens of the first word), or of the whole survivor where its word is not complete
    root : [n, width] first slot with the same word; −1 where not complete; −2 where no survivor begins a word
    total : [n, width] log p(survivor)
    hit : [n] slot that stands for the real word, −1 where it is no candidate
    """
    tokens, steps = (array[rows] for array in paths(beams))
    depth = tokens.shape[2]
    begins = scored.starts_word[np.maximum(tokens, 0)] & (tokens >= 0)
    alive = (tokens[:, :, -1] >= 0) & np.isfinite(steps).all(axis=2) & begins[:, :, 0]
    ends = begins[:, :, 1:]
    complete = alive & ends.any(axis=2)
    length = np.where(complete, ends.argmax(axis=2) + 1, depth)
    within = np.arange(depth) < length[:, :, None]
    spelled = np.where(within, tokens, -1)
    same = (spelled[:, :, None] == spelled[:, None]).all(axis=3) & complete[:, :, None] & complete[:, None]
    root = np.where(complete, same.argmax(axis=2), np.where(alive, -1, -2))
    known = np.where(alive[:, :, None], steps, 0.0)
    first = np.where(alive, np.where(within, known, 0.0).sum(axis=2), -np.inf)
    total = np.where(alive, known.sum(axis=2), -np.inf)
    ahead = rows[:, None] + np.arange(depth)
    real = np.where(ahead < after[:, None], scored.token[np.minimum(ahead, len(scored) - 1)], -1)
    real[after - rows >= depth] = -2  # longer than any word that can be complete inside the horizon
    match = complete & (spelled == real[:, None]).all(axis=2)
    hit = np.where(match.any(axis=1), match.argmax(axis=1), -1)
    return first, root, total, hit


def word_mode(problem: Problem, width: int) -> dict[str, Any]:
    """What stands under `words` in the finding's details."""
    scored, rows = problem.scored, problem.rows
    begins, after, naive = real_words(scored)
    keep = np.isfinite(naive)
    unfinished = int((~keep).sum())
    begins, after, naive = begins[keep], after[keep], naive[keep]
    unit = rows.unit[begins]
    result: dict[str, Any] = {
        "unit": "nats per word",
        "value": None,
        "low": None,
        "high": None,
        "n": {"words": len(begins), "units": len(np.unique(unit))},
        "excluded": {"the end of the word was not scored": unfinished},
        "reason": None,
    }
    if len(np.unique(unit)) < REFUSED_BELOW:
        result["reason"] = f"whole words in {len(np.unique(unit))} units; at least {REFUSED_BELOW} are needed"
        return result
    first, root, total, hit = candidates(scored, scored.beams[width], begins, after)
    if not (root >= 0).any():
        result["reason"] = f"no completion of {scored.horizon} tokens holds a whole word; use a longer horizon"
        return result
    simple = replace(
        rows, log_prob=naive, log_z=np.zeros((len(naive), 1)), tau=np.ones(1), unit=unit,
        gate=np.zeros(len(naive), dtype=np.int64), gates=1, sharpened=(),
    )  # fmt: skip
    inside = np.where(root == np.arange(root.shape[1]), 0.0, -np.inf)
    source = mixing.permuted(inside, np.random.default_rng([problem.seed, 4, width]))
    by_alpha = [factors(first, root, total, alpha, source) for alpha in rows.alphas]
    arms = {
        name: _Arm(rows=simple, first=first, factors=[own[name] for own in by_alpha], open_=root == -1, hit=hit)
        for name in ("same words", "lookahead", "placebo")
    }
    found, best, held = _judged(arms, problem)
    result |= found["lookahead"].as_dict() | {
        "control": {
            "arms": {name: float(naive.mean() + over.mean()) for name, over in held.items()},
            "best": best,
            "placebo": found["placebo"].as_dict(),
        },
        "among_candidates": float((hit >= 0).mean()),
    }
    return result


@dataclass(frozen=True, kw_only=True)
class _Arm:
    """One arm at every α. factors: [alphas] of [n, width]; open_: survivors inside their first word."""

    rows: Rows
    first: Floats
    factors: list[Floats]
    open_: NDArray[np.bool_]
    hit: Ints

    def over(self, alpha: int, weights: Floats) -> Floats:
        """[weights, n] log of mix over naive at the real word."""
        rows = self.rows
        return over_naive(
            rows.log_prob, self.first, self.factors[alpha], self.open_, self.hit, rows.alphas[alpha], weights
        )

    def table(self) -> Table:
        rows = self.rows
        sums = [
            [np.bincount(rows.unit, weights=row, minlength=rows.units) for row in self.over(a, rows.weights)]
            for a in range(len(rows.alphas))
        ]
        none = np.zeros((1, 0, len(rows.weights), rows.units))
        return Table(linear=np.asarray(sums)[None, :, :, None], geometric=none)

    def held(self, settings: Sequence[Setting], fold: NDArray[np.integer]) -> Floats:
        """[n] log of mix over naive, each row under the setting of its fold."""
        out = np.zeros(len(self.rows.log_prob))
        for k, setting in enumerate(settings):
            if setting.kind != "none":
                mine = fold[self.rows.unit] == k
                out[mine] = self.over(setting.alpha, setting.weights[:1])[0, mine]
        return out


def _judged(arms: Mapping[str, _Arm], problem: Problem) -> tuple[dict[str, Estimate], str, dict[str, Floats]]:
    """Gain and placebo over the best control, which that is, and [n] of each arm over naive."""
    rows = arms["lookahead"].rows
    judge = Judge.of(rows.unit, rows.units, problem.judge.level)
    base, everything = np.zeros((1, rows.units)), np.arange(len(rows.alphas))
    tables = {name: arm.table() for name, arm in arms.items()}
    selected = {name: select(rows, base, one, problem.fold, [everything])[0] for name, one in tables.items()}
    held = {"naive": np.zeros(len(rows.log_prob))}
    held |= {name: arm.held(finish([selected[name]]), problem.fold) for name, arm in arms.items()}
    stubborn = arms["same words"].held(finish([selected["same words"]], drop=False), problem.fold)
    controls = {name: held[name] for name in ("naive", "same words")}
    best = max(controls, key=lambda name: float(controls[name].sum()))
    against, one = judge.sums(controls[best]), np.zeros(1, dtype=np.int64)
    found = {}
    for name in ("lookahead", "placebo"):
        upper = max(
            ceiling(rows, base, tables[own], everything, against, judge.level, taus=one) for own in (name, "same words")
        )
        found[name] = judge.estimate(held[name], controls.values(), [stubborn], upper, half=name == "lookahead")
    return found, best, held


def factors(first: Floats, root: Ints, total: Floats, alpha: float, source: Ints) -> dict[str, Floats]:
    """[n, width] log-factor of each word over its control, at the slot that stands for the word, for each arm.

    Slots whose word is not complete have factor 0 (they are weighted by the whole survivor), other slots −∞.
    `source` is the placebo's permutation.
    """
    inside = np.where(root == np.arange(root.shape[1]), 0.0, -np.inf)
    ahead = mixing.log_factor(np.maximum(root, -1), np.where(root >= 0, total, -np.inf), first, alpha)
    arms = {"same words": inside, "lookahead": ahead, "placebo": np.take_along_axis(ahead, source, axis=1)}
    return {name: np.where(root == -1, 0.0, own) for name, own in arms.items()}


def over_naive(
    naive: Floats, first: Floats, factor: Floats, open_: NDArray[np.bool_], hit: Ints, alpha: float, weights: Floats
) -> Floats:
    """[weights, n] log of (1 − w + w·r) + w q/p, r the share of q that votes for no word."""
    log_q = mixing.log_power(first, factor, alpha)
    some = (factor > -np.inf).any(axis=1)
    share = np.where(some, np.where(open_, np.exp(log_q), 0.0).sum(axis=1), 1.0)
    at = np.maximum(hit, 0)[:, None]
    ratio = np.where(hit >= 0, np.exp(np.take_along_axis(log_q, at, axis=1)[:, 0] - naive), 0.0)
    w = weights[:, None]
    over: Floats = np.log((1 - w) + w * share + w * ratio)
    return over
