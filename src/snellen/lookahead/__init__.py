"""Lookahead from every position of a text: search, and what it predicts."""

from snellen.lookahead.amplifier import Lookahead
from snellen.lookahead.beam_search import beam
from snellen.lookahead.decoding import Generated, generate
from snellen.lookahead.particle_filter import particles
from snellen.lookahead.power_sampling import PowerSamples, power_sample
from snellen.lookahead.rollouts import Rollouts
from snellen.lookahead.weighted import Particles

__all__ = [
    "Generated",
    "Lookahead",
    "Particles",
    "PowerSamples",
    "Rollouts",
    "beam",
    "generate",
    "particles",
    "power_sample",
]
