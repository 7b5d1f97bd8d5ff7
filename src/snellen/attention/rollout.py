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
and they are not computed again; and a text that is being written grows by one of its own branches' nodes. The slow
twin is `reference.branch_attention`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from snellen.attention.layout import Layout
from snellen.attention.partial import own_attention, prefix_attention, shared_attention
from snellen.errors import Refused

NAME = "snellen_rollout"

# Arguments that transformers hands to every attention function and that do not change what it computes here.
_INERT = frozenset({"position_ids", "cache_position", "use_cache", "output_attentions", "output_hidden_states"})
_INERT |= {"num_items_in_batch", "logits_to_keep", "return_dict", "position_embeddings"}

_FEW = 8  # nodes of a branch that are taken one by one; more are gathered at once
_GATHERED_BYTES = 4 << 20  # of keys and values together; they are read again at once, from the cache


@dataclass
class Rollout:
    """The keys and values of a batch of texts, and of the branches that have grown from them.

    Branches of many positions come block by block (`open_block`, `descend`), and the texts stay as they are. A block
    has the same positions of some of the texts, and its columns are these positions, text by text; its first nodes
    are those texts' own, so that position t of its b-th text is node b · pos + t.

    With `room` there is one text, which is going to grow by as many tokens instead: branches then stand at its end
    alone (`branch`), as nodes whose places their owner deals out among `spare` ones, and one of them becomes the next
    token (`extend`).
    """

    room: int = 0
    spare: int = 0
    length: int = 0  # nodes of the texts of the block, which are the first ones
    text: dict[nn.Module, tuple[Tensor, Tensor]] = field(default_factory=dict)  # each [batch, kv_heads, pos, dim]
    pools: dict[nn.Module, tuple[Tensor, Tensor]] = field(default_factory=dict)  # each [nodes, kv_heads, dim]
    chain: list[Int[Tensor, "width pos"]] = field(default_factory=list)  # node of every branch at each depth
    layout: Layout | None = None  # of the pass that is being run; None: the text itself
    passes: list[tuple[slice, Layout]] = field(default_factory=list)  # of this depth, with their tokens
    texts: slice = field(default_factory=lambda: slice(0, 1))  # those of the block
    first: int = 0
    depth: int = 0
    nodes: int = 0
    capacity: int = 0

    def keep(
        self,
        module: nn.Module,
        key: Float[Tensor, "batch kv_heads pos dim"],
        value: Float[Tensor, "batch kv_heads pos vdim"],
    ) -> None:
        """Keep the texts' keys and values: where one is going to grow, at once where they will stay."""
        self.length, self.first = key.shape[2], key.shape[2] - 1
        if not self.room:
            self.text[module] = (key, value)
            return
        self.capacity = self.length + self.room + self.spare
        self.pools[module] = (self._with_room(key), self._with_room(value))

    def open_block(self, first: int, capacity: int, texts: slice = slice(0, 1)) -> None:
        """Begin the branches of a block of positions, the first of which is `first`: at most `capacity` new nodes."""
        self.texts = texts
        if self.text:
            self.length = (texts.stop - texts.start) * next(iter(self.text.values()))[0].shape[2]
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
        *,
        most: int | None = None,
    ) -> Int[Tensor, "width pos"]:
        """Go one token deeper; returns the node of every branch.

        `parents[w, i]` is the row whose branch row w of column i continues (None: each its own). Where `compute`,
        the token becomes a new node, else it is the node `shared`. Only indices move: keys stay where they are.

        The new tokens, row by row, are run in one pass (`layout`); with `most`, in as many `passes` of whole rows as
        keep to that number of tokens where they can.
        """
        self.depth += 1
        if parents is not None:
            self.chain = [nodes.gather(0, parents) for nodes in self.chain]
        tokens: list[int] = compute.sum(1).tolist()
        count = sum(tokens)
        fresh = torch.arange(self.nodes, self.nodes + count, device=shared.device)
        nodes = shared.masked_scatter(compute, fresh)
        self.passes, start = [], 0
        for rows in _rows_of_passes(tokens, most):
            number = sum(tokens[rows])
            self.passes.append((slice(start, start + number), self._layout(compute, rows, start, number)))
            start += number
        self.layout = self.passes[0][1]
        self.nodes += count
        self.chain.append(nodes)
        return nodes

    def _layout(self, compute: Bool[Tensor, "width pos"], rows: slice, start: int, number: int) -> Layout:
        """Of the new tokens in some rows, which follow `start` others."""
        here = compute[rows]
        places = here.long().cumsum(0) - 1
        return Layout(
            rows=places[here],
            columns=torch.arange(here.shape[1], device=here.device).expand_as(here)[here],
            height=int(places.max()) + 1 if len(here) > 1 else 1,
            width=here.shape[1],
            texts=self.texts.stop - self.texts.start,
            nodes=slice(self.nodes + start, self.nodes + start + number),
            depths=(self.depth,),
            ancestors=[level[rows][here] for level in self.chain],
        )

    def branch(self, chains: Sequence[Sequence[int]], nodes: Sequence[int], *, device: torch.device) -> None:
        """The next pass runs a token behind each of these branches of the text's end; they become `nodes`."""
        self.layout = Layout.of_one(chains, nodes, device=device)

    def extend(self, node: int) -> None:
        """`node`, a first token behind the text, becomes its last token: its keys and values move, once."""
        for pair in self.pools.values():
            for pool in pair:
                pool[self.length] = pool[node]
        self.length, self.first = self.length + 1, self.first + 1

    def pool(self, module: nn.Module) -> tuple[Tensor, Tensor]:
        """Keys and values of the block's texts and of all nodes so far, with room for more."""
        if module not in self.pools:
            key, value = (x[self.texts] for x in self.text[module])
            self.pools[module] = (self._with_room(key), self._with_room(value))
        return self.pools[module]

    def _with_room(self, of_texts: Float[Tensor, "batch kv_heads pos dim"]) -> Float[Tensor, "nodes kv_heads dim"]:
        batch, heads, pos, dim = of_texts.shape
        pool = of_texts.new_empty(self.capacity, heads, dim)
        pool[: batch * pos].view(batch, pos, heads, dim).copy_(of_texts.transpose(1, 2))
        return pool


