"""Lookahead from every position of a text: search, and what it predicts."""

from snellen.lookahead.amplifier import Lookahead
from snellen.lookahead.beam_search import beam
from snellen.lookahead.rollouts import Rollouts

__all__ = ["Lookahead", "Rollouts", "beam"]
