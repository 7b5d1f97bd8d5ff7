"""`snellen train`: train with controlled foresight, from a settings file."""

from __future__ import annotations

import json as json_text
import math
import os
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
    json: bool = False,
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
        Change a setting: KEY=VALUE with any key of the file, for example training.max_steps=100 or
        model.config.attn_pdrop=0. Can be given more than once.
    check
        Check settings, texts and model, and do not train.
    deploy
        Fit the lookahead on the held-out texts and save it with the model, for `snellen generate`.
    json
        Print the outcome as JSON.
    quiet
        No progress.
    """
    from snellen.training.settings import read_settings

    found = read_settings(settings, set or ())
    from snellen import cli
    from snellen.cli.steps import Steps

    console = Steps(quiet=quiet or int(os.environ.get("RANK", "0")) > 0)
    cli._console = console
    console.say(f"loading {found.model.source} …")
    from snellen.cli.telling import tell
    from snellen.lookahead.deployed import NAME
    from snellen.training.job import trainer_for

    trainer = trainer_for(found, say=console.say)
    config = trainer.args
    held_out = trainer.eval_dataset
    console.say(
        f"method {config.method}, {len(trainer.train_dataset):,} rows of at most {trainer.max_length} tokens"
        + (f", {len(held_out):,} held out" if held_out is not None else "")
    )
    if own_bos := trainer.train_dataset.own_bos:
        console.say(f"{own_bos:,} texts begin with the model's first token (BOS), which is read once")
    if deploy and held_out is None:
        raise InputError("deploy: the lookahead is fitted on held-out text; name some in data.held_out")
    if held_out is not None and not (deploy or config.monitor or config.eval_strategy != "no"):
        console.say("the held-out texts are not used: there is no [monitor], and training.eval_strategy is no")
    if check:
        say(json_text.dumps({"settings": str(settings), "in_order": True}) if json else f"{settings}: in order")
        return
    tell(trainer, console)
    result = trainer.train()
    deployed = trainer.save_amplified() if deploy else None
    trainer.close()
    if not trainer.is_world_process_zero():
        return
    loss = None if math.isnan(result.training_loss) else round(result.training_loss, 6)
    outcome: dict[str, Any] = {"steps": result.global_step, "training_loss": loss, "model": config.output_dir}
    if json:
        if deployed is not None:
            outcome["lookahead"] = json_text.loads((Path(config.output_dir) / NAME).read_text(encoding="utf-8"))
        print(json_text.dumps(outcome))
        return
    print(f"trained {result.global_step:,} steps" + ("" if loss is None else f", mean loss {loss:.4f}"))
    if deployed is not None:
        say(f"lookahead {deployed}")
    say(f"model   {config.output_dir}")
