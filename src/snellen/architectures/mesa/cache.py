"""What the layers of a mesa model leave behind of a text, as layers of a transformers cache.

transformers builds a cache from a configuration's `layer_types`, by the names under which layer classes register. The
recurrent layers keep no keys and values but a state of constant size, whatever the length; the length itself is counted
beside it, so that positions are known where no layer is softmax.
"""

from __future__ import annotations

from typing import NoReturn

import torch
from jaxtyping import Int
from torch import Tensor
from transformers.cache_utils import (
    STATIC_LAYER_TYPE_MAPPING,
    Cache,
    CacheLayerMixin,
    DynamicLayer,
    LinearAttentionCacheLayerMixin,
    StaticLayer,
)

from snellen.architectures.mesa.config import LINEAR, MESA, SOFTMAX
from snellen.errors import InputError


class SoftmaxCache(DynamicLayer):  # type: ignore[misc]
    """Keys and values, as in any transformer."""

    _layer_type = SOFTMAX


class StaticSoftmaxCache(StaticLayer):  # type: ignore[misc]
    """The same in a cache of fixed size."""

    _layer_type = SOFTMAX


class StateCache(LinearAttentionCacheLayerMixin, CacheLayerMixin):  # type: ignore[misc]
    """The state of a recurrent layer: named tensors, batch first.

    It is a linear-attention layer to transformers (nothing to offload, no mask of its own) that also knows its length.
    """

    is_compileable = False
    is_croppable = False
    supports_early_init = False

    def __init__(self, **_: object) -> None:
        CacheLayerMixin.__init__(self)
        LinearAttentionCacheLayerMixin.__init__(self)
        self.states: dict[str, Tensor] = {}
        self.length = 0
        self.has_previous_state: dict[int, bool] = {0: False}

    def store(self, states: dict[str, Tensor], positions: int) -> None:
        """Replace the state by that after `positions` more."""
        self.states = states
        self.length += positions
        self.is_initialized = True
        self.has_previous_state = {0: True}

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return -1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def reset(self) -> None:
        self.states, self.length, self.is_initialized = {}, 0, False
        self.has_previous_state = {0: False}

    def reorder_cache(self, beam_idx: Int[Tensor, "chosen"]) -> None:
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Int[Tensor, "chosen"]) -> None:
        self.states = {name: x[indices.to(x.device)] for name, x in self.states.items()}

    def batch_repeat_interleave(self, repeats: int) -> None:
        self.states = {name: x.repeat_interleave(repeats, dim=0) for name, x in self.states.items()}

    def offload(self) -> None:
        self._move(torch.device("cpu"))

    def prefetch(self) -> None:
        """Nothing: it is never offloaded unasked, being small."""

    def activate_past_recording(self) -> NoReturn:
        raise InputError("a mesa model's states cannot be rolled back: assisted decoding needs a softmax-only model")

    def crop(self, tokens_to_remove: int) -> None:
        if tokens_to_remove != 0:
            raise InputError(
                f"crop({tokens_to_remove}): a recurrent layer's state cannot forget its last tokens; copy the cache "
                "before them (copy.deepcopy), or read the shorter text again"
            )

    def lazy_initialization(self, *_: object, **__: object) -> NoReturn:
        raise InputError(_NO_KEYS)

    def update(self, *_: object, **__: object) -> NoReturn:
        raise InputError(_NO_KEYS)

    def update_conv_state(self, *_: object, **__: object) -> NoReturn:
        raise InputError(_NO_KEYS)

    def update_recurrent_state(self, *_: object, **__: object) -> NoReturn:
        raise InputError(_NO_KEYS)

    def _move(self, device: torch.device) -> None:
        self.states = {name: x.to(device, non_blocking=True) for name, x in self.states.items()}


class MesaCache(StateCache):
    """H, G and what is left of the regulariser (`attention.MesaState`), and the convolution's last inputs."""

    _layer_type = MESA


class LinearCache(StateCache):
    """The one matrix of linear attention, and the convolution's last inputs."""

    _layer_type = LINEAR


# transformers registers these for growing caches only; their size is constant in either kind.
STATIC_LAYER_TYPE_MAPPING[MESA] = MesaCache
STATIC_LAYER_TYPE_MAPPING[LINEAR] = LinearCache

_NO_KEYS = "a recurrent layer keeps a state, no keys and values: make the cache with DynamicCache(config=model.config)"


def state_of(cache: Cache | None, layer_idx: int) -> StateCache | None:
    """The recurrent layer's part of a cache.

    Raises
    ------
    InputError
        A cache that was not made for this model, or one of fixed size beside softmax layers.
    """
    if cache is None:
        return None
    if any(isinstance(layer, StaticSoftmaxCache) for layer in cache.layers):
        # transformers leaves out the mask over its empty places, unless every layer can be compiled.
        raise InputError(
            "the cache is of fixed size, which a model with recurrent layers has no use for (its states are of "
            "fixed size as it is): use DynamicCache(config=model.config), cache_implementation=None"
        )
    layer = cache.layers[layer_idx] if layer_idx < len(cache.layers) else None
    if not isinstance(layer, StateCache):
        kind = "nothing" if layer is None else type(layer).__name__
        raise InputError(
            f"the cache has {kind} for layer {layer_idx}, which is recurrent: make it with "
            "DynamicCache(config=model.config)"
        )
    return layer
