"""Which prompts carry an interval, and numbers of all that was written behind them together."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from snellen.errors import Refused
from snellen.measures.degeneration.corpus import Diversity
from snellen.results.estimates import Estimate
from snellen.results.samples import Sample
from snellen.results.statistics import REFUSED_BELOW, Resamples

SAME = "the same for every prompt, which resampling would take for certainty"


def of_prompts(document: Int[ndarray, "prompts"], *, number: int, level: float, seed: int) -> Sample:
    """The unit is a document where there are at least 8; else a prompt with its continuation.

    Raises `Refused` for fewer than 8 prompts.
    """
    if len(document) < REFUSED_BELOW:
        raise Refused(
            f"{len(document)} prompts: an interval needs at least {REFUSED_BELOW}; give more text, or set "
            "prompt_tokens or new_tokens lower"
        )
    return Sample.of_texts(document, "prompts", number=number, level=level, seed=seed, flat=SAME)


def of_corpus(diversity: Diversity, level: float, minus: Diversity | None = None) -> Estimate:
    """A number of all texts together, or its difference from another corpus with the same units (jackknife)."""
    whole, without = diversity.whole, diversity.without
    if minus is not None:
        whole, without = whole - minus.whole, without - minus.without
    left_out = Resamples(counts=np.zeros((0, 0)), method="jackknife t", level=level)
    return Estimate.of(whole, *left_out.interval(whole, without), "too few kinds of tokens occur twice")
