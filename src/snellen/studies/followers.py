"""Markov text whose author follows the model's own lookahead a little: a gain that is known, as small as one likes.

The model is the author of `Markov`; the text is drawn from (1 − w) p + w q, with q what a beam of some width and
horizon makes of p (`lookahead.mixing`). Since p depends on two tokens alone, so does q: the author is a table again.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snellen.errors import InputError
from snellen.lookahead import mixing
from snellen.organisms.language import Floats, at_least
from snellen.organisms.markov import Markov


@dataclass(frozen=True, kw_only=True)
class Searched:
    """Beams from every context of a table: [contexts, depth, width], as in `snellen.measures.base.Beams`."""

    tokens: NDArray[np.int32]
    parents: NDArray[np.int16]
    log_probs: NDArray[np.float32]


def searched(table: Floats, width: int, horizon: int) -> Searched:
    """Beam search on a table p(next | last but one, last), [tokens + 1, tokens + 1, tokens], all contexts at once."""
    contexts, vocabulary = table.shape[0] ** 2, table.shape[2]
    log_p = np.log(table)
    before, last = (place.reshape(-1, 1) for place in np.indices(table.shape[:2]))
    total, kept = np.zeros((contexts, 1)), []
    for depth in range(horizon):
        steps = log_p[before, last]  # [contexts, slots, tokens]
        scores = (total[:, :, None] + steps).reshape(contexts, -1)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :width]
        slot, token = best // vocabulary, best % vocabulary
        taken = np.take_along_axis(steps.reshape(contexts, -1), best, axis=1)
        total = np.take_along_axis(scores, best, axis=1)
        kept.append((token, slot if depth else np.full_like(slot, -1), taken))
        before, last = np.take_along_axis(last, slot, axis=1), token
        if token.shape[1] < width:
            raise InputError(f"width = {width}: more than the {vocabulary} tokens of the table")
    tokens, parents, log_probs = (np.stack(part, axis=1) for part in zip(*kept, strict=True))
    return Searched(
        tokens=tokens.astype(np.int32), parents=parents.astype(np.int16), log_probs=log_probs.astype(np.float32)
    )


def amplified(table: Floats, width: int, horizon: int, alpha: float, *, factor: bool = True) -> Floats:
    """q of every context, [tokens + 1, tokens + 1, tokens]; 0 for what does not survive.

    Without `factor` only the candidates are the lookahead's, and the probabilities p^α.
    """
    found = searched(table, width, horizon)
    roots, totals = mixing.lineages(found.tokens, found.parents, found.log_probs)
    first = totals[:, 0]
    factors = mixing.log_factor(roots[:, -1], totals[:, -1], first, alpha)
    if not factor:
        factors = np.where(factors > -np.inf, 0.0, -np.inf)
    q = np.exp(mixing.log_power(first, factors, alpha))
    out = np.zeros((len(q), table.shape[2]))
    np.put_along_axis(out, found.tokens[:, 0], q, axis=1)
    return out.reshape(table.shape)


@dataclass(frozen=True, kw_only=True)
class Follower(Markov):
    """The author who follows, with weight `follows`, the lookahead of the Markov author of equal settings."""

    follows: float = 0.2
    width: int = 4
    reach: int = 3
    alpha: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("width", self.width, 2)
        at_least("reach", self.reach, 2)
        if not 0 <= self.follows < 1:
            raise InputError(f"follows = {self.follows!r}: must lie in [0, 1)")
        if self.width > self.tokens:
            raise InputError(f"width = {self.width}: more than the {self.tokens} tokens")

    @property
    def plain(self) -> Markov:
        """The author who does not look ahead: the model."""
        shared: dict[str, Any] = {one.name: getattr(self, one.name) for one in fields(Markov)}
        return Markov(**shared)

    @cached_property
    def table(self) -> Floats:
        """[tokens + 1, tokens + 1, tokens] p(next | last but one, last), of this author."""
        p = self.plain.table
        out: Floats = (1 - self.follows) * p + self.follows * amplified(p, self.width, self.reach, self.alpha)
        return out
