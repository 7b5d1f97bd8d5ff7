"""Where a model attends: each attention module with the projections that its keys and values come from.

Nothing is known of the architectures. A forward pass is watched: which modules call `AttentionInterface`, which of
their submodules were given the module's own input, and from which of these keys and values were made.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from snellen.attention.caches import CACHE_NAMES
from snellen.attention.myopic.interface import BASES, Attention, ordinary, register
from snellen.attention.myopic.operators import eager_with_own_weight, own_score, sdpa_with_own_weight
from snellen.attention.myopic.passage import Passage, Recomputed, Route
from snellen.errors import InputError, Refused

PREFIX = "snellen_myopic_"

# What else transformers hands to attention functions, and what does not change the derivative by q · k of a score.
_KNOWN = frozenset({"scaling", "dropout", "softcap", "s_aux", "sliding_window", "is_causal"})
_INERT = frozenset({"position_ids", "cache_position", "use_cache", "output_attentions", "output_hidden_states"})
_INERT |= {*CACHE_NAMES, "past_key_value", "num_items_in_batch", "logits_to_keep", "return_dict"}
_INERT |= {"position_embeddings", "output_router_logits"}


@dataclass(frozen=True)
class Root:
    """A projection whose input is the attention module's, and whose output leads to keys or values."""

    module: nn.Module

    @property
    def weight(self) -> Tensor | None:
        """Of a plain linear map, [out, in]; None for anything else (adapters, quantised or parametrised weights)."""
        if type(self.module) not in (nn.Linear, Conv1D):
            return None
        weight = self.module.weight
        assert isinstance(weight, Tensor)
        return weight.T if type(self.module) is Conv1D else weight


