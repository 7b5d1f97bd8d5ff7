"""One picture: as a model learns to choose, what lookahead adds to it goes away."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import altair as alt

from snellen.errors import InputError
from snellen.studies.drawing import MUTED, save
from snellen.studies.organisms import Row

LEARNER = "internalised"
_GAIN = "#1f6f8b"


def points(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One entry a moment and seed: what the model's own choice still lacks, and the gain, nats a decision."""
    found = []
    for row in rows:
        for result in row.seeds:
            if row.organism != LEARNER or result.refused is not None:
                continue
            at = next(p for p in result.points if (p.width, p.horizon) == (row.width, row.horizon))
            found.append(
                {
                    "lacks": result.losses["naive"] - result.losses["author"],
                    "step": int(result.training["step"]),
                    "seed": f"seed {result.seed}",
                    "gain": at.gain.value,
                    "low": at.gain.low,
                    "high": at.gain.high,
                }
            )
    return found


def draw(rows: Sequence[Row], path: Path) -> None:
    """An SVG of `points`. Raises `InputError` where the rows hold no moment of the learner."""
    data = points(rows)
    if not data:
        raise InputError(f"picture {path}: the organism {LEARNER!r} was not examined, or gave no number")
    most = max(p["lacks"] for p in data) * 1.08
    x = alt.X("lacks:Q", scale=alt.Scale(domain=[most, 0]), title="what the model's own choice lacks, nats a decision")
    y = alt.Y("gain:Q", title="what lookahead adds, nats a decision")
    base = alt.Chart(alt.Data(values=data))
    line = base.mark_line(color=_GAIN, opacity=0.35).encode(x=x, y=y, detail="seed:N")
    bars = base.mark_rule(color=_GAIN, opacity=0.6).encode(x=x, y=alt.Y("low:Q"), y2="high:Q")
    shape = alt.Shape("seed:N", title=None)
    dots = base.mark_point(color=_GAIN, filled=True, opacity=1, size=55).encode(x=x, y=y, shape=shape)
    all_of_it = alt.Chart(alt.Data(values=[{"lacks": 0, "gain": 0}, {"lacks": most, "gain": most}]))
    limit = all_of_it.mark_line(color=MUTED, strokeDash=[4, 4]).encode(x=x, y=y)
    chart = (limit + line + bars + dots).properties(width=460, height=280)
    save(chart, path)
