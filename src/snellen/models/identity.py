"""Who a loaded model is: what a run records so that its numbers can be traced to weights and a tokenizer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from snellen.errors import InputError
from snellen.models.sources import Kind
from snellen.models.weights import Weights
from snellen.results import provenance

LIBRARIES = ("transformers", "torch")  # whose modules models are made of; their versions say which
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
    context: int | None  # most tokens of a text, as `body.context_of` finds them; None: no limit
    bos: Bos
    notes: tuple[str, ...] = ()  # what a reader of the numbers should know of how the model was read

    def as_dict(self) -> dict[str, Any]:
        """A JSON-able copy."""
        return asdict(self) | {"notes": list(self.notes)}


def weights_sha256(state: Weights | Mapping[str, torch.Tensor]) -> str:
    """Hash names, dtypes, shapes and bytes of a state dict, in the order of the names.

    Each tensor is hashed on its own, so that tied weights (the same memory under two names) are read once.
    Tensors are brought to the CPU one at a time.

    Raises
    ------
    InputError
        A tensor of a class (of packed weights, say) that does not give its bytes.
    """
    whole = hashlib.sha256()
    known: dict[tuple[int, torch.Size, tuple[int, ...], torch.dtype], str] = {}
    for name in sorted(state):
        tensor = state[name].detach()
        key = (_address(tensor), tensor.shape, tensor.stride(), tensor.dtype)
        lasting = not isinstance(state, Weights) or state.lasting(name)
        digest = known.get(key) if lasting and tensor.numel() else None
        if digest is None:
            digest = hashlib.sha256(_bytes(tensor, name).data).hexdigest()
            if lasting:  # the memory of a passing one is soon another tensor's
                known[key] = digest
        dtype = str(tensor.dtype).removeprefix("torch.")
        whole.update(f"{name} {dtype} {tuple(tensor.shape)} {digest}\n".encode())
    return whole.hexdigest()


def _address(tensor: torch.Tensor) -> int:
    try:
        return tensor.data_ptr()
    except RuntimeError:  # a class that wraps other tensors has no memory of its own
        return id(tensor)


def _bytes(tensor: torch.Tensor, name: str) -> NDArray[np.uint8]:
    try:
        flat: NDArray[np.uint8] = tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    except (RuntimeError, NotImplementedError, TypeError) as error:
        raise InputError(
            f"weight {name} is a {type(tensor).__name__}, whose bytes cannot be read, so that nothing would say which "
            "weights the numbers are of: load the model without quantisation"
        ) from error
    return flat


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


def dtype_name(model: PreTrainedModel) -> str:
    """``float32`` for ``torch.float32``."""
    return str(model.dtype).removeprefix("torch.")


def code_of(model: torch.nn.Module, *, apart: tuple[str, ...] = ()) -> str | None:
    """Of the modules that none of the libraries brings: an architecture of ours, or code that came with the model."""
    modules = {type(one).__module__ for one in model.modules()}
    others = sorted(one for one in modules if one.partition(".")[0] not in LIBRARIES)
    return provenance.code_hash(*others, apart=apart)[:16] if others else None
