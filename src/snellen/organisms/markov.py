"""Markov text of order 2: nothing in it can be planned, since what follows depends on the last two tokens alone.

Lookahead cannot help an exact model of it, nor a model made too flat or too sharp (`tables.tempered`) once a control
has undone that. Both hold for every α, D and W, so a gain here is a fault of the measurement.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from snellen.errors import InputError
from snellen.organisms.language import Floats, Ids, Language, at_least


@dataclass(frozen=True, kw_only=True)
class Markov(Language):
    """tokens: vocabulary; size: tokens of a sequence; concentration: of the Dirichlet rows (low: nearly certain).

    floor: probability that every token has at least, as a share of uniform, so that no logarithm is infinite. The
    first two tokens are drawn from rows of their own (contexts that lack a token).
    """

    tokens: int = 8
    size: int = 66
    concentration: float = 0.4
    floor: float = 0.01
    rules: int = 0

    def __post_init__(self) -> None:
        at_least("tokens", self.tokens, 2)
        at_least("size", self.size, 3)
        at_least("rules", self.rules, 0)
        if not 0 < self.concentration < math.inf:
            raise InputError(f"concentration = {self.concentration!r}: must lie above 0")
        if not 0 < self.floor <= 1:
            raise InputError(f"floor = {self.floor!r}: must lie above 0, at most 1")

    @property
    def vocabulary(self) -> int:
        return self.tokens

    @property
    def length(self) -> int:
        return self.size

    @property
    def decisions(self) -> Sequence[int]:
        return range(2, self.size)

    @property
    def regions(self) -> Mapping[str, Sequence[int]]:
        return {"text": range(2, self.size)}

    @cached_property
    def table(self) -> Floats:
        """[tokens + 1, tokens + 1, tokens] p(next | last but one, last); index `tokens` stands for none."""
        shape, rows = (self.tokens + 1, self.tokens + 1), np.full(self.tokens, self.concentration)
        drawn = np.random.default_rng([self.rules, 4]).dirichlet(rows, size=shape)
        out: Floats = (1 - self.floor) * drawn + self.floor / self.tokens
        return out

    def sample(self, number: int, *, seed: Any) -> Ids:
        rng = np.random.default_rng(seed)
        cumulative = np.cumsum(self.table, axis=-1)
        out = np.empty((number, self.size), dtype=np.int64)
        before = last = np.full(number, self.tokens)
        for place in range(self.size):
            drawn = (rng.random((number, 1)) > cumulative[before, last]).sum(axis=1)
            out[:, place] = np.minimum(drawn, self.tokens - 1)  # the rows sum to 1 but for rounding
            before, last = last, out[:, place]
        return out

    def log_probs(self, sequences: Ids) -> Floats:
        none = np.full((len(sequences), 2), self.tokens)
        padded = np.concatenate([none, sequences], axis=1)
        out: Floats = np.log(self.table[padded[:, :-2], padded[:, 1:-1], sequences])
        return out

    def predict(self, prefix: Sequence[int]) -> Floats:
        if not all(0 <= token < self.tokens for token in prefix) or len(prefix) >= self.size:
            raise self.impossible(prefix)
        before, last = [self.tokens, self.tokens, *prefix][-2:]
        out: Floats = self.table[before, last].copy()
        return out

    def spell(self, token: int) -> str:
        return f"t{token}"
