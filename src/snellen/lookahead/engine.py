"""Two ways to run the branches of many positions: as columns over the shared text, or as plain sequences.

Both answer the same calls, so that a search does not know which one it has. `ColumnEngine` costs W forward passes of
the text a depth; `PlainEngine` feeds every prefix anew and is right for any causal model, at a price that grows with
the length of the text.
"""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from snellen.attention.rollout import Rollout, rolling
from snellen.errors import Refused


class Body:
    """A causal language model taken apart where transformers joins it: hidden states, and logits from them.

    The head is run by the model's own forward pass over a body that returns given hidden states. So whatever an
    architecture does behind its body (multipliers, soft-capping, projections) is done by its own code, and logits
    can be had in blocks.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        body = model.get_decoder()  # for OPT, say, not `base_model`, but what its head is put on
        if not isinstance(body, nn.Module) or body is model:
            raise Refused(f"{type(model).__name__} has no body below its head: load it as a causal language model")
        self.model, self.body = model, body
        self.vocabulary: int = model.get_output_embeddings().weight.shape[0]
        self._output: Any = None

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
    """Runs the text once, then the branches of one block of its positions after another, depth by depth."""

    name: str

    def __init__(self, model: PreTrainedModel) -> None:
        self.body = Body(model)

    @abc.abstractmethod
    def read(self, input_ids: Int[Tensor, "pos"]) -> Float[Tensor, "pos model"]:
        """Run the text; its hidden states."""

    @abc.abstractmethod
    def open_block(self, first: int) -> None:
        """Begin the branches of a block of positions, the first of which is `first`."""

    @abc.abstractmethod
    def step(
        self, tokens: Int[Tensor, "width pos"], parents: Int[Tensor, "width pos"] | None
    ) -> Float[Tensor, "width pos model"]:
        """Append `tokens` to the branches in rows `parents` (None: each to its own); hidden states of the tokens."""

    @abc.abstractmethod
    def bytes_per_position(self, width: int, horizon: int) -> int:
        """Memory that one position of a block takes while its branches are run, an upper estimate."""


class ColumnEngine(Engine):
    """Branches as rows over the text's own keys and values (`attention.rollout`)."""

    name = "columns"

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model)
        self._rollout = Rollout()
        self._length = 0

    def read(self, input_ids: Int[Tensor, "pos"]) -> Float[Tensor, "pos model"]:
        self._rollout = Rollout()
        self._length = len(input_ids)
        hidden = self._run(input_ids[None], torch.arange(len(input_ids), device=input_ids.device)[None])[0]
        if not self._rollout.text:
            raise Refused(f"{type(self.body.model).__name__} does not attend through AttentionInterface")
        return hidden

    def open_block(self, first: int) -> None:
        self._rollout.open_block(first)

    def step(
        self, tokens: Int[Tensor, "width pos"], parents: Int[Tensor, "width pos"] | None
    ) -> Float[Tensor, "width pos model"]:
        self._rollout.descend(parents)
        columns = torch.arange(tokens.shape[1], device=tokens.device) + self._rollout.first + self._rollout.depth
        return self._run(tokens, columns.expand_as(tokens))

    def _run(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        with rolling(self.body.model, self._rollout):
            return self.body.hidden(input_ids, position_ids=position_ids)

    def bytes_per_position(self, width: int, horizon: int) -> int:
        kept = sum(k.shape[1] * (k.shape[3] + v.shape[3]) * k.element_size() for k, v in self._rollout.text.values())
        return width * ((horizon - 1) * kept + _activation_bytes(self.body.model))


class PlainEngine(Engine):
    """Every branch as a sequence of its own, prefix and all, one position after another: right for any causal model."""

    name = "plain"

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model)
        self._text = torch.empty(0, dtype=torch.long)
        self._first = 0
        self._branches: Tensor | None = None

    def read(self, input_ids: Int[Tensor, "pos"]) -> Float[Tensor, "pos model"]:
        self._text = input_ids
        return self.body.hidden(input_ids[None])[0]

    def open_block(self, first: int) -> None:
        self._first, self._branches = first, None

    def step(
        self, tokens: Int[Tensor, "width pos"], parents: Int[Tensor, "width pos"] | None
    ) -> Float[Tensor, "width pos model"]:
        grown = tokens[..., None]
        if self._branches is not None:
            before = self._branches
            if parents is not None:
                before = before.gather(0, parents[..., None].expand_as(before))
            grown = torch.cat([before, grown], dim=-1)
        self._branches = grown
        width, pos, _ = grown.shape
        hidden = []
        for column in range(pos):  # the rows of one column are equally long, so that nothing is padded
            prefix = self._text[: self._first + column + 1].expand(width, -1)
            hidden.append(self.body.hidden(torch.cat([prefix, grown[:, column]], dim=1))[:, -1])
        return torch.stack(hidden, dim=1)

    def bytes_per_position(self, width: int, horizon: int) -> int:
        # Positions are run one by one, so that a block's size costs no memory but for the results.
        hidden: int = self.body.model.get_input_embeddings().weight.shape[1] * 4
        return width * (hidden + horizon * 8)


def _activation_bytes(model: PreTrainedModel) -> int:
    """What one token of a row holds at the widest place of a layer, an upper estimate."""
    config = model.config.get_text_config()
    hidden = config.hidden_size
    heads = getattr(config, "num_attention_heads", 1) * (getattr(config, "head_dim", None) or 0)
    inner = max(
        (getattr(config, n, None) or 0 for n in ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size")),
        default=0,
    )
    size = torch.finfo(model.dtype).bits // 8
    return int((10 * hidden + 6 * max(heads, hidden) + 4 * (inner or 4 * hidden)) * size)
