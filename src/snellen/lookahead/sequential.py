"""Sequential Monte Carlo for the power distribution p(c)^α, from every position of a text at once.

Particles are drawn token by token from a proposal π, weighted towards p^α and resampled (systematically) when few
carry the weight: Power-SMC (arXiv 2602.10273). With target exponents α_1, …, α_D = α the weight of step d is

    p(c_1…c_d)^{α_d} / (p(c_1…c_{d−1})^{α_{d−1}} π(c_d))

and the mean of the weights, carried over resamplings, is an unbiased estimate of Σ p(c)^α (Del Moral 2004, §7.4).
Particles that have the same completion so far share its node, and so do those of other positions that follow the
text. The slow twin is `particle_reference.sequential`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from snellen.errors import InputError
from snellen.kinds import LEAST_TEMPERATURE, check, check_fields
from snellen.lookahead import counter_noise as noise
from snellen.lookahead.cohort import Cohort, blocks_of
from snellen.lookahead.engine import Engine
from snellen.lookahead.race import Draws, with_replacement
from snellen.lookahead.weighted import WeightedSteps

_MOST = 10_000.0  # beyond any such exponent the weights are 0 or 1 and their logs no numbers


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How the particles are led towards p^α."""

    alpha: float = 2.0
    ramp: int = 0
    resample_below: float = 0.5

    def __post_init__(self) -> None:
        check_fields(self)
        if not 0 <= self.alpha <= _MOST:
            raise InputError(f"alpha {self.alpha}: particles are led to an exponent from 0 to {_MOST:g}")
        if self.ramp < 0:
            raise InputError(f"ramp {self.ramp}: must be a number of tokens, 0 or more")
        if not 0 <= self.resample_below <= 1:
            raise InputError(f"resample_below {self.resample_below}: must lie between 0 (never) and 1 (always)")

    def target(self, depth: int) -> float:
        """α_d: from 1 linearly to α over the first `ramp` tokens."""
        return self.alpha if depth >= self.ramp else 1 + (self.alpha - 1) * depth / self.ramp


def proposal_exponent(temperature: float | None, default: float) -> float:
    """Proposals are p to this power: 1/temperature, or `default` where none is given."""
    if temperature is None:
        return default
    check("temperature", temperature, float)
    if not LEAST_TEMPERATURE <= temperature < math.inf:
        raise InputError(f"temperature {temperature}: must be above 0 (at least {LEAST_TEMPERATURE:g}) and finite")
    return 1 / temperature


def sample(
    engine: Engine,
    text: Int[Tensor, "length"],
    hidden: Float[Tensor, "length model"],
    where: slice,
    *,
    particles: int,
    horizon: int,
    budget: int,
    settings: Settings,
    exponent: float,
    seed: int = 0,
    progress: Callable[[float], None] = lambda share: None,
) -> WeightedSteps:
    """N weighted completions of length D, and of every shorter length, from each position `where`.

    As `without_replacement.sample`; the weights are relative to all completions (see `Particles`), not to p^α.
    """
    draw = partial(with_replacement, engine.body, count=particles, exponent=exponent, budget=budget)
    keys = noise.as_tensor(noise.context_keys(seed, text.tolist()), text.device)
    own = draw(hidden[where], keys[where])
    count = where.stop - where.start
    parts = []
    for block in blocks_of(engine, text[None], where, particles=particles, horizon=horizon, budget=budget):
        engine.open_block(block.positions.start, particles * (horizon - 1) * block.columns)
        cohort = Cohort.of_text(text[None], keys[None], own, block)
        branch = torch.zeros(block.columns, particles, dtype=torch.long, device=text.device)
        weights = Weights.start(branch)
        parents, kept = torch.full_like(branch, -1), []
        for depth in range(1, horizon + 1):
            tokens, log_probs, proposals = _taken(cohort.draws, branch)
            weights = weights.step(log_probs, proposals, settings, depth)
            kept.append((tokens, parents, log_probs, weights.log - settings.target(depth) * weights.total))
            if depth < horizon:
                weights, parents = weights.resampled(settings, keys[block.positions], depth)
                slot = representatives(branch, tokens)
                after = slot.gather(1, parents)
                needed = torch.zeros_like(after).scatter_(1, after, 1) > 0  # one of equals, and only if resampled
                cohort, branch = cohort.grow(engine, branch, tokens.masked_fill(~needed, -1), draw), after
            progress((block.rows.start + block.columns * depth / horizon) / count)
        steps = (torch.stack(column, dim=1).cpu() for column in zip(*kept, strict=True))
        tokens, up, log_probs, log_weights = steps
        parts.append(WeightedSteps(tokens=tokens, parents=up, log_probs=log_probs, log_weights=log_weights.float()))
    return WeightedSteps.joined(parts)


