"""Branches over a shared prefix: attention for continuations of every position of a text at once.

The text is run once, and its keys and values are kept. The W branches of n text positions ("columns") are then laid
out as W rows of n tokens: row w, column t holds a token of branch w of position t, at depth d, with position id t + d.
Such a token sees

* the text up to t, which for a row is plain causal attention with the text's own keys, and
* its own branch, at most D keys: those of its ancestors and itself,

joined by their log-sum-exps. So a depth is one forward pass of W rows, whatever the architecture, entered through
`transformers.AttentionInterface`. The slow twin is `reference.branch_attention`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from snellen.attention.partial import prefix_attention
from snellen.errors import Refused

NAME = "snellen_rollout"

# Arguments that transformers hands to every attention function and that do not change what it computes here.
_INERT = frozenset({"position_ids", "cache_position", "use_cache", "output_attentions", "output_hidden_states"})
_INERT |= {
    "past_key_values",
    "past_key_value",
    "num_items_in_batch",
    "logits_to_keep",
    "return_dict",
    "position_embeddings",
}


@dataclass
class Rollout:
    """The keys and values of one text, and of the branches that have grown from a block of its positions."""

    text: dict[nn.Module, tuple[Tensor, Tensor]] = field(default_factory=dict)  # [1, kv_heads, pos, dim] each
    branches: dict[nn.Module, list[tuple[Tensor, Tensor]]] = field(default_factory=dict)  # [width · pos, kv · dim]
    ancestors: list[Int[Tensor, "rows"] | None] = field(default_factory=list)
    first: int = 0
    depth: int = 0  # 0: the text itself is being run

    def open_block(self, first: int) -> None:
        """Begin the branches of a new block of positions, the first of which is `first`."""
        self.first, self.depth = first, 0
        self.branches, self.ancestors = {}, []

    def descend(self, parents: Int[Tensor, "width pos"] | None) -> None:
        """Go one token deeper; `parents[w, i]` is the row whose branch row w of column i continues.

        None keeps every row in its place. Only indices move: keys stay where they were written.
        """
        self.depth += 1
        if parents is not None:
            flat = (parents * parents.shape[1] + torch.arange(parents.shape[1], device=parents.device)).flatten()
            self.ancestors = [flat if a is None else a[flat] for a in self.ancestors]
        self.ancestors.append(None)


_rollout: ContextVar[Rollout | None] = ContextVar("snellen_rollout", default=None)


def rollout_attention(
    module: nn.Module,
    query: Float[Tensor, "batch heads pos dim"],
    key: Float[Tensor, "batch kv_heads pos dim"],
    value: Float[Tensor, "batch kv_heads pos vdim"],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    is_causal: bool | None = None,
    **unknown: Any,
) -> tuple[Float[Tensor, "batch pos heads vdim"], None]:
    """The attention function itself, with the signature of `transformers.AttentionInterface`.

    Every argument that an architecture may pass is named: soft-capping (`softcap`), sinks (`s_aux`, [heads]) and
    sliding windows are computed, anything unknown is refused.

    Raises
    ------
    Refused
        For an argument that it does not know, a mask, dropout or attention that is not causal.
    """
    rollout = _rollout.get()
    if rollout is None:
        raise RuntimeError("rollout attention was called outside `rolling`; the model's own attention was not restored")
    extra = sorted(k for k, v in unknown.items() if v is not None and k not in _INERT)
    if (
        extra
        or attention_mask is not None
        or dropout
        or is_causal is False
        or getattr(module, "is_causal", True) is False
    ):
        what = ", ".join(extra) or "a mask, dropout or bidirectional attention"
        raise Refused(f"{type(module).__name__} passes {what} to its attention, which rollouts do not compute")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if rollout.depth == 0:
        rollout.text[module] = (key, value)
        out, lse = prefix_attention(query, key, value, first=0, scale=scale, window=sliding_window, softcap=softcap)
        scores: list[Tensor] = []
        parts: list[Tensor] = []
    else:
        out, lse, scores, parts = _branch_parts(rollout, module, query, key, value, scale, sliding_window, softcap)
    total = lse if not scores else torch.logsumexp(torch.stack([*([] if lse is None else [lse]), *scores]), dim=0)
    if s_aux is not None:  # a sink is a key without a value: it takes weight and gives nothing
        total = torch.logaddexp(total, s_aux.float().expand_as(total))
    if total is not lse:
        joined = None if out is None else out * torch.exp(lse - total)[..., None].to(out.dtype)
        for score, part in zip(scores, parts, strict=True):
            weight = torch.exp(score - total)[..., None].to(part.dtype)
            joined = weight * part if joined is None else torch.addcmul(joined, weight, part)
        out = joined
    return out, None


def _branch_parts(
    rollout: Rollout,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> tuple[Any, Any, list[Tensor], list[Tensor]]:
    """Attention to the text, and score and value of every key of the own branch, [width, pos, heads(, dim)]."""
    width, heads, pos, _ = query.shape
    kv_heads = key.shape[1]
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    own = rollout.branches.setdefault(module, [])
    own.append((k.reshape(width * pos, -1), v.reshape(width * pos, -1)))
    grouped = q.reshape(width, pos, kv_heads, heads // kv_heads, -1)
    scores, parts = [], []
    for level, ((keys, values), ancestor) in enumerate(zip(own, rollout.ancestors, strict=True), start=1):
        if window is not None and rollout.depth - level >= window:
            continue
        if ancestor is not None:
            keys, values = keys.index_select(0, ancestor), values.index_select(0, ancestor)
        score = (grouped * keys.view(width, pos, kv_heads, 1, -1)).sum(-1).float() * scale
        if softcap is not None:
            score = torch.tanh(score / softcap) * softcap
        scores.append(score.flatten(2, 3))
        parts.append(_per_head(values.view(width, pos, kv_heads, -1), heads))
    text_window = None if window is None else window - rollout.depth
    if text_window is not None and text_window < 1:
        return None, None, scores, parts  # the branch alone fills the window
    text_key, text_value = rollout.text[module]
    out, lse = prefix_attention(
        query, text_key, text_value, first=rollout.first, scale=scale, window=text_window, softcap=softcap
    )
    return out, lse, scores, parts


def _per_head(values: Tensor, heads: int) -> Tensor:
    """[width, pos, kv_heads, dim] → [width, pos, heads, dim] without a copy where the heads are not grouped."""
    groups = heads // values.shape[2]
    return values if groups == 1 else values[:, :, :, None].expand(-1, -1, -1, groups, -1).flatten(2, 3)


# No mask function is registered under this name, so transformers builds no mask for it.
AttentionInterface.register(NAME, rollout_attention)


@contextlib.contextmanager
def rolling(model: PreTrainedModel, rollout: Rollout) -> Iterator[None]:
    """Within it `model` attends through `rollout`; its own attention is back on exit, also after an exception.

    Raises
    ------
    Refused
        The architecture does not choose its attention through `AttentionInterface`.
    """
    if not model._can_set_attn_implementation():
        raise Refused(f"{type(model).__name__} does not let its attention be chosen (no AttentionInterface)")
    configs = {id(c): c for c in _configs(model)}.values()
    before = [(config, config._attn_implementation_internal) for config in configs]
    token = _rollout.set(rollout)
    try:
        for config in configs:
            config._attn_implementation_internal = NAME
        yield
    finally:
        _rollout.reset(token)
        for config, own in before:
            config._attn_implementation_internal = own


def _configs(model: PreTrainedModel) -> Iterator[Any]:
    for module in model.modules():
        config = getattr(module, "config", None)
        if config is not None and hasattr(config, "_attn_implementation_internal"):
            yield config