def _rows_of_passes(tokens: Sequence[int], most: int | None) -> list[slice]:
    """Neighbouring rows with at most `most` tokens together, or one row with more."""
    if most is None:
        return [slice(0, len(tokens))]
    parts: list[slice] = []
    first = together = 0
    for row, number in enumerate(tokens):
        if together and together + number > most:
            parts.append(slice(first, row))
            first, together = row, 0
        together += number
    return [*parts, slice(first, len(tokens))]


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
    query, key, value = as_autocast(query, key, value)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    options: dict[str, Any] = {"scale": scale, "softcap": softcap}
    scores: list[Tensor] = []
    parts: list[Tensor] = []
    out: Tensor | None
    lse: Tensor | None
    if rollout.layout is None:
        rollout.keep(module, key, value)
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
    rollout: Rollout, layout: Layout, module: nn.Module, query: Tensor, window: int | None, **options: Any
) -> tuple[Tensor | None, Tensor | None]:
    """Attention of the branch tokens to the text: [tokens, heads, dim] and its log-sum-exp [tokens, heads]."""
    if layout.width == 1:
        return _text_of_one_column(rollout, layout, module, query, window, **options)
    if window is not None:
        window -= rollout.depth
        if window < 1:
            return None, None  # the branch alone fills the window
    text_key, text_value = (
        x[: rollout.length].view(layout.texts, -1, *x.shape[1:]).transpose(1, 2) for x in rollout.pool(module)
    )
    out, lse = prefix_attention(
        layout.spread(query), text_key, text_value, first=rollout.first, window=window, **options
    )
    return layout.collect(out), layout.collect(lse)


