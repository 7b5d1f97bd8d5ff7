"""Tables of log-likelihood by setting and unit: after these, fitting on any units is a sum and an argmax.

A *setting* is (base, α, kind of mix, weight); a base is p^τ/Z at one of some exponents τ, or p as one fit of
`horizon 1` has sharpened it. `build` sums, for each setting and unit, the log-likelihood over that of the base alone;
`select` fits on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snellen.errors import Refused
from snellen.lookahead import mixing
from snellen.measures.lookahead_gain.arms import Candidates
from snellen.results.statistics import standard_error

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
ROWS = 2048  # rows of a text whose settings are held at once


@dataclass(frozen=True, kw_only=True)
class Sharpened:
    """A base that is itself a mix: p^τ/Z with some of its most probable tokens sharpened, as `horizon 1` does.

    tokens, over: [n, k] the sharpened tokens and the log of the mix there; rest: [n] what is added to the log of
    p^τ/Z everywhere else; real: [n] the log of the mix at the real token.
    """

    tau: float
    log_z: Floats  # [n]
    tokens: NDArray[np.int32]
    over: Floats
    rest: Floats
    real: Floats
    cost: float  # free parameters

    def at(self, rows: NDArray[Any], tokens: NDArray[np.int32], log_p: Floats) -> Floats:
        """[rows, slots] log of the mix at any tokens, whose naive log-probabilities are `log_p`."""
        out = self.tau * log_p + (self.rest - self.log_z)[rows][:, None]
        same = tokens[:, :, None] == self.tokens[rows][:, None]
        inside = same.any(axis=2) & (tokens >= 0)
        mixed: Floats = np.where(inside, np.take_along_axis(self.over[rows], same.argmax(axis=2), axis=1), out)
        return mixed


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The judged rows: their naive prediction, their unit and their gate."""

    log_prob: Floats  # [n]
    log_z: Floats  # [n, taus]
    tau: Floats  # [taus], 1 first
    alphas: tuple[float, ...]  # ∞ last, if there
    weights: Floats  # [weights], above 0 and below 1
    unit: NDArray[np.int32]  # [n]
    units: int
    gate: Ints  # [n]
    gates: int
    block: int = ROWS
    sharpened: tuple[Sharpened, ...] = ()  # further bases, after those of `tau`

    @property
    def cost(self) -> Floats:
        """[bases] free parameters of each base."""
        costs: Floats = np.r_[(self.tau != 1).astype(np.float64), [one.cost for one in self.sharpened]]
        return costs

    def exponent(self, base: int) -> float:
        """τ of a base."""
        return float(self.tau[base]) if base < len(self.tau) else self.sharpened[base - len(self.tau)].tau

    def log_base(self, rows: NDArray[Any]) -> Floats:
        """[bases, rows] log-probability of the real token under each base."""
        tempered = self.tau[:, None] * self.log_prob[rows] - self.log_z[rows].T
        return np.concatenate([tempered, *(one.real[rows][None] for one in self.sharpened)])

    def log_base_at(self, base: int, rows: NDArray[Any], tokens: NDArray[np.int32], log_p: Floats) -> Floats:
        """[rows, slots] log-probability of any tokens under a base."""
        if base >= len(self.tau):
            return self.sharpened[base - len(self.tau)].at(rows, tokens, log_p)
        tempered: Floats = self.tau[base] * log_p - self.log_z[rows, base][:, None]
        return tempered

    def log_base_beyond(self, base: int, rows: NDArray[Any], log_p: Floats) -> Floats:
        """[rows] the most that a base can give to a token that it does not sharpen and that has at most `log_p`."""
        if base < len(self.tau):
            bound: Floats = self.tau[base] * log_p - self.log_z[rows, base]
            return bound
        one = self.sharpened[base - len(self.tau)]
        beyond: Floats = one.tau * log_p + (one.rest - one.log_z)[rows]
        return beyond

    @property
    def tokens(self) -> Floats:
        """[gates, units] number of rows."""
        cell = self.gate * self.units + self.unit
        return np.bincount(cell, minlength=self.gates * self.units).reshape(self.gates, self.units).astype(np.float64)

    def base(self) -> Floats:
        """[bases, units] log-likelihood of each base less that of p."""
        over = self.log_base(np.arange(len(self.log_prob))) - self.log_prob
        return np.stack([np.bincount(self.unit, weights=row, minlength=self.units) for row in over])


@dataclass(frozen=True, kw_only=True)
class Table:
    """Summed log-likelihood over that of the base alone.

    linear: [bases, alphas, weights, gates, units]; geometric: [bases, finite alphas, weights, units].
    """

    linear: Floats
    geometric: Floats


