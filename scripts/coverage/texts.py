"""Texts and models that are tables, what they are scored as, and the gain that is really there.

Every table is [V + 1, V + 1, V]: p(next | last but one, last), index V for none.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from snellen.measures.base import Beams, Scored
from snellen.organisms.markov import Markov
from snellen.runner.scoring import TEMPERATURES
from snellen.studies.followers import amplified, searched

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]
WIDTH, HORIZON, TOKENS = 4, 3, 12
ALPHAS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0)


def model(rules: int) -> Floats:
    """A planless model."""
    return np.asarray(Markov(tokens=TOKENS, rules=rules).table)


def tilted(table: Floats, exponent: float) -> Floats:
    p = table**exponent
    return np.asarray(p / p.sum(axis=-1, keepdims=True))


def smoothed(table: Floats, share: float) -> Floats:
    return np.asarray((1 - share) * table + share / table.shape[-1])


def follower(table: Floats, weight: float, alpha: float = 1.0, *, factor: bool = True) -> Floats:
    """The author who follows the model's lookahead; without `factor`, only its choice of candidates, sharpened."""
    return np.asarray((1 - weight) * table + weight * amplified(table, WIDTH, HORIZON, alpha, factor=factor))


def leaning(table: Floats, strength: float) -> tuple[Floats, Floats]:
    """Two authors, one who leans to what the lookahead likes and one away from it: together they are the model."""
    q, inside = amplified(table, WIDTH, HORIZON, 1.0), amplified(table, WIDTH, HORIZON, 1.0, factor=False)
    liked = np.where(inside > 0, np.clip(q / np.where(inside > 0, inside, 1) - 1, -1, 1), 0.0)
    liked = liked - (liked * table).sum(axis=-1, keepdims=True)
    top = np.maximum(1.0, np.abs(liked).max())
    return table * (1 + strength * liked / top), table * (1 - strength * liked / top)


def sample(author: Floats, number: int, size: int, rng: np.random.Generator) -> Ids:
    """[number, size]"""
    vocabulary = author.shape[-1]
    cumulative = np.cumsum(author, axis=-1)
    out = np.empty((number, size), dtype=np.int64)
    before = last = np.full(number, vocabulary)
    for place in range(size):
        drawn = (rng.random((number, 1)) > cumulative[before, last]).sum(axis=1)
        out[:, place] = np.minimum(drawn, vocabulary - 1)
        before, last = last, out[:, place]
    return out


def score(table: Floats, documents: Sequence[Ids]) -> Scored:
    """What an exam finds of documents under the model `table`; every context is searched once."""
    vocabulary = table.shape[-1]
    flat = table.reshape(-1, vocabulary)
    tau = np.asarray(TEMPERATURES)
    log_p = np.log(flat)
    order = np.argsort(-flat, axis=1, kind="stable")
    beams = searched(table, WIDTH, HORIZON)
    context = np.concatenate([_contexts(ids, vocabulary) for ids in documents])
    token = np.concatenate(documents)
    lengths = [len(ids) for ids in documents]
    index = np.concatenate([np.arange(n) for n in lengths]).astype(np.int32)
    log_z = np.log((flat[:, None] ** tau[:, None]).sum(axis=-1))
    own = log_p[context, token]
    return Scored(
        document=np.repeat(np.arange(len(documents)), lengths).astype(np.int32),
        index=index,
        token=token.astype(np.int32),
        pieces=[" x"] * len(token),
        start=2 * index,
        end=2 * index + 2,
        context=index,
        log_prob=own.astype(np.float32),
        entropy=-(flat * log_p).sum(axis=1)[context].astype(np.float32),
        rank=(log_p[context] > own[:, None]).sum(axis=1).astype(np.int32),
        temperatures=tau,
        log_z=log_z[context].astype(np.float32),
        top_tokens=order[context, :8].astype(np.int32),
        top_log_probs=np.take_along_axis(log_p, order, axis=1)[context, :8].astype(np.float32),
        log_word_start=np.zeros(len(token), dtype=np.float32),
        beams={
            WIDTH: Beams(
                tokens=beams.tokens[context], parents=beams.parents[context], log_probs=beams.log_probs[context]
            )
        },
        horizon=HORIZON,
        starts_word=np.ones(vocabulary, dtype=np.bool_),
        documents=[f"document {i + 1}" for i in range(len(documents))],
    )


def _contexts(ids: Ids, vocabulary: int) -> Ids:
    padded = np.concatenate([np.full(2, vocabulary), ids])
    out: Ids = padded[:-2] * (vocabulary + 1) + padded[1:-1]
    return out
