"""Whole continuations from the power distribution p(y | prompt)^α, by particles over one prompt.

Power-SMC (arXiv 2602.10273): particles grow token by token from p^(1/temperature) and are resampled when few carry the
weight. The prompt is run once and its keys and values are never copied: particles are branches at its last position
(`attention.rollout`), so that resampling moves indices only. Particles that are equal so far are one branch, those
that have met a stop token cost nothing any more. The slow twin is `particle_reference.sequential`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from snellen.errors import InputError
from snellen.kinds import MOST, checked
from snellen.lookahead import counter_noise as noise
from snellen.lookahead.engine import Engine
from snellen.lookahead.plans import check_ids
from snellen.lookahead.preflight import writing_engine_for
from snellen.lookahead.race import turns
from snellen.lookahead.sequential import Settings, Weights, proposal_exponent, representatives
from snellen.lookahead.settings import check_search
from snellen.models.body import device_of
from snellen.request import bytes_of


@dataclass(frozen=True, kw_only=True, eq=False)
class PowerSamples:
    """Weighted continuations of each prompt; all tensors are on the CPU.

    Attributes
    ----------
    tokens: Int [batch, particles, new]
        Continuations, with their stop token; −1 after it.
    log_probs: Float [batch, particles, new]
        log p of each token under the model, nats; 0 after the stop token.
    log_weights: Float [batch, particles]
        Log-weights towards p^α, normalised: their exponentials sum to 1.
    log_evidence: Float [batch]
        log of the unbiased estimate of Σ p(y)^α over all continuations y that end within `new` tokens or are cut there.
    stopped: Bool [batch, particles]
        Whether it met a stop token.
    effective_sizes: Float [batch, new]
        Effective sample size after each token, before resampling; NaN after the last.
    """

    tokens: Int[Tensor, "batch particles new"]
    log_probs: Float[Tensor, "batch particles new"]
    log_weights: Float[Tensor, "batch particles"]
    log_evidence: Float[Tensor, "batch"]
    stopped: Bool[Tensor, "batch particles"]
    effective_sizes: Float[Tensor, "batch new"]

    @checked
    def chosen(self, count: int = 1, *, seed: int = 0) -> Int[Tensor, "batch count"]:
        """Indices of `count` particles of each prompt drawn by weight (systematically, so with little repetition)."""
        if not 1 <= count <= MOST:
            raise InputError(f"count {count}: must be from 1 to {MOST}")
        keys = [noise.child_key(key, row) for row, key in enumerate(noise.context_keys(seed, [0]) * len(self.tokens))]
        key = noise.as_tensor(keys, torch.device("cpu"))
        comb = (torch.arange(count) + noise.uniform(key)[:, None]) / count
        reached = self.log_weights.double().exp().cumsum(-1)
        return torch.searchsorted(reached, comb * reached[:, -1:], right=True).clamp_max(self.tokens.shape[1] - 1)

    def best(self) -> Int[Tensor, "batch"]:
        """Index of the most probable continuation of each prompt."""
        return self.log_probs.double().sum(-1).argmax(-1)


@checked
@torch.no_grad()
def power_sample(
    model: PreTrainedModel,
    input_ids: Int[Tensor, "batch pos"],
    *,
    alpha: float = 4.0,
    particles: int = 16,
    max_new_tokens: int = 64,
    stop_tokens: Collection[int] = (),
    temperature: float | None = None,
    ramp: int = 0,
    resample_below: float = 0.5,
    seed: int = 0,
    memory: int | str = "1GB",
    engine: str = "auto",
) -> PowerSamples:
    """`particles` weighted samples of the continuation y of each prompt from p(y | prompt)^α / Z.

    Parameters
    ----------
    model, input_ids, engine
        As in `beam`; the prompts of a batch are equally long and taken one after another.
    alpha
        The exponent, finite and 0 or more.
    particles, max_new_tokens
        N continuations of at most so many tokens; both at least 1.
    stop_tokens
        Token ids that end a continuation.
    temperature, ramp, resample_below
        As in `particles` with method "smc".
    seed
        The numbers depend on it, the model and the prompt alone.
    memory
        What particles may hold beside the weights: keys and values of every token that was run, also of particles
        that were dropped since.

    Raises
    ------
    InputError
        A setting out of range, an unknown stop token, prompt and new tokens beyond the model's context, too little
        memory.
    Refused
        The model's numbers cannot be vouched for.
    """
    settings = Settings(alpha=alpha, ramp=ramp, resample_below=resample_below)
    exponent = proposal_exponent(temperature, alpha)
    check_search(
        model, input_ids, width=particles, horizon=max_new_tokens, names=("particles", "max_new_tokens"), scored=False
    )
    check_ids(model, "stop token", list(stop_tokens), written=True)
    budget = bytes_of(memory)
    runner = writing_engine_for(model, length=input_ids.shape[1], horizon=max_new_tokens, engine=engine)
    stop = torch.tensor(sorted(stop_tokens), dtype=torch.long, device=device_of(model))
    options: dict[str, Any] = {
        "particles": particles,
        "length": max_new_tokens,
        "exponent": exponent,
        "seed": seed,
        "budget": budget,
    }
    found = [_sample(runner, prompt, stop, settings=settings, **options) for prompt in input_ids.to(device_of(model))]
    tokens, log_probs, log_weights, evidence, stopped, effective = (torch.stack(x) for x in zip(*found, strict=True))
    return PowerSamples(
        tokens=tokens,
        log_probs=log_probs,
        log_weights=log_weights,
        log_evidence=evidence,
        stopped=stopped,
        effective_sizes=effective,
    )


def _sample(
    engine: Engine,
    prompt: Tensor,
    stop: Tensor,
    *,
    settings: Settings,
    particles: int,
    length: int,
    exponent: float,
    seed: int,
    budget: int,
) -> tuple[Tensor, ...]:
    """One prompt: tokens, log-probabilities, weights, evidence, stopped, effective sizes."""
    hidden = engine.read(prompt)[-1:]
    _check_memory(engine, particles, length, budget)
    engine.open_block(len(prompt) - 1, particles * (length - 1))
    root = noise.as_tensor(noise.context_keys(seed, prompt.tolist())[-1:], prompt.device)
    keys = root  # of the contexts whose hidden states are known, one each
    owner = torch.zeros(particles, dtype=torch.long, device=prompt.device)  # which of them a particle is at
    branch = owner[None]  # the engine's row of each particle
    alive = torch.ones_like(owner, dtype=torch.bool)
    weights = Weights.start(branch)
    tokens = torch.full((particles, length), -1, device=prompt.device)
    log_probs = hidden.new_zeros(particles, length, dtype=torch.float32)
    effective = torch.full((length,), torch.nan)
    for depth in range(1, length + 1):
        token, log_prob, proposal = _next(engine, hidden, keys, owner, alive, exponent=exponent, budget=budget)
        tokens[:, depth - 1], log_probs[:, depth - 1] = token, log_prob
        weights = weights.step(log_prob[None], proposal[None], settings, depth)
        effective[depth - 1] = weights.effective()[0]
        alive = alive & ~torch.isin(token, stop)
        if depth == length or not alive.any():
            break
        weights, parents = weights.resampled(settings, root, depth)
        slot = representatives(branch, token[None])
        after = slot.gather(1, parents)[0]
        tokens, log_probs, alive = tokens[parents[0]], log_probs[parents[0]], alive[parents[0]]
        run = torch.zeros_like(alive).scatter_(0, after[alive], True)  # one of equals, if anyone continues it
        if not run.any():
            break
        shared = torch.where(run, -1, 0)
        at = keys[owner]
        hidden, _ = engine.step(token.clamp_min(0)[:, None], branch.T, shared[:, None])
        keys = noise.child_keys(at[run], token[run])
        owner = (run.long().cumsum(0) - 1).clamp_min(0)[after]
        branch = after[None]
    weights = weights.towards(settings, depth)
    evidence = weights.log.logsumexp(-1)
    found = (tokens, log_probs, (weights.log[0] - evidence).float(), evidence[0].cpu().double(), ~alive)
    return (*(x.cpu() for x in found), effective)


def _next(
    engine: Engine, hidden: Tensor, keys: Tensor, owner: Tensor, alive: Tensor, *, exponent: float, budget: int
) -> tuple[Tensor, Tensor, Tensor]:
    """A token for each particle that is alive (−1, 0 and 0 for others): token, log-probability, log-proposal."""
    order = torch.argsort(torch.where(alive, owner, len(keys)), stable=True)[: int(alive.sum())]
    at = owner[order]
    turn = torch.arange(len(at), device=at.device) - torch.searchsorted(at, at)  # the how manieth of its context
    drawn = turns(engine.body, hidden, keys, at, turn, exponent=exponent, budget=budget)
    token = torch.full_like(owner, -1).index_put_((order,), drawn.tokens)
    log_prob, proposal = (
        torch.zeros(len(owner), device=x.device).index_put_((order,), x) for x in (drawn.log_probs, drawn.proposals)
    )
    return token, log_prob, proposal


def _check_memory(engine: Engine, particles: int, length: int, budget: int) -> None:
    need = engine.bytes_of_text() + engine.bytes_per_position((particles,), length)
    if need > budget:
        raise InputError(
            f"memory {budget:,} bytes: {particles} particles of {length} tokens may need {need:,}; raise the memory "
            "(--memory) or lower the particles or the new tokens"
        )
