"""The box on the self-test: what the very code of this run found on models whose answer is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from snellen.report import text
from snellen.report.data import Evidence

_EXPECTED = {"gain": "a gain", "nothing": "none", "shown": "\u2014"}


def box(evidence: Evidence) -> dict[str, Any]:
    """Rows of the organisms, or the reason why there are none; drawn from `chart` in run.json alone."""
    chart = evidence.part("chart")
    rows = [row for row in _list(chart.get("organisms")) if isinstance(row, Mapping)]
    if not chart.get("examined") or not rows:
        return {
            "said": str(chart.get("reason") or "This run does not say."),
            "rows": [],
            "curves": [],
            "objections": [],
        }
    seeds, when = text.plain(chart.get("seeds")), text.plain(chart.get("when"))
    verdict = "All came out as expected" if chart.get("passed") else "Not all came out as expected"
    return {
        "said": f"{verdict}: {seeds} models each, nats a decision, with the code of this run, {when}.",
        "rows": [_row(row) for row in rows],
        "curves": [line for row in rows for line in _curves(row)],
        "objections": [(str(row.get("name")), str(line)) for row in rows for line in _list(row.get("objections"))],
    }


def _row(row: Mapping[str, Any]) -> dict[str, str]:
    value, bounds = _number(row.get("value")), text.interval(_number(row.get("low")), _number(row.get("high")), 2)
    judged = row.get("expects") in ("gain", "nothing")
    return {
        "name": str(row.get("name")),
        "expects": _EXPECTED.get(str(row.get("expects")), str(row.get("expects"))),
        "gain": f"{text.number(value, 2, sign=True)} {bounds}" if value is not None else text.DASH,
        "placebo": text.number(_number(row.get("placebo")), 2),
        "word": ("passed" if row.get("passed") else "failed") if judged else "shown",
    }


def _curves(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What each width and each horizon gained: too few beams see little, too short a horizon nothing."""
    found = []
    for key, name in (("by_width", "width"), ("by_horizon", "horizon")):
        curve = row.get(key)
        if isinstance(curve, Mapping) and len(curve) > 1:
            shown = ", ".join(f"{at}: {text.number(_number(gain), 2, sign=True)}" for at, gain in curve.items())
            found.append((f"{row.get('name')}, gain by {name}", shown))
    return found


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, Sequence) and not isinstance(value, str) else []


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
