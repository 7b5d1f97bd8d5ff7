"""`StuntingTrainer`: transformers' `Trainer`, with updates shaped by an objective and a monitor that looks on.

Nothing of the training loop is written again. What is ours hangs on its hooks: the batches of an optimiser step as they
are fetched, the loss of a micro-batch, the gradient before the optimiser, the checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from snellen.attention import make_myopic
from snellen.errors import InputError, Refused
from snellen.lookahead.deployed import Deployed
from snellen.lookahead.preflight import check_causal, preflight
from snellen.models.body import context_of, known_ids
from snellen.models.load import load_model
from snellen.models.quiet import quiet
from snellen.training import checkpoints, claim
from snellen.training.amplifiers import Beam
from snellen.training.config import StuntingConfig
from snellen.training.data import Rows, collate, rows_of
from snellen.training.deployment import save_amplified
from snellen.training.evaluation import TokenMean, losses_of_rows
from snellen.training.foreign import asked_for, check_optimizer
from snellen.training.monitor import HeldOut, Monitor, Watching
from snellen.training.monitoring.untouched import untouched
from snellen.training.projection import Projection
from snellen.training.resuming import ResumingTrainer
from snellen.training.stunting import Stunting

_LONGEST = 1024  # tokens of a row, unless asked otherwise


class StuntingTrainer(ResumingTrainer):
    """Train a causal language model with controlled foresight.

    Parameters
    ----------
    model
        A causal language model of transformers.
    args
        The settings.
    train_dataset, eval_dataset
        Texts, or rows of token ids (see `snellen.training.data.rows_of`). The monitor looks at `eval_dataset`.
    processing_class
        The tokenizer. Needed for texts; saved with the model.
    say
        Is given a line for each look of the monitor, on the first process; None: it is printed.
    further
        As in `transformers.Trainer`: `callbacks`, `optimizers`, `compute_metrics` …

    Raises
    ------
    InputError
        Settings, data, tokenizer and model do not fit each other; found before any work.
    Refused
        The model's predictions depend on later tokens, or it fails the preflight: its lookahead, or its myopic
        gradients, could not be vouched for.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: StuntingConfig,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        *,
        say: Callable[[str], None] | None = None,
        **further: Any,
    ) -> None:
        if not isinstance(args, StuntingConfig):
            raise InputError(f"args: {type(args).__name__}; needed is a StuntingConfig")
        if not isinstance(model, PreTrainedModel):
            raise InputError(f"model: {type(model).__name__}; needed is a causal language model of transformers")
        if not args.output_dir:
            raise InputError("output_dir: say where checkpoints and the trained model go")
        if args.n_gpu > 1:
            raise InputError(f"{args.n_gpu} GPUs in one process: start one process each (torchrun --nproc_per_node)")
        if args.monitor is not None and eval_dataset is None:
            raise InputError("monitor: it looks at held-out text; give eval_dataset")
        for name in ("data_collator", "compute_loss_func", "model_init"):
            if further.pop(name, None) is not None:
                raise InputError(f"{name}: rows, loss and model are this trainer's own; leave it out")
        _check_model(model, args)
        self._losses = list[Tensor]()  # of each row of the batch that was evaluated last
        rows, held_out, watched = self._read(model, args, processing_class, train_dataset, eval_dataset)
        with asked_for("training"):
            super().__init__(
                model,
                args,
                data_collator=collate,
                train_dataset=rows,
                eval_dataset=held_out,
                processing_class=processing_class,
                compute_loss_func=self._loss_of if args.stunting else None,
                **further,
            )
        check_optimizer(self)
        engine = self._preflight(model)
        self._stunting = Stunting(self, engine) if args.stunting else None
        if self._stunting is not None and args.balance_form != "tokens":
            self.add_callback(Projection(self, self._stunting, step=args.balance_form == "step"))
        self.myopic = make_myopic(model, args.myopic_mode, args.myopic_beta) if args.method == "myopic" else None
        self.monitor = None
        if args.monitor is not None:
            how = Watching(
                amplifier=args.monitor, every=args.monitor_every, patience=args.monitor_patience,
                stop=args.monitor_stop, seed=args.seed, memory=args.lookahead_memory, engine=args.lookahead_engine,
            )  # fmt: skip
            told = {} if say is None else {"say": say}
            self.monitor = Monitor(watched, how, folder=args.output_dir, log=self.log, **told)
            self.add_callback(self.monitor)

    def save_amplified(self, folder: str | Path | None = None, *, tokens: int | None = None) -> Deployed | None:
        """Save the model together with its lookahead, fitted on `eval_dataset`: `snellen generate FOLDER` uses both.

        What is deployed is the amplifier that was trained against (for particles and a learned one the beam of their
        size; `Beam()` where there was none), mixed as `tokens` of the held-out text say (None: all). The first process
        does it and returns what it wrote; the others wait, and return None.

        Parameters
        ----------
        folder
            By default `output_dir` itself.

        Raises
        ------
        InputError
            There is no held-out text, the amplifier has a horizon of 1, or the folder cannot be written.
        Refused
            Too little text to fit on, or the model fails the preflight.
        """
        if self._held_out is None:
            raise InputError("save_amplified: the lookahead is fitted on held-out text; give eval_dataset")
        where = Path(self.args.output_dir if folder is None else folder)
        if self.is_world_process_zero():
            claim.check_deploy(self, where)
        amplifier = self.args.amplifier or Beam()
        model = self.accelerator.unwrap_model(self.model)
        found = None
        with self.args.main_process_first(local=False, desc="fitting the lookahead"):
            if self.is_world_process_zero():
                text = HeldOut.of(
                    self._held_out, model, horizon=amplifier.horizon, tokens=tokens,
                    tokenizer=self.processing_class, bos=self._bos,
                )  # fmt: skip
                with checkpoints.writing(where, what="model and lookahead"), quiet():
                    found = save_amplified(
                        model, self.processing_class, where, amplifier, text, seed=self.args.seed,
                        memory=self.args.lookahead_memory, engine=self.args.lookahead_engine,
                    )  # fmt: skip
        return found

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> Any:
        """The micro-batches of an optimiser step; they are weighed here where a weight depends on all of them."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self._stunting is not None:
            self._stunting.begin(batches)
        return batches, items

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """As transformers', with the text's keys and values kept for the search; in evaluation each row's loss is."""
        self._batch = inputs.pop("rows", None)
        if not model.training:
            labels = inputs["labels"]
            loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
            logits = outputs["logits"] if isinstance(outputs, Mapping) else outputs[0 if self._stunting else 1]
            self._losses.append(losses_of_rows(logits, labels, smoothing=self.args.label_smoothing_factor))
            return (loss, outputs) if return_outputs else loss
        if self._stunting is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        with self._stunting.reading(inputs):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def _loss_of(self, outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
        assert self._stunting is not None
        if not self.model.training:
            return self._stunting.plain(outputs.logits, labels, num_items_in_batch)
        return self._stunting.loss(outputs.logits, num_items_in_batch)

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> Any:
        """As transformers', and the rows' losses are counted; those that fill up the last batch are not."""
        self._losses.clear()
        # Liger's loss would leave out the logits where nobody asks for them.
        alone = prediction_loss_only and not self.args.use_liger_kernel
        found = super().prediction_step(model, inputs, alone, ignore_keys)
        several = self.accelerator.num_processes > 1
        for losses in self._losses:
            self._evaluated.add(self.accelerator.gather_for_metrics(losses) if several else losses)
        return (found[0], None, None) if prediction_loss_only else found

    def evaluation_loop(
        self, dataloader: Any, description: str, prediction_loss_only: Any = None, ignore_keys: Any = None,
        metric_key_prefix: str = "eval",
    ) -> Any:  # fmt: skip
        """As transformers', whose loss is a mean over rows of their batches' means: here it is that over tokens."""
        self._evaluated = TokenMean()
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        if self._evaluated.value is not None:
            output.metrics[f"{metric_key_prefix}_loss"] = self._evaluated.value
        return output

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """As transformers'; other data than the trainer's own are read as those are."""
        return super().get_eval_dataloader(self._as_rows(eval_dataset, "eval_dataset"))

    def get_test_dataloader(self, test_dataset: Any) -> Any:
        return super().get_test_dataloader(self._as_rows(test_dataset, "test_dataset"))

    def _as_rows(self, data: Any, name: str) -> Any:
        return data if data is None or isinstance(data, (str, Rows)) else rows_of(data, name=name, **self._reading)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """As transformers'.

        Raises
        ------
        Refused
            The loss, or what is searched for it, is NaN or infinite. Checkpoints stay as they are.
        """
        try:
            loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        except Refused as error:  # the search met a number that is none
            raise self._broken(str(error)) from error
        if not bool(torch.isfinite(loss)):
            raise self._broken(f"the loss is {float(loss)}")
        return loss

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        norm = super()._clip_grad_norm(model)
        scaled = self.accelerator.scaler is not None  # there an overflow is no accident: the step is skipped
        if norm is not None and not scaled and not bool(torch.isfinite(torch.as_tensor(norm))):
            raise self._broken(f"the norm of the gradient is {float(norm)}")
        return norm

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As transformers', with the means of what the objective did since the last time."""
        if self._stunting is not None and "loss" in logs:
            logs = {**logs, **self._stunting.figures()}
        super().log(logs, start_time)

    def figures_so_far(self) -> dict[str, tuple[str, int]]:
        return {} if self._stunting is None else self._stunting.sums()

    def take_figures(self, figures: Mapping[str, tuple[str, int]]) -> None:
        if self._stunting is not None:
            self._stunting.load_sums(figures)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self._stunting is not None and self.args.should_save:
            checkpoints.save_state(Path(output_dir), self._stunting.state())

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if self._stunting is not None and checkpoint is not None:
            self._stunting.load_state(checkpoints.load_state(Path(checkpoint), self.args.device))

    def _read(
        self, model: PreTrainedModel, args: StuntingConfig, tokenizer: Any, train_dataset: Any, eval_dataset: Any
    ) -> Any:
        """Training rows, held-out rows and what the monitor looks at, after all that can be wrong with them."""
        limit = context_of(model)
        self._deepest = max([one.horizon for one in (args.amplifier, args.monitor) if one is not None], default=1)
        room = None if limit is None else limit - self._deepest + 1
        length = min(_LONGEST, room or _LONGEST) if args.max_length is None else args.max_length
        if room is not None and (length > room or room < 2):
            raise InputError(
                f"max_length = {length}: the model has {limit} places, and a horizon of {self._deepest} needs "
                f"{self._deepest - 1} beyond the text: at most {room}"
            )
        self.max_length = length
        bos = self._bos = None
        if tokenizer is not None:
            with untouched(model):
                loaded = load_model(model, tokenizer=tokenizer)  # does it fit the model?
            bos = self._bos = loaded.identity.bos.token_id
        self._reading: dict[str, Any] = {
            "tokenizer": tokenizer,
            "max_length": length,
            "vocabulary": known_ids(model),
            "bos": bos,
        }
        self._held_out = eval_dataset
        rows = rows_of(train_dataset, name="train_dataset", **self._reading)
        held_out = self._as_rows(eval_dataset, "eval_dataset")
        watched = None
        if args.monitor is not None:
            watched = HeldOut.of(
                eval_dataset, model, horizon=args.monitor.horizon, tokens=args.monitor_tokens, tokenizer=tokenizer,
                bos=bos,
            )  # fmt: skip
        return rows, held_out, watched

    def _preflight(self, model: PreTrainedModel) -> str:
        """The engine that searches may use, at the longest row and the deepest horizon.

        Whatever is trained must predict from the past alone; that is looked at in any case.
        """
        if self.args.amplifier is None:
            with untouched(model):
                check_causal(model, length=self.max_length)
            return "columns"
        with untouched(model):
            found = preflight(
                model, length=self.max_length, horizon=self._deepest, engine=self.args.lookahead_engine, drift=False
            )
        return found.engine


def _check_model(model: PreTrainedModel, args: StuntingConfig) -> None:
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError(
            "model: none of its parameters takes a gradient (snellen.load turns them off), so that there is nothing to "
            "train; model.requires_grad_(True) first, or of what is to be trained"
        )
    if args.stunting and getattr(model.config.get_text_config(), "output_router_logits", False):
        raise InputError(
            "model.config.output_router_logits = True: balancing experts is part of the model's own loss, in whose "
            f"place method {args.method!r} puts another; set it to False (snellen train … --set "
            "model.config.output_router_logits=false)"
        )
