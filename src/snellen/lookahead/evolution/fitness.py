"""Fitness = pseudo-log-likelihood a token − weight · repetition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from snellen.lookahead.evolution.conditionals import Conditionals
from snellen.lookahead.evolution.frame import Body, Frame


@dataclass(frozen=True, kw_only=True)
class Individual:
    """A text and what it is worth."""

    body: Body
    log_likelihood: float  # (1/N) Σ_t log p(x_t | x_∖t) over its N free tokens, nats
    repetition: float  # 0 … 1
    fitness: float

    @property
    def energy(self) -> float:
        """E(x) = −Σ_t log p(x_t | x_∖t), nats."""
        return -self.log_likelihood * len(self.body)


def repetition(frame: Frame, body: Sequence[int]) -> float:
    """The share of free tokens that end a pair of tokens which the text (prompt and suffix included) had before.

    Pairs catch longer repeats too, since a repeated stretch repeats its pairs. A model that copies can read a masked
    token off its copies, and so finds loops plausible (see docs/evolution.md).
    """
    tokens = (*frame.prompt, *body, *frame.suffix)
    first, last = len(frame.prompt), len(frame.prompt) + len(body)
    seen: set[tuple[int, int]] = set()
    repeated = 0
    for place in range(1, last):
        pair = (tokens[place - 1], tokens[place])
        repeated += place >= first and pair in seen
        seen.add(pair)
    return repeated / len(body)


def judge(conditionals: Conditionals, bodies: Sequence[Body], *, weight: float) -> list[Individual]:
    """Score texts; those scored before cost nothing."""
    judged = []
    for body, log_probs in zip(bodies, conditionals.log_likelihoods(bodies), strict=True):
        mean, repeats = float(log_probs.mean()), repetition(conditionals.frame, body)
        judged.append(Individual(body=body, log_likelihood=mean, repetition=repeats, fitness=mean - weight * repeats))
    return judged
