"""`lookahead.json` beside a model: the lookahead that it is used with, as it was fitted on held-out text.

    {"schema": 1, "snellen": …, "kind": "beam", "width": 4, "horizon": 4, "alpha": 2.0, "weight": 0.3, "mix": "linear",
     "fitted": {"tokens": 4096, "gain": …, "low": …, "high": …, …}}

The folder stays an ordinary model; whoever does not know the file leaves it alone. α = ∞ is written "inf".
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from snellen.errors import InputError
from snellen.lookahead.amplification import Amplification
from snellen.results.files import UNREADABLE, brief, read_json, write_json

NAME = "lookahead.json"
SCHEMA = 1
KIND = "beam"
_SETTINGS = tuple(field.name for field in fields(Amplification))
_TYPES: dict[str, type | tuple[type, ...]] = {"width": int, "horizon": int, "mix": str}


@dataclass(frozen=True, kw_only=True)
class Deployed:
    """The settings; on what they were fitted, and by which version (for the record: nothing is computed from these)."""

    settings: Amplification
    fitted: Mapping[str, Any]
    snellen: str

    def write(self, folder: str | os.PathLike[str]) -> Path:
        """Into the folder of its model; the file appears whole or not at all."""
        path = Path(folder) / NAME
        settings = asdict(self.settings)
        if math.isinf(self.settings.alpha):
            settings["alpha"] = "inf"
        head = {"schema": SCHEMA, "snellen": self.snellen, "kind": KIND}
        write_json(path, {**head, **settings, "fitted": dict(self.fitted)})
        return path

    def __str__(self) -> str:
        """The settings and what they are worth, for a reader."""
        s = self.settings
        text = f"width {s.width}, horizon {s.horizon}, alpha {s.alpha:g}, weight {s.weight:g} ({s.mix})"
        found = self.fitted
        if all(isinstance(found.get(name), int | float) for name in ("gain", "low", "high")):
            text += f"; gain {found['gain']:+.3f} [{found['low']:+.3f}, {found['high']:+.3f}] nats/token"
        if s.weight == 0:
            text += "; lookahead was not seen to add anything, so this is the model alone"
        return text


def read(folder: str | os.PathLike[str]) -> Deployed | None:
    """What a model's folder says of its lookahead; None where it says nothing, or is no local folder.

    Raises
    ------
    InputError
        The file is there and cannot be used: damaged, of another version, or with settings that cannot be.
    """
    path = Path(folder) / NAME
    if not path.exists():
        return None
    mend = "write it again with save_amplified, or remove it to use the model without"
    try:
        content = read_json(path)
    except UNREADABLE as error:
        raise InputError(f"{path}: cannot be read ({brief(error)}); {mend}") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        found = content.get("schema") if isinstance(content, dict) else type(content).__name__
        raise InputError(f"{path}: schema {found!r}, and this version of Snellen reads {SCHEMA}; {mend}")
    if content.get("kind") != KIND:
        raise InputError(f"{path}: kind {content.get('kind')!r}: a lookahead of kind {KIND!r} can be used; {mend}")
    if missing := [name for name in _SETTINGS if name not in content]:
        raise InputError(f"{path}: lacks {', '.join(missing)}; {mend}")
    settings = {name: content[name] for name in _SETTINGS}
    if settings["alpha"] == "inf":
        settings["alpha"] = math.inf
    for name, value in settings.items():
        if isinstance(value, bool) or not isinstance(value, _TYPES.get(name, (int, float))):
            raise InputError(f"{path}: {name} {value!r} is of the wrong kind; {mend}")
    fitted = content.get("fitted")
    try:
        return Deployed(
            settings=Amplification(**settings),
            fitted=fitted if isinstance(fitted, dict) else {},
            snellen=str(content.get("snellen", "unknown")),
        )
    except InputError as error:
        raise InputError(f"{path}: {error}; {mend}") from error
