"""From training to use: a model and the lookahead that belongs to it, in one folder.

A stunted model is meant to be used with lookahead. What generation can look ahead with is a beam, mixed with the
model's own prediction by one weight (`lookahead.amplification`); so that is what is fitted here on held-out text,
whatever was trained against: the beam itself, for particles a beam of as many branches and the same horizon, for a
learned amplifier the beam whose branches it sees. The exponent is fitted too: nothing binds use to the one that
training took.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel

import snellen
from snellen.errors import InputError
from snellen.lookahead.amplification import Amplification
from snellen.lookahead.deployed import NAME, Deployed
from snellen.measures.lookahead_gain import LookaheadGain
from snellen.training.amplifiers import Amplifier, Beam
from snellen.training.monitoring.alarm import sees
from snellen.training.monitoring.gain import fit, gathered, score, watched
from snellen.training.monitoring.held_out import HeldOut
from snellen.training.monitoring.untouched import bare, streams_kept


def beam_for(amplifier: Amplifier) -> Beam:
    """The beam that is deployed where `amplifier` was trained against: as many branches, as deep.

    Raises
    ------
    InputError
        A horizon of 1: that sharpens, and does not look ahead.
    """
    if amplifier.horizon < 2:
        raise InputError(
            f"amplifier = {amplifier}: a horizon of 1 is sharpening, not lookahead; name the one to deploy, "
            "Beam(width=4, horizon=4), say"
        )
    if isinstance(amplifier, Beam):
        return amplifier
    return Beam(width=amplifier.branches, horizon=amplifier.horizon)


def fitted(
    model: PreTrainedModel,
    text: HeldOut,
    amplifier: Amplifier,
    *,
    seed: int = 0,
    memory: int | str = "1GB",
    engine: str = "auto",
) -> Deployed:
    """Exponent, mix and weight for `beam_for(amplifier)`, fitted on all of `text` among what generation can do.

    That is less than what the gain may use: the base is the model's own prediction at its own temperature, and the
    weight is one for all positions (gates are not averaged: everything is fitted again without them). The `gain` on
    record is that of this family, cross-fitted, over the best control; `over_model` is what it gains over the model as
    it is. Where the gain is not seen (`alarm.sees`: its interval lies above 0, the placebo's does not) the weight is 0:
    a mix may still be better than the model alone, as sharpening, but that can be had by a temperature, without any
    search.

    Raises
    ------
    InputError
        A horizon of 1.
    Refused
        The model fails the preflight, or gives NaN.
    """
    began = time.monotonic()
    beam = beam_for(amplifier)
    alphas = sorted({*LookaheadGain().alphas, float(beam.alpha)})
    with streams_kept():
        table = score(model, text, text.windows, beam, seed=seed, memory=memory, engine=engine)
        problem, found = fit(gathered(table, text, beam), beam, alphas=alphas, seed=seed, deployable=True)
    whole = found.fits["lookahead"].whole
    assert whole.kind != "gated"  # one gate: a gated mix is a linear one, which comes first among equals
    look = watched(problem, found, began)
    used = whole.kind != "none" and sees(look.low, look.placebo_low) is True
    settings = Amplification(
        width=beam.width,
        horizon=beam.horizon,
        alpha=alphas[whole.alpha] if used else beam.alpha,
        weight=float(np.unique(whole.weights).item()) if used else 0.0,
        mix=whole.kind if used else "linear",
    )
    over = problem.judge.symmetric(found.fits["lookahead"].log_probs - found.fits["naive"].log_probs)
    record = {name: getattr(look, name) for name in ("tokens", "units", "gain", "low", "high", "control", "mix")}
    record |= {name: getattr(look, name) for name in ("naive_loss", "amplified_loss", "control_loss")}
    record |= {"over_model": {"value": over.value, "low": over.low, "high": over.high}}
    record |= {"trained_against": str(amplifier), "text": text.sha256}
    return Deployed(settings=settings, fitted=record, snellen=snellen.__version__)


def save_amplified(
    model: PreTrainedModel,
    tokenizer: Any,
    folder: str | Path,
    amplifier: Amplifier,
    text: HeldOut,
    *,
    seed: int = 0,
    memory: int | str = "1GB",
    engine: str = "auto",
) -> Deployed:
    """Save model, tokenizer (if any) and the lookahead fitted for them: `snellen generate FOLDER` then uses all three.

    The folder is what `save_pretrained` writes, and `lookahead.json` beside it, which is written last: a lookahead
    never stands beside a model that it was not fitted for. Raises as `fitted` does, before anything is written.
    """
    found = fitted(model, text, amplifier, seed=seed, memory=memory, engine=engine)
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    (path / NAME).unlink(missing_ok=True)
    bare(model).save_pretrained(path)
    if tokenizer is not None:
        tokenizer.save_pretrained(path)
    found.write(path)
    return found
