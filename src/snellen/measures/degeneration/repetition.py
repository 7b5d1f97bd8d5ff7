"""Repetition inside a text: sequences of tokens that were there before, and loops that it ends in."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

LOOP_PERIOD = 2  # tokens of the shortest phrase that counts as a loop
LOOP_TIMES = 3


def grams(tokens: Int[ndarray, "texts length"], n: int) -> Int[ndarray, "texts grams"]:
    """A number for each sequence of n tokens, equal where the sequences are; length − n + 1 of them a text."""
    found = np.unique(tokens, return_inverse=True)[1].reshape(tokens.shape)
    known = found.astype(np.int64)
    for ahead in range(1, n):
        # Numbered anew at each step, so that a pair of numbers never overflows.
        pairs = known[:, :-1] * (int(found.max()) + 1) + found[:, ahead:]
        known = np.unique(pairs, return_inverse=True)[1].reshape(pairs.shape)
    return known


def seq_rep(tokens: Int[ndarray, "texts length"], n: int) -> Float[ndarray, "texts"]:
    """seq-rep-n of each text: 1 − (different n-grams) / (n-grams), Welleck et al. 2019 (arXiv 1908.04319).

    Raises ValueError for texts shorter than n.
    """
    if tokens.shape[1] < n:
        raise ValueError(f"texts of {tokens.shape[1]} tokens have no sequences of {n}")
    ordered = np.sort(grams(tokens, n), axis=1)
    different = 1 + (np.diff(ordered, axis=1) != 0).sum(axis=1)
    repeated: ndarray = 1 - different / ordered.shape[1]
    return repeated


def final_loop(tokens: Int[ndarray, "texts length"]) -> Int[ndarray, "texts"]:
    """How many tokens at the end of each text are a loop; 0 where it does not end in one.

    A loop is a phrase of at least two tokens that is repeated, at least three times in all, up to the end
    (Holtzman et al. 2019, arXiv 1904.09751); a last repetition that was cut off by the end belongs to it.
    """
    longest = np.zeros(len(tokens), dtype=np.int64)
    length = tokens.shape[1]
    for period in range(LOOP_PERIOD, length // LOOP_TIMES + 1):
        same = tokens[:, period:] == tokens[:, :-period]
        run = np.where(same.all(axis=1), same.shape[1], np.argmin(same[:, ::-1], axis=1))
        looped = run + period
        longest = np.where(looped >= LOOP_TIMES * period, np.maximum(longest, looped), longest)
    return longest
