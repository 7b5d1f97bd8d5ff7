"""How each decoding is run, on a model that is kept from ending its text."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from snellen.lookahead.decoding import generate
from snellen.lookahead.generation_config import aside
from snellen.lookahead.power_sampling import power_sample
from snellen.measures.generations import Decoding
from snellen.models.body import device_of, logit_columns
from snellen.subject import Subject

# Below every logit: e^−10000 is 0 in any format, and unlike −∞ it has differences that are numbers.
FORBIDDEN = -1e4


@contextlib.contextmanager
def endless(subject: Subject, *, keep: NDArray[np.integer]) -> Iterator[None]:
    """The model without its special tokens, whoever asks it: nothing that is written ends, as the human text does not.

    A generation setting that came with the model (top-k, a temperature) is put aside too: a decoding is what its name
    says. Special tokens that stand in `keep` (the human text) stay possible.
    """
    model, tokenizer = subject.model, subject.tokenizer
    own = model.generation_config
    special = {*_ids(own.eos_token_id if own is not None else None), *_ids(getattr(tokenizer, "all_special_ids", None))}
    special |= {*_ids(subject.identity.bos.token_id)}
    predicted = logit_columns(model)
    barred = sorted(token for token in special - set(np.unique(keep).tolist()) if 0 <= token < predicted)

    def bar(module: Any, arguments: Any, output: Any) -> None:
        if barred:
            output.logits[..., barred] = FORBIDDEN

    handle = model.register_forward_hook(bar)
    try:
        with aside(model, GenerationConfig(pad_token_id=0)):
            yield
    finally:
        handle.remove()


@torch.no_grad()
def write(
    model: PreTrainedModel,
    input_ids: Int[Tensor, "batch pos"],
    decoding: Decoding,
    *,
    new: int,
    seed: int,
    memory: int | str = "1GB",
    engine: str = "auto",
) -> Int[Tensor, "batch new"]:
    """`new` tokens behind each of some equally long prompts; inside `endless`."""
    if decoding.kind == "amplified":
        found = generate(
            model, input_ids, width=decoding.width or 1, horizon=decoding.horizon or 1, alpha=_number(decoding.alpha),
            weight=_number(decoding.weight), do_sample=True, max_new_tokens=new, eos_token_id=None, seed=seed,
            memory=memory, engine=engine, attention_mask=torch.ones_like(input_ids),
        )  # fmt: skip
        assert isinstance(found, Tensor)
    elif decoding.kind == "power":
        drawn = power_sample(
            model, input_ids, alpha=_number(decoding.alpha), particles=decoding.width or 1, max_new_tokens=new,
            seed=seed, memory=memory, engine=engine,
        )  # fmt: skip
        rows = torch.arange(len(input_ids))
        found = torch.cat([input_ids.cpu(), drawn.tokens[rows, drawn.chosen(seed=seed)[:, 0]]], dim=1)
    else:
        found = _by_transformers(model, input_ids, decoding, new, seed)
    return found[:, input_ids.shape[1] :].cpu()


def _by_transformers(model: Any, input_ids: Tensor, decoding: Decoding, new: int, seed: int) -> Tensor:
    sampled = decoding.kind in ("pure", "nucleus")
    options: dict[str, Any] = {"do_sample": sampled, "num_beams": decoding.width or 1}
    if sampled:
        # `top_k` is 50 there unless one says otherwise.
        options |= {"top_k": 0, "top_p": 1.0 if decoding.top_p is None else decoding.top_p, "temperature": 1.0}
    devices = [] if device_of(model).type == "cpu" else [device_of(model)]
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        ids = input_ids.to(device_of(model))
        config = GenerationConfig(max_new_tokens=new, pad_token_id=0, **options)
        found: Tensor = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
    return found


def _number(value: float | None) -> float:
    assert value is not None
    return value


def _ids(value: Any) -> list[int]:
    if value is None:
        return []
    return [int(token) for token in value] if isinstance(value, (list, tuple)) else [int(value)]
