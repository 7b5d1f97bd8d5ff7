"""Whether each setting of a training is of its kind and within its range: what transformers takes as it comes.

Kinds are read off the fields' own annotations, so that every field of `TrainingArguments` is covered, also those of
later versions.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import typing
from collections.abc import Mapping
from enum import Enum
from numbers import Real
from typing import Any

from snellen.errors import InputError
from snellen.kinds import is_a, members, said_of

_INF = math.inf
# Least and most, both included unless the word beside them says otherwise.
_RANGES: dict[str, tuple[float, float, str]] = {
    **dict.fromkeys(
        (
            "per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps",
            "save_total_limit", "eval_accumulation_steps", "dataloader_prefetch_factor", "torch_empty_cache_steps",
            "ddp_bucket_cap_mb", "ddp_timeout", "monitor_every", "monitor_tokens", "monitor_patience",
        ),
        (1, _INF, ""),
    ),
    **dict.fromkeys(
        (
            "learning_rate", "weight_decay", "max_grad_norm", "warmup_steps", "eval_delay", "dataloader_num_workers",
            "neftune_noise_alpha",
        ),
        (0, _INF, ""),
    ),
    **dict.fromkeys(
        (
            "num_train_epochs", "adam_epsilon", "logging_steps", "eval_steps", "save_steps", "strength",
        ),
        (0, _INF, "above"),
    ),
    **dict.fromkeys(("adam_beta1", "adam_beta2", "label_smoothing_factor"), (0, 1, "below")),
    **dict.fromkeys(("seed", "data_seed"), (0, 2**32 - 1, "")),
    "warmup_ratio": (0, 1, ""),
    "myopic_beta": (0, 1, ""),
    "max_length": (2, _INF, ""),
}  # fmt: skip
# Fields that hold more than their annotation says.
_ALSO: dict[str, tuple[Any, ...]] = {
    "fsdp": (bool, list), "report_to": (list,), "debug": (list,), "accelerator_config": (object,),
}  # fmt: skip


def check_values(settings: Any) -> None:
    """Check the fields of a settings dataclass as they were given.

    Raises
    ------
    InputError
        A value of another kind, no finite number, a choice that there is not, one out of range: field, value, mend.
    """
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if field.init and value is not field.default:
            check_value(type(settings), field.name, value)


def check_value(settings: type[Any], name: str, value: Any, *, called: str | None = None) -> None:
    """As `check_values`, of one value of a settings class; `called` is what an error calls it."""
    called = f"{called or name} = {value!r}"
    field = {one.name: one for one in dataclasses.fields(settings)}[name]
    known: Any = settings
    wanted = [*members(_kinds(known)[name]), *_ALSO.get(name, ())]
    if not any(is_a(value, one) for one in wanted):
        raise InputError(f"{called}: must be {' or '.join(dict.fromkeys(map(said_of, wanted)))}")
    enums = [one for one in wanted if isinstance(one, type) and issubclass(one, Enum)]
    choices = [member.value for one in enums for member in one] or field.metadata.get("choices")
    if choices and isinstance(value, str) and getattr(value, "value", value) not in choices:
        raise InputError(f"{called}: must be one of {', '.join(map(str, choices))}")
    if isinstance(value, bool) or not isinstance(value, Real):
        return
    if not math.isfinite(value) and name != "alpha":  # the one exponent that may be infinite, and looks at itself
        raise InputError(f"{called}: must be a finite number")
    if name == "max_steps" and value < 1 and value != -1:
        raise InputError(f"{called}: must be at least 1, or -1 to go by num_train_epochs")
    number = float(value)
    least, most, edge = _RANGES.get(name, (-_INF, _INF, ""))
    if not least <= number <= most or (edge == "above" and number == least) or (edge == "below" and number == most):
        raise InputError(f"{called}: must be {_range(least, most, edge)}")


def _range(least: float, most: float, edge: str) -> str:
    if most == _INF:
        return f"above {least}" if edge == "above" else f"at least {least}"
    return f"from {least} to {'below ' if edge == 'below' else ''}{most}"


@functools.cache
def _kinds(settings: Any) -> Mapping[str, Any]:
    return typing.get_type_hints(settings)
