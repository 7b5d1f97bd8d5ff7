"""From which checkpoint a run goes on, when it is complete, and what happens when one cannot be written."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from snellen.errors import InputError
from snellen.results.files import reading, sha256_of
from snellen.training import sums
from snellen.training.claim import OTHER, RUN, read_record, write_record
from snellen.training.manifest import MANIFEST, STEP, Checkpoint, Flawed, check_complete, examine, sync_file

STATE = "stunting.pt"


@dataclass(frozen=True, kw_only=True)
class Found:
    """The newest checkpoint that can be believed (None: there is none), and newer ones that cannot, with the reason."""

    checkpoint: Checkpoint | None
    passed: tuple[tuple[Path, Flawed], ...]

    @property
    def line(self) -> str:
        return " and ".join(f"{path.name} ({why})" for path, why in self.passed)


def newest(folder: Path, *, run: str | None = None, processes: int | None = None, best: bool = False) -> Found:
    """The newest checkpoint of a folder that is whole; see `manifest.examine`.

    best: the training ends with the model of the best checkpoint so far, which must then be whole as well.
    """
    passed = list[tuple[Path, Flawed]]()
    for _, path in _by_step(folder):
        try:
            found = examine(path, run=run, processes=processes)
            if best and (other := best_of(found)) not in (None, path):
                assert other is not None
                try:
                    examine(other, run=run)
                except Flawed as error:
                    raise Flawed(f"the best checkpoint before it is {other.name}: {error}") from error
            return Found(checkpoint=found, passed=tuple(passed))
        except Flawed as error:
            passed.append((path, error))
    return Found(checkpoint=None, passed=tuple(passed))


def best_of(checkpoint: Checkpoint) -> Path | None:
    """The best checkpoint when this one was written, where it lies now."""
    name = checkpoint.state.get("best_model_checkpoint")
    return None if name is None else checkpoint.path.parent / Path(name).name


def resumable(found: Found, folder: Path) -> Checkpoint | None:
    """The checkpoint to go on from; None: the run is at its beginning.

    Raises
    ------
    InputError
        There are checkpoints, and none that can be resumed.
    """
    mend = f"restore one, or remove them to begin anew, or {OTHER}"
    checkpoint = found.checkpoint
    if checkpoint is None:
        if all(why.unfinished for _, why in found.passed):
            return None
        raise InputError(f"output_dir {str(folder)!r}: none of its checkpoints can be resumed: {found.line}; {mend}")
    if not checkpoint.resumes:
        newer = f", and newer ones are not whole: {found.line}" if found.passed else ""
        raise InputError(
            f"output_dir {str(folder)!r}: {checkpoint.path.name} holds the model alone (save_only_model), so that the "
            f"training cannot be resumed{newer}; remove the checkpoints to begin anew, or {OTHER}"
        )
    return checkpoint


def check_given(checkpoint: Path, *, processes: int) -> None:
    """Whether a checkpoint that was named can be gone on from, whoever wrote it.

    Raises
    ------
    InputError
        It is damaged, or lacks what transformers would go on without.
    """
    try:
        if (checkpoint / MANIFEST).exists():
            if not examine(checkpoint, processes=processes).resumes:
                raise Flawed("it holds the model alone (save_only_model)")
        else:
            check_complete(checkpoint, processes=processes)
    except Flawed as error:
        raise InputError(f"resume_from_checkpoint = {str(checkpoint)!r}: {error}; name another") from error


def last_good(folder: Path) -> str | None:
    """The newest checkpoint that is whole, for a message."""
    found = newest(folder).checkpoint
    return None if found is None else str(found.path)


def remove(found: Found, *, but: Path) -> None:
    """Those that were passed over, once another (`but`) was written, perhaps in the place of one of them."""
    for path, _ in found.passed:
        if path.name != but.name:
            shutil.rmtree(path, ignore_errors=True)


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A run that is complete: where its last weights are, and the checkpoint of its end, if there is one."""

    folder: Path
    checkpoint: Checkpoint | None
    steps: int
    loss: float  # mean training loss; NaN where it is not known


