"""The folder of the results: what was trained, what was measured of it, and what each depends on.

    tuning/TASK-VARIANT-RATE.json     the loss with a learning rate, on a seed that is used for nothing else
    trained/TASK-VARIANT-SEED/        the model (`save_pretrained`), and training.json, written last
    measured/TASK-VARIANT-SEED.json   what was measured of it
    measured/TASK-references-SEED.json    of predictors that are not trained

Trainings are expensive: one made with other settings or code is refused, not thrown away. Measurements are cheap: one
made with other code is made again, from the weights that were kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from snellen.architectures import MesaForCausalLM, MesaForPrediction
from snellen.errors import InputError
from snellen.models.quiet import quiet
from snellen.results.files import UNREADABLE, guarded, read_json, write_json
from snellen.results.provenance import code_hash, versions
from snellen.studies.mesa import tasks, text, training
from snellen.studies.mesa.tasks import TEXT, setup
from snellen.studies.mesa.training import Plan, Trained
from snellen.studies.mesa.variants import variant

SCHEMA = 1
# By its name, since it imports this module. Its own file trains nothing: what does is named where trainings are.
STUDY = "snellen.studies.mesa.experiment"

Result = Mapping[str, Any]


def training_key(task: str, name: str, plan: Plan, rate: float, seed: int, identity: str | None) -> str:
    """Of everything that a training depends on. identity: of the corpus, for the text."""
    modules = (text,) if task == TEXT else (training, tasks)
    # Which other learning rates were tried changes nothing.
    settings = {name: value for name, value in asdict(plan).items() if name not in ("rates", "tuning")}
    of_task = identity if task == TEXT else repr(setup(task).task)
    return _hash(
        "training", code_hash(*(one.__name__ for one in modules)), versions(), task, of_task, repr(variant(name)),
        settings, rate, seed,
    )  # fmt: skip


def measuring_key(trained: str, *settings: Any) -> str:
    """Of everything that a measurement depends on: the training, the code of the whole study, its settings."""
    return _hash("measuring", code_hash(STUDY), versions(), trained, *settings)


def is_ours(name: str) -> bool:
    """Whether a file or folder of this name is one of the study's, in the folder of its results."""
    return name in ("tuning", "trained", "measured") or (name.startswith("tokens-") and name.endswith(".npy"))


def tuning_file(folder: Path, task: str, name: str, rate: float) -> Path:
    return folder / "tuning" / f"{task}-{name}-{rate:g}.json"


def measured_file(folder: Path, task: str, name: str, seed: int) -> Path:
    return folder / "measured" / f"{task}-{name}-{seed}.json"


def trained_folder(folder: Path, task: str, name: str, seed: int) -> Path:
    return folder / "trained" / f"{task}-{name}-{seed}"


def read(path: Path) -> Result | None:
    """A result, or None where there is none. Raises `InputError` where the file is none of this study's."""
    try:
        content = read_json(path)
        content["key"]
    except FileNotFoundError:
        return None
    except UNREADABLE as error:
        raise InputError(f"{path}: is no result of this study; choose another folder") from error
    found: Result = content
    return found


def checked(path: Path, key: str) -> Result | None:
    """As `read`, of a training or its tuning. Raises `InputError` where it was made otherwise than `key` says."""
    found = read(path)
    if found is not None and found["key"] != key:
        raise InputError(f"{path}: was made with other settings, code or libraries; choose another folder")
    return found


def keep_trained(place: Path, key: str, about: Result, trained: Trained | None) -> Result:
    """The folder appears whole or not at all. A training that was refused has no model in it."""
    content = {"schema": SCHEMA, "key": key, **about}
    temporary = place.with_name(f".{place.name}.{os.getpid()}.tmp")
    with guarded(place):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            if trained is not None:
                with quiet():
                    trained.model.save_pretrained(temporary)
            write_json(temporary / "training.json", content)
            os.replace(temporary, place)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return content


def load_trained(place: Path, task: str) -> Any:
    """The model as `keep_trained` left it."""
    kind = MesaForCausalLM if task == TEXT else MesaForPrediction
    with quiet():
        return kind.from_pretrained(place).eval()


def _hash(*content: Any) -> str:
    return hashlib.sha256(json.dumps([SCHEMA, *content], sort_keys=True, default=str).encode()).hexdigest()[:16]
