"""Tiny trainings in processes of their own, which are killed where a test says; started from one that has torch."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import torch

from snellen.results.provenance import code_hash
from snellen.training import StuntingTrainer, checkpoints, manifest, resuming
from snellen.training.claim import APART, TRAINER
from tests.training.tiny_training import config, model, rows

code_hash(TRAINER, apart=APART)  # read once, where the others are forked from
CHECKPOINTS = {
    "save_strategy": "steps",
    "save_steps": 2,
    "save_total_limit": 5,
    "max_steps": 6,
    "logging_steps": 4,
    "per_device_train_batch_size": 4,
}


def train(folder: Path, method: str = "ordinary", *, kill: tuple[str, int] | None = None, **settings: Any) -> int:
    """The exit code of a training there: -9 where it was killed, at the n-th time that it comes to `kill`'s place."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.training.killed"])
    process = context.Process(target=_train, args=(str(folder), method, kill, {**CHECKPOINTS, **settings}))
    process.start()
    process.join(120)
    assert process.exitcode is not None
    return process.exitcode


def refusal(folder: Path) -> str:
    """What the last training there was refused with."""
    return json.loads((folder.parent / f"{folder.name}.said").read_text())


def _train(folder: str, method: str, kill: tuple[str, int] | None, settings: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    callbacks = settings.pop("callbacks", [])
    initial = model(attention_dropout=settings.pop("dropout", 0.0))
    held_out = rows(8, seed=5) if settings.get("eval_strategy") else None
    try:
        trainer = StuntingTrainer(initial, config(folder, method, **settings), rows(), held_out, callbacks=callbacks)
        if kill is not None:
            _PLACES[kill[0]](trainer, kill[1])
        result = trainer.train()
        said: Any = [result.global_step, result.training_loss]
    except ValueError as error:  # InputError
        said = str(error)
    Path(f"{folder}.said").write_text(json.dumps(said))
    raise SystemExit(0 if isinstance(said, list) else 2)


def _dies(owner: Any, name: str, number: int, *, after: bool = False, half: bool = False) -> None:
    """SIGKILL at the n-th call of owner.name: before it, behind it, or with half of the file written that it writes."""
    real, calls = getattr(owner, name), []

    def dying(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        here = len(calls) == number
        if here and not (after or half):
            os.kill(os.getpid(), signal.SIGKILL)
        found = real(*args, **kwargs)
        if here and half:
            os.truncate(args[1], os.path.getsize(args[1]) // 2)
        if here:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    setattr(owner, name, dying)


_PLACES = {
    "a step": lambda trainer, n: _dies(trainer, "_clip_grad_norm", n),
    "before a checkpoint's first file": lambda trainer, n: _dies(manifest, "begin", n),
    "behind the first manifest": lambda trainer, n: _dies(manifest, "begin", n, after=True),
    "behind the weights": lambda trainer, n: _dies(trainer, "_save_optimizer_and_scheduler", n),
    "half a file": lambda trainer, n: _dies(torch, "save", n, half=True),
    "before the random state": lambda trainer, n: _dies(trainer, "_save_rng_state", n),
    "before the manifest": lambda trainer, n: _dies(manifest, "seal", n),
    "behind the manifest": lambda trainer, n: _dies(resuming, "rotate_checkpoints", n),
    "before the trained model": lambda trainer, n: (
        _dies(trainer, "_load_best_model", n)
        if trainer.args.load_best_model_at_end
        else _dies(trainer, "_finalize_training", n, after=True)
    ),
    "before the end is noted": lambda trainer, n: _dies(checkpoints, "finish", n),
}
