"""A look at a model in the middle of its training that leaves no trace: resuming bit by bit depends on it."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from accelerate.utils import extract_model_from_parallel
from transformers import PreTrainedModel

from snellen.errors import InputError, Refused
from snellen.models.body import device_of


def bare(model: Any) -> PreTrainedModel:
    """The model inside its wrappers (DDP, `torch.compile`).

    Raises
    ------
    InputError
        No model of transformers is inside.
    Refused
        Its parameters are spread over processes (FSDP, DeepSpeed ZeRO-3): parts of it cannot be run on their own.
    """
    inside = extract_model_from_parallel(model, keep_torch_compile=False)
    if not isinstance(inside, PreTrainedModel):
        raise InputError(f"model: {type(inside).__name__}; the monitor looks at causal language models of transformers")
    spread = any(hasattr(p, "placements") or hasattr(p, "ds_id") for p in inside.parameters())
    if spread or any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules()):
        raise Refused("monitor: the model's parameters are spread over processes (FSDP, ZeRO-3); use DDP (torchrun)")
    return inside


@contextlib.contextmanager
def streams_kept() -> Iterator[None]:
    """The random streams of Python, NumPy and torch, on every device, are afterwards where they were."""
    python, numpy = random.getstate(), np.random.get_state()  # the legacy stream is what others use
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@contextlib.contextmanager
def untouched(model: PreTrainedModel) -> Iterator[None]:
    """Within it the model is in eval mode, without gradients and without autocast; afterwards all is as it was.

    What is given back: each module's own mode (a frozen part may be in eval mode while the rest trains), and the
    forward pass that accelerate wraps in autocast. The monitor so sees the weights in their own format, whatever the
    training computes in.
    """
    modes = [(module, module.training) for module in model.modules()]
    wrapped = model.__dict__.pop("forward", None) if "_original_forward" in model.__dict__ else None
    try:
        with torch.no_grad(), torch.autocast(device_type=device_of(model).type, enabled=False):
            model.eval()
            yield
    finally:
        if wrapped is not None:
            model.__dict__["forward"] = wrapped
        for module, training in modes:
            module.training = training
