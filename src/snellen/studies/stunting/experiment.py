"""All trainings of all seeds, a few at a time; each is a file, so that the same command goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from snellen.errors import InputError
from snellen.results.files import UNREADABLE, read_json, write_json
from snellen.results.folders import alone
from snellen.results.provenance import code_hash, versions
from snellen.studies import pool
from snellen.studies.names import named, slug
from snellen.studies.stunting import masked
from snellen.studies.stunting.raising import HEADS, LANGUAGE, LAYERS, MEASURE, MODEL, Plan, raise_one
from snellen.studies.stunting.variants import NAMES, VARIANTS, variant
from snellen.training.objectives import METHODS

SCHEMA = 1
SEEDS = 5

# What trains and what looks, and the objectives, which are found by name; tables and pictures are drawn anew each time.
_MADE_BY = (raise_one.__module__, masked.__name__, *(kind.__module__ for kind in METHODS.values()))

Result = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Job:
    name: str
    seed: int


@alone(ours=lambda name: name.endswith(".json"), what="does not hold results of this study alone")
def experiment(
    folder: Path,
    *,
    seeds: int = SEEDS,
    only: Sequence[str] = (),
    plan: Plan | None = None,
    processes: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Result]:
    """The results of all variants (`only`: of these) and seeds, those that `folder` has already included.

    Raises
    ------
    InputError
        No seeds, an unknown variant, or a folder with the results of another experiment.
    """
    pool.check_seeds(seeds)
    names = named("only", only or NAMES, NAMES, "variant")
    plan = plan or Plan()
    wanted = [Job(name=name, seed=seed) for seed in range(seeds) for name in NAMES if name in names]
    found = {(r["variant"], r["seed"]): r for r in _read(folder, plan)}
    missing = [job for job in wanted if (job.name, job.seed) not in found]
    total = len(wanted)
    progress(total - len(missing), total)
    run = partial(_work, plan=plan)
    for done, result in enumerate(pool.run(run, missing, pool.at_once(processes, len(missing) or 1)), start=1):
        key = _key(result["variant"], plan)
        write_json(_file(folder, result["variant"], result["seed"]), {"key": key, **result})
        found[result["variant"], result["seed"]] = result
        progress(total - len(missing) + done, total)
    return [found[job.name, job.seed] for job in wanted]


def _work(job: Job, plan: Plan) -> dict[str, Any]:
    if job.name == masked.NAME:
        return masked.raise_masked(job.seed, plan)
    return raise_one(variant(job.name), job.seed, plan)


def _file(folder: Path, name: str, seed: int) -> Path:
    return folder / f"{slug(name)}-{seed}.json"


def _read(folder: Path, plan: Plan) -> list[Result]:
    results = []
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else []:
        try:
            result = read_json(path)
            key, name = result["key"], result["variant"]
        except UNREADABLE as error:
            raise InputError(f"{path}: is no result of this experiment; choose another folder") from error
        if key != _key(name, plan):
            raise InputError(f"{path}: was made with other settings, code or libraries; choose another folder")
        results.append(result)
    return results


def _key(name: str, plan: Plan) -> str:
    """Of everything that a result depends on: settings, the code that trains and looks, the libraries under it."""
    content = {
        "schema": SCHEMA, "code": code_hash(*_MADE_BY), "versions": versions("accelerate"),
        "plan": asdict(plan), "language": asdict(LANGUAGE), "shape": [LAYERS, MODEL, HEADS],
        "measure": asdict(MEASURE), "variant": [repr(one) for one in VARIANTS if one.name == name],
    }  # fmt: skip
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]