def _text_of_one_column(
    rollout: Rollout, layout: Layout, module: nn.Module, query: Tensor, window: int | None, **options: Any
) -> tuple[Tensor | None, Tensor | None]:
    """The same where all tokens stand behind one position, and so see the same text but for their windows."""
    last = rollout.first + 1
    if window is None:
        key, value = (x[:last] for x in rollout.pool(module))
        return shared_attention(query, key, value, **options)
    out: Tensor | None = None
    lse = query.new_full(query.shape[:2], -torch.inf, dtype=torch.float32)
    for depth in sorted(set(layout.depths)):
        if window - depth < 1:
            continue
        key, value = (x[max(0, last - (window - depth)) : last] for x in rollout.pool(module))
        if layout.even:
            return shared_attention(query, key, value, **options)
        here = [i for i, other in enumerate(layout.depths) if other == depth]
        part, lse[here] = shared_attention(query[here], key, value, **options)
        out = query.new_zeros(*query.shape[:2], value.shape[-1]) if out is None else out
        out[here] = part
    return (None, None) if out is None else (out, lse)


def _own_branch(
    rollout: Rollout,
    layout: Layout,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    window: int | None,
    *,
    scale: float,
    softcap: float | None,
) -> tuple[list[Tensor], list[Tensor]]:
    """Scores [tokens, heads] and values [tokens, heads, dim] of the keys of the own branch that are in the window.

    A value may stand for several keys, as their mean under the softmax, with their log-sum-exp as its score.
    """
    pool_key, pool_value = pools = rollout.pool(module)
    pool_key[layout.nodes], pool_value[layout.nodes] = key, value
    tokens, heads, _ = query.shape
    grouped = query.reshape(tokens, key.shape[1], heads // key.shape[1], -1)
    reach = len(layout.ancestors) + 1 if window is None else min(len(layout.ancestors) + 1, window)
    scores, parts = [], []
    if layout.even and reach <= _FEW:
        levels = [(pool_key.index_select(0, n), pool_value.index_select(0, n)) for n in layout.ancestors[::-1]]
        for keys, values in [(key, value), *levels][:reach]:
            scores.append(_capped((grouped * keys[:, :, None]).sum(-1).float().flatten(1) * scale, softcap))
            parts.append(_per_head(values, heads))
        return scores, parts
    each = tokens * (key[0].numel() + value[0].numel()) * key.element_size()
    block = max(1, _GATHERED_BYTES // each)
    for start in range(0, reach, block):
        back = slice(start, min(start + block, reach))
        nodes = layout.branches[:, back]
        keys, values = (pool.index_select(0, nodes.flatten()).view(*nodes.shape, *pool.shape[1:]) for pool in pools)
        missing = None if layout.missing is None else layout.missing[:, back]
        out, lse = own_attention(query, keys, values, scale=scale, softcap=softcap, missing=missing)
        scores.append(lse)
        parts.append(out)
    return scores, parts


def as_autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """As autocast hands them to the model's own attention: operators that it does not know want one dtype for all."""
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(x if x.dtype == torch.float64 else x.to(dtype) for x in tensors)


def _capped(score: Tensor, softcap: float | None) -> Tensor:
    return score if softcap is None else torch.tanh(score / softcap) * softcap


def _per_head(values: Tensor, heads: int) -> Tensor:
    """[tokens, kv_heads, dim] → [tokens, heads, dim], without a copy where the heads are not grouped."""
    return values if heads == values.shape[1] else values.repeat_interleave(heads // values.shape[1], dim=1)


# No mask function is registered under this name, so transformers builds no mask for it.
AttentionInterface.register(NAME, rollout_attention)


@contextlib.contextmanager
def rolling(model: PreTrainedModel, rollout: Rollout, configs: Sequence[Any] | None = None) -> Iterator[None]:
    """Within it `model` attends through `rollout`; its own attention is back on exit, also after an exception.

    `configs` is `attention_configs(model)`, for who comes here for every token and will not wait for the search.

    Raises
    ------
    Refused
        The architecture does not choose its attention through `AttentionInterface`.
    """
    if not model._can_set_attn_implementation():
        raise Refused(f"{type(model).__name__} does not let its attention be chosen (no AttentionInterface)")
    configs = attention_configs(model) if configs is None else configs
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


def attention_configs(model: PreTrainedModel) -> list[Any]:
    """The configurations that the model's modules read their attention from."""
    found = (getattr(module, "config", None) for module in model.modules())
    return list({id(c): c for c in found if c is not None and hasattr(c, "_attn_implementation_internal")}.values())
