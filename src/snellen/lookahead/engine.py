"""Two ways to run the branches of many positions: as columns over the shared text, or as plain sequences.

Both answer the same calls, so that a search does not know which one it has. `ColumnEngine` costs W forward passes of
the text a depth; `PlainEngine` feeds every prefix anew and is right for any causal model, at a price that grows with
the length of the text.
"""

from __future__ import annotations

import abc
import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast

from snellen.attention.keeping import Kept
from snellen.attention.rollout import Rollout, attention_configs, rolling
from snellen.errors import Refused
from snellen.models.body import (
    body_of,
    device_of,
    embedding_rows,
    hidden_size,
    logit_columns,
    stated,
    width_of,
)


class Body:
    """A causal language model taken apart where transformers joins it: hidden states, and logits from them.

    The head is run by the model's own forward pass over a body that returns given hidden states. So whatever an
    architecture does behind its body (multipliers, soft-capping, projections) is done by its own code, and logits
    can be had in blocks.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model, self.body = model, body_of(model)
        if model.get_output_embeddings() is None:
            raise Refused(f"{type(model).__name__} names no output layer: its predictions cannot be read in blocks")
        self.vocabulary = logit_columns(model)
        if self.vocabulary > (read := embedding_rows(model)):
            raise Refused(
                f"{type(model).__name__} predicts {self.vocabulary} ids and has embeddings for {read}: it may be "
                "unable to read what it writes; cut its head to the embedding (resize_token_embeddings)"
            )
        self._output: Any = BaseModelOutputWithPast

    def returns(self, output: type) -> None:
        """What the body's forward pass returns, where one was run elsewhere."""
        self._output = output

    def hidden(self, input_ids: Int[Tensor, "batch pos"], **arguments: Any) -> Float[Tensor, "batch pos model"]:
        """Last hidden states, without a cache."""
        output = self.body(input_ids=input_ids, use_cache=False, return_dict=True, **arguments)
        self._output = type(output)
        hidden: Tensor = output.last_hidden_state
        return hidden

    def logits(self, hidden: Float[Tensor, "rows model"]) -> Float[Tensor, "rows vocab"]:
        """The model's logits for these hidden states, in its own dtype."""
        with self._returning(hidden[None]):
            ids = torch.zeros(1, hidden.shape[0], dtype=torch.long, device=hidden.device)
            logits: Tensor = self.model(input_ids=ids, use_cache=False, return_dict=True).logits
        return logits[0]

    @contextlib.contextmanager
    def _returning(self, hidden: Tensor) -> Iterator[None]:
        output = self._output(last_hidden_state=hidden)
        own = self.body.__dict__.get("forward")
        self.body.forward = lambda *_, **__: output
        try:
            yield
        finally:
            if own is None:
                del self.body.forward
            else:
                self.body.forward = own


class Engine(abc.ABC):
    """Runs the text once, then the branches of one block of its positions after another, depth by depth.

    Several texts of equal length are searched at once where their forward pass was kept (`adopt`). A block has the same
    positions of some of them, and its columns are these, text by text.
    """

    name: str

    def __init__(self, model: PreTrainedModel) -> None:
        self.body = Body(model)

    @abc.abstractmethod
    def read(self, input_ids: Int[Tensor, "pos"]) -> Float[Tensor, "pos model"]:
        """Run the text; its hidden states."""

    @abc.abstractmethod
    def adopt(self, input_ids: Int[Tensor, "batch pos"], kept: Kept) -> None:
        """Take a batch of texts whose forward pass was run under `keeping`."""

    @abc.abstractmethod
    def open_block(self, first: int, capacity: int, texts: slice = slice(0, 1)) -> None:
        """Begin the branches of a block of positions from `first`; `capacity` tokens will be computed at most."""

    @abc.abstractmethod
    def restart(self) -> None:
        """Begin another set of branches at the same positions; nodes that were computed stay known."""

    @abc.abstractmethod
    def step(
        self,
        tokens: Int[Tensor, "width pos"],
        parents: Int[Tensor, "width pos"] | None,
        shared: Int[Tensor, "width pos"] | None = None,
    ) -> tuple[Float[Tensor, "computed model"], Int[Tensor, "width pos"]]:
        """Append `tokens` to the branches in rows `parents` (None: each to its own).

        At the first depth `parents` has nothing to point at and is not read. Where `shared` is 0 or more, the token
        is that node, which is known already (position t of the block's b-th text is node b · length + t), and is not
        computed again. Returns the hidden states of the computed tokens, row by row, and everyone's node.
        """

    @abc.abstractmethod
    def bytes_per_position(self, widths: Sequence[int], horizon: int) -> int:
        """Memory that one position of a block takes while its branches are run, an upper estimate."""

    @abc.abstractmethod
    def bytes_of_text(self) -> int:
        """Memory that one text takes while branches are run."""


