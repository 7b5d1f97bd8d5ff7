"""A finding: a number with its evidence, as it stands in `findings.json`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

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
    return json.dumps(
        {"schema": SCHEMA, "findings": [asdict(f) for f in findings]}, indent=2, allow_nan=False, ensure_ascii=False
    )


def load(path: Path) -> list[Finding]:
    """Findings of a run; raises ValueError for a schema this version does not know."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if content.get("schema") != SCHEMA:
        raise ValueError(f"{path}: findings schema {content.get('schema')!r}, this version reads {SCHEMA}")
    return [Finding(**entry) for entry in content["findings"]]
