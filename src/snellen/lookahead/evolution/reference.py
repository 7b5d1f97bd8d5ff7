"""Pseudo-log-likelihood and the Metropolis–Hastings kernel by brute force: one plain forward pass a gap.

The slow twins of `conditionals` and `chains`; give them a float64 model.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor
from transformers import PreTrainedModel


@torch.no_grad()
def conditional(model: PreTrainedModel, row: Tensor, place: int, mask: int) -> Tensor:
    """log p(· | row without its place): [pos] → [vocab]."""
    gapped = row.clone()
    gapped[place] = mask
    logits: Tensor = model(input_ids=gapped[None]).logits
    return logits[0, place].double().log_softmax(-1)


def energy(model: PreTrainedModel, row: Tensor, places: range, mask: int) -> float:
    """E = −Σ_t log p(x_t | x_∖t) over some places of a row (Goyal et al. 2021, locally normalised)."""
    return -sum(float(conditional(model, row, place, mask)[row[place]]) for place in places)


def kernel(
    model: PreTrainedModel, tokens: list[int], length: int, mask: int, *, temperature: float, proposal: float
) -> tuple[list[tuple[int, ...]], Tensor, Tensor]:
    """All texts of `length` tokens, π ∝ exp(−E / temperature), and the chain's transition matrix [texts texts]."""
    texts = list(itertools.product(tokens, repeat=length))
    number = {text: i for i, text in enumerate(texts)}
    energies = [energy(model, torch.tensor(text), range(length), mask) for text in texts]
    matrix = torch.zeros(len(texts), len(texts), dtype=torch.float64)
    for text, place in itertools.product(texts, range(length)):
        x = number[text]
        log_q = (conditional(model, torch.tensor(text), place, mask)[tokens] / proposal).log_softmax(-1)
        for new, token in enumerate(tokens):
            y = number[(*text[:place], token, *text[place + 1 :])]
            ratio = (energies[x] - energies[y]) / temperature + log_q[tokens.index(text[place])] - log_q[new]
            moves = log_q[new].exp() * min(1.0, float(ratio.exp())) / length
            matrix[x, y] += moves
            matrix[x, x] += log_q[new].exp() / length - moves
    return texts, (-torch.tensor(energies, dtype=torch.float64) / temperature).softmax(-1), matrix
