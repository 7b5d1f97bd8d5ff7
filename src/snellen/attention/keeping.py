"""The keys and values of a forward pass that is run anyway, a training step's say: branches then need no second one.

Within `keeping` the model attends through a function that notes what it is given and calls the model's own attention
with the very same arguments; its name has the mask function of the name that it stands in for. So outputs and
gradients are bit for bit the model's own. A layer that activation checkpointing runs once more, in the backward pass,
is not noted again.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from snellen.attention.caches import CACHE_NAMES, holds_text
from snellen.attention.rollout import as_autocast, attention_configs
from snellen.errors import InputError, Refused
from snellen.models.body import body_of

NAME = "snellen_keeping_"


@dataclass(eq=False)
class Kept:
    """What the last forward pass under `keeping` left, without gradient; empty before there was one.

    Attributes
    ----------
    text
        Keys and values as each attention module got them: [batch, kv_heads, pos, dim], in the dtype it computes in.
        Empty where the model does not choose its attention through `AttentionInterface`.
    hidden
        Last hidden states, before the head: [batch, pos, model].
    """

    text: dict[nn.Module, tuple[Tensor, Tensor]] = field(default_factory=dict)
    hidden: Float[Tensor, "batch pos model"] | None = None
    output: type | None = None  # of the body's forward
    recording: bool = False  # the body's forward is being run
    _paused: bool = False
    _arguments: dict[str, Any] = field(default_factory=dict)
    _continued: bool = False  # it went on from a cache

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """What is run within is not kept: a search with what is, for one."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def check(self, input_ids: Int[Tensor, "batch pos"], wanted: Bool[Tensor, "batch pos"] | None = None) -> None:
        """That this is the forward pass of `input_ids`, and that its texts begin at their rows' left ends.

        Raises
        ------
        InputError
            No forward pass, or one of another batch, or one that went on from a cache; left padding, packed sequences
            (`position_ids` that restart), a mask of another kind; a position is wanted that was masked.
        """
        if self.hidden is None:
            raise InputError("kept: no forward pass was run inside `with keeping(model)`")
        if self._continued:
            raise InputError("kept: of a forward pass that went on from a cache; run the texts from their beginnings")
        ids, mask, places = (self._arguments.get(n) for n in ("input_ids", "attention_mask", "position_ids"))
        if self.hidden.shape[:2] != input_ids.shape:
            raise InputError(f"kept: of a batch {tuple(self.hidden.shape[:2])}, not of {tuple(input_ids.shape)}")
        real = torch.ones_like(input_ids, dtype=torch.bool)
        wrong = {}
        if mask is not None:
            if not isinstance(mask, Tensor) or mask.shape != input_ids.shape:
                raise InputError("attention_mask: must be [batch, pos] for what is kept to serve a search")
            real = mask.bool()
            wrong["attention_mask: padding must stand on the right"] = (real[:, 1:] & ~real[:, :-1]).any()
            if wanted is not None:
                wrong["wanted: includes positions that attention_mask masks"] = (wanted & ~real).any()
        if places is not None:
            own = torch.arange(input_ids.shape[1], device=input_ids.device)
            wrong["position_ids: must count from 0 in each row (packed sequences are not searched)"] = (
                real & (places != own)
            ).any()
        if ids is not None:
            wrong["kept: of other texts than input_ids"] = (ids != input_ids).any()
        if wrong:
            for what, found in zip(wrong, torch.stack(list(wrong.values())).tolist(), strict=True):
                if found:
                    raise InputError(what)


_kept: ContextVar[Kept | None] = ContextVar("snellen_kept", default=None)


@contextlib.contextmanager
def keeping(model: PreTrainedModel) -> Iterator[Kept]:
    """Within it the keys, values and last hidden states of each forward pass of `model` are kept, the last one's.

    The forward pass may come through a wrapper (DDP, autocast, checkpointing); `model` is the model inside.
    """
    kept, token = Kept(), None
    before = [(config, config._attn_implementation_internal) for config in attention_configs(model)]
    body = body_of(model)
    hooks = [
        body.register_forward_pre_hook(lambda own, args, kwargs: _begin(kept, own, args, kwargs), with_kwargs=True),
        body.register_forward_hook(lambda _, __, output: _end(kept, output)),
    ]
    try:
        if model._can_set_attn_implementation():
            token = _kept.set(kept)
            for config, own in before:
                config._attn_implementation_internal = _standing_in(config, own)
        yield kept
    finally:
        if token is not None:
            _kept.reset(token)
        for config, own in before:
            config._attn_implementation_internal = own
        for hook in hooks:
            hook.remove()


def _begin(kept: Kept, body: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if kept._paused:
        return
    kept.text, kept.hidden, kept.recording = {}, None, True
    given = {**dict(zip(inspect.signature(body.forward).parameters, args, strict=False)), **kwargs}
    kept._arguments = {n: given.get(n) for n in ("input_ids", "attention_mask", "position_ids")}
    kept._continued = any(holds_text(given.get(n)) for n in CACHE_NAMES)


def _end(kept: Kept, output: Any) -> None:
    if not kept.recording:
        return
    hidden = output[0] if isinstance(output, tuple) else output.last_hidden_state
    kept.hidden, kept.recording = hidden.detach(), False
    kept.output = None if isinstance(output, tuple) else type(output)


def _standing_in(config: Any, own: str | None) -> str | None:
    """The name under which `own` is called and noted; `own` where that would change what the model does."""
    if own is None or (own == "eager" and getattr(config, "reorder_and_upcast_attn", False)):  # GPT-2 asks for the name
        return own
    if own.startswith(NAME):  # `keeping` inside `keeping`
        return own
    name = NAME + own
    if name not in AttentionInterface._global_mapping:
        AttentionInterface.register(name, _noting(own))
    # Without a mask function of its own, a name gets no mask; and one may have been registered since.
    masks = AttentionMaskInterface._global_mapping
    if own in masks and masks.get(name) is not masks[own]:
        AttentionMaskInterface.register(name, masks[own])
    return name


def _noting(own: str) -> Callable[..., Any]:
    def attention(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
        kept = _kept.get()
        if kept is not None and kept.recording:
            noted = as_autocast(key.detach(), value.detach())
            kept.text[module] = (noted[0], noted[1])
        return _own_attention(type(module), own)(module, query, key, value, *args, **kwargs)

    return attention


def _own_attention(module: type[nn.Module], own: str) -> Callable[..., Any]:
    """What the module's file calls for the name `own`: files may override names, and each has its own eager one."""
    names = _names_of(module)
    eager = names.get("eager_attention_forward")
    if own == "eager" and eager is None:
        raise Refused(
            f"{module.__name__}: its eager attention is not to be found beside it, so its keys cannot be kept; load "
            "the model with attn_implementation='sdpa'"
        )
    found: Callable[..., Any] = names.get("ALL_ATTENTION_FUNCTIONS", ALL_ATTENTION_FUNCTIONS).get_interface(own, eager)
    return found


def _names_of(module: type[nn.Module]) -> dict[str, Any]:
    """The names that the module's forward sees, of the file that calls its attention."""
    for one in module.__mro__:
        forward = one.__dict__.get("forward")
        if forward is not None:
            names: dict[str, Any] = getattr(inspect.unwrap(forward), "__globals__", {})
            if "ALL_ATTENTION_FUNCTIONS" in names:
                return names
    return vars(sys.modules[module.__module__])
