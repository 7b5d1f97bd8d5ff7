"""Exact Metropolis–Hastings over texts with the energy of a masked model (Goyal, Dyer & Berg-Kirkpatrick 2021).

The target is π(x) ∝ exp(−E(x) / T) with E(x) = −Σ_t log p(x_t | x_∖t) over the free tokens: their locally
normalised energy. A step picks a place t uniformly, draws x′_t from q(·| x_∖t), the masked prediction at the proposal
temperature over ordinary tokens, and accepts with

    min(1, exp((E(x) − E(x′)) / T) · q(x_t | x_∖t) / q(x′_t | x_∖t))

which is exact, since x_∖t = x′_∖t: both directions of the move have the same proposal distribution, from one pass.
Without the correction this is Gibbs sampling from conditionals that belong to no joint distribution.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from snellen.errors import InputError
from snellen.evolution_settings import Metropolis
from snellen.lookahead.evolution.conditionals import Conditionals
from snellen.lookahead.evolution.convergence import summary
from snellen.lookahead.evolution.fitness import judge
from snellen.lookahead.evolution.frame import GAP, Body, frame_of
from snellen.lookahead.evolution.result import Cost, Evolved, Member
from snellen.lookahead.evolution.writing import draw, proposal, write
from snellen.models.masked import MaskedModel


def log_acceptance(energy: float, new_energy: float, log_q: float, new_log_q: float, *, temperature: float) -> float:
    """log of the probability to move from x to x′.

    Parameters
    ----------
    energy, new_energy
        E(x), E(x′).
    log_q, new_log_q
        log q(x_t | x_∖t), log q(x′_t | x_∖t): of the way back, and of the way there.
    """
    return min(0.0, (energy - new_energy) / temperature + log_q - new_log_q)


def metropolis(
    model: MaskedModel,
    *,
    prompt: str = "",
    suffix: str = "",
    settings: Metropolis | None = None,
    start: Sequence[Body] = (),
    watch: Callable[[Evolved], None] | None = None,
    told: Callable[[int], None] = lambda passes: None,
) -> Evolved:
    """Run Markov chains over texts of `settings.length` free tokens between a prompt and a suffix.

    Parameters
    ----------
    start
        First states, of that length; the other chains begin with a text written into gaps in random order.
    watch
        Called with the state at the beginning and at each kept step.
    told
        As in `genetic.evolve`.

    Raises
    ------
    InputError
        As `genetic.evolve`; or a text to start from has another length.
    """
    settings = settings or Metropolis()
    began = time.monotonic()
    frame = frame_of(model, prompt=prompt, suffix=suffix, longest=settings.length)
    conditionals = Conditionals(model, frame, memory=settings.memory, told=told)
    rngs = [np.random.default_rng(child) for child in np.random.SeedSequence(settings.seed).spawn(settings.population)]
    for body in start:
        if len(body) != settings.length:
            raise InputError(
                f"a text to start from has {len(body)} tokens: chains keep their length {settings.length}; "
                "give texts of that length, or that length"
            )
    given = list(start)[: settings.population]
    empty = [(GAP,) * settings.length] * (settings.population - len(given))
    bodies = write(conditionals, [*given, *empty], rngs, temperature=settings.proposal_temperature)
    energies = _energies(conditionals, bodies)
    history: list[list[float]] = []  # energies after each step
    states: list[tuple[int, tuple[Body, ...]]] = []  # every thin-th step and the chains' states after it
    trace: list[dict[str, int | float]] = []
    proposed = accepted = dearest = step = 0

    def state(*, finished: bool) -> Evolved:
        cost = Cost(
            passes=conditionals.passes, token_passes=conditionals.token_passes, seconds=time.monotonic() - began
        )
        # Half of the steps done: a budget may end the chains long before all that were allowed.
        burn_in = step // 2 if settings.burn_in is None else settings.burn_in
        draws = np.array(history[burn_in:]).T
        individuals = judge(conditionals, bodies, weight=0.0)
        members = [Member.of(model, frame, one, group=chain) for chain, one in enumerate(individuals)]
        return Evolved(
            mode="metropolis",
            prompt=prompt,
            suffix=suffix,
            settings=settings,
            identity=model.identity,
            members=tuple(sorted(members, key=lambda member: -member.fitness)),
            trace=tuple(trace),
            cost=cost,
            finished=finished,
            samples=tuple(bodies for at, bodies in states if at > burn_in),
            convergence=summary(draws, acceptance=accepted / max(1, proposed)) if finished else None,
        )

    while True:
        over = settings.passes is not None and conditionals.passes + dearest > settings.passes
        finished = step == settings.steps or over
        if step % settings.thin == 0 or finished:
            trace.append(_row(step, energies, settings.length, accepted, proposed, conditionals))
            if step and step % settings.thin == 0:
                states.append((step, tuple(bodies)))
            if watch is not None:
                watch(state(finished=finished))
        if finished:
            return state(finished=True)
        before = conditionals.passes
        bodies, energies, moves = _step(conditionals, bodies, energies, rngs, settings)
        step += 1
        proposed += len(bodies)
        accepted += moves
        history.append(list(energies))
        dearest = max(dearest, conditionals.passes - before)


def _step(
    conditionals: Conditionals,
    bodies: Sequence[Body],
    energies: Sequence[float],
    rngs: Sequence[np.random.Generator],
    settings: Metropolis,
) -> tuple[list[Body], list[float], int]:
    """One step of every chain: states, energies, and how many proposals were accepted.

    A proposal of the token that stands there already is an accepted one, and costs no further pass.
    """
    places = [int(rng.integers(settings.length)) for rng in rngs]
    uniforms = [float(rng.random()) for rng in rngs]
    thresholds = [float(rng.random()) for rng in rngs]
    log_q = proposal(conditionals.at(bodies, places), conditionals.model.ordinary, settings.proposal_temperature)
    tokens = draw(log_q, uniforms)
    there = log_q[torch.arange(len(tokens)), torch.tensor(tokens)].tolist()
    back = log_q[torch.arange(len(tokens)), torch.tensor([b[t] for b, t in zip(bodies, places, strict=True)])].tolist()
    proposals = [
        (*body[:place], token, *body[place + 1 :]) for body, place, token in zip(bodies, places, tokens, strict=True)
    ]
    new_energies = _energies(conditionals, proposals)
    states, kept, moves = list(bodies), list(energies), 0
    for chain, (new, energy) in enumerate(zip(proposals, new_energies, strict=True)):
        log_accept = log_acceptance(
            energies[chain], energy, back[chain], there[chain], temperature=settings.temperature
        )
        if np.log(thresholds[chain]) < log_accept:
            states[chain], kept[chain] = new, energy
            moves += 1
    return states, kept, moves


def _energies(conditionals: Conditionals, bodies: Sequence[Body]) -> list[float]:
    return [-float(log_probs.sum()) for log_probs in conditionals.log_likelihoods(bodies)]


def _row(
    step: int, energies: Sequence[float], length: int, accepted: int, proposed: int, conditionals: Conditionals
) -> dict[str, int | float]:
    return {
        "step": step,
        "best": -min(energies) / length,
        "mean": -float(np.mean(energies)) / length,
        "acceptance": accepted / max(1, proposed),
        "passes": conditionals.passes,
        "token_passes": conditionals.token_passes,
    }
