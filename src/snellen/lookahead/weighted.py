"""What weighted samples of completions say: predictions and evidence that converge to the sum over all completions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from snellen.errors import InputError
from snellen.kinds import check, checked
from snellen.lookahead.rollouts import traced, votes


@dataclass(frozen=True, kw_only=True)
class WeightedSteps:
    """Particles at each depth for n positions, each [pos, depth, particles], on the CPU (see `Particles`)."""

    tokens: Int[Tensor, "pos depth particles"]
    parents: Int[Tensor, "pos depth particles"]
    log_probs: Float[Tensor, "pos depth particles"]
    log_weights: Float[Tensor, "pos depth particles"]

    @classmethod
    def joined(cls, parts: list[WeightedSteps]) -> WeightedSteps:
        names = ("tokens", "parents", "log_probs", "log_weights")
        return cls(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


@dataclass(frozen=True, kw_only=True, eq=False)
class Particles:
    """Weighted completions from every position of a batch of texts, at each depth d up to the horizon.

    A particle's weight is such that Σ_i exp(log_weight_i) f(c_i) over the particles at depth d is an unbiased estimate
    of Σ f(c) over all completions c of length d. With f = p^α, shared out by first token, that is the power
    lookahead q_{α,d} (`mixing`) with infinite width. All tensors are on the CPU.

    Attributes
    ----------
    step_tokens: Int [batch, pos, depth, particles]
        The newest token of each particle; −1 where there are fewer completions than particles.
    step_parents: Int [batch, pos, depth, particles]
        The slot, at the depth before, of the particle that it continues; −1 at the first depth and where empty.
    step_log_probs: Float [batch, pos, depth, particles]
        log p(newest token | text, completion before it) under the naive model, nats; −inf where empty.
    step_log_weights: Float [batch, pos, depth, particles]
        Log-weight of the completion that ends there; −inf where empty.
    naive: Float [batch, pos − 1]
        log p(x_{t+1} | x_≤t), nats, as in `Rollouts`.
    positions: Int [pos]
        The positions that completions start after.
    alpha: float
        The exponent that was asked for; particles sampled without replacement serve every other as well.
    """

    step_tokens: Int[Tensor, "batch pos depth particles"]
    step_parents: Int[Tensor, "batch pos depth particles"]
    step_log_probs: Float[Tensor, "batch pos depth particles"]
    step_log_weights: Float[Tensor, "batch pos depth particles"]
    naive: Float[Tensor, "batch next"]
    positions: Int[Tensor, "pos"]
    alpha: float

    @property
    def horizon(self) -> int:
        return self.step_tokens.shape[2]

    @property
    def particles(self) -> int:
        return self.step_tokens.shape[3]

    @cached_property
    def tokens(self) -> Int[Tensor, "batch pos particles horizon"]:
        """Completions at the full horizon; those of position t start after t. −1 where empty."""
        return self.completions(self.horizon)[0]

    @cached_property
    def log_probs(self) -> Float[Tensor, "batch pos particles horizon"]:
        """Log-probability of each token of each completion under the naive model; −inf where empty."""
        return self.completions(self.horizon)[1]

    @property
    def log_weights(self) -> Float[Tensor, "batch pos particles"]:
        """Log-weights at the full horizon; −inf where empty."""
        return self.step_log_weights[:, :, -1]

    @checked
    def completions(
        self, horizon: int
    ) -> tuple[Int[Tensor, "batch pos particles horizon"], Float[Tensor, "batch pos particles horizon"]]:
        """The particles at depth `horizon`, each traced back to its first token: tokens and log-probabilities."""
        if not 1 <= horizon <= self.horizon:
            raise InputError(f"horizon {horizon}: sampled were 1 to {self.horizon}")
        return traced(self.step_tokens, self.step_parents, self.step_log_probs, horizon)

    @checked
    def next_token(
        self, alpha: float | None = None, horizon: int | None = None
    ) -> tuple[Int[Tensor, "batch pos particles"], Float[Tensor, "batch pos particles"]]:
        """The estimate of q_{α,d} over first tokens, d = `horizon`, normalised; in float64.

        α = None is the one that was asked for, α = ∞ the best completion among the particles.

        Returns
        -------
        (token_ids, probs), each [batch, pos, particles], most probable first: duplicates merged (id −1, probability
        0), the probabilities of a position sum to 1.

        Raises
        ------
        InputError
            α negative or NaN, or a horizon that was not sampled.
        """
        alpha = self.alpha if alpha is None else check_alpha(alpha)
        tokens, scores = self._scores(alpha, horizon)
        if math.isinf(alpha):
            weight = (scores == scores.amax(-1, keepdim=True)).double()
            weight = weight * (weight.cumsum(-1) == 1)
        else:
            weight = torch.exp(scores - scores.amax(-1, keepdim=True))
        return votes(tokens[..., 0], weight)

    @checked
    def log_evidence(self, alpha: float | None = None, horizon: int | None = None) -> Float[Tensor, "batch pos"]:
        """log of the (unbiased) estimate of Σ p(c)^α over all completions of length `horizon`, nats; α finite."""
        return self._scores(self._finite(alpha), horizon)[1].logsumexp(-1)

    @checked
    def effective_size(self, alpha: float | None = None, horizon: int | None = None) -> Float[Tensor, "batch pos"]:
        """1 / Σ w² of the normalised weights of the estimate at α: about how many particles carry it; α finite."""
        scores = self._scores(self._finite(alpha), horizon)[1]
        return torch.exp(2 * scores.logsumexp(-1) - (2 * scores).logsumexp(-1))

    def _scores(self, alpha: float, horizon: int | None) -> tuple[Tensor, Tensor]:
        """Tokens of the completions, and α log p + log-weight of each (log p alone for α = ∞), −inf where empty."""
        depth = self.horizon if horizon is None else horizon
        tokens, log_probs = self.completions(depth)
        empty = tokens[..., 0] < 0
        total = log_probs.double().sum(-1).masked_fill(empty, 0.0)
        weights = self.step_log_weights[:, :, depth - 1].double()
        return tokens, (total if math.isinf(alpha) else alpha * total + weights).masked_fill(empty, -torch.inf)

    def _finite(self, alpha: float | None) -> float:
        alpha = self.alpha if alpha is None else check_alpha(alpha)
        if math.isinf(alpha):
            raise InputError("alpha inf: a sum over completions needs a finite exponent")
        return alpha


def check_alpha(alpha: float) -> float:
    """α as given, or InputError where it is negative or NaN."""
    check("alpha", alpha, float)
    if math.isnan(alpha) or alpha < 0:
        raise InputError(f"alpha {alpha}: the exponent must be 0 or more (inf for the best completion alone)")
    return alpha
