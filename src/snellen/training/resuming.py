"""`ResumingTrainer`: transformers' `Trainer` with a folder of its own, which the same call takes up where it ended."""

from __future__ import annotations

import contextlib
import gc
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerState
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import TrainOutput, rotate_checkpoints

from snellen.errors import InputError, Refused
from snellen.lookahead.deployed import NAME as LOOKAHEAD
from snellen.models.identity import weights_sha256
from snellen.models.quiet import quiet
from snellen.training import checkpoints, manifest, sums
from snellen.training.claim import claim, held
from snellen.training.config import StuntingConfig
from snellen.training.monitor import Monitor
from snellen.training.monitoring.shares import from_first

log = logging.getLogger(__name__)


class ResumingTrainer(Trainer):  # type: ignore[misc]  # transformers has no types
    """What `StuntingTrainer` does with its folder: claim, checkpoints, resumption, the end."""

    args: StuntingConfig
    monitor: Monitor | None = None
    _batch: Tensor | None = None  # numbers of the rows that are trained on

    def __init__(self, model: Any, args: StuntingConfig, **further: Any) -> None:
        self.weights = weights_sha256(model.state_dict())  # before training
        super().__init__(model, args, **further)
        self._sums = sums.Sums(self)
        self.add_callback(self._sums)
        self._run = ""
        self._passed: checkpoints.Found | None = None
        self._best: Path | None = None

    def train(self, resume_from_checkpoint: Any = None, **further: Any) -> Any:
        """Train; what was begun in `output_dir` with these settings is taken up at its newest checkpoint that is whole.

        The trained model is left in `output_dir`, as `save_pretrained` writes it.

        Raises
        ------
        InputError
            `output_dir` holds a run with other settings, data or code, checkpoints of which none can be resumed, or a
            checkpoint cannot be written.
        Refused
            The loss or the gradient is no longer a number.
        """
        folder = Path(self.args.output_dir)
        with held(self, folder):
            self._run = claim(self, folder)
            return self._trained(folder, resume_from_checkpoint, **further)

    def _trained(self, folder: Path, resume_from_checkpoint: Any, **further: Any) -> Any:
        first = self.is_world_process_zero()
        if resume_from_checkpoint is None or resume_from_checkpoint is True:
            found, ended = from_first((lambda: self._found(folder)) if first else None)
            if ended is not None:  # transformers would make one step more
                return self._as_it_ended(ended)
            self._passed = found
            goes_on = from_first((lambda: self._going_on(found, folder)) if first else None)
            resume_from_checkpoint = None if goes_on is None else str(goes_on.path)
            self._best = None if goes_on is None else checkpoints.best_of(goes_on)
        else:
            given = Path(resume_from_checkpoint)
            processes = self.args.world_size
            from_first((lambda: checkpoints.check_given(given, processes=processes)) if first else None)
            self._best = self._passed = None
        self._sums.resumed = None if resume_from_checkpoint is None else sums.read(Path(resume_from_checkpoint))
        if first and self.args.save_only_model and self.args.save_strategy != "no":
            log.warning(
                "save_only_model: checkpoints hold the model alone; a training that is killed cannot be resumed"
            )
        result = super().train(resume_from_checkpoint=resume_from_checkpoint, **further)
        with checkpoints.writing(folder, what="the trained model"), quiet():
            if first:  # what was fitted for another model says nothing of this one
                (folder / LOOKAHEAD).unlink(missing_ok=True)
            self.save_model()
        alarmed = self.args.monitor_stop and self.monitor is not None and any(look.alarm for look in self.monitor.looks)
        if first and not alarmed:  # what an alarm has stopped can be taken up without the stop
            checkpoints.finish(folder, result.global_step, result.training_loss)
        return result

    def _found(self, folder: Path) -> tuple[checkpoints.Found, checkpoints.Finished | None]:
        """The newest checkpoint that is whole, and the end of the run, if it has come to it.

        What a callback has stopped is complete; what an alarm has stopped can be taken up without the stop.
        """
        best = self.args.load_best_model_at_end
        found = checkpoints.newest(folder, run=self._run, processes=self.args.world_size, best=best)
        stopped = self.monitor is None or not self.monitor.stopped_here()
        return found, checkpoints.finished(folder, found, best=best, stopped=stopped)

    def _going_on(self, found: checkpoints.Found, folder: Path) -> manifest.Checkpoint | None:
        checkpoint = checkpoints.resumable(found, folder)
        if found.passed:
            begin = "begins anew" if checkpoint is None else f"goes on from {checkpoint.path.name}"
            log.warning("%s: passed over: %s; the training %s", folder, found.line, begin)
        return checkpoint

    def _as_it_ended(self, run: checkpoints.Finished) -> TrainOutput:
        """The model of a run that is complete; nothing is trained, and nobody looks."""
        log.warning("%s is complete (%d steps): nothing is trained", self.args.output_dir, run.steps)
        with quiet():
            self._load_from_checkpoint(str(run.folder))
        if run.checkpoint is not None:
            self.state = TrainerState.load_from_json(str(run.checkpoint.path / TRAINER_STATE_NAME))
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

    def figures_so_far(self) -> Mapping[str, tuple[str, int]]:
        """What the objective has noted since the last log, for a checkpoint."""
        return {}

    def take_figures(self, figures: Mapping[str, tuple[str, int]]) -> None:
        """What a checkpoint kept of `figures_so_far`."""

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        step, args = self.state.global_step, self.args
        run = Path(args.output_dir)
        folder = run / f"checkpoint-{step}"
        so_far = self._sums.now()
        with checkpoints.writing(folder, what=f"the checkpoint of step {step}"), quiet():
            if args.should_save:
                manifest.begin(folder, step)
            self.accelerator.wait_for_everyone()
            with self._keeping_all():
                super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if args.should_save:
                torch.save(args, folder / TRAINING_ARGS_NAME)  # with what was turned off meanwhile
                sums.write(folder, so_far)
                manifest.seal(folder, step, run=self._run, processes=args.world_size, resumes=not args.save_only_model)
        if args.should_save:
            if self._passed is not None:
                checkpoints.remove(self._passed, but=folder)
                self._passed = None
            rotate_checkpoints(
                str(run), args.save_total_limit, best_model_checkpoint=self.state.best_model_checkpoint, use_mtime=True
            )

    @contextlib.contextmanager
    def _keeping_all(self) -> Iterator[None]:
        """transformers removes older checkpoints as soon as it has written one, which is not yet whole then."""
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            yield
        finally:
            self.args.save_total_limit = limit

    def _init_training_state(self, *args: Any, **kwargs: Any) -> Any:
        found = super()._init_training_state(*args, **kwargs)
        if self._best is not None:  # where it lies now; transformers would do without where it no longer lay
            self.state.best_model_checkpoint = str(self._best)
        return found

    def _load_best_model(self) -> None:
        best = Path(self.state.best_model_checkpoint)
        try:
            from_first((lambda: manifest.examine(best, run=self._run)) if self.is_world_process_zero() else None)
        except manifest.Flawed as error:
            raise InputError(
                f"{best}, the best checkpoint, cannot be loaded at the end: {error}; restore it and run the same again"
            ) from error
        super()._load_best_model()

    def _evaluate(self, trial: Any, ignore_keys_for_eval: Any, skip_scheduler: bool = False) -> Any:
        if skip_scheduler and self.state.global_step > 0:  # eval_on_start is for the beginning of a run
            return {}
        return super()._evaluate(trial, ignore_keys_for_eval, skip_scheduler)

    def _finalize_training(self, trial: Any, num_train_samples: Any, start_time: float) -> Any:
        """The run's time is that of all its sessions, like its loss."""
        return super()._finalize_training(trial, num_train_samples, start_time - self._sums.earlier)

    def _broken(self, what: str) -> Refused:
        rows = "" if self._batch is None else f", training rows {', '.join(map(str, self._batch.tolist()))}"
        good = checkpoints.last_good(Path(self.args.output_dir))
        kept = f"the last good checkpoint is {good}" if good else "there is no checkpoint yet"
        return Refused(
            f"{what} at step {self.state.global_step + 1}{rows}: training stops, and {kept}; "
            "lower learning_rate or max_grad_norm, or look at these rows"
        )
