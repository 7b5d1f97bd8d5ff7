"""What all dynamical systems share: a state that starts somewhere, moves by a rule, and is to be foretold."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from snellen.errors import InputError
from snellen.organisms.language import at_least
from snellen.organisms.matrices import orthogonal, rounded
from snellen.organisms.sequences import Sequences, Source, Task, not_negative, one_of, positive


@dataclass(frozen=True, kw_only=True)
class System(Task):
    """What all systems share: the state, where it starts, and its noise.

    dim: size of the state. noise: standard deviation of what is added to the state at each step. length: positions of a
    sequence (inputs s_1 … s_T, targets s_2 … s_{T+1}). start: s_1 is "uniform" in (−spread, spread) in each dimension
    (the code of von Oswald et al. 2023) or "normal" with that standard deviation, which is what makes Gaussian formulas
    exact.
    """

    dim: int = 10
    noise: float = 0.01
    length: int = 50
    start: str = "uniform"
    spread: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("dim", self.dim, 1)
        at_least("length", self.length, 2)
        not_negative("noise", self.noise)
        one_of("start", self.start, "uniform", "normal")
        positive("spread", self.spread)

    @property
    def output_size(self) -> int:
        return self.dim

    @property
    def input_size(self) -> int:
        return self.output_size

    @property
    def start_variance(self) -> float:
        """Of each dimension of s_1."""
        return self.spread**2 if self.start == "normal" else self.spread**2 / 3

    def pairs(
        self, sequences: Sequences, *, lags: int = 1
    ) -> tuple[Float[Tensor, "n pos lags_x"], Float[Tensor, "n pos y"]]:
        """x_t = (y_t, y_{t−1}, … y_{t−lags+1}), zero before the beginning; its target is the next observation."""
        at_least("lags", lags, 1)
        self._check(sequences)
        seen = sequences.inputs
        x = [torch.nn.functional.pad(seen, (0, 0, lag, 0))[:, : seen.shape[1]] for lag in range(lags)]
        return torch.cat(x, dim=-1), sequences.targets

    def _starts(self, number: int, source: Source) -> Float[Tensor, "n dim"]:
        if self.start == "normal":
            return self.spread * source.normal("start", number, self.dim)
        return source.uniform("start", number, self.dim, low=-self.spread, high=self.spread)

    def _rules(self, number: int, source: Source) -> Float[Tensor, "n dim dim"]:
        """Each sequence's W, rounded to float32: the sequence is made by the very matrix that is stored."""
        return rounded(orthogonal(source.normal("matrix", number, self.dim, self.dim)))

    def _own_rules(self, number: int, source: Source) -> Float[Tensor, "n dim dim"]:
        if self.system is None:
            return self._rules(number, source)
        return self._rules(1, Source(self.system, "system")).expand(number, -1, -1)

    def _whole(self, sequences: Sequences) -> Float[Tensor, "n times dim"]:
        self._check(sequences)
        if sequences.states is None or sequences.states.shape[-1] != self.dim:
            raise InputError("sequences.states is missing or of another size: give what this task's draw() returned")
        return sequences.states.double()


def apply(W: Float[Tensor, "n rows dim"], states: Float[Tensor, "n dim"]) -> Float[Tensor, "n rows"]:
    """W s of each sequence."""
    return (W @ states.unsqueeze(-1)).squeeze(-1)