class ColumnEngine(Engine):
    """Branches as rows over the text's own keys and values (`attention.rollout`)."""

    name = "columns"

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model)
        self._rollout = Rollout()
        self._configs = attention_configs(model)
        self._pos, self._copies = 0, 2
        self._most: int | None = None

    def read(self, input_ids: Int[Tensor, "pos"]) -> Float[Tensor, "pos model"]:
        self._rollout = Rollout()
        # As it was read, and at the head of the pool.
        self._pos, self._copies, self._most = len(input_ids), 2, None
        hidden = self._run(input_ids, torch.arange(len(input_ids), device=input_ids.device))
        if not self._rollout.text:
            raise Refused(f"{type(self.body.model).__name__} does not attend through AttentionInterface")
        return hidden

    def adopt(self, input_ids: Int[Tensor, "batch pos"], kept: Kept) -> None:
        if not kept.text:
            raise Refused(f"{type(self.body.model).__name__} does not attend through AttentionInterface")
        self._rollout = Rollout(text=kept.text)
        self._pos, self._copies = input_ids.shape[1], 1
        self._most = _tokens_of_a_pass(self.body.model)
        if input_ids.device.type == "cpu":
            _keep_freed_memory()
        if kept.output is not None:
            self.body.returns(kept.output)

    def open_block(self, first: int, capacity: int, texts: slice = slice(0, 1)) -> None:
        self._rollout.open_block(first, capacity, texts)

    def restart(self) -> None:
        self._rollout.restart()

    def step(
        self,
        tokens: Int[Tensor, "width pos"],
        parents: Int[Tensor, "width pos"] | None,
        shared: Int[Tensor, "width pos"] | None = None,
    ) -> tuple[Float[Tensor, "computed model"], Int[Tensor, "width pos"]]:
        shared = torch.full_like(tokens, -1) if shared is None else shared
        compute = shared < 0
        nodes = self._rollout.descend(parents, compute, shared, most=self._most)
        texts = self._rollout.texts.stop - self._rollout.texts.start
        places = torch.arange(tokens.shape[1] // texts, device=tokens.device).repeat(texts)
        places += self._rollout.first + self._rollout.depth
        ids, places = tokens[compute], places.expand_as(tokens)[compute]
        if not len(ids):
            return ids.new_empty(0, 1, dtype=self.body.model.dtype), nodes
        parts = []
        for run, layout in self._rollout.passes:
            if run.stop > run.start:
                self._rollout.layout = layout
                parts.append(self._run(ids[run], places[run]))
        return parts[0] if len(parts) == 1 else torch.cat(parts), nodes

    def _run(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        with rolling(self.body.model, self._rollout, self._configs):
            return self.body.hidden(input_ids[None], position_ids=position_ids[None])[0]

    def bytes_per_position(self, widths: Sequence[int], horizon: int) -> int:
        kept = sum(widths) * (horizon - 1) * self._bytes_per_node()
        return kept + max(widths) * _activation_bytes(self.body.model)

    def bytes_of_text(self) -> int:
        return self._copies * self._pos * self._bytes_per_node()

    def _bytes_per_node(self) -> int:
        return sum(x[0, :, 0].numel() * x.element_size() for pair in self._rollout.text.values() for x in pair)


class PlainEngine(Engine):
    """Every branch as a sequence of its own, prefix and all, one position after another: right for any causal model."""

    name = "plain"

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model)
        self._texts = self._block = torch.empty(0, 0, dtype=torch.long)
        self._first = self._nodes = 0
        self._branches: Tensor | None = None

    def read(self, input_ids: Int[Tensor, "pos"]) -> Float[Tensor, "pos model"]:
        self._texts = input_ids[None]
        return self.body.hidden(self._texts)[0]

    def adopt(self, input_ids: Int[Tensor, "batch pos"], kept: Kept) -> None:
        self._texts = input_ids
        if kept.output is not None:
            self.body.returns(kept.output)

    def open_block(self, first: int, capacity: int, texts: slice = slice(0, 1)) -> None:
        self._block = self._texts[texts]
        self._first, self._nodes = first, self._block.numel()
        self.restart()

    def restart(self) -> None:
        self._branches = None

    def step(
        self,
        tokens: Int[Tensor, "width pos"],
        parents: Int[Tensor, "width pos"] | None,
        shared: Int[Tensor, "width pos"] | None = None,
    ) -> tuple[Float[Tensor, "computed model"], Int[Tensor, "width pos"]]:
        shared = torch.full_like(tokens, -1) if shared is None else shared
        compute = shared < 0
        grown = tokens[..., None]
        if self._branches is not None:
            before = self._branches
            if parents is not None:
                before = before.gather(0, parents[..., None].expand_as(before))
            grown = torch.cat([before, grown], dim=-1)
        self._branches = grown
        count = int(compute.sum())
        fresh = torch.arange(self._nodes, self._nodes + count, device=tokens.device)
        self._nodes += count
        width, hidden = hidden_size(self.body.model), None
        pos = tokens.shape[1] // len(self._block)
        for place in range(pos):  # branches of one position are equally long, so that nothing is padded
            columns = slice(place, None, pos)  # that position of each text
            rows, texts = compute[:, columns].nonzero(as_tuple=True)
            if not len(rows):
                continue
            prefix = self._block[texts, : self._first + place + 1]
            last = self.body.hidden(torch.cat([prefix, grown[:, columns][rows, texts]], dim=1))[:, -1]
            if hidden is None:
                hidden = last.new_empty(*tokens.shape, last.shape[-1])
            hidden[:, columns][rows, texts] = last
        states = grown.new_empty(0, width).float() if hidden is None else hidden[compute]
        return states, shared.masked_scatter(compute, fresh)

    def bytes_per_position(self, widths: Sequence[int], horizon: int) -> int:
        # Positions are run one by one, so that a block's size costs no memory but for the results.
        return max(widths) * (hidden_size(self.body.model) * 4 + horizon * 8)

    def bytes_of_text(self) -> int:
        return 0


# What the widest tensor of a pass may hold. The C library keeps freed blocks below 32 MB for the next ones at best, and
# a processor loses a fifth of its time where it must touch fresh memory for each (benchmarks/training_rollouts.py).
_WIDEST_TENSOR = {"cpu": 16 << 20}
_LARGEST_KEPT = 31 << 20


def _tokens_of_a_pass(model: PreTrainedModel) -> int | None:
    most = _WIDEST_TENSOR.get(device_of(model).type)
    if most is None:
        return None
    widest: int = max(width_of(model), 3 * hidden_size(model)) * model.dtype.itemsize
    return max(1, most // widest)


@functools.cache
def _keep_freed_memory() -> None:
    """Have the C library keep blocks of up to 31 MB that are freed, where it is glibc: no harm elsewhere.

    It gives a large block back to the system, and takes it anew, page by page, for the next tensor, until it has once
    seen one as large being freed (its threshold is dynamic: mallopt(3), M_MMAP_THRESHOLD). This one is never touched.
    """
    torch.empty(_LARGEST_KEPT, dtype=torch.uint8)


def _activation_bytes(model: PreTrainedModel) -> int:
    """What one token of a row holds at the widest place of a layer, an upper estimate."""
    config = model.config.get_text_config(decoder=True)
    hidden = hidden_size(model)
    heads = (stated(config, "num_attention_heads") or 1) * (stated(config, "head_dim") or 0)
    return int((10 * hidden + 6 * max(heads, hidden) + 4 * width_of(model)) * model.dtype.itemsize)
