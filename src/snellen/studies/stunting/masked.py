"""A masked model of the same size on the same language. Does it internalise less?

It predicts masked tokens from both sides. At training each sequence has a share of its tokens masked that is drawn
uniformly (all shares are equally likely), so that it also meets the question of a next-token predictor: everything
from the decision on is masked. There it is judged, and probed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM

from snellen.organisms.arms import Arms
from snellen.studies.stunting import probe
from snellen.studies.stunting.raising import HEADS, JUDGED, LAYERS, MODEL, TEXT, Plan, language_at
from snellen.studies.stunting.variants import MASKED

NAME = MASKED
_MASKS = 6  # stream of random numbers


def build(language: Arms, seed: int) -> BertForMaskedLM:
    """As wide and as deep as the causal models; the id after the vocabulary is the mask."""
    config = BertConfig(
        vocab_size=language.vocabulary + 1, hidden_size=MODEL, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, intermediate_size=4 * MODEL, max_position_embeddings=language.length,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, type_vocab_size=1, pad_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2_000 + seed)
        return BertForMaskedLM(config).eval()


def raise_masked(seed: int, plan: Plan) -> dict[str, Any]:
    """Trained on the same text in the same steps as the others; what is seen of it, as JSON has it."""
    torch.set_num_threads(1)
    language = language_at(seed)
    model = build(language, seed)
    text = torch.from_numpy(language.sample(plan.steps * plan.batch, seed=[seed, TEXT]))
    random = torch.Generator().manual_seed(seed * 100 + _MASKS)
    optimiser = torch.optim.AdamW(model.parameters(), lr=plan.learning_rate, betas=(0.9, 0.99), weight_decay=0.01)
    looks, spent, began = [], 0.0, time.perf_counter()
    for step in range(1, plan.steps + 1):
        for group in optimiser.param_groups:
            group["lr"] = plan.learning_rate * min(1.0, step / plan.warmup)
        batch = text[(step - 1) * plan.batch : step * plan.batch]
        share = torch.rand(len(batch), 1, generator=random)
        masked = torch.rand(batch.shape, generator=random) < share
        masked[:, 0] = False  # BOS is always known
        optimiser.zero_grad()
        torch.autograd.backward(_loss(model, batch, masked, language.vocabulary))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if step in plan.looks:
            before = time.perf_counter()
            looks.append({"step": step, **_look(model, language, seed, plan)})
            spent += time.perf_counter() - before
    held_out = language.sample(plan.sequences, seed=[seed, JUDGED])
    return {
        "variant": NAME,
        "seed": seed,
        "cost": time.perf_counter() - began - spent,
        "author": language.losses(language.log_probs(held_out)),
        "untrained_probe": _probe(build(language, seed), language),
        "looks": looks,
    }


def _loss(model: BertForMaskedLM, batch: Tensor, masked: Tensor, mask: int) -> Tensor:
    logits = model(input_ids=batch.masked_fill(masked, mask)).logits
    return F.cross_entropy(logits[masked], batch[masked]) if masked.any() else logits.sum() * 0


def _look(model: BertForMaskedLM, language: Arms, seed: int, plan: Plan) -> dict[str, Any]:
    text = language.sample(plan.sequences, seed=[seed, JUDGED])
    return {"losses": _losses(model, language, text), "monitor": None, "beam": None, "probe": _probe(model, language)}


@torch.no_grad()
def _losses(model: BertForMaskedLM, language: Arms, text: np.ndarray[Any, Any]) -> dict[str, float]:
    """Of each place, with it and everything after it masked: the question of a next-token predictor."""
    batch = torch.from_numpy(text)
    columns = [torch.zeros(len(batch))]
    for place in range(1, language.length):
        masked = torch.arange(language.length).expand_as(batch) >= place
        logits = model(input_ids=batch.masked_fill(masked, language.vocabulary)).logits[:, place, : language.vocabulary]
        columns.append(logits.log_softmax(-1).gather(-1, batch[:, place, None])[:, 0])
    return language.losses(torch.stack(columns, dim=1).double().numpy())


@torch.no_grad()
def _probe(model: BertForMaskedLM, language: Arms) -> Sequence[float]:
    """As `probe.accuracy`, at the masked decision with all that follows masked too."""
    prefixes, best = probe.contexts(language)
    at = language.decisions[0]
    batch = torch.full((len(prefixes), language.length), language.vocabulary)
    batch[:, :at] = torch.from_numpy(prefixes)
    found = model(input_ids=batch, output_hidden_states=True)
    return [
        probe.cross_validated(layer[:, at].double().numpy(), best, language.states) for layer in found.hidden_states
    ]
