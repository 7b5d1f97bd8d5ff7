"""Whose run a folder holds, which of its checkpoints are whole, and what happens when one cannot be written."""

from __future__ import annotations

import contextlib
import json
import math
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from transformers.trainer import TRAINER_STATE_NAME

import snellen
from snellen.errors import InputError
from snellen.models.sources import check_apart
from snellen.results.files import UNREADABLE, read_json, reading, write_json
from snellen.results.folders import contents, locked
from snellen.training.data import Rows, fingerprint

if TYPE_CHECKING:
    from snellen.training.trainer import StuntingTrainer

RUN = "training.json"
STATE = "stunting.pt"
SCHEMA = 1
_OTHER = "choose another output_dir"

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


def claim(trainer: StuntingTrainer, folder: Path) -> None:
    """Write down whose run the folder holds, or make sure that it is this one.

    Raises
    ------
    InputError
        The folder holds a run with other settings, another kind of model or other data, or cannot be written.
    """
    key = _key(trainer)
    path = folder / RUN
    with trainer.args.main_process_first(desc="claiming the folder"):
        if begun(folder):
            _compare(path, key)
        elif trainer.is_world_process_zero():
            check_apart(trainer.model, folder, name="output_dir")
            content = {"schema": SCHEMA, "snellen": snellen.__version__, "key": key, "settings": trainer.args.own()}
            write_json(path, content)


def begun(folder: Path) -> bool:
    """Whether a training has begun in the folder; InputError where anything else stands there."""
    names = contents(folder, mend=_OTHER)
    if names and RUN not in names:
        raise InputError(
            f"output_dir {str(folder)!r}: is not empty and holds no training of ours (no {RUN}; there is "
            f"{names[0]!r}); {_OTHER}"
        )
    return bool(names)


def check_folder(folder: Path, source: str) -> None:
    """What can be known of the folder before the model at `source` is read. Raises InputError as `claim`."""
    begun(folder)
    check_apart(source, folder, name="output_dir")


@contextlib.contextmanager
def held(trainer: StuntingTrainer, folder: Path) -> Iterator[None]:
    """Nobody else writes into the folder meanwhile; the first of the processes holds it for all of them."""
    begun(folder)  # what is not ours is not locked either
    with locked(folder, mend=_OTHER) if trainer.is_world_process_zero() else contextlib.nullcontext():
        yield


def check_deploy(trainer: StuntingTrainer, folder: Path) -> None:
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


def last_good(folder: Path, *, tidy: bool) -> str | None:
    """The newest checkpoint that was written to its end; with `tidy` newer ones, which were not, are removed."""
    found = [(int(match[1]), path) for path in folder.glob("checkpoint-*") if (match := _STEP.fullmatch(path.name))]
    for _, path in sorted(found, reverse=True):
        if is_whole(path):
            return str(path)
        if tidy:
            shutil.rmtree(path, ignore_errors=True)
    return None


_STEP = re.compile(r"checkpoint-(\d+)")


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint was written to its end: transformers writes the trainer's state last."""
    try:
        state = read_json(checkpoint / TRAINER_STATE_NAME)
        return bool(state["global_step"] == int(checkpoint.name.rpartition("-")[2]))
    except UNREADABLE:
        return False


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A run that is complete: where its last weights are, and the checkpoint of its end, if there is one."""

    folder: Path
    checkpoint: str | None
    steps: int
    loss: float  # mean training loss; NaN where it is not known


def finished(folder: Path, checkpoint: str | None) -> Finished | None:
    """Whether the run in `folder`, whose last good checkpoint is given, has come to its end; None: it has not."""
    with reading(folder / RUN, mend=_OTHER):
        done = read_json(folder / RUN).get("finished")
        if done is not None:
            loss = math.nan if done["training_loss"] is None else float(done["training_loss"])
            done = {"steps": int(done["steps"]), "loss": loss}
    if done is not None and any(folder.glob("*.safetensors")):
        return Finished(folder=folder, checkpoint=checkpoint, steps=done["steps"], loss=done["loss"])
    if checkpoint is None:
        return None
    state = json.loads((Path(checkpoint) / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    if state["global_step"] < state["max_steps"]:
        return None
    losses = [row["train_loss"] for row in state["log_history"] if "train_loss" in row]
    loss = losses[-1] if losses else math.nan  # it was stopped before transformers had summed up
    return Finished(folder=Path(checkpoint), checkpoint=checkpoint, steps=state["global_step"], loss=loss)


def finish(folder: Path, steps: int, loss: float) -> None:
    """Write down that the run is complete, after its model was written."""
    content = read_json(folder / RUN)
    content["finished"] = {"steps": steps, "training_loss": loss if math.isfinite(loss) else None}
    write_json(folder / RUN, content)


@contextlib.contextmanager
def writing(folder: Path, *, what: str) -> Iterator[None]:
    """Around writing a checkpoint or the model: what could be written only in part is removed, and said.

    Raises
    ------
    InputError
        It could not be written: disk full, no right to. Earlier checkpoints stay as they are.
    """
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _about_files(error):
            raise
        run = folder
        if _STEP.fullmatch(folder.name):
            shutil.rmtree(folder, ignore_errors=True)
            run = folder.parent
        else:
            for path in folder.glob("*.safetensors"):
                if before.get(path) != path.stat().st_mtime_ns:
                    path.unlink(missing_ok=True)
        good = last_good(run, tidy=False)
        kept = f"the last good checkpoint is {good}" if good else "there is no earlier one"
        raise InputError(
            f"{what} could not be written to {str(run)!r} ({_line(error)}); {kept}: make room and run the same again"
        ) from error


def save_state(checkpoint: Path, state: Mapping[str, Any]) -> None:
    """What the objective must remember, beside what transformers saves."""
    if state:
        torch.save(dict(state), checkpoint / STATE)


def load_state(checkpoint: Path, device: torch.device) -> dict[str, Any]:
    path = checkpoint / STATE
    if not path.exists():
        return {}
    found: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    return found


def _key(trainer: StuntingTrainer) -> dict[str, Any]:
    args = trainer.args
    settings = args.to_dict()
    rows = trainer.train_dataset
    assert isinstance(rows, Rows)
    model = trainer.model.config.to_dict()
    for name in _NOT_SHAPE:
        model.pop(name, None)
    return {
        **{name: settings[name] for name in _DECISIVE if name in settings},
        **{name: value for name, value in args.own().items() if name not in _INDIFFERENT},
        "rows a step": args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
        "rows": len(rows),
        "data": fingerprint(rows),
        "model": _plain(model),
    }


def _compare(path: Path, key: Mapping[str, Any]) -> None:
    with reading(path, mend=_OTHER):
        before = dict(read_json(path)["key"])
    now = json.loads(json.dumps(key))
    other = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    if other:
        shown = "; ".join(f"{name}: {_brief(before.get(name))} there, {_brief(now.get(name))} here" for name in other)
        raise InputError(f"output_dir {str(path.parent)!r}: holds a run with other settings ({shown}); choose another")


def _plain(value: Any) -> Any:
    """As JSON has it; whatever it has no form for becomes text."""
    return json.loads(json.dumps(value, default=str, sort_keys=True))


def _brief(value: Any) -> str:
    shown = json.dumps(value, default=str)
    return shown if len(shown) <= 60 else shown[:57] + "…"


def _about_files(error: RuntimeError) -> bool:
    said = str(error).lower()
    signs = ("space left", "file write failed", "pytorchstreamwriter", "iostream", "too large")
    return any(sign in said for sign in signs)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
