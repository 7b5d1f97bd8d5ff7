"""`ResumingTrainer`: transformers' `Trainer` with a folder of its own, which the same call takes up where it ended."""

from __future__ import annotations

import gc
import logging
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import Trainer, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import TrainOutput

from snellen.errors import Refused
from snellen.lookahead.deployed import NAME as LOOKAHEAD
from snellen.models.quiet import quiet
from snellen.training import checkpoints
from snellen.training.claim import claim, held
from snellen.training.config import StuntingConfig
from snellen.training.monitor import Monitor

log = logging.getLogger(__name__)


class ResumingTrainer(Trainer):  # type: ignore[misc]  # transformers has no types
    """What `StuntingTrainer` does with its folder: claim, checkpoints, resumption, the end."""

    args: StuntingConfig
    monitor: Monitor | None = None
    _batch: Tensor | None = None  # numbers of the rows that are trained on

    def train(self, resume_from_checkpoint: Any = None, **further: Any) -> Any:
        """Train; what was begun in `output_dir` with these settings is taken up at its last good checkpoint.

        The trained model is left in `output_dir`, as `save_pretrained` writes it.

        Raises
        ------
        InputError
            `output_dir` holds a run with other settings or data, or a checkpoint cannot be written.
        Refused
            The loss or the gradient is no longer a number.
        """
        folder = Path(self.args.output_dir)
        with held(self, folder):
            claim(self, folder)
            return self._trained(folder, resume_from_checkpoint, **further)

    def _trained(self, folder: Path, resume_from_checkpoint: Any, **further: Any) -> Any:
        if resume_from_checkpoint is None or resume_from_checkpoint is True:
            with self.args.main_process_first(desc="looking for checkpoints"):
                resume_from_checkpoint = checkpoints.last_good(folder, tidy=self.is_world_process_zero())
                finished = checkpoints.finished(folder, resume_from_checkpoint)
            if finished is not None:  # transformers would make one step more
                return self._as_it_ended(finished)
        result = super().train(resume_from_checkpoint=resume_from_checkpoint, **further)
        with checkpoints.writing(folder, what="the trained model"), quiet():
            if self.is_world_process_zero():  # what was fitted for another model says nothing of this one
                (folder / LOOKAHEAD).unlink(missing_ok=True)
            self.save_model()
        alarmed = self.args.monitor_stop and self.monitor is not None and any(look.alarm for look in self.monitor.looks)
        if self.is_world_process_zero() and not alarmed:  # what an alarm has stopped can be taken up without the stop
            checkpoints.finish(folder, result.global_step, result.training_loss)
        return result

    def _as_it_ended(self, run: checkpoints.Finished) -> TrainOutput:
        """The model of a run that is complete; nothing is trained, and nobody looks."""
        log.warning("%s is complete (%d steps): nothing is trained", self.args.output_dir, run.steps)
        with quiet():
            self._load_from_checkpoint(str(run.folder))
        if run.checkpoint is not None:
            self.state = TrainerState.load_from_json(str(Path(run.checkpoint) / TRAINER_STATE_NAME))
        self.state.global_step = run.steps
        if run.folder != Path(self.args.output_dir):
            with checkpoints.writing(Path(self.args.output_dir), what="the trained model"), quiet():
                self.save_model()
            if self.is_world_process_zero():
                checkpoints.finish(Path(self.args.output_dir), run.steps, run.loss)
        return TrainOutput(run.steps, run.loss, {})

    def close(self) -> None:
        """Leave the other processes; the last thing that a program under torchrun does with its trainer.

        A process that leaves while gloo's threads still hold tensors is now and then aborted by them on its way out.
        The threads end with the process group, which ends with the last model wrapped for it: so that goes first.
        """
        self.model_wrapped = self.model
        self.accelerator.free_memory()
        gc.collect()
        self.accelerator.end_training()

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        with checkpoints.writing(folder, what=f"the checkpoint of step {self.state.global_step}"), quiet():
            super()._save_checkpoint(model, trial)

    def _broken(self, what: str) -> Refused:
        rows = "" if self._batch is None else f", training rows {', '.join(map(str, self._batch.tolist()))}"
        good = checkpoints.last_good(Path(self.args.output_dir), tidy=False)
        kept = f"the last good checkpoint is {good}" if good else "there is no checkpoint yet"
        return Refused(
            f"{what} at step {self.state.global_step + 1}{rows}: training stops, and {kept}; "
            "lower learning_rate or max_grad_norm, or look at these rows"
        )
