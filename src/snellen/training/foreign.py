"""What other packages must give a training: loggers, an optimiser, a schedule. What they refuse is said before it."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from transformers import Trainer, TrainingArguments, get_scheduler
from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    get_available_reporting_integrations,
)

from snellen.errors import InputError, Refused
from snellen.training.objectives.projection import check_known

if TYPE_CHECKING:
    from snellen.training.trainer import StuntingTrainer

# What packages raise where a setting does not suit them.
_RAISED = (
    TypeError, ValueError, ImportError, RuntimeError, OSError, AttributeError, LookupError, AssertionError,
)  # fmt: skip


@contextlib.contextmanager
def asked_for(what: str | Callable[[Exception], str]) -> Iterator[None]:
    """What is raised within is a matter of the settings: an `InputError` that begins with `what`, or what it finds.

    Memory that ran out, and what is said in our own words, goes through as it is.
    """
    try:
        yield
    except (InputError, Refused, torch.OutOfMemoryError):
        raise
    except _RAISED as error:
        named = what if isinstance(what, str) else what(error)
        raise InputError(f"{named}: {' '.join(str(error).split()) or type(error).__name__}") from error


def blamed(given: Mapping[str, Any], error: Exception) -> str:
    """Which of the arguments of `TrainingArguments` it raises `error` for, with their values; "training" if unknown.

    Each is tried beside nothing else: an error that takes two of them names these by itself.
    """
    for name, value in given.items():
        try:
            TrainingArguments(**{"output_dir": "unused", "use_cpu": True, name: value})
        except _RAISED as other:
            if str(other) == str(error):
                return f"{name} = {value!r}"
    return "training"


def check_loggers(report_to: Any) -> None:
    """Refuse a logger that transformers does not know, or whose package is not installed."""
    for name in [report_to] if isinstance(report_to, str) else report_to or []:
        if name in ("none", "all") or name in get_available_reporting_integrations():
            continue
        if name not in INTEGRATION_TO_CALLBACK:
            known = ", ".join(["none", "all", *INTEGRATION_TO_CALLBACK])
            raise InputError(f"report_to = {name!r}: must be of {known}")
        with asked_for(f"report_to = {name!r}"):
            INTEGRATION_TO_CALLBACK[name]()  # says which package it lacks


# What transformers leaves out without a word.
_NO_WARMUP = ("constant", "reduce_lr_on_plateau", "greedy")
_NO_KWARGS = ("constant", "constant_with_warmup")
_BUILT_ON_THE_MODEL = ("galore", "apollo", "layerwise", "lomo")  # their arguments are tensors, some hooks on these


def check_read(args: TrainingArguments) -> None:
    """Refuse arguments of an optimiser or a schedule that it does not read."""
    schedule, optim = (str(getattr(one, "value", one)) for one in (args.lr_scheduler_type, args.optim))
    if schedule in _NO_WARMUP and args.warmup_steps:
        mend = "constant_with_warmup has one" if schedule == "constant" else "leave it out"
        raise InputError(f"warmup_steps = {args.warmup_steps!r}: lr_scheduler_type {schedule!r} has no warmup; {mend}")
    if schedule in _NO_KWARGS and args.lr_scheduler_kwargs:
        raise InputError(
            f"lr_scheduler_kwargs = {args.lr_scheduler_kwargs!r}: lr_scheduler_type {schedule!r} reads none; "
            "leave them out"
        )
    metric = args.metric_for_best_model
    if metric not in (None, "loss") and str(getattr(args.eval_strategy, "value", args.eval_strategy)) == "no":
        raise InputError(
            f"metric_for_best_model = {metric!r}: nothing is evaluated (eval_strategy is no); set one, or leave it out"
        )
    if args.optim_args and not any(word in optim for word in _BUILT_ON_THE_MODEL):
        bare = copy.copy(args)
        bare.optim_args = None
        with asked_for(f"optim = {optim!r}, optim_args = {args.optim_args!r}"):
            found, without = (Trainer.get_optimizer_cls_and_kwargs(one) for one in (args, bare))
        if repr(found) == repr(without):
            raise InputError(f"optim_args = {args.optim_args!r}: optim {optim!r} reads none of them; leave them out")


def check_optimizer(trainer: StuntingTrainer) -> None:
    """Build optimiser and schedule as the training will, and leave them: it builds its own.

    Raises
    ------
    InputError
        A package that is not installed, arguments that the optimiser or the schedule does not take.
    Refused
        A projected step with an optimiser whose preconditioner is not known.
    """
    args = trainer.args
    check_read(args)
    if trainer.optimizer is None and not (args.fsdp or args.deepspeed):
        name = str(getattr(args.optim, "value", args.optim))
        with asked_for(f"optim = {name!r}" + (f", optim_args = {args.optim_args!r}" if args.optim_args else "")):
            optimizer = trainer.create_optimizer()
        if not any(word in name for word in _BUILT_ON_THE_MODEL):
            trainer.optimizer = None
        if args.balance_form != "tokens":
            check_known(optimizer)
    if trainer.lr_scheduler is None:
        steps = args.max_steps if args.max_steps > 0 else 100
        schedule = str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type))
        with asked_for(f"lr_scheduler_type = {schedule!r}, lr_scheduler_kwargs = {args.lr_scheduler_kwargs!r}"):
            get_scheduler(
                args.lr_scheduler_type,
                optimizer=torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=args.learning_rate or 1.0),
                num_warmup_steps=args.get_warmup_steps(steps),
                num_training_steps=steps,
                scheduler_specific_kwargs=args.lr_scheduler_kwargs,
            )
