"""`snellen train`: train with controlled foresight, from a settings file."""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from snellen.cli.terminal import say
from snellen.errors import InputError


def train_model(
    settings: Path,
    /,
    *,
    set: Annotated[list[str] | None, Parameter(negative=())] = None,
    check: bool = False,
    deploy: bool = False,
    quiet: bool = False,
) -> None:
    """Train a model with controlled foresight, as a settings file says; the same command resumes.

    On more processes or machines: torchrun --nproc_per_node N -m snellen train SETTINGS.toml. The trained model is
    an ordinary folder in the run's output_dir, which every other command reads. docs/training.md has all settings.

    Parameters
    ----------
    settings
        A TOML file with the tables model, data, training, amplifier and monitor.
    set
        Change a setting: TABLE.NAME=VALUE, for example training.max_steps=100. Can be given more than once.
    check
        Check settings, texts and model, and do not train.
    deploy
        Fit the lookahead on the held-out texts and save it with the model, for `snellen generate`.
    quiet
        No progress.
    """
    from snellen.training.settings import read_settings

    found = read_settings(settings, set or ())
    from snellen import cli

    console = cli._begin(quiet=quiet or int(os.environ.get("RANK", "0")) > 0)
    console.say(f"loading {found.model.source} …")
    from snellen.training.job import trainer_for

    overrides: dict[str, Any] = {"disable_tqdm": True} if quiet or not sys.stderr.isatty() else {}
    trainer = trainer_for(found, **overrides)
    config = trainer.args
    rows, held_out = len(trainer.train_dataset), trainer.eval_dataset
    console.say(
        f"method {config.method}, {rows:,} rows of at most {trainer.max_length} tokens"
        + (f", {len(held_out):,} held out" if held_out is not None else "")
    )
    if deploy and held_out is None:
        raise InputError("deploy: the lookahead is fitted on held-out text; name some in data.held_out")
    if check:
        say(f"{settings}: in order")
        return
    result = trainer.train()
    deployed = trainer.save_amplified() if deploy else None
    trainer.close()
    if not trainer.is_world_process_zero():
        return
    loss = None if math.isnan(result.training_loss) else round(result.training_loss, 6)
    print(json.dumps({"steps": result.global_step, "training_loss": loss}))
    if deployed is not None:
        say(f"lookahead {deployed}")
    say(f"model   {config.output_dir}")
