"""A text that grows by one of its own branches: the prompt is run once, and a token that was run is not run again.

Two ways, as in `engine`: over the text's own keys and values, or every branch as a sequence of its own.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from snellen.attention.rollout import Rollout, attention_configs, rolling
from snellen.errors import Refused
from snellen.lookahead.engine import Body, ColumnEngine, Engine
from snellen.models.body import device_of


class Stem(abc.ABC):
    """A text, and the branches behind its last token. A branch is named by its nodes, from the text on."""

    def __init__(self, body: Body) -> None:
        self.body = body

    @abc.abstractmethod
    def read(self, prompt: Int[Tensor, "pos"], *, room: int, spare: int) -> Float[Tensor, "1 model"]:
        """Run the prompt, to grow by at most `room` tokens, with at most `spare` nodes at a time: its last state."""

    @abc.abstractmethod
    def run(
        self, tokens: Sequence[int], chains: Sequence[Sequence[int]], nodes: Sequence[int]
    ) -> Float[Tensor, "tokens model"]:
        """Run a token behind each of the branches `chains`, of any depths, as the nodes 0 ≤ n < spare: their states."""

    @abc.abstractmethod
    def extend(self, node: int) -> None:
        """The first token of some branch becomes the text's last. Its node is free then; nodes behind it stay."""


class ColumnStem(Stem):
    """Over the text's own keys and values (`attention.rollout`)."""

    def __init__(self, body: Body) -> None:
        super().__init__(body)
        self._rollout = Rollout()
        self._configs = attention_configs(body.model)
        self._offset = 0

    def read(self, prompt: Int[Tensor, "pos"], *, room: int, spare: int) -> Float[Tensor, "1 model"]:
        self._rollout = Rollout(room=max(1, room), spare=spare)
        hidden = self._run(prompt, torch.arange(len(prompt), device=prompt.device))
        if not self._rollout.pools:
            raise Refused(f"{type(self.body.model).__name__} does not attend through AttentionInterface")
        self._offset = self._rollout.capacity - spare
        return hidden[-1:]

    def run(
        self, tokens: Sequence[int], chains: Sequence[Sequence[int]], nodes: Sequence[int]
    ) -> Float[Tensor, "tokens model"]:
        device = device_of(self.body.model)
        places = [self._rollout.first + len(chain) + 1 for chain in chains]
        self._rollout.branch(
            [[self._offset + node for node in chain] for chain in chains],
            [self._offset + node for node in nodes],
            device=device,
        )
        return self._run(torch.tensor(tokens, device=device), torch.tensor(places, device=device))

    def extend(self, node: int) -> None:
        self._rollout.extend(self._offset + node)

    def _run(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        with rolling(self.body.model, self._rollout, self._configs):
            return self.body.hidden(input_ids[None], position_ids=position_ids[None])[0]


class PlainStem(Stem):
    """Every branch as a sequence of its own, text and all: right for any causal model."""

    def __init__(self, body: Body) -> None:
        super().__init__(body)
        self._text = torch.empty(0, dtype=torch.long)
        self._token: dict[int, int] = {}

    def read(self, prompt: Int[Tensor, "pos"], *, room: int, spare: int) -> Float[Tensor, "1 model"]:
        self._text, self._token = prompt, {}
        return self.body.hidden(prompt[None])[0, -1:]

    def run(
        self, tokens: Sequence[int], chains: Sequence[Sequence[int]], nodes: Sequence[int]
    ) -> Float[Tensor, "tokens model"]:
        self._token.update(zip(nodes, tokens, strict=True))
        branches = [[self._token[node] for node in (*chain, own)] for chain, own in zip(chains, nodes, strict=True)]
        states: list[Tensor] = [self._text] * len(tokens)
        for depth in sorted({len(branch) for branch in branches}):  # equally long, so that nothing is padded
            rows = [i for i, branch in enumerate(branches) if len(branch) == depth]
            ends = torch.tensor([branches[i] for i in rows], device=self._text.device)
            sequences = torch.cat([self._text.expand(len(rows), -1), ends], dim=1)
            for i, state in zip(rows, self.body.hidden(sequences)[:, -1], strict=True):
                states[i] = state
        return torch.stack(states)

    def extend(self, node: int) -> None:
        self._text = torch.cat([self._text, self._text.new_tensor([self._token[node]])])


def stem_of(engine: Engine) -> Stem:
    """The stem that goes with an engine that was found to be trusted (`preflight.engine_for`)."""
    return (ColumnStem if isinstance(engine, ColumnEngine) else PlainStem)(engine.body)
