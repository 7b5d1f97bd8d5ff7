"""A tiny training for tests; also run as a script, by one process or by several under torchrun, or to be killed."""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel
from transformers import LlamaConfig, LlamaForCausalLM, TrainerCallback

from snellen.training import Beam, Learned, Particles, StuntingConfig, StuntingTrainer

VOCABULARY, LENGTH = 31, 12
AMPLIFIERS = {
    "skip": Beam(width=3, horizon=3), "penalty": Beam(width=3, horizon=3), "balance": Beam(width=3, horizon=3),
    "particle": Particles(particles=4, horizon=3), "adversarial": Learned(width=3, horizon=3, hidden=8),
}  # fmt: skip


def model(**settings: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        **{
            "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32,
            "initializer_range": 0.3, "eos_token_id": None, **settings,
        }
    )  # fmt: skip
    return LlamaForCausalLM(config)


def rows(number: int = 64, *, ragged: bool = True, seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(LENGTH // 2, LENGTH + 1, size=number) if ragged else np.full(number, LENGTH)
    return [rng.integers(VOCABULARY, size=n).tolist() for n in lengths]


def config(folder: Path | str, method: str = "balance", **settings: Any) -> StuntingConfig:
    return StuntingConfig(
        **{
            "output_dir": str(folder), "method": method, "amplifier": AMPLIFIERS.get(method), "max_steps": 4,
            "per_device_train_batch_size": 8, "learning_rate": 1e-2, "lr_scheduler_type": "constant",
            "save_strategy": "no", "logging_steps": 1, "disable_tqdm": True, "use_cpu": True, "seed": 3, **settings,
        }
    )  # fmt: skip


def trained(folder: Path | str, method: str = "balance", *, data: Any = None, **settings: Any) -> StuntingTrainer:
    trainer = StuntingTrainer(model(), config(folder, method, **settings), rows() if data is None else data)
    trainer.train()
    return trainer


def weights(trainer: StuntingTrainer) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in trainer.model.named_parameters()}


class Kill(TrainerCallback):
    """SIGKILL after a step: no handler of anyone runs."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self._step:
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("method")
    parser.add_argument("--kill", type=int, default=0)
    parser.add_argument("--settings", default="{}")
    parser.add_argument("--evaluate", type=int, default=0, help="rows to evaluate on, instead of training")
    given = parser.parse_args()
    torch.set_num_threads(1)
    settings = json.loads(given.settings)
    callbacks = [Kill(given.kill)] if given.kill else []
    held_out = rows(given.evaluate, seed=5) if given.evaluate else None
    args = config(given.folder, given.method, **settings)
    trainer = StuntingTrainer(model(), args, rows(), held_out, callbacks=callbacks)
    if held_out is None:
        trainer.train()
    else:
        loss = trainer.evaluate()["eval_loss"]
        if trainer.is_world_process_zero():
            Path(given.folder).mkdir(parents=True, exist_ok=True)
            (Path(given.folder) / "eval_loss").write_text(repr(loss))
    trainer.close()
    wrapped = [one for one in gc.get_objects() if type(one) is DistributedDataParallel]
    assert not wrapped, "a wrapped model is left, and keeps gloo's threads alive"


if __name__ == "__main__":
    main()
