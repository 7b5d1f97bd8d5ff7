"""Skip: tokens that lookahead predicts better are left out of the update."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from snellen.training.objectives.base import Objective, Places
from snellen.training.objectives.movement import check_control, difference, finite


@dataclass(frozen=True, kw_only=True)
class Skip(Objective):
    """v1: weight 0 where the real token is likelier under the amplified prediction than under its control.

    Held at zero: the updates on those tokens. No step raises p(x) at a place because x was the token there and
    q_D(x) > q_1(x).

    Not held at zero: movement away from lookahead. Tokens that lookahead predicts worse are all learned, so the sum of
    movements leans away from q_D, and with fixed distributions the fixed point has no mass at all on the tokens
    that are skipped: at a context with truth π, p(a) = π(a) / π(kept) on those that are kept. That it stops short of
    there is only since q_D and q_1 are of the current weights. So skipping costs likelihood even where there is nothing
    to plan (docs/stunting.md has the figures), and `balance` is its mend.

    against: what the lookahead must beat. "horizon 1" is the same search without depth. "naive" is the simplest
    version, q_D(x) > p(x): then sharpening is skipped too, the more the surer the model is, and it ends far from the
    truth with no future at all.
    """

    method: ClassVar[str] = "skip"
    against: str = "horizon 1"

    def __post_init__(self) -> None:
        check_control(self.against)

    @torch.no_grad()
    def signal(self, places: Places) -> Float[Tensor, "places"]:
        """q_D(x) − q_1(x), or q_D(x) − p(x)."""
        lookahead, control = places.amplified.of(places.targets)
        if self.against == "naive":
            logits = places.logits if places.logits.dtype == torch.float64 else places.logits.float()
            real = logits.gather(-1, places.targets[:, None])[:, 0] - logits.logsumexp(-1)
            control = real.exp().masked_fill(places.amplified.lookahead.sum(-1) == 0, 0.0)
        return difference(lookahead, control)

    def weights(self, signal: Float[Tensor, "all"], keys: Int[Tensor, "all"]) -> Float[Tensor, "all"]:
        return (~(finite(signal) > 0)).to(signal.dtype)

    def figures(self, signal: Float[Tensor, "all"], weights: Float[Tensor, "all"]) -> Mapping[str, float]:
        return {
            "share of tokens trained on": float(weights.mean()),
            "probability that lookahead adds to the real token, mean": float(signal.mean()),
        }
