"""docs/organisms.md, from `results/organisms.json`, which is what `snellen organisms --out` writes.

Without that record the page's table is a copy of what a run printed, and its sentences are held against it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from pages.page import RESULTS, Page, by, numbers, rows, short

_STAGES = ("choice 95% to learn", "choice 60% to learn", "choice 20% to learn", "internalised")
_RECORD = RESULTS / "organisms.json"
Row = Mapping[str, Any]


def _outcome() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(_RECORD.read_text(encoding="utf-8"))
    return content


def _rows() -> dict[str, Row]:
    return {row["name"]: row for row in _outcome()["rows"]}


def _point(of: Row, width: int, horizon: int) -> Row:
    found = [point for point in of["points"] if (point["width"], point["horizon"]) == (width, horizon)]
    assert len(found) == 1
    one: Row = found[0]
    return one


def _each(row: Row) -> list[float]:
    """The gain of each seed at the width and horizon that are judged."""
    return [_point(seed, row["width"], row["horizon"])["gain"]["value"] for seed in row["seeds"]]


def _ends(one: Row) -> str:
    return f"[{short(one['low'], 3)}, {short(one['high'], 3)}]"


def _students(values: Sequence[float]) -> str:
    reach = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return f"[{short(float(np.mean(values) - reach), 3)}, {short(float(np.mean(values) + reach), 3)}]"


def _furthest(values: Sequence[float]) -> float:
    return max(values, key=abs)


def table() -> str:
    head = ["examined", "gain of these seeds", "each seed", "over seeds", "room"]
    head += ["shorter horizons, at most", "narrower", "placebo, at most"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, row in _rows().items():
        if row["expects"] == "shown":
            continue
        judged = [point for point in row["points"] if point["width"] == row["width"]]
        gain = _point(row, row["width"], row["horizon"])["gain"]
        value = short(gain["value"], 3, signed=True)
        cells = [name, f"{f'**{value}**' if row['expects'] == 'gain' else value} {_ends(gain)}"]
        cells += [" ".join(short(one, 3) for one in _each(row)), _students(_each(row))]
        cells.append("" if row["room"] is None else short(row["room"], 2))
        shorter = [point["gain"]["value"] for point in judged if point["horizon"] < row["horizon"]]
        cells.append(short(_furthest(shorter), 3, signed=True))
        narrow = [p for p in row["points"] if p["width"] < row["width"] and p["horizon"] == row["horizon"]]
        cells.append(", ".join(f"W = {p['width']}: {short(p['gain']['value'], 2, signed=True)}" for p in narrow))
        cells.append(short(_furthest([point["placebo"]["value"] for point in judged]), 3, signed=True))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _span(values: Sequence[float], digits: int = 2) -> str:
    low, high = short(min(values), digits), short(max(values), digits)
    return low if low == high else f"{low} to {high}"


def said() -> Iterator[str]:
    outcome, rows = _outcome(), _rows()
    assert outcome["passed"]
    assert outcome["complete"]
    assert outcome["seeds"] == 3
    yield f"three seeds, {outcome['when'][:10]}"
    lacks, adds = [], []
    for stage in _STAGES:
        losses = [seed["losses"] for seed in rows[stage]["seeds"]]
        lacks.append(_span([one["naive"] - one["author"] for one in losses]))
        adds.append(_span(_each(rows[stage])))
    yield (
        f"While the choice still lacks {lacks[0]} nats of the best, lookahead adds {adds[0]}; at {lacks[1]} it adds "
        f"{adds[1]}; at {lacks[2]}, {adds[2]}; when the choice is learned ({lacks[3]}), {adds[3]}"
    )
    own = _point(rows["internalised"], rows["internalised"]["width"], rows["internalised"]["horizon"])["gain"]
    yield f"{short(own['value'], 3, signed=True)} {_ends(own)} holds the bound of .03 and excludes 0"
    assert own["low"] > 0
    deep = rows["deep planner"]
    near = _point(deep, deep["width"], deep["horizon"] - 1)["gain"]
    yield f"With states < .01 it is {short(near['value'], 3, signed=True)} {_ends(near)}"


def copied() -> Iterator[str]:
    """What sentences say of the table, where the table is a copy."""
    found = by(rows(PAGE.text(), "Nats a decision, 95 %"), "examined")
    value, low, high = numbers(found["internalised"]["gain of these seeds"])
    yield f"{short(value, 3, signed=True)} [{short(low, 3)}, {short(high, 3)}] holds the bound of .03 and excludes 0"
    for row in found.values():
        gain, *_ = numbers(row["gain of these seeds"])
        each = numbers(row["each seed"])
        assert abs(float(np.mean(each)) - gain) < 0.0011, row  # both are rounded


PAGE = Page(
    path="docs/organisms.md",
    blocks={"found": table} if _RECORD.exists() else {},
    said=said if _RECORD.exists() else copied,
)
