"""Trained organisms on disk: one file each, that appears whole or not at all and is checked when it is read.

The name holds a hash of everything that the weights depend on: the language, the training, the seed, the code of both,
and the versions of the libraries below. A file that cannot be read is trained again, with a message; a
folder that cannot be written costs the cache and nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from snellen.errors import InputError
from snellen.organisms.catalogue import Organism
from snellen.organisms.folders import folder, write
from snellen.organisms.training import Moment, Training, build, train
from snellen.results.provenance import code_hash, versions

Tell = Callable[[str], None]


def raised(organism: Organism, seed: int, tell: Tell = lambda line: None) -> list[Moment]:
    """The organism at each of its stages, from the cache or trained now. Raises as `train` does."""
    path = folder() / "organisms" / f"{organism.name.replace(' ', '-')}-{seed}-{key(organism, seed)}.safetensors"
    if path.exists():
        try:
            return _read(path, organism, seed)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
            tell(f"{path} is damaged ({_line(error)}): training {organism.name} again")
    moments = train(organism.language_at(seed), organism.training, seed=seed, tell=tell)
    try:
        write(path, _bytes(moments))
    except InputError as error:
        tell(f"{organism.name} is not kept: {error}")
    return moments


def key(organism: Organism, seed: int) -> str:
    """Sixteen hex digits of everything that the trained weights depend on."""
    language = organism.language_at(seed)
    content = {
        "language": [type(language).__qualname__, asdict(language)],
        "training": asdict(organism.training),
        "seed": seed,
        "code": code_hash(Training.__module__, type(language).__module__),
        "versions": versions(),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _bytes(moments: list[Moment]) -> bytes:
    tensors = {
        f"{number}/{name}": tensor.contiguous()
        for number, moment in enumerate(moments)
        for name, tensor in moment.model.base_model.state_dict().items()
    }
    about = [
        {"stage": m.stage, "step": m.step, "attempt": m.attempt, "losses": dict(m.losses), "author": dict(m.author)}
        for m in moments
    ]
    return save(tensors, metadata={"moments": json.dumps(about), "digest": _digest(tensors)})


def _read(path: Path, organism: Organism, seed: int) -> list[Moment]:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    about = json.loads(metadata["moments"])
    if _digest(tensors) != metadata["digest"]:
        raise ValueError("its weights are not those that were written")
    if [entry["stage"] for entry in about] != [stage.name for stage in organism.training.stages]:
        raise ValueError("its stages are not those of the organism")
    moments = []
    for number, entry in enumerate(about):
        model = build(organism.language_at(seed), organism.training)
        mine = {name.split("/", 1)[1]: t for name, t in tensors.items() if name.split("/", 1)[0] == str(number)}
        model.base_model.load_state_dict(mine)
        moments.append(Moment(**_typed(entry), model=model.requires_grad_(False)))
    return moments


def _typed(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: entry[name] for name in ("stage", "step", "attempt", "losses", "author")}


def _digest(tensors: dict[str, Tensor]) -> str:
    """Of names, shapes and values: safetensors itself has no checksum."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(f"{name} {tuple(tensors[name].shape)} ".encode())
        found.update(tensors[name].numpy().tobytes())
    return found.hexdigest()


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:100] or type(error).__name__
