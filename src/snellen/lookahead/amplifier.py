"""A model together with its lookahead: the amplified next-token distribution."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from snellen.errors import InputError
from snellen.lookahead.beam_search import beam


@dataclass(frozen=True, kw_only=True)
class _Settings:
    width: int = 4
    horizon: int = 4
    alpha: float = 2.0
    weight: float = 0.2

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise InputError(f"weight {self.weight}: must lie between 0 and 1")
        if not self.alpha >= 0:
            raise InputError(f"alpha {self.alpha}: must be 0 or more (inf for the best completion alone)")


class Lookahead:
    """Wraps a model: linear mix (1 − weight) p + weight q_{α,D} of its own prediction with the power lookahead.

    Parameters
    ----------
    model
        A causal language model in eval mode.
    width, horizon, alpha, weight
        W and D of the beam search, the exponent α, and the weight of q in the mix.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        width: int = 4,
        horizon: int = 4,
        alpha: float = 2.0,
        weight: float = 0.2,
    ) -> None:
        self.model = model
        self.settings = _Settings(width=width, horizon=horizon, alpha=alpha, weight=weight)

    @torch.no_grad()
    def next_token(
        self, input_ids: Int[Tensor, "batch pos"], *, memory: int | str = "1GB"
    ) -> Float[Tensor, "batch vocab"]:
        """The amplified distribution of the token after the last one: probabilities, [batch, vocab]."""
        s, last = self.settings, input_ids.shape[1] - 1
        rollouts = beam(self.model, input_ids, s.width, s.horizon, memory=memory, positions=(last, last + 1))
        ids, q = (x[:, 0].to(self.model.device) for x in rollouts.next_token(alpha=s.alpha))
        logits = self.model(input_ids=input_ids.to(self.model.device), use_cache=False).logits[:, -1]
        p: Tensor = logits.float().softmax(-1)
        return ((1 - s.weight) * p).scatter_add_(-1, ids.clamp_min(0), s.weight * q.float())
