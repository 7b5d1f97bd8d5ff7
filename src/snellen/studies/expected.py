"""What a lookahead gains in expectation, where model and author are tables of order 2: what is to be found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snellen.lookahead import mixing
from snellen.organisms.language import Floats
from snellen.runner.scoring import TEMPERATURES
from snellen.studies.followers import amplified


@dataclass(frozen=True, kw_only=True)
class Truth:
    """Nats a token over the model, in expectation over the author's own text: the best lookahead, the best control."""

    lookahead: float
    control: float

    @property
    def gain(self) -> float:
        return max(self.lookahead - self.control, 0.0)


def expected(
    table: Floats,
    author: Floats,
    size: int,
    *,
    width: int,
    horizon: int,
    alphas: Sequence[float],
    weights: Sequence[float],
) -> Truth:
    """The gain of a table that judges another's text, in expectation: the best mix of each kind, without gates.

    Parameters
    ----------
    table, author
        [tokens + 1, tokens + 1, tokens] p(next | last but one, last), index `tokens` for none.
    size
        Tokens of a document.
    alphas, weights
        The grid of the measure; an α of ∞ is left out.
    """
    alphas = [alpha for alpha in alphas if np.isfinite(alpha)]
    flat, text = table.reshape(-1, table.shape[-1]), author.reshape(-1, table.shape[-1])
    often = _how_often(author, size)[:, None] * text
    lookahead, control = 0.0, 0.0
    order = np.argsort(-flat, axis=1, kind="stable")
    for base in (np.asarray(_tilted(flat, tau)) for tau in TEMPERATURES):
        over = float((often * np.log(base / flat)).sum())
        control = max(control, over)
        for alpha in alphas:
            for q in (_sharpened(flat, order, k, alpha) for k in (1, 2, 4, 8) if k <= flat.shape[1]):
                control = max(control, over + _best(often, base, q, weights))
            same = amplified(table, width, horizon, alpha, factor=False).reshape(flat.shape)
            control = max(control, over + _best(often, base, same, weights))
            ahead = amplified(table, width, horizon, alpha).reshape(flat.shape)
            lookahead = max(lookahead, over + _best(often, base, ahead, weights))
    return Truth(lookahead=max(lookahead, control), control=control)


def _sharpened(flat: Floats, order: NDArray[np.integer[Any]], width: int, alpha: float) -> Floats:
    first = np.take_along_axis(np.log(flat), order[:, :width], axis=1)
    q = np.exp(mixing.log_power(first, np.zeros_like(first), alpha))
    out = np.zeros_like(flat)
    np.put_along_axis(out, order[:, :width], q, axis=1)
    return out


def _best(often: Floats, base: Floats, q: Floats, weights: Sequence[float]) -> float:
    """The greatest expected gain over the base of a linear mix, or of a geometric one inside the candidates."""
    found = 0.0
    inside = q > 0
    kept = np.where(inside, base, 0).sum(axis=1, keepdims=True)
    for w in weights:
        found = max(found, float((often * np.log1p(w * (q / base - 1))).sum()))
        power = np.where(inside, base ** (1 - w) * np.where(inside, q, 1.0) ** w, 0.0)
        mixed = np.where(inside, kept * power / power.sum(axis=1, keepdims=True), base)
        found = max(found, float((often * np.log(mixed / base)).sum()))
    return found


def _how_often(author: Floats, size: int) -> Floats:
    """[contexts] how often each context stands before a token of a document of `size` tokens, on average."""
    vocabulary = author.shape[-1]
    now = np.zeros(author.shape[:2])
    now[vocabulary, vocabulary] = 1.0
    total = np.zeros_like(now)
    for _ in range(size):
        total += now
        following = np.zeros_like(now)
        following[:, :vocabulary] = np.einsum("bl,blv->lv", now, author)
        now = following
    return np.asarray(total.reshape(-1) / size)


def _tilted(flat: Floats, exponent: float) -> Floats:
    p = flat**exponent
    return np.asarray(p / p.sum(axis=-1, keepdims=True))
