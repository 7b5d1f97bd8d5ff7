"""What makes a child of its parents: gaps are cut into the text here, and written by the model in `writing`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from snellen.evolution_settings import Genetic
from snellen.lookahead.evolution.frame import GAP, Body


def child_of(parents: Sequence[Body], settings: Genetic, rng: np.random.Generator) -> Body:
    """A text with gaps, from one parent, or spliced from two; never one without a gap or a loss.

    Its length stays between `settings.shortest` and `settings.longest`.
    """
    child = parents[0] if len(parents) == 1 else splice(parents[0], parents[1], settings, rng)
    if rng.random() < settings.deletion and len(child) > settings.shortest:
        child = delete(child, rng)
    if rng.random() < settings.insertion and len(child) < settings.longest:
        child = insert(child, rng)
    changed = GAP in child or len(child) != len(parents[0])
    return substitute(child, settings.mutation, rng, at_least=0 if changed else 1)


def substitute(body: Body, rate: float, rng: np.random.Generator, *, at_least: int = 1) -> Body:
    """Each token becomes a gap with probability `rate`, and not fewer than `at_least` do."""
    count = min(len(body), max(at_least, int(rng.binomial(len(body), rate))))
    places = set(rng.choice(len(body), size=count, replace=False).tolist())
    return tuple(GAP if place in places else token for place, token in enumerate(body))


def insert(body: Body, rng: np.random.Generator) -> Body:
    """A gap between two tokens, or at either end."""
    at = int(rng.integers(len(body) + 1))
    return (*body[:at], GAP, *body[at:])


def delete(body: Body, rng: np.random.Generator) -> Body:
    """One token less."""
    at = int(rng.integers(len(body)))
    return body[:at] + body[at + 1 :]


def splice(first: Body, second: Body, settings: Genetic, rng: np.random.Generator) -> Body:
    """The head of one and the tail of the other, cut at the same share of each, with gaps about the seam."""
    share = rng.random()
    cut = round(share * len(first))
    tail = second[round(share * len(second)) :]
    # Rounding alone can leave the bounds, and parents from a file may lie outside them.
    tail = tail[: max(0, settings.longest - cut)]
    whole = first[: settings.longest][:cut] + tail
    if len(whole) < settings.shortest:
        whole += (GAP,) * (settings.shortest - len(whole))
    low = max(0, cut - settings.seam // 2)
    high = min(len(whole), low + settings.seam)
    return tuple(GAP if low <= place < high else token for place, token in enumerate(whole))
