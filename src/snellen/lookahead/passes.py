"""The forward passes that a model's checks compare (`preflight`): the same predictions, computed in another way.

Differences are of log-probabilities over the vocabulary, in nats, at a few places of a text.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from snellen.lookahead.engine import Body, ColumnEngine
from snellen.models.body import device_of, known_ids

_WIDTH = 3  # rows of the check: enough for parents to cross over
_LARGEST_DRIFT_MODEL = 2_000_000_000  # parameters; beyond it no float32 copy is made to measure drift


def text_of(model: PreTrainedModel, length: int, input_ids: Tensor | None) -> Tensor:
    vocabulary = known_ids(model)
    text = torch.randint(vocabulary, (length,), generator=torch.Generator().manual_seed(0))
    if input_ids is not None:
        text[: len(input_ids)] = input_ids[:length].cpu()
    return text.to(device_of(model))


def places(length: int) -> list[int]:
    """The positions that are compared: both ends, the middle and the thirds."""
    return sorted({0, 1 % length, length // 3, length // 2, 2 * length // 3, length - 1})


def log_probs(body: Body, hidden: Tensor) -> Tensor:
    return body.logits(hidden).float().log_softmax(-1)


def own_predictions(model: PreTrainedModel, text: Tensor) -> Tensor:
    """The model's own predictions at the places compared, [places, vocab]."""
    body = Body(model)
    return log_probs(body, body.hidden(text[None])[0, places(len(text))])


def difference(a: Tensor, b: Tensor) -> float:
    """Largest difference of two log-probabilities; where both are −inf there is none."""
    return float(torch.where(a == b, 0.0, (a - b).abs()).max())


def in_a_batch(model: PreTrainedModel, text: Tensor) -> Tensor:
    """The predictions of `own_predictions`, computed in a batch of two: other shapes, and so other rounding."""
    body = Body(model)
    return log_probs(body, body.hidden(text.expand(2, -1))[1, places(len(text))])


def eager_difference(model: PreTrainedModel, text: Tensor) -> float:
    """How far the model's attention is from its eager one (from sdpa, where it is eager); 0 where it has but one.

    An implementation can leave out what it has no argument for: sdpa knows no soft-capping.
    """
    own = model.config._attn_implementation
    other = "sdpa" if own == "eager" else "eager"
    if not model._can_set_attn_implementation() or (other == "sdpa" and not getattr(model, "_supports_sdpa", False)):
        return 0.0
    mine = own_predictions(model, text)
    with attention(model, other):
        return difference(mine, own_predictions(model, text))


@contextlib.contextmanager
def attention(model: PreTrainedModel, name: str) -> Iterator[None]:
    before = model.config._attn_implementation
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def head_difference(model: PreTrainedModel, text: Tensor) -> float:
    body = Body(model)
    whole = model(input_ids=text[None], use_cache=False).logits[0].float().log_softmax(-1)
    return difference(whole, log_probs(body, body.hidden(text[None])[0]))


def causality_difference(model: PreTrainedModel, text: Tensor, own: Tensor) -> float:
    body = Body(model)
    return max(
        difference(row, log_probs(body, body.hidden(text[None, : place + 1])[0, -1:])[0])
        for place, row in zip(places(len(text)), own, strict=True)
    )


def rollout_difference(engine: ColumnEngine, text: Tensor, horizon: int) -> tuple[float, float]:
    """Random branches with crossing parents, from blocks at both ends and in the middle, against plain passes.

    Returns the largest difference, and (as a control that the check could see one) how much the plain predictions
    differ between branches that end in the same token.
    """
    generator = torch.Generator().manual_seed(1)
    vocabulary = known_ids(engine.body.model)
    length = len(text)
    worst, power = 0.0, 0.0
    for first, last in {
        (0, min(4, length)),
        (length // 2, min(length // 2 + 4, length)),
        (max(0, length - 3), length),
    }:
        pos = last - first
        engine.open_block(first, _WIDTH * pos * horizon)
        chains = torch.empty(_WIDTH, pos, 0, dtype=torch.long, device=text.device)
        for depth in range(1, horizon):
            tokens = torch.randint(vocabulary, (_WIDTH, pos), generator=generator).to(text.device)
            tokens[1] = tokens[0]  # same token, other past: the control
            parents = None
            if depth > 1:
                parents = torch.stack([torch.randperm(_WIDTH, generator=generator) for _ in range(pos)], dim=1)
                parents = parents.to(text.device)
                chains = chains.gather(0, parents[..., None].expand_as(chains))
            chains = torch.cat([chains, tokens[..., None]], dim=-1)
            hidden = engine.step(tokens, parents)[0].view(_WIDTH, pos, -1)
            column = pos - 1
            prefix = text[: first + column + 1].expand(_WIDTH, -1)
            plain = engine.body.hidden(torch.cat([prefix, chains[:, column]], dim=1))[:, -1]
            expected = log_probs(engine.body, plain)
            worst = max(worst, difference(expected, log_probs(engine.body, hidden[:, column])))
            if depth > 1:
                power = max(power, difference(expected[0], expected[1]))
    return (worst if math.isfinite(worst) else math.nan), power


def drift(model: PreTrainedModel, text: Tensor) -> dict[str, Any]:
    """What a shorter number format costs: log p of the text's tokens against a float32 copy of the model."""
    if any(parameter.device.type == "meta" for parameter in model.parameters()):
        return {"mean": None, "max": None, "reason": "its weights are offloaded, and are not copied"}
    if model.num_parameters() > _LARGEST_DRIFT_MODEL:
        return {"mean": None, "max": None, "reason": "model too large for a float32 copy"}
    exact = copy.deepcopy(model).float()

    def scored(which: PreTrainedModel) -> Tensor:
        body = Body(which)
        part = text[:256]
        log_p = log_probs(body, body.hidden(part[None])[0, :-1])
        return log_p.gather(-1, part[1:, None])[:, 0]

    off = (scored(model) - scored(exact)).abs()
    return {
        "mean": float(off.mean()),
        "max": float(off.max()),
        "unit": "nats",
        "tokens": len(off),
    }
