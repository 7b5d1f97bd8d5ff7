"""Amplified prediction from beams that were searched once, and its mixing with the naive prediction.

With p(a) the naive probability of a first token, S_D the first tokens that survive at depth D, and c the surviving
completions, the power family is

    q_{α,D}(a)  ∝  Σ_{c: c₁ = a} p(c)^α  =  p(a)^α · f_α(a),      f_α(a) = Σ_{c: c₁ = a} p(c₂…c_D | a)^α

so the only thing in which lookahead differs from sharpening over the same candidates (f ≡ 1) is the *factor* f.
α = 0 gives each survivor one vote; α = ∞ puts all mass on the first token of the best survivor.

The mixes of a base distribution b with q, at weight w:

    linear     (1 − w) b(v) + w q(v)
    geometric  b(S) · b(a)^{1−w} q(a)^w / Σ_{a'∈S} b(a')^{1−w} q(a')^w   for a in S;   b(v) elsewhere
    gated      linear, with w looked up in a table by features of the position

Arrays are NumPy, natural logarithms, float64; candidates are the *slots of depth 0*, which hold distinct tokens, so
nothing ever needs merging. A slot that is no candidate has log-factor −∞ (and its log-probability is ignored).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def lineages(
    tokens: NDArray[np.int32], parents: NDArray[np.int16], log_probs: NDArray[np.floating]
) -> tuple[Ints, Floats]:
    """Where each survivor comes from and how probable it is, at every depth.

    Parameters
    ----------
    tokens, parents, log_probs
        [n, depth, width] as in `snellen.measures.base.Beams`; empty slots hold −1, −1, −∞.

    Returns
    -------
    roots : [n, depth, width], slot at depth 0 of the survivor's first token; −1 where empty
    totals : [n, depth, width], log p(c) of the survivor, nats; −∞ where empty

    Raises
    ------
    ValueError
        A survivor names a parent outside the width or an empty one, or a log-probability is NaN.
    """
    steps = np.asarray(log_probs, dtype=np.float64)
    if np.isnan(steps).any():
        raise ValueError("log_probs: NaN among the beams")
    _, depth, width = tokens.shape
    alive = (tokens >= 0) & (steps > -np.inf)
    roots = np.full(tokens.shape, -1, dtype=np.int64)
    totals = np.full(tokens.shape, -np.inf)
    roots[:, 0] = np.where(alive[:, 0], np.arange(width), -1)
    totals[:, 0] = np.where(alive[:, 0], steps[:, 0], -np.inf)
    for d in range(1, depth):
        parent = np.where(alive[:, d], parents[:, d], 0).astype(np.int64)
        if parent.size and (parent.min() < 0 or parent.max() >= width):
            raise ValueError(f"parents: a survivor at depth {d + 1} names a slot outside 0..{width - 1}")
        root = np.take_along_axis(roots[:, d - 1], parent, axis=1)
        if (alive[:, d] & (root < 0)).any():
            raise ValueError(f"parents: a survivor at depth {d + 1} descends from an empty slot")
        total = np.take_along_axis(totals[:, d - 1], parent, axis=1)
        roots[:, d] = np.where(alive[:, d], root, -1)
        with np.errstate(invalid="ignore"):
            totals[:, d] = np.where(alive[:, d], total + steps[:, d], -np.inf)
    return roots, totals


def log_factor(roots: Ints, totals: Floats, first: Floats, alpha: float, log_weights: Floats | None = None) -> Floats:
    """log f_α(a): what lookahead adds to the candidate a, from the survivors of one depth.

    Parameters
    ----------
    roots, totals
        [n, width] of one depth, from `lineages`.
    first
        [n, slots] log p(a) of the depth-0 slots.
    alpha
        ≥ 0; ∞ gives the best future, max log p(c₂…c_D | a).
    log_weights
        [n, width] log of how many completions each survivor stands for (sampled ones); none: each for itself. With
        them f is an estimate of the sum over all completions; at ∞ they change nothing.

    Returns
    -------
    [n, slots]; −∞ where the slot has no survivor.
    """
    if not alpha >= 0:
        raise ValueError(f"alpha = {alpha}: must be a number ≥ 0 (0 counts votes, inf takes the best)")
    slots = first.shape[1]
    out = np.full(first.shape, -np.inf)
    for slot in range(slots):
        mine = roots == slot
        if not mine.any():
            continue
        future = np.where(mine, totals - np.where(mine, first[:, slot : slot + 1], 0.0), -np.inf)
        best = future.max(axis=1)
        any_ = best > -np.inf
        if math.isinf(alpha):
            out[:, slot] = best
            continue
        score = alpha * np.where(mine, future, 0.0)
        if log_weights is not None:
            score = score + np.where(mine, log_weights, 0.0)
        out[any_, slot] = log_sum(np.where(mine, score, -np.inf))[any_]
    return out


def log_power(first: Floats, factor: Floats, alpha: float) -> Floats:
    """log q(a) ∝ p(a)^α f_α(a) over the candidates (those whose log-factor is above −∞), normalised.

    `first` and `factor` are [n, slots]; rows without any candidate come back as −∞ throughout. At α = ∞ ties go to
    the first slot.
    """
    inside = factor > -np.inf
    logs = np.where(inside, first, 0.0)
    if math.isinf(alpha):
        score = np.where(inside, logs + np.where(inside, factor, 0.0), -np.inf)
        chosen = np.arange(first.shape[1]) == score.argmax(axis=1)[:, None]
        return np.where(chosen & inside, 0.0, -np.inf)
    score = alpha * logs + factor
    return score - log_sum(score)[:, None]


def log_sum(logs: Floats) -> Floats:
    """log Σ exp over the last axis; −∞ for rows of −∞ (0 is returned there, so that rows can be divided by it)."""
    top = logs.max(axis=-1)
    safe = np.where(top > -np.inf, top, 0.0)
    total = np.exp(logs - safe[..., None]).sum(axis=-1)
    result: Floats = np.where(top > -np.inf, safe + np.log(np.where(total > 0, total, 1.0)), 0.0)
    return result


def permuted(factor: Floats, rng: np.random.Generator, *, derange: bool = False) -> Ints:
    """For each row a random permutation of its candidates: the slot whose factor the placebo gives to each slot.

    Slots that are no candidates keep themselves. Uniform over all permutations, so that the permuted factor tells
    nothing about which candidate it belongs to. With `derange` a random cycle, which moves every candidate: with two
    candidates that is always the swap, and a swapped factor tells as much as the true one (docs/lookahead-gain.md).
    """
    n, slots = factor.shape
    inside = factor > -np.inf
    count = inside.sum(axis=1)
    places = np.arange(slots)
    # candidates in random order first, the other slots after them
    shuffled = np.where(inside, rng.random((n, slots)), 2.0).argsort(axis=1)
    if derange:
        place = np.where(places < count[:, None], (places + 1) % np.maximum(count, 1)[:, None], places)
        target, source = shuffled, np.take_along_axis(shuffled, place, axis=1)
    else:
        target = np.where(inside, 0.0, 1.0).argsort(axis=1, kind="stable")
        source = shuffled
    out = np.broadcast_to(places, factor.shape).copy()
    np.put_along_axis(out, target, source, axis=1)
    return np.where(inside, out, places)


def linear(log_base: Floats, log_q: Floats, weight: Floats | float) -> Floats:
    """log[(1 − w) b + w q], elementwise; `weight` in [0, 1] broadcasts."""
    w = np.asarray(weight, dtype=np.float64)
    if not ((w >= 0) & (w <= 1)).all():
        raise ValueError("weight: must lie in [0, 1]")
    with np.errstate(divide="ignore"):
        result: Floats = np.logaddexp(np.log1p(-w) + log_base, np.log(w) + log_q)
    return result


def geometric(log_base: Floats, log_q: Floats, weight: Floats | float) -> Floats:
    """The geometric mix *inside the candidates*, which keeps the base's total probability of them.

    `log_base` and `log_q` are [n, slots] over the candidates (−∞ in `log_q` marks a slot that is none; such slots
    come back as −∞). Tokens that are no candidates keep their base probability: not returned here. q must be
    positive on all candidates, so α = ∞ has no geometric mix. `weight` broadcasts to [n].
    """
    w = np.broadcast_to(np.asarray(weight, dtype=np.float64), log_base.shape[:1])[:, None]
    inside = log_q > -np.inf
    base = np.where(inside, log_base, -np.inf)
    score = np.where(inside, (1 - w) * np.where(inside, log_base, 0.0) + w * np.where(inside, log_q, 0.0), -np.inf)
    result: Floats = log_sum(base)[:, None] + score - log_sum(score)[:, None]
    return result


def gate(
    entropy: NDArray[np.floating], margin: NDArray[np.floating], entropy_edges: Sequence[float], margin_edge: float
) -> Ints:
    """Which gate a position belongs to: by naive entropy (bins right-open), and by log p(best) − log p(second).

    Returns [n] in 0 … 2·(len(entropy_edges)+1) − 1.
    """
    low = np.digitize(np.asarray(entropy, dtype=np.float64), np.asarray(entropy_edges, dtype=np.float64))
    sure = np.asarray(margin, dtype=np.float64) >= margin_edge
    return (2 * low + sure).astype(np.int64)
