"""Was the chart itself in order? The last self-test with this very code, for the reports of exams.

A self-test says something about a number only where the code that made the number is the code that was tested. So its
result is filed under a hash of all that the self-test runs, and of the libraries below it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from snellen.organisms.folders import folder, write
from snellen.results import provenance
from snellen.results.files import UNREADABLE, read_json

SCHEMA = 1
# By its name: the self-test stands above this room, as an exam does, which asks for its outcome and never runs it.
SELF_TEST = "snellen.studies.self_test"


def code_hash() -> str:
    """SHA-256 of the sources of the self-test with all that it imports, and of the versions that it runs on."""
    made_by = {"code": provenance.code_hash(SELF_TEST), **provenance.versions()}
    return hashlib.sha256(json.dumps(made_by, sort_keys=True).encode()).hexdigest()


def place() -> Path:
    return folder() / "self-test" / f"{code_hash()[:16]}.json"


def keep(content: Mapping[str, Any]) -> Path:
    """File the result of a whole self-test of this code. Raises InputError."""
    path = place()
    text = json.dumps({"schema": SCHEMA, "code": code_hash(), **content}, indent=1, ensure_ascii=False, allow_nan=False)
    write(path, text.encode())
    return path


def recorded() -> dict[str, Any]:
    """What `run.json` says of the chart: the self-test of this code, or why there is none."""
    about: dict[str, Any] = {"examined": False, "code": code_hash()}
    path = place()
    try:
        content = read_json(path)
        if (content["schema"], content["code"]) != (SCHEMA, code_hash()):
            raise ValueError("another schema or other code")
        rows = [_brief(row) for row in content["rows"]]
        return {
            "examined": True, "code": code_hash(), "when": str(content["when"]), "passed": bool(content["passed"]),
            "seeds": int(content["seeds"]), "organisms": rows,
        }  # fmt: skip
    except FileNotFoundError:
        return about | {"reason": "the organisms were not examined with this code; run `snellen organisms`"}
    except UNREADABLE as error:
        return about | {"reason": f"{path} cannot be read ({type(error).__name__}); run `snellen organisms` again"}


def _brief(row: Mapping[str, Any]) -> dict[str, Any]:
    """Of a row of the self-test what a reader of another report wants: the gain by width and horizon, the placebo."""
    judged = [point for point in row["points"] if point["width"] == row["width"]]
    found = next((point for point in judged if point["horizon"] == row["horizon"]), None)
    gain = {} if found is None else {name: float(found["gain"][name]) for name in ("value", "low", "high")}
    return {
        "name": str(row["name"]),
        "expects": str(row["expects"]),
        "passed": bool(row["passed"]),
        "objections": [str(line) for line in row["objections"]],
        **gain,
        "placebo": max((abs(float(p["placebo"]["value"])) for p in judged), default=None),
        "by_horizon": {str(p["horizon"]): float(p["gain"]["value"]) for p in judged},
        "by_width": {
            str(p["width"]): float(p["gain"]["value"]) for p in row["points"] if p["horizon"] == row["horizon"]
        },
    }
