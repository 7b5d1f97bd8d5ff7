"""Evolving text with a masked language model: a genetic algorithm, and exact Metropolis–Hastings."""

from snellen.evolution_settings import Genetic, Metropolis
from snellen.lookahead.evolution.chains import metropolis
from snellen.lookahead.evolution.conditionals import Conditionals
from snellen.lookahead.evolution.genetic import evolve
from snellen.lookahead.evolution.result import Cost, Evolved, Member, population_of, read_population, read_record

__all__ = [
    "Conditionals",
    "Cost",
    "Evolved",
    "Genetic",
    "Member",
    "Metropolis",
    "evolve",
    "metropolis",
    "population_of",
    "read_population",
    "read_record",
]
