"""What a measure is: one question asked of a model, answered with a number, an interval and a control.

A measure states what it needs; the runner computes that once for all measures and hands it over as `Scored`.
Other packages add measures through the entry-point group ``snellen.measures``.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from snellen.measures.generations import Generations, Writing
from snellen.measures.readings import Material, Passages, Readings
from snellen.results.findings import Finding


@dataclass(frozen=True, kw_only=True)
class Beams:
    """What beam search kept at every depth, for each of n scored tokens (searched from the position before it).

    tokens:    int32   [n, depth, width]  token kept at that depth, best first; -1 where fewer survived
    parents:   int16   [n, depth, width]  slot of its parent at the depth before (-1 at depth 0 and where empty)
    log_probs: float32 [n, depth, width]  its own log-probability given its parents, nats; -inf where empty
    log_weights: float32 [n, depth, width]  log of how many completions of that depth each stands for, where they were
        sampled (`snellen.lookahead.particles`); None for beams
    """

    tokens: NDArray[np.int32]
    parents: NDArray[np.int16]
    log_probs: NDArray[np.float32]
    log_weights: NDArray[np.float32] | None = None


@dataclass(frozen=True, kw_only=True)
class Scored:
    """All that was computed of a text under a model: one row a scored token, in the order of the text.

    `log_prob` and all that stands beside it is the naive prediction *of* the row's token from the tokens before
    it; the beams of the row start at the position before it, so that their first tokens compete with `token`.
    Natural logarithms everywhere.
    """

    document: NDArray[np.int32]  # [n] index into `documents`
    index: NDArray[np.int32]  # [n] the token's place in its document
    token: NDArray[np.int32]  # [n]
    pieces: Sequence[str]  # [n] the token's own text (the document's characters that it covers)
    start: NDArray[np.int32]  # [n] first character in the document
    end: NDArray[np.int32]  # [n] one past the last
    context: NDArray[np.int32]  # [n] how many tokens it was predicted from
    log_prob: NDArray[np.float32]  # [n] naive log p(token)
    entropy: NDArray[np.float32]  # [n] of the naive prediction, nats
    rank: NDArray[np.int32]  # [n] number of vocabulary entries strictly more probable than the token
    temperatures: NDArray[np.float64]  # [m] exponents tau (1/temperature) at which log_z is known; contains 1
    log_z: NDArray[np.float32]  # [n, m] log sum_v p(v)^tau over the whole vocabulary
    top_tokens: NDArray[np.int32]  # [n, k] most probable tokens, best first (-1 where the vocabulary is smaller)
    top_log_probs: NDArray[np.float32]  # [n, k] their log-probabilities (-inf where empty)
    log_word_start: NDArray[np.float32]  # [n] log sum of p(v) over the v that begin a new word (`starts_word`)
    beams: Mapping[int, Beams]  # by width; every one searched on its own (beams do not nest over widths)
    horizon: int  # depth of every entry of `beams`
    starts_word: NDArray[np.bool_]  # [vocabulary] does this token begin a new word (or is it no part of one)
    documents: Sequence[str]  # names
    particles: Beams | None = None  # a weighted sample of completions, `horizon` deep: width without bound
    generations: Generations | None = None  # what the measure's `writing` asked for
    readings: Readings | None = None  # what the measure's `passages` asked for
    tell: Callable[[float], None] = lambda share: None  # how much of the measuring is done, where it takes long

    def __len__(self) -> int:
        return len(self.token)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a measure gives back; the runner stores it.

    tables:  small tables for figures, written to `tables/NAME.parquet` of the run
    columns: one value (or a fixed-length list) a scored token, added to `tokens.parquet`
    """

    finding: Finding
    tables: Mapping[str, pa.Table] = field(default_factory=dict)
    columns: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Measure(abc.ABC):
    """A question. Subclasses are frozen dataclasses whose fields are their settings, with the only defaults."""

    name: ClassVar[str]
    question: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset({"rollouts"})  # of "rollouts", "generations" and "readings"

    @property
    def writing(self) -> Writing | None:
        """What is to be written for a measure that needs "generations"."""
        return None

    def passages(self, material: Material, *, seed: int) -> Passages:
        """What is to be read for a measure that needs "readings"; the same for equal arguments."""
        return Passages(items=())

    @abc.abstractmethod
    def measure(self, scored: Scored, *, seed: int) -> Measured:
        """Answer the question; raises `Refused` where the data cannot carry an answer."""
