"""What the text says: loss by position, the in-context-learning score, and what further context gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Float
from numpy import ndarray

from snellen.measures.in_context.stretches import Stretches, Unfit
from snellen.measures.readings import Reading
from snellen.results.estimates import Estimate
from snellen.results.samples import Sample

EARLY, LATE, HALF = 50, 500, 10  # Olsson et al. 2022, of stretches that are long enough; means over ± HALF tokens
BINS = 14
ALONE = "there is one document, and foreign text comes from another; give more documents"


@dataclass(frozen=True, kw_only=True)
class OfText:
    """gain:    loss with the near context alone, minus that of the same tokens with all of the stretch before them
    foreign: the same, with another document's text in the place of what is further away
    beyond:  what the own further text gives beyond the foreign one: same tokens, same places, same near context
    score:   loss about the late position minus that about the early one (negative: it learns in context)
    """

    gain: Estimate
    foreign: Estimate
    beyond: Estimate
    score: Estimate
    positions: tuple[int, int] | None
    sample: Sample
    stretches: Stretches
    tables: dict[str, pa.Table]

    @property
    def compared(self) -> int:
        return int(self.stretches.block * len(self.stretches.tokens))


def of_text(
    stretches: Stretches, found: Sequence[Reading], *, positions: tuple[int, int] | None, sample: Sample
) -> OfText:
    """From the readings of `stretches.passages()`."""
    each, block = stretches.a_stretch, stretches.block
    whole = -np.stack([one.log_prob for one in found[::each]]).astype(np.float64)

    def last(which: int) -> Float[ndarray, "n"]:
        """Mean loss of each stretch's last tokens in its `which`-th reading."""
        losses = np.stack([one.log_prob[-block:] for one in found[which::each]])
        means: ndarray = -losses.astype(np.float64).mean(axis=1)
        return means

    own = {c: last(1 + k) for k, c in enumerate(stretches.contexts)}
    own[stretches.length - block] = last(0)
    near, full = own[stretches.near], own[stretches.length - block]
    foreign = last(each - 1) if len(stretches.mates) else None
    rows = [("own", c, loss) for c, loss in own.items()]
    if foreign is not None:
        rows.append(("foreign", stretches.length - block, foreign))
    undefined = Estimate.undefined(ALONE)
    score, where = _score(whole, stretches.length, positions, sample)
    return OfText(
        gain=sample.mean(near - full),
        foreign=undefined if foreign is None else sample.mean(near - foreign),
        beyond=undefined if foreign is None else sample.mean(foreign - full),
        score=score,
        positions=where,
        sample=sample,
        stretches=stretches,
        tables={
            "in_context_positions": _by_position(whole, sample),
            "in_context_contexts": _contexts(rows, stretches.near, near, sample),
        },
    )


def places(length: int, positions: tuple[int, int] | None) -> tuple[int, int]:
    """Where the score is taken: (50, 500) where a stretch has room for it, else a tenth and the end of it.

    Raises
    ------
    Unfit
        The two places overlap or do not lie in the stretch.
    """
    if positions is None:
        positions = (EARLY, LATE) if length >= LATE + HALF else (max(HALF + 1, length // 10), length - HALF)
    early, late = positions
    # The first token of a stretch has nothing before it but perhaps the model's own first token, and is not scored.
    if early - HALF < 1 or late + HALF > length or early + HALF > late - HALF:
        raise Unfit(
            f"positions {early} and {late}, each ± {HALF} tokens: must not overlap, and lie in a stretch of {length}"
        )
    return early, late


def _score(
    whole: Float[ndarray, "n pos"], length: int, positions: tuple[int, int] | None, sample: Sample
) -> tuple[Estimate, tuple[int, int] | None]:
    try:
        early, late = places(length, positions)
    except Unfit as error:
        return Estimate.undefined(str(error)), None
    # Column p − 1 is the loss of the token at position p.
    means = [whole[:, at - HALF - 1 : at + HALF - 1].mean(axis=1) for at in (early, late)]
    return sample.mean(means[1] - means[0]), (early, late)


def _by_position(whole: Float[ndarray, "n pos"], sample: Sample) -> pa.Table:
    """Mean loss of the tokens at positions [first, last) of the stretches, in bins that widen geometrically."""
    end = whole.shape[1] + 1
    edges = np.unique(np.geomspace(1, end, BINS + 1).round().astype(int))
    means = np.add.reduceat(whole, edges[:-1] - 1, axis=1) / np.diff(edges)
    rows = [
        {"first": int(first), "last": int(last), **estimate.row("loss"), "n": int((last - first) * len(whole))}
        for first, last, estimate in zip(edges[:-1], edges[1:], sample.means(means), strict=True)
    ]
    return pa.Table.from_pylist(rows)


def _contexts(
    rows: Sequence[tuple[str, int, ndarray]], short: int, near: Float[ndarray, "n"], sample: Sample
) -> pa.Table:
    """What each reading of the same tokens loses, and gains over the near context alone."""
    out = []
    for source, context, loss in rows:
        gain = sample.mean(near - loss).row("gain") if (source, context) != ("own", short) else _zero()
        out.append({"source": source, "context": context, **sample.mean(loss).row("loss"), **gain})
    names = ("loss", "loss_low", "loss_high", "gain", "gain_low", "gain_high")
    kinds = [("source", pa.string()), ("context", pa.int64()), *((name, pa.float64()) for name in names)]
    return pa.Table.from_pylist(out, pa.schema(kinds))


def _zero() -> dict[str, float | None]:
    """What all others are compared with."""
    return {"gain": 0.0, "gain_low": None, "gain_high": None}
