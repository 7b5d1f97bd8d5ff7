"""What in the amplified prediction is lookahead, and how far the update at a place moves towards it.

In the logits of one place, a step on its cross-entropy goes along 1_x − p. The lookahead part of the amplified
prediction is δ = q_D − q_1: the same search, deep less shallow, so that sharpening is no part of
it. Along δ the step moves by m = ⟨δ, 1_x − p⟩: above 0 towards lookahead, below 0 away from it.

`against="naive"` takes δ = q_D − p instead, sharpening and the cut to the candidates included: the simplest
idea, and what stunts sharpening alone when the horizon is 1 (where q_D = q_1, and nothing would be left).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from snellen.errors import InputError, Refused
from snellen.training.objectives.base import Places

CONTROLS = ("horizon 1", "naive")

# Log-probabilities come in float32. A difference below this share of what it is a difference of may be rounding, whose
# sign would count in full where places are counted by sign.
VOUCHED = 1e-5


def check_control(against: str) -> None:
    """InputError where `against` names no control."""
    if against not in CONTROLS:
        raise InputError(f"against = {against!r}: must be one of {', '.join(map(repr, CONTROLS))}")


def difference(lookahead: Float[Tensor, "*n"], control: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """lookahead − control, and exactly 0 where float32 cannot vouch for its sign."""
    delta = lookahead - control
    return delta.masked_fill(delta.abs() <= VOUCHED * (lookahead + control), 0.0)


def probabilities(places: Places) -> tuple[Float[Tensor, "places vocab"], Float[Tensor, "places candidates"]]:
    """p without gradient, at least in float32: of the vocabulary, and of the candidates (0 for an empty one)."""
    logits, tokens = places.logits.detach(), places.amplified.tokens
    p = (logits if logits.dtype == torch.float64 else logits.float()).softmax(-1)
    return p, p.gather(-1, tokens.clamp_min(0)).masked_fill(tokens < 0, 0.0)


def candidate_log_probs(places: Places) -> Float[Tensor, "places candidates"]:
    """log p of the candidates, with gradient; −∞ for an empty one."""
    logits, tokens = places.logits, places.amplified.tokens
    logits = logits if logits.dtype == torch.float64 else logits.float()
    inside = logits.gather(-1, tokens.clamp_min(0)) - logits.logsumexp(-1, keepdim=True)
    return inside.masked_fill(tokens < 0, -torch.inf)


@torch.no_grad()
def movement(places: Places, against: str = "horizon 1") -> Float[Tensor, "places"]:
    """m = ⟨q_D − q_1, 1_x − p⟩ of each place, or ⟨q_D − p, 1_x − p⟩; 0 where nothing was searched.

    Against horizon 1 both sum to 1 over the candidates, so that δ(x) = −Σ_{a≠x} δ(a) and

        m = δ(x) (1 − p(x)) − Σ_{a≠x} δ(a) p(a)

    is had without taking a number near 1 from another: a movement of 1e-9, at a place that the model is sure of, still
    has its sign.
    """
    p, inside = probabilities(places)
    amplified, targets = places.amplified, places.targets[:, None]
    if against == "naive":
        searched = amplified.lookahead.sum(-1) > 0
        real = amplified.of(places.targets)[0] - p.gather(-1, targets)[:, 0]
        m = real - (amplified.lookahead * inside).sum(-1) + p.square().sum(-1)
        return m.masked_fill(~searched, 0.0).to(p.dtype)
    hit = amplified.tokens == targets
    others = difference(amplified.lookahead, amplified.control).masked_fill(hit, 0.0)
    rest = p.scatter_(-1, targets, 0.0).sum(-1)
    return (-others.sum(-1) * hit.any(-1) * rest - (others * inside).sum(-1)).to(p.dtype)


def away(places: Places, against: str = "horizon 1") -> Float[Tensor, ""]:
    """Σ over the places of ⟨stop(q_1 − q_D), logits⟩, whose gradient is the direction away from lookahead."""
    amplified = places.amplified
    chosen = places.logits.gather(-1, amplified.tokens.clamp_min(0))
    if against == "horizon 1":
        delta = difference(amplified.lookahead, amplified.control).to(chosen.dtype)
        return -(delta * chosen.masked_fill(amplified.tokens < 0, 0.0)).sum()
    searched = amplified.lookahead.sum(-1, keepdim=True) > 0
    toward = (amplified.lookahead.to(chosen.dtype) * chosen.masked_fill(amplified.tokens < 0, 0.0)).sum()
    p = probabilities(places)[0].masked_fill(~searched, 0.0).to(chosen.dtype)
    return (p * places.logits.masked_fill(p == 0, 0.0)).sum() - toward


def finite(signal: Float[Tensor, "all"]) -> Float[Tensor, "all"]:
    """The signal as given; Refused where a place of it is no number, since its tokens could not be weighed."""
    bad = int((~signal.isfinite()).sum())
    if bad:
        raise Refused(f"movement: not a number at {bad} of {len(signal)} places; the model's logits are not finite")
    return signal
