"""The amplified distribution of one next token: the power lookahead of a search, mixed with the model's prediction.

`mixing` has the same for whole texts, where a mix is fitted, and the formulas.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from snellen.errors import InputError
from snellen.kinds import MOST, check_fields
from snellen.lookahead.growing import Branch

MIXES = ("linear", "geometric")


@dataclass(frozen=True, kw_only=True)
class Amplification:
    """How a prediction is amplified: search, exponent and mix, with their only defaults.

    Parameters
    ----------
    width, horizon
        W branches, D tokens deep.
    alpha
        Exponent α ≥ 0 of a completion's probability; 0 counts votes, inf takes the best completion alone.
    weight
        w in [0, 1], that of the lookahead q in the mix.
    mix
        "linear", (1 − w) p + w q; or "geometric", p^(1−w) q^w among the candidates of q, which keep the probability
        that they have together, and p elsewhere.
    """

    width: int = 4
    horizon: int = 4
    alpha: float = 2.0
    weight: float = 0.2
    mix: str = "linear"

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("width", "horizon"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{name} {value}: must be a whole number of at least 1")
            if value > MOST:
                raise InputError(f"{name} {value}: must be at most {MOST}")
        if not 0 <= self.weight <= 1:
            raise InputError(f"weight {self.weight}: must lie between 0 and 1")
        if not self.alpha >= 0:
            raise InputError(f"alpha {self.alpha}: must be 0 or more (inf for the best completion alone)")
        if self.mix not in MIXES:
            raise InputError(f"mix {self.mix!r}: must be one of {', '.join(MIXES)}")
        if self.mix == "geometric" and math.isinf(self.alpha):
            raise InputError("alpha inf: leaves one candidate, which has no geometric mix; take mix=linear")


def log_power(survivors: Sequence[Branch], alpha: float) -> dict[int, float]:
    """log q_{α,D} of the first tokens of these survivors (those of depth D): q(a) ∝ Σ over c with c₁ = a of p(c)^α.

    As `Rollouts.next_token`, but in logarithms, so that nothing underflows; at α = ∞ ties go to the first.
    """
    if math.isinf(alpha):
        return {max(survivors, key=lambda branch: branch.total).root: 0.0}
    scores: dict[int, list[float]] = {}
    for branch in survivors:
        scores.setdefault(branch.root, []).append(alpha * branch.total)
    logs = {token: _log_sum(values) for token, values in scores.items()}
    norm = _log_sum(list(logs.values()))
    return {token: value - norm for token, value in logs.items()}


def mixed(logits: Float[Tensor, "vocab"], log_q: dict[int, float], how: Amplification) -> Float[Tensor, "vocab"]:
    """The amplified distribution, as float32 log-probabilities; `logits` are the model's own."""
    log_p = logits.log_softmax(-1)
    tokens = torch.tensor(list(log_q), device=logits.device)
    q = torch.tensor(list(log_q.values()), device=logits.device, dtype=torch.float32)
    if how.mix == "linear":
        probs = (1 - how.weight) * log_p.exp()
        return probs.index_add_(0, tokens, how.weight * q.exp()).log_()
    inside = log_p[tokens]
    score = (1 - how.weight) * inside + how.weight * q
    return log_p.index_copy(0, tokens, score - score.logsumexp(0) + inside.logsumexp(0))


def _log_sum(values: Sequence[float]) -> float:
    top = max(values)
    return top + math.log(sum(math.exp(value - top) for value in values))
