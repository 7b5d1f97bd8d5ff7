"""Tables of log-likelihood by setting and unit: after these, fitting on any resample is a weighted sum and an argmax.

A *setting* is (base exponent τ, α, kind of mix, weight). `build` sums, for each setting and unit, the log-likelihood
over that of the base at the same τ; `select` fits on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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

    @property
    def tokens(self) -> Floats:
        """[gates, units] number of rows."""
        cell = self.gate * self.units + self.unit
        return np.bincount(cell, minlength=self.gates * self.units).reshape(self.gates, self.units).astype(np.float64)

    def base(self) -> Floats:
        """[taus, units] log-likelihood of p^τ/Z less that of p."""
        over = (self.tau * self.log_prob[:, None] - self.log_z) - self.log_prob[:, None]
        return np.stack([np.bincount(self.unit, weights=column, minlength=self.units) for column in over.T])


@dataclass(frozen=True, kw_only=True)
class Table:
    """Summed log-likelihood over that of the base at the same τ.

    linear: [taus, alphas, weights, gates, units]; geometric: [taus, finite alphas, weights, units].
    """

    linear: Floats
    geometric: Floats


def build(rows: Rows, arm: Candidates, taus: int) -> Table:
    """Tables of an arm at the first `taus` exponents of the base. Rows are taken in blocks; sums are float64."""
    alphas, finite = len(rows.alphas), sum(np.isfinite(rows.alphas))
    weights = rows.weights
    linear = np.zeros((taus, alphas, len(weights), rows.gates * rows.units))
    geometric = np.zeros((taus, finite, len(weights), rows.gates * rows.units))
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
        log_base = rows.tau[:taus, None] * rows.log_prob[mine] - rows.log_z[mine, :taus].T  # [taus, rows]
        for a, alpha in enumerate(rows.alphas):
            factor = arm.factors[a, mine]
            log_q = mixing.log_power(first, factor, alpha)
            ratio = np.exp(log_q[at, hit] - log_base)  # q / base of the real token, [taus, rows]
            mixed = np.log((1 - weights[:, None]) + weights[:, None] * ratio[:, None, :])
            linear[:, a][..., cells] += np.add.reduceat(mixed, edges, axis=-1)
            if np.isfinite(alpha):
                inside = factor > -np.inf
                over = _geometric(rows.tau[:taus], weights, np.where(inside, first, 0.0), log_q, hit)
                geometric[:, a][..., cells] += np.add.reduceat(over, edges, axis=-1)
    if not (np.isfinite(linear).all() and np.isfinite(geometric).all()):
        raise Refused("a mix has no finite likelihood: a probability underflowed; use smaller alphas or temperatures")
    by_gate = (len(weights), rows.gates, rows.units)
    return Table(
        linear=linear.reshape(taus, alphas, *by_gate), geometric=geometric.reshape(taus, finite, *by_gate).sum(axis=3)
    )


def _geometric(tau: Floats, weights: Floats, first: Floats, log_q: Floats, hit: Ints) -> Floats:
    """[taus, weights, rows] log of geometric mix over base, of the real token (a candidate).

    With u = τ log p, whose normaliser cancels: LSE_S(u) − w u_x + w log q_x − LSE_S((1−w) u + w log q).
    """
    at = np.arange(len(hit))
    power = tau[:, None, None] * first  # [taus, rows, slots]
    inside = log_q > -np.inf
    kept = mixing.log_sum(np.where(inside, power, -np.inf))
    w = weights[:, None]
    total = np.zeros((len(tau), len(weights), len(hit)))
    for slot in range(first.shape[1]):
        # slots that are no candidates have log q = −∞ and add nothing
        total += np.exp((1 - w) * power[:, None, :, slot] + w * log_q[:, slot])
    gained = log_q[at, hit] - power[:, at, hit]
    result: Floats = kept[:, None] + w * gained[:, None] - np.log(total)
    return result


def contenders(
    rows: Rows, base: Floats, table: Table, subsets: Sequence[NDArray[np.integer]], always: NDArray[np.integer]
) -> NDArray[np.int64]:
    """The exponents of the base that can win in any resample: what saves most of the work.

    On the whole text and for each subset of the α, an exponent's most flexible mix (gated without any penalty, or
    geometric) is compared with the best penalised one over all exponents. It is left out where it loses by more than
    twelve standard errors of the difference over units for every subset: no resample of the units brings it back.
    Those in `always` stay.
    """
    tokens, once = rows.tokens.sum(axis=0), np.ones(rows.units)
    finite = table.geometric.shape[1]
    by_weight = table.linear.sum(axis=-1)  # [taus, alphas, weights, gates]
    gate, kept = np.arange(rows.gates), set(always.tolist())
    for subset in subsets:
        upper, lower, unit = [], [], []
        for t in range(len(base)):
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
            # gates, α and τ are the most that any of these can be charged
            lower.append(upper[-1] - rows.gates - 2.0)
        ahead = unit[int(np.argmax(lower))]
        for t in range(len(base)):
            if max(lower) - upper[t] <= 12 * float(standard_error(ahead - unit[t], tokens, once)):
                kept.add(t)
    return np.asarray(sorted(kept), dtype=np.int64)