def _taken(draws: Draws, branch: Int[Tensor, "pos particles"]) -> tuple[Tensor, Tensor, Tensor]:
    """Particle i takes the i-th draw of its branch's node: tokens, log-probabilities, log-proposals."""
    index = branch[..., None].expand(*branch.shape, branch.shape[1])
    tokens, log_probs, proposals = (
        x.gather(1, index).diagonal(dim1=1, dim2=2) for x in (draws.tokens, draws.log_probs, draws.proposals)
    )
    return tokens, log_probs, proposals


def representatives(
    branch: Int[Tensor, "pos particles"], tokens: Int[Tensor, "pos particles"]
) -> Int[Tensor, "pos particles"]:
    """Slot of the first particle with the same branch and the same token: it stands for all of them."""
    same = (branch[:, :, None] == branch[:, None, :]) & (tokens[:, :, None] == tokens[:, None, :])
    return same.long().argmax(-1)


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Log-weights of particles (their sum is the evidence so far), and log p of their completions."""

    log: Float[Tensor, "pos particles"]
    total: Float[Tensor, "pos particles"]

    @classmethod
    def start(cls, like: Tensor) -> Weights:
        exact = torch.float32 if like.device.type == "mps" else torch.float64
        total = torch.zeros(like.shape, dtype=exact, device=like.device)
        return cls(log=total - math.log(like.shape[1]), total=total)

    def step(self, log_probs: Tensor, proposals: Tensor, settings: Settings, depth: int) -> Weights:
        """After one more token of each particle, the `depth`-th."""
        before, now = settings.target(depth - 1), settings.target(depth)
        total = self.total + log_probs
        return Weights(log=self.log + now * total - before * self.total - proposals, total=total)

    def towards(self, settings: Settings, depth: int) -> Weights:
        """After the last token, the `depth`-th: the rest of the way to α."""
        return Weights(log=self.log + (settings.alpha - settings.target(depth)) * self.total, total=self.total)

    def effective(self) -> Float[Tensor, "pos"]:
        """Effective sample size: (Σ w)² / Σ w²."""
        return torch.exp(2 * self.log.logsumexp(-1) - (2 * self.log).logsumexp(-1))

    def resampled(
        self, settings: Settings, keys: Int[Tensor, "pos"], depth: int
    ) -> tuple[Weights, Int[Tensor, "pos particles"]]:
        """Systematic resampling where the effective sample size calls for it; the slot that each particle continues."""
        count = self.log.shape[1]
        here = torch.arange(count, device=keys.device)
        own = noise.child_keys(keys, noise.OWN)
        shift = noise.uniform(noise.child_keys(own, depth), self.log.dtype)
        reached = (self.log - self.log.logsumexp(-1, keepdim=True)).exp().cumsum(-1)
        comb = (here + shift[:, None]) / count
        drawn = torch.searchsorted(reached, comb * reached[:, -1:], right=True).clamp_max(count - 1)
        needed = (self.effective() < settings.resample_below * count)[:, None] | (settings.resample_below == 1)
        chosen = torch.where(needed, drawn, here)
        even = (self.log.logsumexp(-1, keepdim=True) - math.log(count)).expand_as(self.log)
        return Weights(log=torch.where(needed, even, self.log), total=self.total.gather(1, chosen)), chosen
