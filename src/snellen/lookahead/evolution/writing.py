"""Gaps are written one at a time, in random order, each drawn from the model's prediction given all that stands."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from snellen.lookahead.evolution.conditionals import Conditionals, gaps
from snellen.lookahead.evolution.frame import Body


def proposal(
    log_probs: Float[Tensor, "texts vocab"], ordinary: Bool[Tensor, "vocab"], temperature: float
) -> Float[Tensor, "texts vocab"]:
    """log q ∝ log p / temperature over the ordinary tokens, float64: what a masked token is drawn from."""
    scaled = log_probs.double() / temperature
    return scaled.masked_fill(~ordinary, -torch.inf).log_softmax(-1)


def draw(log_q: Float[Tensor, "texts vocab"], uniforms: Sequence[float]) -> list[int]:
    """One token a text by inverse CDF, so that a text's token depends on its own random number alone."""
    cumulative = log_q.exp().cumsum(-1)
    wanted = torch.tensor(uniforms, dtype=torch.float64, device=log_q.device)[:, None] * cumulative[:, -1:]
    return [int(token) for token in torch.searchsorted(cumulative, wanted, right=True)[:, 0]]


def write(
    conditionals: Conditionals,
    bodies: Sequence[Body],
    rngs: Sequence[np.random.Generator],
    *,
    temperature: float,
) -> list[Body]:
    """The texts with their gaps written; `rngs` holds each text's source of randomness (texts may share one)."""
    texts = [list(body) for body in bodies]
    while True:
        open_ones = [i for i, text in enumerate(texts) if gaps(text)]
        if not open_ones:
            return [tuple(text) for text in texts]
        places = [int(rngs[i].choice(gaps(texts[i]))) for i in open_ones]
        uniforms = [float(rngs[i].random()) for i in open_ones]
        log_probs = conditionals.at([tuple(texts[i]) for i in open_ones], places)
        tokens = draw(proposal(log_probs, conditionals.model.ordinary, temperature), uniforms)
        for i, place, token in zip(open_ones, places, tokens, strict=True):
            texts[i][place] = token
