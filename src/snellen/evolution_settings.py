"""What an evolution of texts may be asked for: the settings with their only defaults, checked before any work.

It lies outside `lookahead.evolution`, so that the command line can show them without importing torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from snellen.errors import InputError
from snellen.kinds import LEAST_TEMPERATURE, MOST, check_fields


@dataclass(frozen=True, kw_only=True)
class Genetic:
    """A population of texts under mutation, crossover and selection; see `lookahead.evolution.genetic`.

    Parameters
    ----------
    length
        Free tokens of a text: those beside the prompt and the suffix.
    slack
        Insertion, deletion and crossover may change the length by this share of it, either way.
    population
        Texts that live at a time, on all islands together.
    islands
        Groups that breed apart.
    generations
        How often a new generation takes the old one's place.
    mutation
        Expected share of a child's tokens that are masked and written anew.
    insertion, deletion
        Probability that a child also gains, or loses, a token.
    crossover
        Probability that a child has two parents: the head of one and the tail of the other.
    seam
        Tokens written anew where the two were joined.
    tournament
        Texts that compete to be a parent; 1 is no selection.
    elite
        Best texts of an island that live on unchanged.
    migration
        Generations between migrations of each island's best text to the next island; 0: none.
    temperature
        Of the distribution that masked tokens are drawn from; below 1 is more conservative.
    repetition
        What a text's fitness loses for being all repetition, nats a token.
    passes
        Most rows that the model may be run on; by default no limit. The last generation is the last that fits.
    memory
        What a batch may hold beside the weights, as 512MB or 2GB; changes numbers by rounding alone (docs/runs.md).
    seed
        Of everything that is drawn.
    """

    length: int = 32
    slack: float = 0.25
    population: int = 32
    islands: int = 4
    generations: int = 50
    mutation: float = 0.1
    insertion: float = 0.1
    deletion: float = 0.1
    crossover: float = 0.3
    seam: int = 2
    tournament: int = 3
    elite: int = 1
    migration: int = 10
    temperature: float = 1.0
    repetition: float = 3.0
    passes: int | None = None
    memory: str | int = "1GB"
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        _whole(self, length=1, islands=1, generations=0, seam=0, tournament=1, elite=0, migration=0, seed=0)
        if self.passes is not None:
            _whole(self, passes=1)
        _population(self.population, "a population of one cannot evolve")
        _share(self, "mutation", "insertion", "deletion", "crossover", "slack")
        if self.slack == 1:
            raise InputError("slack 1: must be below 1, or texts could vanish")
        _temperature("temperature", self.temperature)
        if not 0 <= self.repetition < math.inf:
            raise InputError(f"repetition {self.repetition}: must be 0 or more")
        if self.population % self.islands or self.population < 2 * self.islands:
            raise InputError(
                f"islands {self.islands}: a population of {self.population} cannot be dealt out to them evenly with at "
                "least two texts on each; change --islands or --population"
            )
        if self.elite >= self.size:
            raise InputError(f"elite {self.elite}: must be below the {self.size} texts of an island")

    @property
    def size(self) -> int:
        """Texts on one island."""
        return self.population // self.islands

    @property
    def shortest(self) -> int:
        return max(1, math.ceil(self.length * (1 - self.slack)))

    @property
    def longest(self) -> int:
        return math.floor(self.length * (1 + self.slack))


@dataclass(frozen=True, kw_only=True)
class Metropolis:
    """Markov chains over texts whose stationary distribution is ∝ exp(−E / temperature).

    Parameters
    ----------
    length
        Free tokens of a text: those beside the prompt and the suffix. It stays the same.
    population
        Chains that run side by side, each on its own; two or more, since only their agreement shows convergence.
    steps
        Proposals a chain, each to change one token.
    burn_in
        Steps at the beginning that are no sample; by default half of those done.
    thin
        Of the rest every so many-th state is kept.
    temperature
        Of the target: 1 is the model's own energy; lower prefers plausible texts more strongly.
    proposal_temperature
        Of the masked prediction that proposals are drawn from; changes how fast it converges, not to what.
    passes, memory, seed
        As in `Genetic`; a budget ends the chains at the last step that fits.
    """

    length: int = 32
    population: int = 8
    steps: int = 1000
    burn_in: int | None = None
    thin: int = 10
    temperature: float = 1.0
    proposal_temperature: float = 1.0
    passes: int | None = None
    memory: str | int = "1GB"
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        _whole(self, length=1, steps=1, thin=1, seed=0)
        if self.passes is not None:
            _whole(self, passes=1)
        if self.burn_in is not None:
            _whole(self, burn_in=0)
            if self.burn_in >= self.steps:
                raise InputError(f"burn_in {self.burn_in}: must be below the {self.steps} steps")
        _population(self.population, "whether a chain has converged shows only beside another")
        _temperature("temperature", self.temperature)
        _temperature("proposal_temperature", self.proposal_temperature)

    @property
    def shortest(self) -> int:
        return self.length

    @property
    def longest(self) -> int:
        return self.length


def _whole(settings: Any, **least: int) -> None:
    for name, low in least.items():
        value = getattr(settings, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise InputError(f"{name} {value!r}: must be a whole number of at least {low}")
        if value > MOST and name != "seed":
            raise InputError(f"{name} {value}: must be at most {MOST}")


def _population(value: Any, why: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 2:
        raise InputError(f"population {value!r}: must be a whole number of at least 2: {why}")
    if value > MOST:
        raise InputError(f"population {value}: must be at most {MOST}")


def _share(settings: Any, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        if not 0 <= value <= 1:  # NaN too
            raise InputError(f"{name} {value}: must lie between 0 and 1")


def _temperature(name: str, value: float) -> None:
    if not LEAST_TEMPERATURE <= value < math.inf:
        raise InputError(f"{name} {value}: must be above 0 (at least {LEAST_TEMPERATURE:g}), and finite")
