"""Beam search and power lookahead by brute force: one position after another, one plain forward pass a branch.

The slow twin of `beam_search` and of `Rollouts.next_token`; give it a float64 model.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor
from transformers import PreTrainedModel


@torch.no_grad()
def next_log_probs(model: PreTrainedModel, sequence: Tensor) -> Tensor:
    """log p(· | sequence) by a plain forward pass: [pos] → [vocab]."""
    logits: Tensor = model(input_ids=sequence[None], use_cache=False).logits
    return logits[0, -1].log_softmax(-1)


def beam_search(
    model: PreTrainedModel, prefix: Tensor, *, width: int, horizon: int
) -> list[list[tuple[tuple[int, ...], float]]]:
    """The `width` best branches kept at each depth 1 … `horizon`, best first, with their log-probabilities."""
    beams: list[tuple[tuple[int, ...], float]] = [((), 0.0)]
    kept = []
    for _ in range(horizon):
        grown = []
        for branch, score in beams:
            log_probs = next_log_probs(model, torch.cat([prefix, prefix.new_tensor(branch)]))
            grown += [((*branch, token), score + float(lp)) for token, lp in enumerate(log_probs)]
        beams = sorted(grown, key=lambda entry: -entry[1])[:width]
        kept.append(beams)
    return kept


def power_lookahead(model: PreTrainedModel, prefix: Tensor, *, alpha: float, horizon: int) -> Tensor:
    """q_{α,D}(a) ∝ Σ over all completions c of length D with c₁ = a of p(c)^α, by enumeration: [vocab]."""
    vocabulary = model.config.vocab_size
    q = torch.zeros(vocabulary, dtype=torch.float64)
    for completion in itertools.product(range(vocabulary), repeat=horizon):
        log_p, sequence = 0.0, prefix
        for token in completion:
            log_p += float(next_log_probs(model, sequence)[token])
            sequence = torch.cat([sequence, sequence.new_tensor([token])])
        q[completion[0]] += torch.exp(torch.tensor(alpha * log_p, dtype=torch.float64))
    return q / q.sum()
