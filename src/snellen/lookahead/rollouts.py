"""What a lookahead from every position found, and the predictions that follow from it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from snellen.errors import InputError
from snellen.kinds import checked


@dataclass(frozen=True, kw_only=True, eq=False)
class Rollouts:
    """What beam search kept at each depth, from every position of a batch of texts.

    Depth-d beams are not prefixes of the depth-D survivors, so each depth is kept with the slots of its parents;
    thus every exponent and every horizon d ≤ D is exact without running again. All tensors are on the CPU.

    Attributes
    ----------
    step_tokens: Int [batch, pos, depth, width]
        The newest token of each survivor, best first; −1 where fewer survive than `width`.
    step_parents: Int [batch, pos, depth, width]
        The slot, at the depth before, of the branch that it continues; −1 at the first depth and where empty.
    step_log_probs: Float [batch, pos, depth, width]
        log p(newest token | text, branch before it) under the naive model, nats; −inf where empty.
    naive: Float [batch, pos − 1]
        log p(x_{t+1} | x_≤t), nats: the naive prediction of the text's own next token at each position but the last.
    positions: Int [pos]
        The positions that were searched from (all of the text's unless asked otherwise).
    """

    step_tokens: Int[Tensor, "batch pos depth width"]
    step_parents: Int[Tensor, "batch pos depth width"]
    step_log_probs: Float[Tensor, "batch pos depth width"]
    naive: Float[Tensor, "batch next"]
    positions: Int[Tensor, "pos"]

    @property
    def horizon(self) -> int:
        return self.step_tokens.shape[2]

    @property
    def width(self) -> int:
        return self.step_tokens.shape[3]

    @cached_property
    def tokens(self) -> Int[Tensor, "batch pos width horizon"]:
        """Completions at the full horizon, best first; those of position t start after t. −1 where empty."""
        return self.completions(self.horizon)[0]

    @cached_property
    def log_probs(self) -> Float[Tensor, "batch pos width horizon"]:
        """Log-probability of each token of each completion under the naive model; −inf where empty."""
        return self.completions(self.horizon)[1]

    @checked
    def completions(
        self, horizon: int
    ) -> tuple[Int[Tensor, "batch pos width horizon"], Float[Tensor, "batch pos width horizon"]]:
        """The survivors at depth `horizon`, each traced back to its first token: tokens and log-probabilities."""
        self._check(horizon)
        return traced(self.step_tokens, self.step_parents, self.step_log_probs, horizon)

    @checked
    def next_token(
        self, alpha: float = 1.0, horizon: int | None = None
    ) -> tuple[Int[Tensor, "batch pos width"], Float[Tensor, "batch pos width"]]:
        """The power lookahead q_{α,d} over the first tokens of the survivors at depth d = `horizon`.

        q(a) ∝ Σ over the survivors c with c₁ = a of p(c)^α: α = 0 gives one vote to each, α = ∞ all mass to the
        first token of the most probable. Computed in float64.

        Returns
        -------
        (token_ids, probs), each [batch, pos, width], most probable first: duplicates merged (id −1, probability 0),
        the probabilities of a position sum to 1.

        Raises
        ------
        InputError
            α negative or NaN, or a horizon that was not searched.
        """
        if math.isnan(alpha) or alpha < 0:
            raise InputError(f"alpha {alpha}: the exponent must be 0 or more (inf for the best completion alone)")
        tokens, log_probs = self.completions(self.horizon if horizon is None else horizon)
        first = tokens[..., 0]
        score = log_probs.double().sum(-1)
        if math.isinf(alpha):
            weight = (score == score.amax(-1, keepdim=True)).double()
            weight = weight * (weight.cumsum(-1) == 1)
        else:
            scaled = alpha * score if alpha else torch.zeros_like(score)
            weight = torch.exp(scaled - torch.where(first < 0, -torch.inf, scaled).amax(-1, keepdim=True))
        return votes(first, weight)

    def _check(self, horizon: int) -> None:
        if not 1 <= horizon <= self.horizon:
            raise InputError(f"horizon {horizon}: searched were 1 to {self.horizon}")


def traced(
    step_tokens: Int[Tensor, "batch pos depth width"],
    step_parents: Int[Tensor, "batch pos depth width"],
    step_log_probs: Float[Tensor, "batch pos depth width"],
    horizon: int,
) -> tuple[Int[Tensor, "batch pos width horizon"], Float[Tensor, "batch pos width horizon"]]:
    """Each survivor at depth `horizon`, traced back: tokens and log-probabilities (−1 and −inf where empty)."""
    slot = torch.arange(step_tokens.shape[3], device=step_tokens.device).expand(*step_tokens.shape[:2], -1)
    empty = step_tokens[:, :, horizon - 1] < 0
    tokens, log_probs = [], []
    for depth in range(horizon - 1, -1, -1):
        tokens.append(step_tokens[:, :, depth].gather(-1, slot))
        log_probs.append(step_log_probs[:, :, depth].gather(-1, slot))
        slot = step_parents[:, :, depth].gather(-1, slot).clamp_min(0)
    tokens_out = torch.stack(tokens[::-1], dim=-1).masked_fill_(empty[..., None], -1)
    return tokens_out, torch.stack(log_probs[::-1], dim=-1).masked_fill_(empty[..., None], -torch.inf)


def votes(
    first: Int[Tensor, "batch pos width"], weight: Float[Tensor, "batch pos width"]
) -> tuple[Int[Tensor, "batch pos width"], Float[Tensor, "batch pos width"]]:
    """Weighted first tokens (−1: empty) as a distribution over them, most probable first: ids and probabilities."""
    weight = weight.masked_fill(first < 0, 0.0)
    same = first[..., :, None] == first[..., None, :]
    merged = (same * weight[..., None, :]).sum(-1)
    earlier = (same & torch.ones_like(same).tril(-1)).any(-1)
    merged = merged.masked_fill(earlier | (first < 0), 0.0)
    probs, order = (merged / merged.sum(-1, keepdim=True)).sort(dim=-1, descending=True, stable=True)
    ids = first.gather(-1, order).masked_fill(probs == 0, -1)
    return ids, probs
