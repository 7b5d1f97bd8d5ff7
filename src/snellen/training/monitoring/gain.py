"""The lookahead gain of a model on held-out text: that of `snellen exam`, at the one width and horizon that is watched.

The measure itself answers many questions of a text; of these a monitor asks one, at a third of the time. It is the
same number: same arms, folds, intervals (a test holds the two together).

All arms have the amplifier's exponent α alone, lookahead and controls, so that none has a freedom that the other
lacks. A monitor is an instrument that is read again and again: with an α fitted anew at each look, a movement between
two looks could be the exponent's.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from transformers import PreTrainedModel

from snellen.errors import InputError
from snellen.lookahead.beam_search import score_window
from snellen.measures.base import Scored
from snellen.measures.lookahead_gain import LookaheadGain
from snellen.measures.lookahead_gain.arms import Survivors
from snellen.measures.lookahead_gain.curves import Point, Problem, point, shared
from snellen.measures.lookahead_gain.rows import check, rows_of, take
from snellen.measures.lookahead_gain.tables import plain
from snellen.results import statistics
from snellen.runner import scoring
from snellen.training.amplifiers import Amplifier, Beam, Particles
from snellen.training.monitoring.held_out import HeldOut, Window
from snellen.training.monitoring.untouched import bare, streams_kept, untouched

_BESIDE = 1  # width of the beam that the measure wants beside particles; nothing is read from it


@dataclass(frozen=True, kw_only=True)
class Watched:
    """What one look found. Nats per token; every arm cross-fitted, so that losses are held out twice.

    gain: `control_loss` − `amplified_loss`; its interval and the placebo's are over units of text. control: which of
    the four controls is the best. mix: lookahead as fitted on the whole text (kind, alpha, weight, temperature), for
    the record.
    """

    gain: float
    low: float | None
    high: float | None
    placebo: float
    placebo_low: float | None
    placebo_high: float | None
    naive_loss: float
    amplified_loss: float
    control_loss: float
    control: str
    mix: Mapping[str, Any]
    tokens: int
    units: int
    seconds: float


def measure_gain(
    model: PreTrainedModel,
    text: HeldOut,
    amplifier: Amplifier,
    *,
    seed: int = 0,
    memory: int | str = "1GB",
    engine: str = "auto",
) -> Watched:
    """The lookahead gain of `model` on `text`, over the best control. Model and random streams stay as they are.

    Raises
    ------
    InputError
        An amplifier that cannot be watched with: horizon 1, an exponent of ∞, or a learned one.
    Refused
        The model fails the preflight, or gives NaN or no probability to a real token.
    """
    began = time.monotonic()
    check_watchable(amplifier)
    with streams_kept():
        table = score(model, text, text.windows, amplifier, seed=seed, memory=memory, engine=engine)
        return judge(gathered(table, text, amplifier), amplifier, seed=seed, began=began)


def check_watchable(amplifier: Amplifier) -> None:
    """Raises InputError where the gain with this amplifier says nothing or cannot be had."""
    if not isinstance(amplifier, Beam | Particles):
        raise InputError(
            f"monitor = {amplifier}: a {amplifier.kind} amplifier would have to be trained anew at each look; "
            "watch with Beam or Particles"
        )
    if amplifier.horizon < 2:
        raise InputError(f"monitor = {amplifier}: a horizon of 1 is sharpening, not lookahead; at least 2")
    if math.isinf(amplifier.alpha):
        raise InputError(f"monitor = {amplifier}: all arms are fitted at its exponent; take a finite alpha")


def score(
    model: PreTrainedModel,
    text: HeldOut,
    windows: Sequence[Window],
    amplifier: Amplifier,
    *,
    seed: int,
    memory: int | str = "1GB",
    engine: str = "auto",
) -> pa.Table:
    """Rows of `tokens.parquet` for some of the windows of `text`. Each depends on its window alone.

    Particles have a stream for each document and the same in every look: with one for all, equal contexts in
    different documents would share their noise, and the interval would not know.
    """
    model = bare(model)
    sampled = isinstance(amplifier, Particles)
    parts = []
    with untouched(model):
        for window in windows:
            found = score_window(
                model,
                window.ids,
                widths=(_BESIDE if sampled else amplifier.branches,),
                horizon=amplifier.horizon,
                first=window.first,
                temperatures=scoring.TEMPERATURES,
                top=scoring.TOP,
                particles=amplifier.branches if sampled else 0,
                seed=seed * 1_000_003 + window.document,
                memory=memory,
                engine=engine,
            )
            words = np.full_like(found.log_prob, -np.inf)  # nobody asks where words begin
            rows = scoring.rows(_places(window), replace(found, log_word_start=words))
            parts.append(rows if window.targets is None else rows.filter(pa.array(window.targets.numpy())))
    table = pa.concat_tables(parts)
    scoring.refuse_nan(table, text.documents)
    return table


def _places(window: Window) -> dict[str, Any]:
    """Where the scored tokens stand. What they spell is nothing to the gain."""
    number = len(window.ids) - window.first
    index = np.arange(window.index, window.index + number)
    nowhere = np.zeros(number, dtype=np.int32)
    return {
        "document": np.full(number, window.document),
        "index": index,
        "token": window.ids[window.first :].numpy(),
        "piece": [""] * number,
        "start": nowhere,
        "end": nowhere,
        "context": np.arange(window.first, len(window.ids)),
    }


def gathered(table: pa.Table, text: HeldOut, amplifier: Amplifier) -> Scored:
    """The rows as measures read them."""
    width = _BESIDE if isinstance(amplifier, Particles) else amplifier.branches
    return scoring.scored(
        table,
        widths=(width,),
        horizon=amplifier.horizon,
        starts_word=np.zeros(text.vocabulary, dtype=np.bool_),
        documents=text.documents,
    )


def judge(scored: Scored, amplifier: Amplifier, *, seed: int, began: float | None = None) -> Watched:
    """The gain of `amplifier` from what was scored with it; `began` is when the look did, on the monotonic clock."""
    began = time.monotonic() if began is None else began
    assert isinstance(amplifier, Beam | Particles)
    problem, found = fit(scored, amplifier, alphas=(float(amplifier.alpha),), seed=seed)
    return watched(problem, found, began)


def fit(
    scored: Scored,
    amplifier: Amplifier,
    *,
    alphas: Sequence[float],
    seed: int,
    deployable: bool = False,
) -> tuple[Problem, Point]:
    """All arms at the amplifier's width and horizon, as `LookaheadGain` fits and judges them.

    `deployable`: only mixes that `snellen generate` can make, into the model's own prediction and with one weight
    everywhere (no base of another temperature, no gates).
    """
    check(scored)
    settings = LookaheadGain(alphas=tuple(alphas), base="naive" if deployable else "tempered")
    order = np.lexsort((scored.index, scored.document))
    judged = take(scored, order[np.isfinite(scored.log_prob[order])])
    units = statistics.units(judged.document)
    rows = rows_of(judged, units, settings.alphas, settings.weights)
    if deployable:
        rows = replace(rows, gate=np.zeros_like(rows.gate), gates=1)
    problem = Problem.of(
        judged,
        rows,
        statistics.folds(units.count, parts=settings.folds, seed=seed),
        level=settings.level,
        tempered_base=settings.base == "tempered",
        seed=seed,
    )
    problem, common = shared(problem)
    searched = judged.particles if isinstance(amplifier, Particles) else judged.beams[amplifier.branches]
    assert searched is not None
    survivors = Survivors.of(searched, judged)
    return problem, point(problem, common, survivors, amplifier.branches, amplifier.horizon, each_alpha=False)


def watched(problem: Problem, found: Point, began: float) -> Watched:
    """What a fit found, in numbers."""
    gain, placebo = found.gain, found.placebo
    assert gain.value is not None
    assert placebo is not None
    assert placebo.value is not None

    def loss(name: str) -> float:
        return -float(found.fits[name].log_probs.mean())

    return Watched(
        gain=gain.value,
        low=gain.low,
        high=gain.high,
        placebo=placebo.value,
        placebo_low=placebo.low,
        placebo_high=placebo.high,
        naive_loss=loss("naive"),
        amplified_loss=loss("lookahead"),
        control_loss=loss(found.best),
        control=found.best,
        mix=plain(found.fits["lookahead"].whole, problem.rows),
        tokens=len(problem.scored),
        units=problem.rows.units,
        seconds=time.monotonic() - began,
    )
