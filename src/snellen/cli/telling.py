"""What a training logs, as lines of the console in the place of transformers' own printing."""

from __future__ import annotations

from typing import Any

from transformers import PrinterCallback, ProgressCallback, TrainerCallback, TrainerControl, TrainerState

from snellen.cli.steps import Steps
from snellen.training.trainer import StuntingTrainer

_SHOWN = {"loss": "loss", "learning_rate": "learning rate", "eval_loss": "held-out loss"}


def tell(trainer: StuntingTrainer, console: Steps) -> None:
    """Have `console` told of a training."""
    for printing in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(printing)
    if trainer.is_world_process_zero():
        trainer.add_callback(Telling(console))


class Telling(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """Losses in nats per token. A look of the monitor says its own line; further figures go to the loggers alone."""

    def __init__(self, console: Steps) -> None:
        self._console = console

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._console.begin(args.output_dir, state.global_step, state.max_steps)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._console.at(state.global_step)

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any) -> None:
        figures = {shown: logs[name] for name, shown in _SHOWN.items() if name in (logs or {})}
        if figures:
            self._console.tell(figures)
