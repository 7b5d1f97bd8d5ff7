"""What `run.json` records of a run: what its numbers were made of, and with what."""

from __future__ import annotations

import math
import platform
import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
import transformers

import snellen
from snellen.measures.base import Measure
from snellen.models.body import device_of
from snellen.models.identity import code_of
from snellen.organisms import chart
from snellen.request import Request
from snellen.results import provenance
from snellen.results.store import MADE_BY
from snellen.runner.work import Text
from snellen.subject import Subject

RUNNER = __name__.rpartition(".")[0]
APART = ("snellen.report", "snellen.cli")  # change no number: one draws what is finished, one asks for it


def made_by(chosen: Mapping[str, Measure]) -> dict[str, Any]:
    """The code of an exam: the runner with all that reads a model, each measure, and the libraries below them."""
    found: dict[str, Any] = {
        "code": provenance.code_hash(RUNNER, apart=APART)[:16],
        **provenance.versions("tokenizers"),
    }
    for name, measure in chosen.items():
        modules = {kind.__module__ for kind in type(measure).__mro__ if issubclass(kind, Measure)}
        found[f"code of {name}"] = provenance.code_hash(*modules, apart=APART)[:16]
        for other in sorted(modules):
            found |= {} if other.startswith("snellen.") else provenance.distribution(other)
    return {MADE_BY: found}


def measures_key(chosen: Mapping[str, Measure]) -> dict[str, Any]:
    return {"measures": {name: plain(asdict(measure)) for name, measure in chosen.items()}}


def subject_key(subject: Subject) -> dict[str, Any]:
    identity = plain(subject.identity.as_dict())
    return {
        "model weights": identity["weights_sha256"],
        "tokenizer": identity["tokenizer_sha256"],
        "dtype": identity["dtype"],
        "first token": identity["bos"],
        "code of the model": code_of(subject.model, apart=APART),
    }


def slug(subject: Subject) -> str:
    source = str(subject.identity.source).rstrip("/\\")
    name = re.split(r"[/\\]", source)[-1]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "model"


def content_of(subject: Subject, request: Request, chosen: Mapping[str, Measure], text: Text) -> dict[str, Any]:
    versions = {
        "snellen": snellen.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    return {
        "settings": {**request.key(), **text.key(), **measures_key(chosen), "memory": request.memory},
        "identity": plain(subject.identity.as_dict()),
        "text": text.about(),
        "preflight": {"loading": plain(subject.preflight.as_dict())},
        "chart": plain(chart.recorded()),
        "environment": {
            **versions,
            "python": platform.python_version(),
            "platform": platform.platform(),
            "processor": platform.processor() or platform.machine(),
            "device": str(device_of(subject.model)),
            "threads": torch.get_num_threads(),
        },
        "timings": {},
    }


def plain(value: Any) -> Any:
    """As JSON has it: an undefined number is None, an infinite one a word."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(inner) for inner in (sorted(value) if isinstance(value, (set, frozenset)) else value)]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None if math.isnan(value) else str(value)
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)