def finished(folder: Path, found: Found, *, best: bool, stopped: bool) -> Finished | None:
    """Whether the run in `folder`, whose checkpoints are given, has come to its end; None: it has not.

    best: it ends with the model of its best checkpoint; stopped: one that was stopped before its last step is complete.

    Raises
    ------
    InputError
        The trained model is not the one that was written, and no checkpoint has it.
    """
    last = found.checkpoint
    done = read_record(folder).get("finished")
    why = None
    if done is not None:
        with reading(folder / RUN, mend=OTHER):
            loss = math.nan if done["training_loss"] is None else float(done["training_loss"])
            steps, files = int(done["steps"]), {str(name): str(digest) for name, digest in done["files"].items()}
        why = _differing(folder, files)
        if why is None:
            return Finished(folder=folder, checkpoint=last, steps=steps, loss=loss)
    if last is not None and (last.step >= last.state["max_steps"] or (stopped and _stopped(last))):
        where = (best_of(last) if best else None) or last.path
        return Finished(folder=where, checkpoint=last, steps=last.step, loss=sums.mean(last.path, last.step))
    if why is not None and not why.endswith("is missing"):
        raise InputError(
            f"output_dir {str(folder)!r}: the run is complete, but {why}; restore the file, or remove it to train on "
            f"from the last checkpoint, or {OTHER}"
        )
    return None


def finish(folder: Path, steps: int, loss: float) -> None:
    """Write down that the run is complete, after its model was written."""
    weights = sorted(folder.glob("*.safetensors"))
    for path in weights:
        sync_file(path)
    files = {path.name: sha256_of(path) for path in weights}
    done = {"steps": steps, "training_loss": loss if math.isfinite(loss) else None, "files": files}
    write_record(folder, {**read_record(folder), "finished": done})


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
    except (OSError, SafetensorError, RuntimeError, InputError) as error:
        refused: BaseException | None = error
        if isinstance(error, InputError):  # of `results.files`, which has said it for that file alone
            refused = error.__cause__ if str(error).startswith("cannot write ") else None
        if refused is None or not (isinstance(refused, OSError | SafetensorError) or _about_files(refused)):
            raise
        run = folder
        if STEP.fullmatch(folder.name):
            shutil.rmtree(folder, ignore_errors=True)
            run = folder.parent
        else:
            for path in folder.glob("*.safetensors"):
                if before.get(path) != path.stat().st_mtime_ns:
                    path.unlink(missing_ok=True)
        good = last_good(run)
        kept = f"the last good checkpoint is {good}" if good else "there is no earlier one"
        raise InputError(
            f"{what} could not be written to {str(run)!r} ({_line(refused)}); {kept}: make room and run the same again"
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


def _by_step(folder: Path) -> list[tuple[int, Path]]:
    """Newest first."""
    found = [(int(match[1]), path) for path in folder.glob("checkpoint-*") if (match := STEP.fullmatch(path.name))]
    return sorted(found, reverse=True)


def _stopped(checkpoint: Checkpoint) -> bool:
    """Whether the training was about to stop when this one was written: transformers notes it with its callbacks."""
    control = checkpoint.state.get("stateful_callbacks", {}).get("TrainerControl", {})
    return bool(control.get("args", {}).get("should_training_stop", False))


def _differing(folder: Path, files: Mapping[str, str]) -> str | None:
    """Of the trained model: what is not as it was written."""
    for name, digest in files.items():
        path = folder / name
        if not os.path.isfile(path):
            return f"{name} is missing"
        if sha256_of(path) != digest:
            return f"{name} is not what was written"
    return None if files else "model.safetensors is missing"


def _about_files(error: BaseException) -> bool:
    said = str(error).lower()
    signs = ("space left", "file write failed", "pytorchstreamwriter", "inline_container", "iostream", "too large")
    return any(sign in said for sign in signs)


def _line(error: BaseException) -> str:
    if "inline_container" in str(error):  # torch's word for a file that ends before its content does
        return "a file could be written only in part, as on a full disk"
    return " ".join(str(error).split())[:160] or type(error).__name__