def build(rows: Rows, arm: Candidates) -> Table:
    """Tables of an arm at every base. Rows are taken in blocks; sums are float64."""
    alphas, finite = len(rows.alphas), sum(np.isfinite(rows.alphas))
    bases = len(rows.tau) + len(rows.sharpened)
    weights = rows.weights
    linear = np.zeros((bases, alphas, len(weights), rows.gates * rows.units))
    geometric = np.zeros((bases, finite, len(weights), rows.gates * rows.units))
    cell = rows.gate * rows.units + rows.unit
    # a token that is no candidate: 1 − w of its base probability when linear, untouched when geometric
    missed = np.bincount(cell[arm.hit < 0], minlength=linear.shape[-1])
    linear += np.log1p(-weights)[:, None] * missed
    order = np.flatnonzero(arm.hit >= 0)
    order = order[np.argsort(cell[order], kind="stable")]
    for start in range(0, len(order), rows.block):
        mine = order[start : start + rows.block]
        edges = np.flatnonzero(np.r_[True, np.diff(cell[mine]) != 0])
        cells = cell[mine][edges]
        first, hit = arm.first[mine], arm.hit[mine]
        at = np.arange(len(mine))
        log_base = rows.log_base(mine)
        known = np.where(np.isfinite(first), first, 0.0)
        # log base at every candidate: for p^τ up to its normaliser, which cancels
        power = np.stack(
            [*(tau * known for tau in rows.tau), *(s.at(mine, arm.tokens[mine], known) for s in rows.sharpened)]
        )
        for a, alpha in enumerate(rows.alphas):
            factor = arm.factors[a, mine]
            log_q = mixing.log_power(first, factor, alpha)
            ratio = np.exp(log_q[at, hit] - log_base)  # q / base of the real token, [bases, rows]
            mixed = np.log((1 - weights[:, None]) + weights[:, None] * ratio[:, None, :])
            linear[:, a][..., cells] += np.add.reduceat(mixed, edges, axis=-1)
            if np.isfinite(alpha):
                over = _geometric(power, weights, log_q, hit)
                geometric[:, a][..., cells] += np.add.reduceat(over, edges, axis=-1)
    if not (np.isfinite(linear).all() and np.isfinite(geometric).all()):
        raise Refused("a mix has no finite likelihood: a probability underflowed; use smaller alphas or temperatures")
    by_gate = (len(weights), rows.gates, rows.units)
    return Table(
        linear=linear.reshape(bases, alphas, *by_gate),
        geometric=geometric.reshape(bases, finite, *by_gate).sum(axis=3),
    )


def _geometric(power: Floats, weights: Floats, log_q: Floats, hit: Ints) -> Floats:
    """[bases, weights, rows] log of geometric mix over base, of the real token (a candidate).

    With u = `power` = log base + any constant, [bases, rows, slots]:
    LSE_S(u) − w u_x + w log q_x − LSE_S((1−w) u + w log q).
    """
    at = np.arange(len(hit))
    inside = log_q > -np.inf
    kept = mixing.log_sum(np.where(inside, power, -np.inf))
    w = weights[:, None]
    total = np.zeros((len(power), len(weights), len(hit)))
    for slot in range(power.shape[2]):
        # slots that are no candidates have log q = −∞ and add nothing
        total += np.exp((1 - w) * power[:, None, :, slot] + w * log_q[:, slot])
    gained = log_q[at, hit] - power[:, at, hit]
    result: Floats = kept[:, None] + w * gained[:, None] - np.log(total)
    return result


def contenders(
    rows: Rows, base: Floats, table: Table, subsets: Sequence[NDArray[np.integer]], always: NDArray[np.integer]
) -> NDArray[np.int64]:
    """The bases that can win in any fold: what saves most of the work.

    On the whole text and for each subset of the α, a base's most flexible mix (gated without any penalty, or
    geometric) is compared with the best penalised one over all bases. It is left out where it loses by more than
    twelve standard errors of the difference over units for every subset: no choice of the units brings it back.
    Sharpened bases, which not every fold may use, stay, and so do those in `always`.
    """
    tokens, once = rows.tokens.sum(axis=0), np.ones(rows.units)
    finite = table.geometric.shape[1]
    by_weight = table.linear.sum(axis=-1)  # [taus, alphas, weights, gates]
    tempered = len(rows.tau)
    gate, kept = np.arange(rows.gates), {*always.tolist(), *range(tempered, len(base))}
    for subset in subsets:
        upper, lower, unit = [], [], []
        for t in range(tempered):
            options = [base[t]]
            worth = np.maximum(by_weight[t, subset].max(axis=1), 0.0)  # [subset, gates]
            a = subset[int(worth.sum(axis=1).argmax())]
            cells = table.linear[t, a, by_weight[t, a].argmax(axis=0), gate]  # [gates, units]
            options.append(base[t] + np.where(cells.sum(axis=1)[:, None] > 0, cells, 0.0).sum(axis=0))
            if len(smooth := subset[subset < finite]):
                powers = table.geometric[t, smooth].reshape(-1, rows.units)
                options.append(base[t] + powers[powers.sum(axis=1).argmax()])
            unit.append(max(options, key=lambda one: float(one.sum())))
            upper.append(float(unit[-1].sum()))
            # gates, α and what the base costs are the most that any of these can be charged
            lower.append(upper[-1] - rows.gates - 1.0 - float(rows.cost[t]))
        ahead = unit[int(np.argmax(lower))]
        for t in range(tempered):
            if max(lower) - upper[t] <= 12 * float(standard_error(ahead - unit[t], tokens, once)):
                kept.add(t)
    return np.asarray(sorted(kept), dtype=np.int64)
