"""Making a model myopic, and ordinary again."""

from __future__ import annotations

import math
import weakref
from types import TracebackType
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from snellen.attention.myopic.check import Promise, evaluating, sample
from snellen.attention.myopic.discovery import find_sites
from snellen.attention.myopic.interface import BASES
from snellen.attention.myopic.sites import PREFIX, Site
from snellen.attention.rollout import attention_configs
from snellen.errors import InputError, Refused

MODES = ("hidden", "kv")

_made: weakref.WeakKeyDictionary[nn.Module, Myopic] = weakref.WeakKeyDictionary()


class Myopic:
    """What `make_myopic` did to a model. A context manager: on leaving it, the model is as it was before.

    Attributes
    ----------
    mode, beta
        As asked for.
    """

    def __init__(self, model: PreTrainedModel, sites: list[Site], *, mode: str, beta: float) -> None:
        self.mode, self.beta = mode, beta
        self._model = weakref.ref(model)
        self._sites = sites
        self._configs: list[tuple[Any, str]] = []

    def undo(self) -> None:
        """Ordinary attention again. Once more does nothing."""
        for site in self._sites:
            site.remove()
        for config, own in self._configs:
            if config._attn_implementation_internal == PREFIX + own:  # who changed it since knows better
                config._attn_implementation_internal = own
        self._sites, self._configs = [], []
        model = self._model()
        if model is not None and _made.get(model) is self:
            del _made[model]

    def __enter__(self) -> Myopic:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.undo()

    def _install(self, model: PreTrainedModel) -> None:
        for config in attention_configs(model):
            self._configs.append((config, config._attn_implementation_internal))
            config._attn_implementation_internal = PREFIX + config._attn_implementation_internal
        for site in self._sites:
            site.install()

    def _grade(self, beta: float) -> None:
        for site in self._sites:
            site.beta = beta


def make_myopic(model: PreTrainedModel, mode: str = "hidden", beta: float = 1.0) -> Myopic:
    """Train each position for its own prediction alone: in place, until `undo` or the end of a `with`.

    The forward pass stays what it is, bit for bit. In the backward pass the keys and values of past positions count
    as computed from detached hidden states, so no loss reaches the activations of an earlier position (Wu, Morris &
    Levine 2024, "Do language models plan ahead for future tokens?": myopic gradients). See docs/myopic.md.

    Parameters
    ----------
    model
        A causal language model of transformers with sdpa or eager attention. It is checked on random tokens: forward
        pass, influence across positions, gradients against the definition.
    mode
        "hidden": the weights that make keys and values are trained by all later losses as ever (published, and what
        "myopic" means). "kv": keys and values of the past are detached altogether, so that these weights are trained
        by each position's attention to itself alone; much harsher.
    beta
        1 − `beta` of the off-diagonal part of each attention's gradient is kept: 1 is myopic, 0 ordinary.

    Raises
    ------
    InputError
        Unknown mode, `beta` outside [0, 1], a model without a parameter that takes a gradient, one that is myopic
        already, attention dropout.
    Refused
        An architecture whose gradients could not be vouched for, with the reason.
    """
    if mode not in MODES:
        raise InputError(f"mode {mode!r}: must be one of {', '.join(MODES)}")
    if isinstance(beta, bool) or not isinstance(beta, (int, float)) or not 0 <= beta <= 1 or math.isnan(beta):
        raise InputError(f"beta = {beta!r}: must be between 0 (ordinary) and 1 (myopic)")
    name = type(model).__name__
    if not isinstance(model, PreTrainedModel):
        raise InputError(f"model: must be a transformers model, not {name} (make it myopic before wrapping it)")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError(
            "model: none of its parameters takes a gradient (snellen.load turns them off), so that there is nothing to "
            "train; model.requires_grad_(True) first, or of what is to be trained"
        )
    if model in _made:
        raise InputError("model: it is myopic already; undo the earlier make_myopic first")
    if not model._can_set_attn_implementation():
        raise Refused(f"{name} does not let its attention be chosen (no AttentionInterface)")
    if getattr(model.config, "is_encoder_decoder", False):
        raise Refused(f"{name} is an encoder with a decoder; only causal language models can be made myopic")
    for config in attention_configs(model):
        if (config._attn_implementation_internal or "").startswith(PREFIX):
            raise InputError("model: part of a myopic model, or a copy of one; undo that make_myopic first")
        if config._attn_implementation_internal not in BASES:
            raise Refused(
                f"{name} attends by {config._attn_implementation_internal!r}, of which no diagonal is known; "
                "model.set_attn_implementation('sdpa') first"
            )
    with evaluating(model):
        sites = find_sites(model, sample(model), hidden=mode == "hidden", beta=1.0)
        promise = Promise(model, sites, mode=mode)
        myopic = Myopic(model, sites, mode=mode, beta=beta)
        try:
            myopic._install(model)
            promise.check()
        except BaseException:
            myopic.undo()
            raise
    myopic._grade(beta)
    _made[model] = myopic
    return myopic
