"""The fitted mixes, token by token: what the columns of `tokens.parquet` show. The slow way, through `mixing`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from snellen.lookahead import mixing
from snellen.measures.lookahead_gain.arms import Candidates
from snellen.measures.lookahead_gain.fit import Rows, Sharpened
from snellen.measures.lookahead_gain.selection import Setting

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
SHOWN = 10  # tokens of the amplified distribution that are kept for the report


def log_probs(rows: Rows, arm: Sequence[Candidates], settings: Sequence[Setting], fold: NDArray[np.integer]) -> Floats:
    """[n] log of the mix at the real token, each row under the setting of its fold.

    `fold` is [units]; `arm` holds the alternatives that `Setting.choice` names (none are needed for a bare base).
    """
    out = np.empty(len(rows.log_prob))
    for k, setting in enumerate(settings):
        mine = fold[rows.unit] == k
        base = rows.log_base(mine)[setting.tau]
        if setting.kind == "none":
            out[mine] = base
            continue
        candidates = arm[setting.choice].rows(mine)
        over = _over_candidates(rows, mine, candidates, setting)
        at = np.maximum(candidates.hit, 0)[:, None]
        inside = np.take_along_axis(over, at, axis=1)[:, 0]
        outside = mixing.linear(base, np.full_like(base, -np.inf), _weight(rows, mine, setting))
        out[mine] = np.where(candidates.hit >= 0, inside, base if setting.kind == "geometric" else outside)
    return out


def most_probable(
    rows: Rows,
    top_tokens: NDArray[np.int32],
    top_log_probs: Floats,
    arm: Sequence[Candidates],
    settings: Sequence[Setting],
    fold: NDArray[np.integer],
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The ten most probable tokens of the mix and their probabilities, [n, 10]; −1 and 0 where not known for sure.

    Known are the naive top tokens and the candidates; any other token has at most (1−w) times what the base would give
    the last naive top token without sharpening it, so entries below that are left out.
    """
    n = len(rows.log_prob)
    tokens, probs = np.full((n, SHOWN), -1, dtype=np.int32), np.zeros((n, SHOWN), dtype=np.float32)
    for k, setting in enumerate(settings):
        mine = fold[rows.unit] == k
        known, some = top_tokens[mine], top_tokens[mine] >= 0
        log_p = np.where(some, top_log_probs[mine], 0.0)
        base = np.where(some, rows.log_base_at(setting.tau, mine, known, log_p), -np.inf)
        last = np.where(some.all(axis=1), rows.log_base_beyond(setting.tau, mine, log_p[:, -1]), -np.inf)
        if setting.kind != "none":
            candidates = arm[setting.choice].rows(mine)
            over = _over_candidates(rows, mine, candidates, setting)
            inside = over > -np.inf
            weight = _weight(rows, mine, setting)
            rest = base if setting.kind == "geometric" else base + np.log1p(-weight)[:, None]
            last = last if setting.kind == "geometric" else last + np.log1p(-weight)
            covered = ((known[:, :, None] == candidates.tokens[:, None]) & inside[:, None]).any(axis=2)
            known = np.concatenate([np.where(covered, -1, known), np.where(inside, candidates.tokens, -1)], axis=1)
            base = np.concatenate([np.where(covered, -np.inf, rest), over], axis=1)
        base = np.where((known >= 0) & (base >= last[:, None] - 1e-12), base, -np.inf)
        best = np.argsort(-base, axis=1, kind="stable")[:, :SHOWN]
        value = np.take_along_axis(base, best, axis=1)
        width = best.shape[1]
        tokens[mine, :width] = np.where(value > -np.inf, np.take_along_axis(known, best, axis=1), -1)
        probs[mine, :width] = np.exp(value)
    return tokens, probs


def sharpened(rows: Rows, arm: Sequence[Candidates], setting: Setting) -> Sharpened:
    """One fit of `horizon 1` as a base: its mix at every row. `rows` holds no sharpened base itself."""
    everywhere = np.ones(len(rows.log_prob), dtype=bool)
    candidates, weight = arm[setting.choice], _weight(rows, everywhere, setting)
    open_ = 1 if setting.kind != "gated" else int((setting.weights > 0).sum())
    return Sharpened(
        tau=float(rows.tau[setting.tau]),
        log_z=rows.log_z[:, setting.tau],
        tokens=candidates.tokens,
        over=_over_candidates(rows, everywhere, candidates, setting),
        rest=np.zeros_like(weight) if setting.kind == "geometric" else np.log1p(-weight),
        real=log_probs(rows, arm, [setting], np.zeros(rows.units, dtype=np.int8)),
        cost=float(rows.tau[setting.tau] != 1) + 1.0 + open_ + (len(arm) > 1),
    )


def _weight(rows: Rows, mine: Bools, setting: Setting) -> Floats:
    return setting.weights[rows.gate[mine]]


def _over_candidates(rows: Rows, mine: Bools, candidates: Candidates, setting: Setting) -> Floats:
    """[rows, slots] log of the mix at each candidate; −∞ where a slot is none."""
    factor = candidates.factors[setting.alpha]
    inside = factor > -np.inf
    log_q = mixing.log_power(candidates.first, factor, rows.alphas[setting.alpha])
    first = np.where(inside, candidates.first, 0.0)
    base = np.where(inside, rows.log_base_at(setting.tau, mine, candidates.tokens, first), -np.inf)
    weight = _weight(rows, mine, setting)
    if setting.kind == "geometric":
        return mixing.geometric(base, log_q, weight)
    return mixing.linear(base, log_q, weight[:, None])
