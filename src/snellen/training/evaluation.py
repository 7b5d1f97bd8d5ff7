"""The loss of an evaluation: the mean over all tokens that count, however rows were dealt into batches."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from snellen.training.columns import IGNORED


def losses_of_rows(
    logits: Float[Tensor, "batch pos vocab"], labels: Int[Tensor, "batch pos"], *, smoothing: float = 0.0
) -> Float[Tensor, "batch 2"]:
    """For each row the sum of its targets' cross-entropies, in nats, and their number."""
    wanted = labels[:, 1:] != IGNORED
    losses = F.cross_entropy(
        logits[:, :-1][wanted].float(), labels[:, 1:][wanted], reduction="none", label_smoothing=smoothing
    )
    sums = losses.new_zeros(len(labels)).index_add_(0, wanted.nonzero()[:, 0], losses)
    return torch.stack([sums, wanted.sum(1).to(sums.dtype)], dim=1)


class TokenMean:
    """Σ loss / Σ number over the rows of an evaluation."""

    def __init__(self) -> None:
        self._sums = torch.zeros(2, dtype=torch.float64)

    def add(self, rows: Float[Tensor, "batch 2"]) -> None:
        self._sums += rows.detach().cpu().double().sum(0)

    @property
    def value(self) -> float | None:
        """None: no token was evaluated."""
        total, number = self._sums.tolist()
        return total / number if number else None
