"""Whether a checkpoint is the one that was written: each has a manifest, which is completed last.

    {"schema": 1, "step": 400, "run": "…", "processes": 1,
     "files": {"model.safetensors": {"bytes": …, "sha256": "…"}, …}, "resume": ["model.safetensors", "optimizer.pt", …]}

It is there from the first moment on, without `files`: so one that a kill left half written is told from one that was
whole and lost something. It is completed only once all other files are on the disk.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME

from snellen.results.files import UNREADABLE, brief, read_json, sha256_of, write_json
from snellen.results.folders import is_leftover

MANIFEST = "manifest.json"
SCHEMA = 1
STEP = re.compile(r"checkpoint-(\d+)")
_ASIDE = (MANIFEST, "training_args.bin", "README.md")  # nothing that a resumption reads


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One that is whole."""

    path: Path
    step: int
    state: Mapping[str, Any]  # transformers' trainer_state.json
    resumes: bool  # False: it holds the model alone


class Flawed(Exception):
    """A checkpoint that is not believed: why, in words.

    unfinished: it was never written to its end, as after a kill; it did not lose anything.
    """

    def __init__(self, why: str, *, unfinished: bool = False) -> None:
        super().__init__(why)
        self.unfinished = unfinished


def begin(folder: Path, step: int) -> None:
    """Before anything of a checkpoint is written. What stands there (half of one, or a flawed one) goes."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_json(folder / MANIFEST, {"schema": SCHEMA, "step": step, "files": None})


def seal(folder: Path, step: int, *, run: str, processes: int, resumes: bool) -> None:
    """Complete the manifest of a checkpoint whose files have all been written.

    run: whose it is; processes: how many wrote it; resumes: whether it holds more than the model.
    """
    files = dict[str, dict[str, int | str]]()
    for path in _files(folder):
        sync_file(path)
        files[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    for inner in [path for path in folder.rglob("*") if path.is_dir()]:
        _sync(inner)
    _sync(folder)
    needed = [name for name in files if name not in _ASIDE] if resumes else None
    content = {"schema": SCHEMA, "step": step, "run": run, "processes": processes, "files": files, "resume": needed}
    write_json(folder / MANIFEST, content)
    _sync(folder)
    _sync(folder.parent)


def examine(folder: Path, *, run: str | None = None, processes: int | None = None) -> Checkpoint:
    """The checkpoint, if it is what was written, by this run and as many processes (None: by whom does not matter).

    Raises
    ------
    Flawed
        It is not.
    """
    manifest = _manifest(folder)
    number = STEP.fullmatch(folder.name)
    if number is not None and int(number[1]) != manifest["step"]:
        raise Flawed(f"it is that of step {manifest['step']}")
    if run is not None and manifest["run"] != run:
        raise Flawed("another run wrote it")
    for name, written in manifest["files"].items():
        _compare(folder / name, name, written)
    try:
        state = read_json(folder / TRAINER_STATE_NAME)
        step = int(state["global_step"])
    except UNREADABLE as error:
        raise Flawed(f"{TRAINER_STATE_NAME} cannot be read ({brief(error)})") from error
    if step != manifest["step"]:
        raise Flawed(f"{TRAINER_STATE_NAME} is that of step {step}")
    resumes = manifest["resume"] is not None
    if resumes and processes is not None and manifest["processes"] != processes:
        raise Flawed(f"the random states of {manifest['processes']} processes are in it, and here are {processes}")
    return Checkpoint(path=folder, step=step, state=state, resumes=resumes)


def check_complete(folder: Path, *, processes: int) -> None:
    """Whether a checkpoint that has no manifest, one of transformers' own, has all that a resumption reads.

    Raises
    ------
    Flawed
        Something is missing, which transformers would go on without.
    """
    random = ["rng_state.pth"] if processes == 1 else [f"rng_state_{number}.pth" for number in range(processes)]
    for name in (TRAINER_STATE_NAME, OPTIMIZER_NAME, SCHEDULER_NAME, *random):
        if not (folder / name).is_file():
            raise Flawed(f"{name} is missing")


def sync_file(path: Path) -> None:
    """What was written is on the disk when this returns."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def _manifest(folder: Path) -> dict[str, Any]:
    """As `seal` wrote it. Raises Flawed."""
    try:
        found = read_json(folder / MANIFEST)
        if found["schema"] != SCHEMA:
            raise ValueError(f"schema {found['schema']!r}, and this version reads {SCHEMA}")
        if found["files"] is not None:
            files = {str(name): (int(one["bytes"]), str(one["sha256"])) for name, one in found["files"].items()}
            step, run, processes = int(found["step"]), str(found["run"]), int(found["processes"])
            resume = found["resume"] if found["resume"] is None else [str(name) for name in found["resume"]]
    except FileNotFoundError:
        empty = not any(_files(folder))
        raise Flawed("it is empty" if empty else f"{MANIFEST} is missing", unfinished=empty) from None
    except UNREADABLE as error:
        raise Flawed(f"{MANIFEST} cannot be read ({brief(error)})") from error
    if found["files"] is None:
        raise Flawed("it was not written to its end", unfinished=True)
    if resume is not None and not {*resume} <= {*files}:
        raise Flawed(f"{MANIFEST} contradicts itself")
    return {"step": step, "run": run, "processes": processes, "files": files, "resume": resume}


def _compare(path: Path, name: str, written: tuple[int, str]) -> None:
    try:
        size = path.stat().st_size
        same = size == written[0] and sha256_of(path) == written[1]
    except FileNotFoundError:
        raise Flawed(f"{name} is missing") from None
    except UNREADABLE as error:
        raise Flawed(f"{name} cannot be read ({brief(error)})") from error
    if size != written[0]:
        raise Flawed(f"{name} has {size:,} bytes, and {written[0]:,} were written")
    if not same:
        raise Flawed(f"{name} is not what was written")


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != MANIFEST and not is_leftover(path.name) and not path.name.startswith("."):
            yield path


def _sync(folder: Path) -> None:
    """A folder's entries on the disk, where the system can say so of folders."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
