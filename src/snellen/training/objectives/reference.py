"""The slow twins of `movement` and `balanced`: the formulas, one place after another, in float64."""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor

from snellen.training.objectives.base import Places


def dense(tokens: Tensor, probs: Tensor, vocabulary: int) -> Tensor:
    """A distribution over candidates as one over the vocabulary."""
    out = torch.zeros(vocabulary, dtype=torch.float64)
    for token, prob in zip(tokens.tolist(), probs.tolist(), strict=True):
        if token >= 0:
            out[token] += prob
    return out


def movement(places: Places, against: str = "horizon 1") -> Tensor:
    """⟨q_D − q_1, 1_x − p⟩ of each place; ⟨q_D − p, 1_x − p⟩ against naive."""
    out = []
    for row, target in enumerate(places.targets.tolist()):
        p = places.logits[row].detach().double().softmax(-1)
        lookahead = dense(places.amplified.tokens[row], places.amplified.lookahead[row], len(p))
        control = (
            p if against == "naive" else dense(places.amplified.tokens[row], places.amplified.control[row], len(p))
        )
        real = torch.zeros_like(p)
        real[target] = 1
        searched = float(lookahead.sum() > 0)
        out.append(searched * ((lookahead - control) * (real - p)).sum())
    return torch.stack(out)


def balanced(movements: list[float], keys: list[int]) -> list[float]:
    """Weights with Σ weight · movement = 0: first in number, then in magnitude; in rational numbers."""
    groups = [[i for i, m in enumerate(movements) if m * sign > 0] for sign in (1, -1)]
    number = min(map(len, groups))
    weights = [Fraction(1)] * len(movements)
    for group in groups:
        for i in group:
            lower = sum(keys[j] < keys[i] for j in group)
            equal = sum(keys[j] == keys[i] for j in group)
            weights[i] = Fraction(min(max(number - lower, 0), equal), equal)
    totals = [sum((weights[i] * abs(Fraction(movements[i])) for i in group), Fraction(0)) for group in groups]
    for group, total in zip(groups, totals, strict=True):
        for i in group:
            weights[i] *= min(totals) / total if total else 0
    return [float(w) for w in weights]
