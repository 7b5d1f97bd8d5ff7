"""What a language with a known answer is: it can be sampled, and its next-token distribution is known exactly."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snellen.errors import InputError

Ids = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Language(abc.ABC):
    """Sequences of one length over ids 0 … vocabulary − 1; subclasses are frozen dataclasses whose fields are settings.

    The author of the language is also its Bayes-optimal predictor: no model predicts its text better than `log_probs`.
    """

    @property
    @abc.abstractmethod
    def vocabulary(self) -> int:
        """Number of tokens."""

    @property
    @abc.abstractmethod
    def length(self) -> int:
        """Tokens of a sequence, its BOS included."""

    @property
    @abc.abstractmethod
    def regions(self) -> Mapping[str, Sequence[int]]:
        """Names for places of a sequence; losses are counted for each, and gates are set on them."""

    @property
    @abc.abstractmethod
    def decisions(self) -> Sequence[int]:
        """The places at which lookahead is examined."""

    @abc.abstractmethod
    def sample(self, number: int, *, seed: Any) -> Ids:
        """[number, length] independent sequences; `seed` is anything that `numpy.random.default_rng` takes."""

    @abc.abstractmethod
    def predict(self, prefix: Sequence[int]) -> Floats:
        """[vocabulary] the author's own distribution of the token after `prefix`, for a prefix that it can write.

        An empty prefix gives the first token. Raises `InputError` for a prefix that has probability zero.
        """

    @abc.abstractmethod
    def log_probs(self, sequences: Ids) -> Floats:
        """[number, length] log-probability of each token given those before it; `predict` is its slow twin."""

    @abc.abstractmethod
    def spell(self, token: int) -> str:
        """The token for a reader."""

    def sample_prompts(self, number: int, *, seed: Any) -> Ids:
        """[number, first decision] sequences cut off before their first decision."""
        return self.sample(number, seed=seed)[:, : self.decisions[0]]

    def losses(self, log_probs: Floats) -> dict[str, float]:
        """Mean loss (nats a token) of each region, from log-probabilities [number, length]."""
        return {name: float(-log_probs[:, list(places)].mean()) for name, places in self.regions.items()}

    def impossible(self, prefix: Sequence[int]) -> InputError:
        shown = " ".join(self.spell(t) if 0 <= t < self.vocabulary else f"?{t}" for t in prefix)
        return InputError(f"prefix {shown!r}: {type(self).__name__} never writes this")


def among(sequences: Ids, places: Sequence[slice]) -> tuple[Ids, NDArray[np.bool_]]:
    """Sequences with every token that is of the wrong kind for its place replaced by one that is not, and where not.

    places: [length] the ids that may stand there.
    """
    first, last = (np.array([place.start for place in places]), np.array([place.stop - 1 for place in places]))
    kept: Ids = np.clip(sequences, first, last)
    return kept, kept == sequences


def certain(vocabulary: int, token: int) -> Floats:
    """[vocabulary] all mass on one token."""
    out = np.zeros(vocabulary)
    out[token] = 1.0
    return out


def at_least(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{name} = {value!r}: must be a whole number of at least {least}")


def share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise InputError(f"{name} = {value!r}: must lie between 0 and 1")
