"""What a training has summed up since its begin or since its last log: transformers keeps it in memory alone.

Without it a resumed training reports the mean loss of its last session for that of the whole, and logs, after each
resumption, means over fewer steps than it says.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate.utils import gather_object
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from snellen.results.files import UNREADABLE, read_json, write_json

if TYPE_CHECKING:
    from snellen.training.resuming import ResumingTrainer

SUMS = "sums.json"


class Sums(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """Of a trainer: loss, the objective's figures and time, over all sessions of the run.

    `resumed` is what a checkpoint kept, or None; it is taken up when the training begins.
    """

    def __init__(self, trainer: ResumingTrainer) -> None:
        self._trainer = trainer
        self.resumed: Mapping[str, Any] | None = None
        self._began = 0.0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Where transformers has just set all of it to zero."""
        self._began = time.time()
        if self.resumed is None:
            return
        trainer, own = self._trainer, self.resumed["processes"][args.process_index]
        trainer._tr_loss += own["loss"]
        trainer._total_loss_scalar = self.resumed["loss"]
        trainer._globalstep_last_logged = self.resumed["logged"]
        trainer._initial_global_step = 0  # the mean is over all steps
        trainer.take_figures(own["figures"])

    @property
    def earlier(self) -> float:
        """Seconds of earlier sessions, up to the checkpoint."""
        return 0.0 if self.resumed is None else float(self.resumed["seconds"])

    def now(self) -> dict[str, Any]:
        """To be called by all processes of a training."""
        trainer = self._trainer
        own = {"loss": trainer._tr_loss.item(), "figures": trainer.figures_so_far()}
        return {
            "loss": trainer._total_loss_scalar,
            "logged": trainer._globalstep_last_logged,
            "seconds": round(self.earlier + time.time() - self._began, 3),
            "processes": gather_object([own]),
        }


def write(checkpoint: Path, content: Mapping[str, Any]) -> None:
    write_json(checkpoint / SUMS, content)


def read(checkpoint: Path) -> dict[str, Any] | None:
    """None: a checkpoint of transformers' own, which has none."""
    path = checkpoint / SUMS
    return dict(read_json(path)) if path.exists() else None


def mean(checkpoint: Path, steps: int) -> float:
    """The training loss up to a checkpoint, as transformers would report it; NaN where it is not known."""
    try:
        content = read_json(checkpoint / SUMS)
        return float((content["loss"] + content["processes"][0]["loss"]) / steps)
    except UNREADABLE:
        return math.nan
