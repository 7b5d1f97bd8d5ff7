"""Which checkpoints of a run are whole, when it is complete, and what happens when one cannot be written."""

from __future__ import annotations

import contextlib
import json
import math
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers.trainer import TRAINER_STATE_NAME

from snellen.errors import InputError
from snellen.results.files import UNREADABLE, read_json, reading, write_json
from snellen.training.claim import OTHER, RUN

STATE = "stunting.pt"


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
    with reading(folder / RUN, mend=OTHER):
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


def _about_files(error: RuntimeError) -> bool:
    said = str(error).lower()
    signs = ("space left", "file write failed", "pytorchstreamwriter", "iostream", "too large")
    return any(sign in said for sign in signs)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