@dataclass(eq=False)
class Site:
    """One attention module, and what its calls are to do."""

    module: nn.Module
    hidden: bool  # mode "hidden"; else "kv"
    beta: float
    roots: tuple[Root, ...] = ()
    shared: bool = False  # some root makes queries too
    # Of the call that is running:
    routes: list[Route] = field(default_factory=list)
    inputs: dict[nn.Module, Tensor] = field(default_factory=dict)
    reached: bool = False
    recomputed: Recomputed = field(default_factory=Recomputed)
    handles: list[Any] = field(default_factory=list)
    forward: Any = None  # what we gave the module in place of its own
    replaced: Any = None  # what another gave it before

    def install(self) -> None:
        """Hooks on the module and its projections, until `remove`."""
        _sites[self.module] = self
        self.replaced = self.module.__dict__.get("forward")
        # A partial of a bound method, since that survives a deep copy of the module: it is then bound to the copy.
        self.forward = self.module.forward = functools.partial(_run, self.module.forward, self.module)
        for root in self.roots if self.hidden else ():
            self.handles.append(root.module.register_forward_pre_hook(self._before))
            self.handles.append(root.module.register_forward_hook(self._after))

    def remove(self) -> None:
        _sites.pop(self.module, None)
        for handle in self.handles:
            handle.remove()
        self.handles = []
        # Who has wrapped it since keeps what they have, which now only passes on.
        if self.module.__dict__.get("forward") is self.forward:
            del self.module.forward
            if self.replaced is not None:
                self.module.forward = self.replaced
        self.clear()

    def clear(self) -> None:
        self.routes, self.inputs, self.reached = [], {}, False
        self.recomputed.latest = None

    def _before(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if _sites.get(self.module) is not self:  # a copy of the model has copies of its hooks
            return None
        if not (torch.is_grad_enabled() and args[0].requires_grad):
            return None
        self.inputs[module] = args[0]
        return (args[0].detach().requires_grad_(Root(module).weight is None), *args[1:])

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        source = self.inputs.pop(module, None)
        if source is None:
            return
        weight = Root(module).weight
        if weight is None:
            self.routes.append(Route(source=source, end=args[0]))
        else:
            # With frozen weights the output would have no graph behind it to come back along.
            self.routes.append(Route(source=source, end=output.requires_grad_(), weight=weight))


_sites: weakref.WeakKeyDictionary[nn.Module, Site] = weakref.WeakKeyDictionary()


@torch.compiler.disable(  # type: ignore[untyped-decorator, no-untyped-call]
    reason="The backward pass of myopic attention walks the autograd graph between projections and attention, which "
    "compilation would dissolve; what lies between the attention modules can be compiled (fullgraph=False)."
)
def _run(own: Callable[..., Any], module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    site = _sites.get(module)
    if site is None:
        return own(*args, **kwargs)
    site.clear()  # an exception may have left something
    out = own(*args, **kwargs)
    if torch.is_grad_enabled() and not site.reached:
        raise RuntimeError(
            f"{type(module).__name__} was made myopic, and then its attention implementation was changed; undo "
            "make_myopic before that"
        )
    return out


WITH_OWN_WEIGHT: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
    "sdpa": sdpa_with_own_weight,
    "eager": eager_with_own_weight,
}


def _myopic(base: str) -> Attention:
    def attention(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
    ) -> tuple[Tensor, Any]:
        site = _sites.get(module)
        if site is None:
            raise RuntimeError(
                f"{type(module).__name__}: not a module that make_myopic has seen (a copy of a myopic model? undo it "
                "first, copy, and make the copy myopic)"
            )
        routes, site.routes, site.reached = site.routes, [], True
        wanted = bool(routes) if site.hidden else key.requires_grad or value.requires_grad
        if not (wanted and torch.is_grad_enabled()):
            return ordinary(base, module)(module, query, key, value, attention_mask, **options)
        _check(module, query, key, options)
        passage = Passage(weight=site.beta, shared=site.shared, recomputed=site.recomputed)
        query, key, value = passage.fork(query, key, value, routes if site.hidden else None)
        out, own = WITH_OWN_WEIGHT[base](module, query, key, value, attention_mask, **options)
        return passage.watch(out, query, value, own=own, slope=_slope(query, key, options)), None

    return attention


def _check(module: nn.Module, query: Tensor, key: Tensor, options: dict[str, Any]) -> None:
    name = type(module).__name__
    if options.get("dropout"):
        raise InputError(no_dropout(module, options["dropout"]))
    extra = sorted(k for k, v in options.items() if v is not None and k not in _KNOWN | _INERT)
    if extra:
        raise Refused(f"{name} passes {', '.join(extra)} to its attention, which myopic gradients do not know")
    if options.get("is_causal") is False or getattr(module, "is_causal", True) is False:
        raise Refused(f"{name} attends in both directions")
    if key.shape[2] != query.shape[2]:
        raise Refused(
            f"{name}: {key.shape[2]} keys for {query.shape[2]} queries; gradients are myopic only where each position "
            "has a key of its own (no cache or prefix under training, no compressed keys)"
        )


def no_dropout(module: nn.Module, probability: float) -> str:
    """What is to be said where attention weights are dropped out."""
    config = getattr(module, "config", None)
    fields = ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob", "attn_dropout")
    field_name = next((name for name in fields if getattr(config, name, None) == probability), "attention dropout")
    mend = "load the model with it set to 0"
    if " " not in field_name:
        mend = f"snellen train … --set model.config.{field_name}=0, or in Python from_pretrained(…, {field_name}=0.0)"
    return f"{field_name} = {probability}: myopic gradients are defined without dropout there; {mend}"


def _slope(query: Tensor, key: Tensor, options: dict[str, Any]) -> Tensor | float:
    """Derivative of a position's score for itself by q · k: the scale, less what soft-capping flattens."""
    scaling = options.get("scaling")
    scale: float = query.shape[-1] ** -0.5 if scaling is None else scaling
    cap = options.get("softcap")
    if cap is None:
        return scale
    with torch.no_grad():
        return scale * (1 - torch.tanh(own_score(query, key) * (scale / cap)) ** 2)


for _base in BASES:
    register(PREFIX + _base, _base, _myopic(_base))
