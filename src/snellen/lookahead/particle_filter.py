"""Beams of infinite width, estimated: weighted samples of completions from every position of a text at once.

Without replacement (`without_replacement`): no completion twice, one sample for every exponent α, exact once the
particles cover all completions; adaptive, or as a stochastic beam. *SMC* (`sequential`): particles drawn towards one α
and resampled on the way, with little noise of their own.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel

from snellen.errors import InputError
from snellen.kinds import checked
from snellen.lookahead import sequential, without_replacement
from snellen.lookahead.head import first_tokens, rows_per_block
from snellen.lookahead.preflight import engine_for
from snellen.lookahead.settings import check_search
from snellen.lookahead.weighted import Particles, check_alpha
from snellen.models.body import device_of
from snellen.request import bytes_of

METHODS = ("without replacement", "stochastic beam", "smc")


@checked
@torch.no_grad()
def particles(
    model: PreTrainedModel,
    input_ids: Int[Tensor, "batch pos"],
    particles: int = 64,
    horizon: int = 4,
    alpha: float = 2.0,
    *,
    method: str = "without replacement",
    temperature: float | None = None,
    ramp: int = 0,
    resample_below: float = 0.5,
    seed: int = 0,
    memory: int | str = "1GB",
    positions: tuple[int, int] | None = None,
    engine: str = "auto",
) -> Particles:
    """`particles` weighted completions of length `horizon` after every position of every text.

    The numbers depend on the model, the seed and each position's context alone: but for rounding not on `memory`,
    `engine`, `positions` or what else is in the batch. Equal contexts have equal particles.

    Parameters
    ----------
    model, input_ids, memory, positions, engine
        As in `beam`.
    particles, horizon
        N particles, D tokens deep; both at least 1.
    alpha
        The exponent of the power lookahead q_{α,D}. Without replacement any other can be asked of the result too.
    method
        "without replacement" (adaptive), "stochastic beam" (Kool et al. 2019) or "smc".
    temperature
        Particles are drawn towards p^(1/temperature). None: 1/2 without replacement and 2/3 for the stochastic beam
        (docs/particles.md), and 1/α for SMC, which makes the weight of a step the same for every token (Power-SMC,
        arXiv 2602.10273).
    ramp
        SMC alone: depths over which the exponent of the target climbs linearly from 1 to α (0: α from the start).
    resample_below
        SMC alone: resample where the effective sample size is below this share of the particles (0 never, 1 always).
    seed
        Another seed, other particles.

    Raises
    ------
    InputError
        A setting out of range, text beyond the model's context.
    Refused
        The model's numbers cannot be vouched for: a failed check, or NaN in its logits.
    """
    check_search(model, input_ids, width=particles, horizon=horizon, names=("particles", "horizon"))
    if method not in METHODS:
        raise InputError(f"method {method!r}: must be one of {', '.join(map(repr, METHODS))}")
    if method != "smc" and (ramp, resample_below) != (0, 0.5):
        raise InputError(f"ramp {ramp}, resample_below {resample_below}: belong to method 'smc', not to {method!r}")
    filtering = sequential.Settings(alpha=alpha, ramp=ramp, resample_below=resample_below) if method == "smc" else None
    adaptive = method == "without replacement"
    default = without_replacement.ADAPTIVE if adaptive else without_replacement.STOCHASTIC_BEAM
    exponent = sequential.proposal_exponent(temperature, default if filtering is None else alpha)
    alpha, budget = check_alpha(alpha), bytes_of(memory)
    length = input_ids.shape[1]
    first, last = positions or (0, length)
    if not 0 <= first < last <= length:
        raise InputError(f"positions {positions}: must be 0 <= first < last <= {length}, the length of the text")
    runner = engine_for(model, length=length, horizon=horizon, engine=engine)
    options: dict[str, Any] = {
        "particles": particles,
        "horizon": horizon,
        "budget": budget,
        "seed": seed,
        "exponent": exponent,
    }
    steps, real = [], []
    for text in input_ids.to(device_of(model)):
        hidden = runner.read(text)
        targets = torch.cat([text[1:], text.new_tensor([-1])])
        _, log_prob = first_tokens(
            runner.body, hidden[first:last], targets[first:last], count=1, block=rows_per_block(runner.body, budget)
        )
        real.append(log_prob[: length - 1 - first].cpu())
        if filtering is None:
            found = without_replacement.sample(runner, text, hidden, slice(first, last), adaptive=adaptive, **options)
        else:
            found = sequential.sample(runner, text, hidden, slice(first, last), settings=filtering, **options)
        steps.append(found)
    return Particles(
        step_tokens=torch.stack([s.tokens for s in steps]),
        step_parents=torch.stack([s.parents for s in steps]),
        step_log_probs=torch.stack([s.log_probs for s in steps]),
        step_log_weights=torch.stack([s.log_weights for s in steps]),
        naive=torch.stack(real),
        positions=torch.arange(first, last),
        alpha=alpha,
    )
