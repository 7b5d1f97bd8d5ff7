"""Branches over a shared prefix: attention for continuations of every position of a text at once.

The text is run once, and its keys and values are kept. A branch token at depth d of text position t has position id
t + d and sees

* the text up to t, which over all positions is plain causal attention with the text's own keys: queries are laid out
  as rows of one query a position ("columns"), and the fused causal kernel is called once, rows as the batch, and
* its own branch, at most D keys: those of its ancestors and itself,

joined by their log-sum-exps. So a depth is one forward pass of at most W tokens a position, whatever the
architecture, entered through `transformers.AttentionInterface`.

Every computed token is a *node*, a row in a pool of keys and values that begins with the text's own; a branch is a
list of nodes. A branch that follows the real text names the text's nodes, or those of the next position's branches,
and they are not computed again. The slow twin is `reference.branch_attention`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
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


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """Where the tokens of one forward pass stand: token i in row `rows[i]` of column `columns[i]`."""

    rows: Int[Tensor, "tokens"]
    columns: Int[Tensor, "tokens"]
    height: int
    width: int
    first_node: int
    ancestors: list[Int[Tensor, "tokens"]]  # node at each depth before this one

    def spread(self, x: Float[Tensor, "tokens heads dim"]) -> Float[Tensor, "height heads width dim"]:
        """Tokens at their places in the grid; where none stands, zeros, whose result is not read."""
        if len(x) == self.height * self.width:
            grid = x.view(self.height, self.width, *x.shape[1:])
        else:
            grid = x.new_zeros(self.height, self.width, *x.shape[1:])
            grid[self.rows, self.columns] = x
        return grid.transpose(1, 2)

    def collect(self, x: Float[Tensor, "height width *rest"]) -> Float[Tensor, "tokens *rest"]:
        if len(self.rows) == self.height * self.width:
            return x.reshape(-1, *x.shape[2:])
        return x[self.rows, self.columns]


@dataclass
class Rollout:
    """The keys and values of one text, and of the branches that have grown from a block of its positions."""

    length: int = 0
    text: dict[nn.Module, tuple[Tensor, Tensor]] = field(default_factory=dict)  # each [pos, kv_heads, dim]
    pools: dict[nn.Module, tuple[Tensor, Tensor]] = field(default_factory=dict)  # each [nodes, kv_heads, dim]
    chain: list[Int[Tensor, "width pos"]] = field(default_factory=list)  # node of every branch at each depth
    layout: _Layout | None = None  # None: the text itself is being run
    first: int = 0
    depth: int = 0
    nodes: int = 0
    capacity: int = 0

    def open_block(self, first: int, capacity: int) -> None:
        """Begin the branches of a block of positions, the first of which is `first`: at most `capacity` new nodes."""
        self.first, self.nodes, self.capacity = first, self.length, self.length + capacity
        self.pools = {}
        self.restart()

    def restart(self) -> None:
        """Begin another set of branches at the same positions; the nodes so far stay known."""
        self.depth, self.chain, self.layout = 0, [], None

    def descend(
        self,
        parents: Int[Tensor, "width pos"] | None,
        compute: Bool[Tensor, "width pos"],
        shared: Int[Tensor, "width pos"],
    ) -> Int[Tensor, "width pos"]:
        """Go one token deeper; returns the node of every branch.

        `parents[w, i]` is the row whose branch row w of column i continues (None: each its own). Where `compute`,
        the token becomes a new node, else it is the node `shared`. Only indices move: keys stay where they are.
        """
        self.depth += 1
        if parents is not None:
            self.chain = [nodes.gather(0, parents) for nodes in self.chain]
        count = int(compute.sum())
        fresh = torch.arange(self.nodes, self.nodes + count, device=shared.device)
        nodes = shared.masked_scatter(compute, fresh)
        rows = compute.long().cumsum(0) - 1
        self.layout = _Layout(
            rows=rows[compute],
            columns=torch.arange(compute.shape[1], device=shared.device).expand_as(compute)[compute],
            height=int(rows.max()) + 1,
            width=compute.shape[1],
            first_node=self.nodes,
            ancestors=[level[compute] for level in self.chain],
        )
        self.nodes += count
        self.chain.append(nodes)
        return nodes

    def pool(self, module: nn.Module) -> tuple[Tensor, Tensor]:
        """Keys and values of the text and of all nodes of the block so far, with room for more."""
        if module not in self.pools:
            pair = []
            for of_text in self.text[module]:
                pool = of_text.new_empty(self.capacity, *of_text.shape[1:])
                pool[: self.length] = of_text
                pair.append(pool)
            self.pools[module] = (pair[0], pair[1])
        return self.pools[module]


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
    options: dict[str, Any] = {"scale": scale, "softcap": softcap}
    scores: list[Tensor] = []
    parts: list[Tensor] = []
    out: Tensor | None
    lse: Tensor | None
    if rollout.layout is None:
        rollout.length = key.shape[2]
        rollout.text[module] = (key[0].transpose(0, 1), value[0].transpose(0, 1))
        out, lse = prefix_attention(query, key, value, first=0, window=sliding_window, **options)
    else:
        q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))  # [tokens, heads, dim]
        scores, parts = _own_branch(rollout, rollout.layout, module, q, k, v, sliding_window, **options)
        out, lse = _text_part(rollout, rollout.layout, module, q, sliding_window, **options)
        out, lse = (None if x is None else x[None] for x in (out, lse))
        scores, parts = ([x[None] for x in xs] for xs in (scores, parts))
    total = torch.logsumexp(torch.stack([*([] if lse is None else [lse]), *scores]), dim=0) if scores else lse
    assert total is not None
    if s_aux is not None:  # a sink is a key without a value: it takes weight and gives nothing
        total = torch.logaddexp(total, s_aux.float().expand_as(total))
    if lse is not None and total is not lse:
        assert out is not None
        out = out * torch.exp(lse - total)[..., None].to(out.dtype)
    for score, part in zip(scores, parts, strict=True):
        weight = torch.exp(score - total)[..., None].to(part.dtype)
        out = weight * part if out is None else torch.addcmul(out, weight, part)
    assert out is not None
    return out, None


def _text_part(
    rollout: Rollout, layout: _Layout, module: nn.Module, query: Tensor, window: int | None, **options: Any
) -> tuple[Tensor | None, Tensor | None]:
    """Attention of the branch tokens to the text: [tokens, heads, dim] and its log-sum-exp [tokens, heads]."""
    if window is not None:
        window -= rollout.depth
        if window < 1:
            return None, None  # the branch alone fills the window
    text_key, text_value = (x[: rollout.length].transpose(0, 1)[None] for x in rollout.pool(module))
    out, lse = prefix_attention(
        layout.spread(query), text_key, text_value, first=rollout.first, window=window, **options
    )
    return layout.collect(out), layout.collect(lse)


def _own_branch(
    rollout: Rollout,
    layout: _Layout,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    window: int | None,
    *,
    scale: float,
    softcap: float | None,
) -> tuple[list[Tensor], list[Tensor]]:
    """Score [tokens, heads] and value [tokens, heads, dim] of every key of the own branch that is in the window."""
    pool_key, pool_value = rollout.pool(module)
    here = slice(layout.first_node, layout.first_node + len(key))
    pool_key[here], pool_value[here] = key, value
    tokens, heads, _ = query.shape
    grouped = query.reshape(tokens, key.shape[1], heads // key.shape[1], -1)
    levels = [(pool_key.index_select(0, n), pool_value.index_select(0, n)) for n in layout.ancestors]
    scores, parts = [], []
    for back, (keys, values) in enumerate([(key, value), *reversed(levels)]):
        if window is not None and back >= window:
            break
        score = (grouped * keys[:, :, None]).sum(-1).float().flatten(1) * scale
        if softcap is not None:
            score = torch.tanh(score / softcap) * softcap
        scores.append(score)
        parts.append(_per_head(values, heads))
    return scores, parts


def _per_head(values: Tensor, heads: int) -> Tensor:
    """[tokens, kv_heads, dim] → [tokens, heads, dim], without a copy where the heads are not grouped."""
    return values if heads == values.shape[1] else values.repeat_interleave(heads // values.shape[1], dim=1)


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
