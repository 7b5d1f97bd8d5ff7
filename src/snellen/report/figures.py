"""Which charts a run gets, from the rows that it has, and the words that go with each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from snellen.report import charts, palette, scale
from snellen.report.data import Evidence, Row
from snellen.report.text import number, plural, short

ARMS = ("naive", "temperature", "horizon 1", "same candidates", "lookahead", "placebo")
_ARM_COLOUR = {"lookahead": palette.GAIN, "placebo": palette.PLACEBO}
INFINITE = "\u221e"
ALPHA = "exponent \u03b1"


@dataclass(frozen=True, kw_only=True)
class Figure:
    title: str
    drawing: Markup
    caption: str = ""
    legend: Sequence[tuple[str, str]] = ()  # CSS class of the swatch, its words
    about: str = ""  # what the figure adds to its section, as a part of the section's first sentence


def widest(rows: Iterable[Row]) -> tuple[int, int] | None:
    """The full width of the beams and the horizon, which the headline is about."""
    rows = [row for row in rows if math.isfinite(row["width"])]
    if not rows:
        return None
    width = max(row["width"] for row in rows)
    return width, max(row["horizon"] for row in rows if row["width"] == width)


def arms_at(evidence: Evidence, width: int, horizon: int) -> list[Row]:
    """The arms of one width and horizon, in the order in which they build on one another."""
    known = [row for row in evidence.arms if (row["width"], row["horizon"]) == (width, horizon)]
    return sorted(known, key=lambda row: ARMS.index(row["arm"]) if row["arm"] in ARMS else len(ARMS))


def place(width: float, horizon: int) -> str:
    """A width and horizon in words."""
    return f"{beams(width) if math.isfinite(width) else 'particles (infinite width)'}, horizon {horizon}"


def beams(width: float) -> str:
    return plural(int(width), "beam")


def others(evidence: Evidence) -> str:
    """What a fit is judged on: other documents, or where there are too few of them other blocks of the text."""
    units = evidence.gain.details.get("units") if evidence.gain else None
    return "blocks of the text" if isinstance(units, Mapping) and units.get("kind") == "blocks" else "documents"


def headline(evidence: Evidence) -> Figure | None:
    full = widest(evidence.gains)
    if full is None:
        return None
    rows = [row for row in evidence.gains if row["width"] == full[0] and row["alpha"] is None]
    points: list[charts.Point] = []
    for row in sorted(rows, key=lambda row: row["horizon"]):
        own = palette.SHARPEN if row["horizon"] == 1 else palette.GAIN
        placebo = {"value": row.get("placebo"), "low": row.get("placebo_low"), "high": row.get("placebo_high")}
        for series, entry, colour, fill in (
            ("lookahead", row, own, own), ("placebo", placebo, palette.PLACEBO, palette.PAPER),
        ):  # fmt: skip
            if series == "placebo" and entry["value"] is None and row["horizon"] == 1:
                continue  # there is no lookahead to scramble
            points.append({**_numbers(entry), "horizon": str(row["horizon"]), "series": series,
                           "colour": colour, "fill": fill})  # fmt: skip
    drawn = _drawable(points)
    if not drawn:
        return None
    said = "; ".join(f"horizon {p['horizon']}, {p['series']}: {_said(p)}" for p in drawn)
    legend = [("dot sharpen", "horizon 1: sharpening, no lookahead in it")] if any(
        point["colour"] == palette.SHARPEN for point in drawn) else []  # fmt: skip
    legend += [("dot gain", "lookahead")] if any(point["colour"] == palette.GAIN for point in drawn) else []
    legend += [("ring placebo", "placebo")] if any(p["series"] == "placebo" for p in drawn) else []
    return Figure(
        title="Gain by horizon",
        drawing=charts.by_horizon(drawn, f"Gain by horizon in nats per token. {said}", _ends(drawn)),
        caption=f"{beams(full[0])}, \u03b1 and weight fitted on other {others(evidence)}."
        + scale.reaches(scale.MEAN)
        + _lost(points, drawn),
        legend=legend,
    )


def arms(evidence: Evidence) -> Figure | None:
    full = widest(evidence.arms)
    if full is None:
        return None
    points = []
    for row in arms_at(evidence, *full):
        colour = _ARM_COLOUR.get(row["arm"], palette.SHARPEN)
        hollow = row["arm"] in ("naive", "placebo")
        points.append({**_numbers(row, "gain_over_naive"), "name": row["arm"], "colour": colour,
                       "fill": palette.PAPER if hollow else colour})  # fmt: skip
    drawn = _drawable(points)
    if not drawn:
        return None
    said = "; ".join(f"{point['name']}: {_said(point)}" for point in drawn)
    gain = (" The lookahead gain is the distance from \u2018lookahead\u2019 to the best of the controls above it."
            if any(point["name"] == "lookahead" for point in drawn) else "")  # fmt: skip
    return Figure(
        title="All arms, against naive",
        drawing=charts.lying(drawn, [point["name"] for point in drawn], f"Gain over naive by arm. {said}",
                             title="nats per token over naive", domain=_ends(drawn)),
        caption=f"{place(*full)}.{gain}" + scale.reaches(scale.MEAN) + _lost(points, drawn),
    )  # fmt: skip


def landscape(evidence: Evidence) -> list[Figure]:
    """Gain against width, horizon and alpha: maps where both sides vary, curves where one does."""
    full = widest(evidence.gains)
    if full is None:
        return []
    fitted = [row for row in evidence.gains if row["alpha"] is None]
    fixed = [row for row in evidence.gains if row["alpha"] is not None and row["width"] == full[0]]
    steps = scale.edges([row["value"] for row in evidence.gains if row["value"] is not None and scale.sure(row)],
                        scale.MEAN)  # fmt: skip
    chance = 1 - (evidence.gain.level if evidence.gain else 0.95)
    maps, lines = [], []
    for rows, axis, title, words, about in (
        (fitted, "width", "beams W", "\u03b1 and weight fitted." + _infinite(fitted), "the number of beams kept"),
        (fixed, "alpha", ALPHA, f"{beams(full[0])}, weight fitted.", "how strongly probable continuations count"),
    ):
        if len({row[axis] for row in rows}) < 2:
            continue
        maps.append(_map(rows, axis, title, words, steps, chance, about))
        lines.append(_curves(rows, axis, title, words))
    return [*maps, *(line for line in lines if line)]


def nowhere(rows: Sequence[Row]) -> bool:
    """Whether every group gains exactly nothing, since the fit took no lookahead in."""
    known = [row for row in rows if row["value"] is not None]
    return bool(known) and all(row["value"] == (row["low"] or 0) == (row["high"] or 0) == 0 for row in known)


def splits(evidence: Evidence) -> list[Figure]:
    """Small multiples on one scale: where in the text the gain lies."""
    names = list(dict.fromkeys(row["split"] for row in evidence.splits))
    if not scale.ends(evidence.splits) or nowhere(evidence.splits):
        return []
    domain = _ends(evidence.splits)
    longest = max(len(charts.sized(str(row["group"]), row.get("n"))) for row in evidence.splits)
    found = []
    for name in names:
        rows = sorted((row for row in evidence.splits if row["split"] == name),
                      key=lambda row: row.get("order") or 0)  # fmt: skip
        points = [{**_numbers(row), "name": charts.sized(str(row["group"]), row.get("n")), "colour": palette.GAIN,
                   "fill": palette.PAPER if row["low"] is None else palette.GAIN} for row in rows]  # fmt: skip
        drawn = _drawable(points)
        if not drawn:
            continue
        said = "; ".join(f"{point['name']}: {_said(point)}" for point in drawn)
        drawing = charts.lying(drawn, [p["name"] for p in drawn], f"Gain by {name}. {said}", domain=domain,
                               longest=longest)  # fmt: skip
        caption = "Hollow: no interval. " if any(point["low"] is None for point in drawn) else ""
        found.append(Figure(title=f"By {name}", drawing=drawing, caption=(caption + _lost(points, drawn)).strip()))
    return found


def _map(rows: Sequence[Row], axis: str, title: str, words: str, steps: list[float], chance: float,
         about: str) -> Figure:  # fmt: skip
    label = _axis(rows, axis)
    points = [
        {"row": label(row[axis]), "column": str(row["horizon"]),
         "colour": palette.step(row["value"] if scale.sure(row) or row["value"] is None else 0.0, steps),
         "text": number(row["value"], sign=True), "sure": scale.sure(row)}
        for row in rows
    ]  # fmt: skip
    columns = [str(h) for h in sorted({row["horizon"] for row in rows})]
    said = "; ".join(f"{title} {p['row']}, horizon {p['column']}: {p['text']}" for p in points)
    names = [label(value) for value in sorted({row[axis] for row in rows}, reverse=True)]
    drawing = charts.heat(points, names, columns, (title, "horizon D"), f"Gain in nats per token. {said}")
    rule = (
        f" Coloured and bold: the interval leaves out zero, as it does in {100 * chance:.3g} % of cells where there is "
        f"nothing; full colour from \u00b1{steps[-1]:g} nats."
    )
    return Figure(title=f"Gain by {title} and horizon", drawing=drawing, caption=words + rule, about=about)


def _curves(rows: Sequence[Row], axis: str, title: str, words: str) -> Figure | None:
    label = _axis(rows, axis)
    horizons = sorted({row["horizon"] for row in rows if row["horizon"] > 1})
    if len(horizons) > len(palette.LINES):
        places = np.linspace(0, len(horizons) - 1, len(palette.LINES)).round().astype(int)
        horizons = [horizons[place] for place in places]
    # The darkest and last colour belongs to the full horizon, however many there are.
    place = {h: len(palette.LINES) - len(horizons) + k for k, h in enumerate(horizons)}
    points = []
    for row in sorted(rows, key=lambda row: (row["horizon"], row[axis])):
        if row["horizon"] in place:
            colour = palette.LINES[place[row["horizon"]]]
            points.append({**_numbers(row), "at": label(row[axis]), "horizon": row["horizon"],
                           "colour": colour, "fill": colour})  # fmt: skip
    drawn = _drawable(points)
    if not drawn:
        return None
    names = [label(value) for value in sorted({row[axis] for row in rows})]
    said = "; ".join(f"horizon {p['horizon']}, {title} {p['at']}: {_said(p)}" for p in drawn)
    drawing = charts.curves(drawn, names, title, f"Gain against {title}. {said}", _ends(drawn))
    legend = [(f"dot line-{place[h] + 1}", f"D = {h}") for h in horizons]
    caption = words + scale.reaches(scale.MEAN) + _lost(points, drawn)
    return Figure(title=f"Gain against {title}", drawing=drawing, caption=caption, legend=legend)


def _infinite(rows: Sequence[Row]) -> str:
    sampled = {row["particles"] for row in rows if math.isinf(row["width"])}
    if not sampled:
        return ""
    return (
        f" W = {INFINITE}: estimated from {plural(max(sampled), 'sampled completion')} a position, without bias but "
        "with noise, less of it the more there are."
    )


def _axis(rows: Sequence[Row], axis: str) -> Callable[[Any], str]:
    return short if axis == "alpha" else _width


def _width(value: float) -> str:
    return str(value) if math.isfinite(value) else INFINITE


def _numbers(row: Row, value: str = "value") -> dict[str, Any]:
    return {"value": row[value], "low": row["low"], "high": row["high"], "reason": row.get("reason")}


def _drawable(points: Sequence[charts.Point]) -> list[charts.Point]:
    return [point for point in points if point["value"] is not None and math.isfinite(point["value"])]


def _lost(points: Sequence[charts.Point], drawn: Sequence[charts.Point]) -> str:
    """Names what has no number, and the reason where the table gives one."""
    missing = [point for point in points if point not in drawn]
    said = [_name(point) + (f" ({point['reason']})" if point.get("reason") else "") for point in missing]
    return f" \u2014, no number and so not drawn: {', '.join(said)}." if said else ""


def _name(point: charts.Point) -> str:
    """What a point is called in words."""
    if "name" in point:
        return str(point["name"])
    at = f" at {point['at']}" if "at" in point else f", {point['series']}" if "series" in point else ""
    return f"horizon {point['horizon']}{at}"


def _ends(points: Sequence[Row]) -> tuple[float, float]:
    """The ends of an axis of gains."""
    return scale.around_zero(scale.ends(points), scale.MEAN)


def _said(point: charts.Point) -> str:
    if point["low"] is None or point["high"] is None:
        return number(point["value"], sign=True)
    bounds = (number(point["low"], sign=True), number(point["high"], sign=True))
    return f"{number(point['value'], sign=True)} ({bounds[0]} to {bounds[1]})"
