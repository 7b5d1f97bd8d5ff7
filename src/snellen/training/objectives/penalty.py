"""Penalty: a bounded term that moves the model away from what is lookahead in q."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from snellen.errors import InputError
from snellen.training.objectives.base import Objective, Places
from snellen.training.objectives.movement import candidate_log_probs, check_control, difference, finite, probabilities


@dataclass(frozen=True, kw_only=True)
class Penalty(Objective):
    """v2: + λ log(1 + ⟨v, p⟩) at each place, v = stop(q_D − q_1)₊ the probability that lookahead adds.

    Held at zero: nothing; a trade between the likelihood and the mass on what lookahead adds, at the rate λ. It pushes
    whether or not the model would have moved there, so it costs likelihood also where there is nothing to plan.

    Why it cannot run off: v lies in [0, 1], so the term lies in [0, λ log 2], and its gradient in the logits,
    λ p(a) (v(a) − v̄) / (1 + v̄) with v̄ = ⟨v, p⟩, dies out with p(a), while the pull of the cross-entropy back to the
    truth π does not. Where the two cancel,

        π(a) = p(a) · (1 + λ (v(a) − v̄) / (1 + v̄))   so   p(a) ≥ π(a) / (1 + λ)   and   KL(π‖p) ≤ log(1 + λ),

    at every context whose logits are free, and whatever v is there, q being of the current weights (the logarithm in
    the term is what bounds the gradient by λ/4 an entry; a linear −λ ⟨v, log p⟩ would be unbounded below).

    strength: λ > 0. against: "horizon 1", or "naive" for v = (q_D − p)₊ with sharpening in it.
    """

    method: ClassVar[str] = "penalty"
    strength: float = 1.0
    against: str = "horizon 1"

    def __post_init__(self) -> None:
        check_control(self.against)
        if not 0 < self.strength < math.inf:
            raise InputError(f"strength = {self.strength!r}: must be a number above 0 (method ordinary is without)")

    @torch.no_grad()
    def signal(self, places: Places) -> Float[Tensor, "places"]:
        """⟨v, p⟩, a probability."""
        p, inside = probabilities(places)
        return (self._added(places, inside) * inside).sum(-1).to(p.dtype)

    def penalty(self, places: Places) -> Float[Tensor, "places"]:
        inside = candidate_log_probs(places).exp()
        added = self._added(places, inside.detach()).to(inside.dtype)
        return self.strength * torch.log1p((added * inside).sum(-1))

    def figures(self, signal: Float[Tensor, "all"], weights: Float[Tensor, "all"]) -> Mapping[str, float]:
        finite(signal)
        return {
            "probability on what lookahead adds, mean": float(signal.mean()),
            "penalty, nats per token": float(self.strength * signal.log1p().mean()),
        }

    def _added(self, places: Places, naive: Tensor) -> Tensor:
        control = naive if self.against == "naive" else places.amplified.control
        return difference(places.amplified.lookahead, control).clamp_min(0.0)
