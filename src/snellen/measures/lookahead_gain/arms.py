"""What each arm of the lookahead gain proposes at each position: candidates, their probabilities, their factor.

All arms are one family, q(a) ∝ p(a)^α f_α(a) over some candidates, mixed into the same base. They differ in the
candidates (most probable tokens, or survivors of the beam) and in the factor (1, the lookahead, or the lookahead
permuted over the candidates). So no arm has a freedom that the arm it is compared with lacks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from snellen.errors import Refused
from snellen.lookahead import mixing
from snellen.measures.base import Beams, Scored

Floats = NDArray[np.float64]

# the largest mean difference (nats) between the two readings of one probability, naive and from the beams
SAME_MODEL = 0.05


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """tokens, first: [n, slots] candidate and log p of it; factors: [alphas, n, slots] log f_α, −∞ for no candidate.

    hit: [n] slot of the token that really came, −1 where it is no candidate.
    """

    tokens: NDArray[np.int32]
    first: Floats
    factors: Floats
    hit: NDArray[np.int64]

    def rows(self, keep: NDArray[np.bool_]) -> Candidates:
        return Candidates(
            tokens=self.tokens[keep], first=self.first[keep], factors=self.factors[:, keep], hit=self.hit[keep]
        )


def _hits(tokens: NDArray[np.int32], inside: NDArray[np.bool_], real: NDArray[np.int32]) -> NDArray[np.int64]:
    same = (tokens == real[:, None]) & inside
    return np.where(same.any(axis=1), same.argmax(axis=1), -1)


def most_probable(scored: Scored, width: int, alphas: tuple[float, ...]) -> Candidates:
    """The `width` most probable tokens, without any lookahead: what the arm `horizon 1` chooses among."""
    tokens = scored.top_tokens[:, :width]
    first = scored.top_log_probs[:, :width].astype(np.float64)
    inside = (tokens >= 0) & (first > -np.inf)
    factor = np.where(inside, 0.0, -np.inf)
    factors = np.broadcast_to(factor, (len(alphas), *factor.shape))
    return Candidates(tokens=tokens, first=first, factors=factors, hit=_hits(tokens, inside, scored.token))


@dataclass(frozen=True, kw_only=True)
class Survivors:
    """Beams of one width (or sampled completions) with the lineage of every survivor: the three arms of each depth."""

    tokens: NDArray[np.int32]  # [n, width] of depth 1
    first: Floats  # [n, width]
    roots: NDArray[np.int64]  # [n, depth, width]
    totals: Floats  # [n, depth, width]
    real: NDArray[np.int32]
    log_weights: Floats | None = None  # [n, depth, width]

    @classmethod
    def of(cls, beams: Beams, scored: Scored) -> Survivors:
        try:
            roots, totals = mixing.lineages(beams.tokens, beams.parents, beams.log_probs)
        except ValueError as error:
            raise Refused(f"the beams are damaged: {error}; run the exam again into a new folder") from error
        first = np.where(roots[:, 0] >= 0, totals[:, 0], -np.inf)
        hit = _hits(beams.tokens[:, 0], roots[:, 0] >= 0, scored.token)
        known = hit >= 0
        beside = np.take_along_axis(first, np.maximum(hit, 0)[:, None], axis=1)[known, 0]
        if known.any() and (apart := float(np.abs(beside - scored.log_prob[known]).mean())) > SAME_MODEL:
            raise Refused(
                f"the beams and the naive prediction disagree by {apart:.3f} nats a token on the same tokens:"
                " they are not of one model and text; run the exam again into a new folder"
            )
        weights = None if beams.log_weights is None else beams.log_weights.astype(np.float64)
        if weights is not None and (np.isnan(weights).any() or (weights < -1e-3)[roots >= 0].any()):
            raise Refused("the particles are damaged: a weight is below 1 or NaN; run the exam again into a new folder")
        return cls(
            tokens=beams.tokens[:, 0], first=first, roots=roots, totals=totals, real=scored.token, log_weights=weights
        )

    def lookahead(self, depth: int, alphas: tuple[float, ...]) -> Candidates:
        """q_{α,D} over the first tokens that survive at `depth`."""
        roots, totals = self.roots[:, depth - 1], self.totals[:, depth - 1]
        weights = None if self.log_weights is None else self.log_weights[:, depth - 1]
        factors = np.stack([mixing.log_factor(roots, totals, self.first, alpha, weights) for alpha in alphas])
        inside: NDArray[np.bool_] = factors[0] > -np.inf
        # Few first tokens survive in a wide beam: the slots of the others would cost most of the time.
        order = np.argsort(~inside, axis=1, kind="stable")[:, : max(1, int(inside.sum(axis=1).max()))]
        tokens = np.take_along_axis(self.tokens, order, axis=1)
        return Candidates(
            tokens=tokens,
            first=np.take_along_axis(self.first, order, axis=1),
            factors=np.take_along_axis(factors, order[None], axis=2),
            hit=_hits(tokens, np.take_along_axis(inside, order, axis=1), self.real),
        )


def without_factor(lookahead: Candidates) -> Candidates:
    """The arm `same candidates`: f ≡ 1."""
    factors = np.where(lookahead.factors > -np.inf, 0.0, -np.inf)
    return Candidates(tokens=lookahead.tokens, first=lookahead.first, factors=factors, hit=lookahead.hit)


def placebo(lookahead: Candidates, seed: list[int]) -> Candidates:
    """The arm `placebo`: the factor of each position permuted over its candidates (one permutation for all α)."""
    source = mixing.permuted(lookahead.factors[0], np.random.default_rng(seed))
    factors = np.take_along_axis(lookahead.factors, source[None], axis=2)
    return Candidates(tokens=lookahead.tokens, first=lookahead.first, factors=factors, hit=lookahead.hit)
