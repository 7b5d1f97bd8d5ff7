"""A genetic algorithm over texts: islands, tournaments, elitism, masked mutation and crossover with a repaired seam."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from snellen.evolution_settings import Genetic
from snellen.lookahead.evolution.conditionals import Conditionals
from snellen.lookahead.evolution.fitness import Individual, judge
from snellen.lookahead.evolution.frame import GAP, Body, frame_of
from snellen.lookahead.evolution.mutation import child_of
from snellen.lookahead.evolution.result import Cost, Evolved, Member
from snellen.lookahead.evolution.writing import write
from snellen.models.masked import MaskedModel

Island = list[Individual]  # best first
Watch = Callable[["Evolved"], None]


def evolve(
    model: MaskedModel,
    *,
    prompt: str = "",
    suffix: str = "",
    settings: Genetic | None = None,
    start: Sequence[Body] = (),
    watch: Watch | None = None,
    told: Callable[[int], None] = lambda passes: None,
) -> Evolved:
    """Evolve texts between a prompt and a suffix.

    Parameters
    ----------
    start
        Texts to begin with, best first (see `result.read_population`); the rest of the population is written anew:
        all gaps, filled in random order.
    watch
        Called with the state after each generation, and with the first.
    told
        Hears after each batch on how many rows the model has been run.

    Raises
    ------
    InputError
        The texts do not fit the model's context, or the prompt holds what its tokenizer does not know.
    """
    settings = settings or Genetic()
    began = time.monotonic()
    frame = frame_of(model, prompt=prompt, suffix=suffix, longest=max([settings.longest, *map(len, start)]))
    conditionals = Conditionals(model, frame, memory=settings.memory, told=told)
    rngs = [np.random.default_rng(child) for child in np.random.SeedSequence(settings.seed).spawn(settings.islands)]
    islands = _begin(conditionals, settings, rngs, start)
    trace: list[dict[str, int | float]] = []
    dearest = generation = 0

    def state(*, finished: bool) -> Evolved:
        cost = Cost(
            passes=conditionals.passes, token_passes=conditionals.token_passes, seconds=time.monotonic() - began
        )
        members = [
            Member.of(model, frame, member, group=number) for number, island in enumerate(islands) for member in island
        ]
        return Evolved(
            mode="genetic",
            prompt=prompt,
            suffix=suffix,
            settings=settings,
            identity=model.identity,
            members=tuple(sorted(members, key=lambda member: -member.fitness)),
            trace=tuple(trace),
            cost=cost,
            finished=finished,
        )

    while True:
        trace.append(_row(generation, islands, conditionals))
        over = settings.passes is not None and conditionals.passes + dearest > settings.passes
        finished = generation == settings.generations or over
        if watch is not None:
            watch(state(finished=finished))
        if finished:
            return state(finished=True)
        before = conditionals.passes
        islands = _next(conditionals, islands, settings, rngs)
        generation += 1
        if settings.migration and generation % settings.migration == 0:
            islands = migrate(islands)
        dearest = max(dearest, conditionals.passes - before)


def _begin(
    conditionals: Conditionals, settings: Genetic, rngs: Sequence[np.random.Generator], start: Sequence[Body]
) -> list[Island]:
    """Texts that are given are dealt out to the islands in turn, best first; the others are written."""
    given = list(dict.fromkeys(start))[: settings.population]
    dealt: list[list[Body]] = [given[number :: settings.islands] for number in range(settings.islands)]
    empty = (GAP,) * settings.length
    texts = [body for bodies in dealt for body in [*bodies, *[empty] * (settings.size - len(bodies))]]
    owners = [rng for rng in rngs for _ in range(settings.size)]
    written = write(conditionals, texts, owners, temperature=settings.temperature)
    return _islands(judge(conditionals, written, weight=settings.repetition), settings)


def _next(
    conditionals: Conditionals, islands: list[Island], settings: Genetic, rngs: Sequence[np.random.Generator]
) -> list[Island]:
    """The next generation of all islands; the model sees the children of all in the same batches."""
    wanted, owners = [], []
    for island, rng in zip(islands, rngs, strict=True):
        for _ in range(settings.size - settings.elite):
            count = 2 if rng.random() < settings.crossover else 1
            parents = [tournament(island, settings.tournament, rng).body for _ in range(count)]
            wanted.append(child_of(parents, settings, rng))
            owners.append(rng)
    written = write(conditionals, wanted, owners, temperature=settings.temperature)
    children = judge(conditionals, written, weight=settings.repetition)
    share = settings.size - settings.elite
    return [
        succeed(island, children[number * share : (number + 1) * share], elite=settings.elite)
        for number, island in enumerate(islands)
    ]


def succeed(island: Island, children: Sequence[Individual], *, elite: int) -> Island:
    """The elite and the children. A child that is there already leaves its place to the best of the old that is not."""
    chosen = {member.body: member for member in island[:elite]}
    for child in children:
        chosen.setdefault(child.body, child)
    for member in island[elite:]:
        if len(chosen) == len(island):
            break
        chosen.setdefault(member.body, member)
    # An island that has lost its variety (tiny vocabularies) keeps copies rather than shrink.
    whole = [*chosen.values(), *island][: len(island)]
    return _ordered(whole)


def tournament(island: Island, contestants: int, rng: np.random.Generator) -> Individual:
    """The fittest of some drawn at random, with replacement."""
    return island[int(rng.integers(len(island), size=contestants).min())]


def migrate(islands: list[Island]) -> list[Island]:
    """Each island's best takes the place of the next island's worst, unless it lives there already."""
    if len(islands) == 1:
        return islands
    moved = []
    for number, island in enumerate(islands):
        guest = islands[number - 1][0]
        known = any(member.body == guest.body for member in island)
        moved.append(island if known else _ordered([*island[:-1], guest]))
    return moved


def _islands(individuals: Sequence[Individual], settings: Genetic) -> list[Island]:
    size = settings.size
    return [_ordered(individuals[at : at + size]) for at in range(0, len(individuals), size)]


def _ordered(individuals: Sequence[Individual]) -> Island:
    return sorted(individuals, key=lambda individual: (-individual.fitness, individual.body))


def _row(generation: int, islands: Sequence[Island], conditionals: Conditionals) -> dict[str, int | float]:
    everyone = [member for island in islands for member in island]
    best = max(everyone, key=lambda member: member.fitness)
    return {
        "generation": generation,
        "best": best.fitness,
        "mean": float(np.mean([member.fitness for member in everyone])),
        "worst_island": min(island[0].fitness for island in islands),
        "log_likelihood": best.log_likelihood,
        "repetition": best.repetition,
        "distinct": len({member.body for member in everyone}),
        "passes": conditionals.passes,
        "token_passes": conditionals.token_passes,
    }
