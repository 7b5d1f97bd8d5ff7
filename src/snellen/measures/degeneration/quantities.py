"""What is measured of a continuation: one number a text, or one of all texts together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from snellen.measures.degeneration.corpus import Diversity, distinct, zipf
from snellen.measures.degeneration.repetition import final_loop, seq_rep
from snellen.measures.generations import Continuations

PER = 100  # tokens: drift is given for so many
ORDERS = (1, 2, 3, 4)
LOOP = "ends in a loop"


def drift(trace: Float[ndarray, "texts length"]) -> Float[ndarray, "texts"]:
    """Slope of each text's trace over its positions (least squares), for 100 tokens."""
    place = np.arange(trace.shape[1]) - (trace.shape[1] - 1) / 2
    slopes: ndarray = PER * (trace.astype(np.float64) @ place) / float(place @ place)
    return slopes


def of_texts(found: Continuations) -> dict[str, Float[ndarray, "texts"]]:
    """Numbers of each text, by name, in the order in which tables show them."""
    log_prob, entropy = found.log_prob.astype(np.float64), found.entropy.astype(np.float64)
    loop = final_loop(found.tokens)
    return {
        "log-probability": log_prob.mean(axis=1),
        "entropy": entropy.mean(axis=1),
        # Nothing but chance where each token was drawn from the prediction itself: E[log p] = −H.
        "log-probability + entropy": (log_prob + entropy).mean(axis=1),
        "drift of log-probability": drift(log_prob),
        "drift of entropy": drift(entropy),
        **{f"seq-rep-{n}": seq_rep(found.tokens, n) for n in ORDERS},
        LOOP: (loop > 0).astype(np.float64),
        "tokens in the final loop": loop.astype(np.float64),
    }


OF_CORPUS: Mapping[str, Callable[[Int[ndarray, "texts length"], Int[ndarray, "texts"]], Diversity]] = {
    **{f"distinct-{n}": partial(distinct, n=n) for n in ORDERS},
    "Zipf exponent": zipf,
}

UNITS: Mapping[str, str] = {
    "log-probability": "nats per token",
    "entropy": "nats per token",
    "log-probability + entropy": "nats per token",
    "drift of log-probability": "nats per token per 100 tokens",
    "drift of entropy": "nats per token per 100 tokens",
    **{f"seq-rep-{n}": "share of sequences" for n in ORDERS},
    LOOP: "share of texts",
    "tokens in the final loop": "tokens",
    **{f"distinct-{n}": "share of sequences" for n in ORDERS},
    "Zipf exponent": "exponent",
}
