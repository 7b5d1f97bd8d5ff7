"""What measures have the model read besides the texts, and what the runner hands them of it.

A measure builds passages of its own from the texts' tokens or from new ones; the model reads each once. Of a passage it
may have the log-probability of its tokens, that of whole candidates in the place of what follows (forks), and the
residual stream of one position at every layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Tokens(Protocol):
    """The tokens of a text; an array will do. What is not asked for need not be there."""

    def __len__(self) -> int: ...
    def __getitem__(self, places: slice, /) -> NDArray[np.int64]: ...


@dataclass(frozen=True, kw_only=True)
class Material:
    """What passages can be made of.

    documents: tokens of each text, without the model's first token; none of a text that stands there already
    encode:    new text to tokens, without special ones
    longest:   most tokens that a passage may have, the model's first token not counted
    share:     of its passages that a measure should have read (`Request.share`); it keeps what an interval needs
    """

    documents: Sequence[Tokens]
    encode: Callable[[str], Sequence[int]]
    longest: int
    share: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Passage:
    """One sequence for the model to read; its first token, where it has one, is put in front by the runner.

    tokens: [pos]
    first:  tokens[first:] are scored; len(tokens): none of them
    forks:  places at which the candidates are weighed in the place of tokens[place:]
    state:  place before which the residual stream is kept: that of the position which predicts it; None: nowhere

    Raises
    ------
    ValueError
        A place that has nothing before it or lies beyond the passage: a mistake of the measure.
    """

    tokens: NDArray[np.int64]
    first: int
    forks: tuple[int, ...] = ()
    state: int | None = None

    def __post_init__(self) -> None:
        places = [self.first, *self.forks, *([] if self.state is None else [self.state])]
        if self.tokens.ndim != 1 or not all(1 <= place <= len(self.tokens) for place in places):
            raise ValueError(f"a passage of shape {self.tokens.shape} with the places {places}")


@dataclass(frozen=True, kw_only=True)
class Passages:
    """All that a measure wants read. No candidate may be the beginning of another, so that they exclude each other."""

    items: Sequence[Passage]
    candidates: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        known = set(self.candidates)
        prefixes = {one[:end] for one in self.candidates for end in range(len(one))}
        if len(known) < len(self.candidates) or known & prefixes:
            raise ValueError("candidates: one of them is the beginning of another, or stands there twice")
        if not self.candidates and any(item.forks for item in self.items):
            raise ValueError("forks, but no candidates")

    @property
    def depth(self) -> int:
        """Tokens that are looked at together behind a fork."""
        return max((len(one) for one in self.candidates), default=1)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What was asked of one passage, in nats.

    log_prob:   float32 [pos − first]
    candidates: float32 [forks, candidates] log-probability of each whole candidate
    states:     float32 [layers + 1, model] from the embedding to the last layer; None where not asked for, or where the
                model's body does not hand out what its layers say
    """

    log_prob: NDArray[np.float32]
    candidates: NDArray[np.float32]
    states: NDArray[np.float32] | None


@dataclass(frozen=True, kw_only=True)
class Readings:
    """What the measure's passages were made of, and what came of each, in their order."""

    material: Material
    found: Sequence[Reading]
    tokens_run: int  # by the model for all of it, branches included
