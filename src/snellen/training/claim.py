"""Whose run a folder holds: claimed by settings, data and model before anything is written into it."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import snellen
from snellen.errors import InputError
from snellen.models.identity import code_of
from snellen.models.sources import check_apart
from snellen.results.files import read_json, reading, write_json
from snellen.results.folders import contents, locked
from snellen.results.provenance import code_hash, versions
from snellen.results.store import DIGEST, MADE_BY, digest_of
from snellen.training.data import Rows, fingerprint

if TYPE_CHECKING:
    from snellen.training.resuming import ResumingTrainer

RUN = "training.json"
SCHEMA = 1
OTHER = "choose another output_dir"
TRAINER = "snellen.training.trainer"
APART = ("snellen.report", "snellen.cli")  # change no number: one draws what is finished, one asks for it

# Settings that change what comes out. Where, when and how much is saved, logged, held at a time is not among them.
_DECISIVE = (
    "learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "optim", "optim_args", "weight_decay",
    "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "max_steps", "num_train_epochs", "seed", "data_seed",
    "bf16", "fp16", "label_smoothing_factor", "neftune_noise_alpha", "train_sampling_strategy", "dataloader_drop_last",
    "load_best_model_at_end", "metric_for_best_model", "greater_is_better",
)  # fmt: skip
_INDIFFERENT = (
    "monitor", "monitor_every", "monitor_tokens", "monitor_stop", "monitor_patience", "monitor_forced",
    "lookahead_memory", "lookahead_engine",
)  # fmt: skip

# Entries of a model's configuration that say nothing of its weights; transformers aligns the tokens with the tokenizer.
_NOT_SHAPE = (
    "transformers_version", "_name_or_path", "use_cache", "dtype", "torch_dtype", "pad_token_id", "bos_token_id",
    "eos_token_id",
)  # fmt: skip


def claim(trainer: ResumingTrainer, folder: Path) -> str:
    """Write down whose run the folder holds, or make sure that it is this one. Its mark is in every checkpoint.

    Raises
    ------
    InputError
        The folder holds a run with other settings, another model, other data or other code, or cannot be written.
    """
    key = _key(trainer)
    with trainer.args.main_process_first(desc="claiming the folder"):
        if begun(folder):
            _compare(folder, key)
        elif trainer.is_world_process_zero():
            check_apart(trainer.model, folder, name="output_dir")
            content = {"schema": SCHEMA, "snellen": snellen.__version__, "key": key, "settings": trainer.args.own()}
            write_record(folder, content)
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]


def made_by(trainer: ResumingTrainer) -> dict[str, Any]:
    """The code of a training, of its monitor and of its model, and the libraries below them."""
    return {
        "code": code_hash(TRAINER, apart=APART)[:16],
        "code of the model": code_of(trainer.model, apart=APART),
        **versions("accelerate", "tokenizers"),
    }


def read_record(folder: Path) -> dict[str, Any]:
    """What `training.json` says. InputError where it is not what was written."""
    path = folder / RUN
    with reading(path, mend=OTHER):
        content = dict(read_json(path))
        if content.get(DIGEST) != digest_of(content):
            raise ValueError("it is not what was written: its digest is another")
    return content


def write_record(folder: Path, content: Mapping[str, Any]) -> None:
    write_json(folder / RUN, {**content, DIGEST: digest_of(_plain(content))})


def begun(folder: Path) -> bool:
    """Whether a training has begun in the folder; InputError where anything else stands there."""
    names = contents(folder, mend=OTHER)
    if names and RUN not in names:
        raise InputError(
            f"output_dir {str(folder)!r}: is not empty and holds no training of ours (no {RUN}; there is "
            f"{names[0]!r}); {OTHER}"
        )
    return bool(names)


def check_folder(folder: Path, source: str) -> None:
    """What can be known of the folder before the model at `source` is read. Raises InputError as `claim`."""
    begun(folder)
    check_apart(source, folder, name="output_dir")


@contextlib.contextmanager
def held(trainer: ResumingTrainer, folder: Path) -> Iterator[None]:
    """Nobody else writes into the folder meanwhile; the first of the processes holds it for all of them."""
    begun(folder)  # what is not ours is not locked either
    with locked(folder, mend=OTHER) if trainer.is_world_process_zero() else contextlib.nullcontext():
        yield


def check_deploy(trainer: ResumingTrainer, folder: Path) -> None:
    """Whether a model with its lookahead may be saved there: in the training's own folder, or in a new one.

    Raises
    ------
    InputError
        Something else stands there, which could be lost.
    """
    if folder.resolve() == Path(trainer.args.output_dir).resolve():
        begun(folder)
    elif names := contents(folder, mend="name a new one"):
        raise InputError(f"folder {str(folder)!r}: is not empty (there is {names[0]!r}); name a new one")
    else:
        check_apart(trainer.model, folder, name="folder")


def _key(trainer: ResumingTrainer) -> dict[str, Any]:
    args = trainer.args
    settings = args.to_dict()
    rows = trainer.train_dataset
    assert isinstance(rows, Rows)
    model = trainer.model.config.to_dict()
    for name in _NOT_SHAPE:
        model.pop(name, None)
    key = {
        **{name: settings[name] for name in _DECISIVE if name in settings},
        **{name: value for name, value in args.own().items() if name not in _INDIFFERENT},
        "rows a step": args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
        "rows": len(rows),
        "data": fingerprint(rows),
        "model": model,
        "weights before training": trainer.weights,
        MADE_BY: made_by(trainer),
    }
    return dict(_plain(key))


def _compare(folder: Path, key: Mapping[str, Any]) -> None:
    with reading(folder / RUN, mend=OTHER):
        before = dict(read_record(folder)["key"])
        others = dict(before.pop(MADE_BY, None) or {})
    now = dict(key)
    ours = now.pop(MADE_BY)
    if other := _differing(before, now):
        raise InputError(f"output_dir {str(folder)!r}: holds a run with other settings ({other}); choose another")
    if other := _differing(others, ours):
        raise InputError(
            f"output_dir {str(folder)!r}: holds a run that was made by other code ({other}): what it has learnt and "
            f"what this code would go on with do not belong together; go on with the code that began it, or {OTHER}"
        )


def _differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    other = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    return "; ".join(f"{name}: {_brief(before.get(name))} there, {_brief(now.get(name))} here" for name in other)


def _plain(value: Any) -> Any:
    """As JSON has it; whatever it has no form for becomes text."""
    return json.loads(json.dumps(value, default=str, sort_keys=True))


def _brief(value: Any) -> str:
    shown = json.dumps(value, default=str)
    return shown if len(shown) <= 60 else shown[:57] + "…"
