"""A finding: a number with its evidence, as it stands in `findings.json`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from snellen.results.files import json_text, read_json

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One answer: value, interval, how many units, what was left out and why, the control beside it.

    An undefined number is None, and then `reason` says why; NaN and infinities are refused here, since they
    are not JSON and hide what went wrong. `unit` names tokens where the number counts in them: such numbers of two
    tokenizers are not subtracted (`results.compare`).
    """

    measure: str
    question: str
    value: float | None
    unit: str
    low: float | None
    high: float | None
    level: float
    n: Mapping[str, int]
    excluded: Mapping[str, int]
    control: Mapping[str, Any]
    verdict: str
    reading: str
    settings: Mapping[str, Any]
    reason: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    detectable: Mapping[str, Any] | None = None  # what would have been found, and how surely

    def __post_init__(self) -> None:
        if (self.value is None or self.low is None or self.high is None) and not self.reason:
            raise ValueError(f"finding {self.measure!r}: an undefined value or interval needs a reason")
        _refuse_nonfinite(asdict(self), f"finding {self.measure!r}")


def _refuse_nonfinite(value: Any, where: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where}: {value} is not a result; use None with a reason")
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _refuse_nonfinite(inner, f"{where}.{key}")
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for place, inner in enumerate(value):
            _refuse_nonfinite(inner, f"{where}[{place}]")


def dumps(findings: Sequence[Finding]) -> str:
    """The text of `findings.json`."""
    return json_text({"schema": SCHEMA, "findings": [asdict(f) for f in findings]})


def load(path: Path) -> list[Finding]:
    """Findings of a run; raises ValueError for a schema that this version does not know, or values of wrong kinds."""
    content = read_json(path)
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        found = content.get("schema") if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"findings schema {found!r}, this version reads {SCHEMA}")
    findings = [Finding(**entry) for entry in content["findings"]]
    for finding in findings:
        _check(asdict(finding))
    return findings


_TEXTS = ("measure", "question", "unit", "verdict", "reading")
_MAPPINGS = ("n", "excluded", "control", "settings", "details")


def _check(finding: Mapping[str, Any]) -> None:
    """Raises ValueError where a value is of a kind that no finding has."""
    wrong = [name for name in _TEXTS if not isinstance(finding[name], str)]
    wrong += [name for name in _MAPPINGS if not isinstance(finding[name], dict)]
    wrong += [name for name in ("value", "low", "high") if not _is_number(finding[name], or_none=True)]
    if not _is_number(finding["level"]) or not 0 < finding["level"] < 1:
        wrong.append("level")
    if not (finding["reason"] is None or isinstance(finding["reason"], str)):
        wrong.append("reason")
    wrong += [name for name in ("n", "excluded") if not wrong and not all(map(_is_number, finding[name].values()))]
    if wrong:
        raise ValueError(f"finding {finding['measure']!r}: {wrong[0]} is of the wrong kind")


def _is_number(value: Any, *, or_none: bool = False) -> bool:
    return (or_none and value is None) or (isinstance(value, int | float) and not isinstance(value, bool))
