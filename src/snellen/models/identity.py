"""Who a loaded model is: what a run records so that its numbers can be traced to weights and a tokenizer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from snellen.models.sources import Kind

BosPolicy = Literal["tokenizer", "always", "never"]


@dataclass(frozen=True, kw_only=True)
class Bos:
    """The token put in front of every window, and who decided it."""

    policy: BosPolicy  # "tokenizer": what the tokenizer itself puts in front (perhaps nothing)
    token_id: int | None  # None: nothing is put in front


@dataclass(frozen=True, kw_only=True)
class Identity:
    """All that tells one loaded model from another; JSON-able through `as_dict`."""

    source: str  # as the user wrote it
    kind: Kind
    revision: str | None  # the hub's commit
    model_type: str
    class_name: str
    parameters: int  # tied ones counted once
    weights_sha256: str  # of the weights as loaded, so that another dtype gives another hash
    tokenizer_sha256: str | None
    tokenizer_class: str | None
    vocabulary: int  # size of the logits
    dtype: str
    device: str
    attention: str | None  # transformers' attention implementation at load
    context: int | None  # most positions that the configuration states; None: no stated limit
    bos: Bos

    def as_dict(self) -> dict[str, Any]:
        """A JSON-able copy."""
        return asdict(self)


def weights_sha256(state: Mapping[str, torch.Tensor]) -> str:
    """Hash names, dtypes, shapes and bytes of a state dict, in the order of the names.

    Each tensor is hashed on its own, so that tied weights (the same memory under two names) are read once.
    Tensors are brought to the CPU one at a time.
    """
    whole = hashlib.sha256()
    known: dict[tuple[int, torch.Size, tuple[int, ...], torch.dtype], str] = {}
    for name in sorted(state):
        tensor = state[name].detach()
        key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        digest = known.get(key) if tensor.numel() else None
        if digest is None:
            flat = tensor.cpu().contiguous().reshape(-1).view(torch.uint8)
            digest = hashlib.sha256(flat.numpy().data).hexdigest()
            known[key] = digest
        dtype = str(tensor.dtype).removeprefix("torch.")
        whole.update(f"{name} {dtype} {tuple(tensor.shape)} {digest}\n".encode())
    return whole.hexdigest()


def tokenizer_sha256(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash what decides a text's tokens: a fast tokenizer's own JSON, or the vocabulary of a slow one.

    Truncation and padding, which a call of the tokenizer can leave behind, are no part of it.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        slow = {"class": type(tokenizer).__name__, "vocabulary": tokenizer.get_vocab()}
        return hashlib.sha256(json.dumps(slow, sort_keys=True).encode()).hexdigest()
    truncation, padding = backend.truncation, backend.padding
    backend.no_truncation()
    backend.no_padding()
    try:
        return hashlib.sha256(backend.to_str().encode()).hexdigest()
    finally:
        if truncation is not None:
            backend.enable_truncation(**truncation)
        if padding is not None:
            backend.enable_padding(**padding)


def context_length(config: Any) -> int | None:
    """The most positions that a configuration states, or None where it states no limit (ALiBi, recurrent)."""
    text = config.get_text_config()
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length"):
        value = getattr(text, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def dtype_name(model: PreTrainedModel) -> str:
    """``float32`` for ``torch.float32``."""
    return str(model.dtype).removeprefix("torch.")
