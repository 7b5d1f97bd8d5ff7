"""The figures of `in-context`: loss by position, what further context gives, few-shot lines, probes by layer."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import altair as alt

from snellen.errors import InputError
from snellen.report import charts, palette, scale
from snellen.report.data import Evidence
from snellen.report.figures import Figure
from snellen.report.text import listing, number
from snellen.results.store import Run

Row = Mapping[str, Any]

NEEDED = {
    "in_context_positions": {"first", "last", "loss", "loss_low", "loss_high"},
    "in_context_contexts": {"source", "context", "gain", "gain_low", "gain_high"},
    "in_context_answers": {"examples", "prompts", "log_prob", "log_prob_low", "log_prob_high", "chance"},
    "in_context_errors": {"examples", "who", "error", "error_low", "error_high"},
    "in_context_weights": {"examples", "prompts", "rule", "value", "low", "high"},
    "in_context_probes": {"target", "prompts", "layer", "value", "low", "high"},
}
_ANSWERS = "whether answers to \u201cx = 3, y =\u201d follow the line through the examples before it"
# Who is drawn in which colour; a dash tells apart those that share one.
LINES = {
    "model": (palette.GAIN, False), "least squares": (palette.INK, True), "nearest": (palette.PLACEBO, False),
    "last": (palette.LOSS, False), "mean": (palette.MUTED, False), "trend": (palette.MUTED, True),
}  # fmt: skip


def figures(evidence: Evidence) -> list[Figure]:
    """Of what the run measured. Raises InputError for tables of another version."""
    run, tables = Run.read(evidence.folder), dict[str, list[Row]]()
    for name, needed in NEEDED.items():
        table = run.table(name)
        if table is None:
            continue
        if missing := sorted(needed - set(table.column_names)):
            raise InputError(f"{name}: no column {', '.join(missing)}; the run was made by another version of snellen")
        tables[name] = table.to_pylist()
    drawers: Mapping[str, Callable[[Sequence[Row]], Figure | None]] = {
        "in_context_positions": _positions, "in_context_contexts": _contexts, "in_context_answers": _answers,
        "in_context_errors": _errors, "in_context_weights": _weights, "in_context_probes": _probes,
    }  # fmt: skip
    drawn = [drawers[name](rows) for name, rows in tables.items() if rows]
    return [figure for figure in drawn if figure is not None]


def _positions(rows: Sequence[Row]) -> Figure:
    points = [_point(row, "loss", (row["first"] * (row["last"] - 1)) ** 0.5, "loss", palette.GAIN) for row in rows]
    said = f"{number(rows[0]['loss'], 2)} at the beginning, {number(rows[-1]['loss'], 2)} at the end"
    x = alt.X("at:Q", title="position in the stretch", scale=alt.Scale(type="log", nice=False),
              axis=alt.Axis(grid=False, tickCount=6, format="~s"))  # fmt: skip
    domain = scale.spanning(scale.ends(points), scale.LOSS)
    drawing = _drawn(points, x, "nats per token", f"Mean loss by position: {said}", domain)
    return Figure(
        title="Loss by position",
        drawing=drawing,
        caption="Mean over stretches that begin anywhere in a text; each point is a range of positions, the later the "
        f"wider. Different tokens stand at different positions. The axis spans at least {scale.LOSS:g} nats.",
        about="how the loss runs along a stretch of text",
    )


def _contexts(rows: Sequence[Row]) -> Figure:
    colours = {"own": palette.GAIN, "foreign": palette.PLACEBO}
    points = [_point(row, "gain", row["context"], row["source"], colours[row["source"]]) for row in rows]
    said = "; ".join(f"{p['who']} text, {p['at']} tokens: {number(p['value'], sign=True)}" for p in points)
    x = alt.X("at:Q", title="tokens of context, at least", scale=alt.Scale(type="log", nice=False, padding=12),
              axis=alt.Axis(grid=False, values=sorted({row["context"] for row in rows})))  # fmt: skip
    legend = [("dot gain", "the text's own")]
    legend += [("dot placebo", "another document further away")] if len({p["who"] for p in points}) > 1 else []
    domain = scale.around_zero(scale.ends(points), scale.MEAN)
    return Figure(
        title="What further context gives",
        drawing=_drawn(points, x, "gain, nats per token", f"Gain by context. {said}", domain, zero=True),
        caption="The same tokens at the end of each stretch, with less and more before them, against the near context "
        "(at zero)." + scale.reaches(scale.MEAN),
        about="what further context gives to the same tokens",
        legend=legend,
    )


def _answers(rows: Sequence[Row]) -> Figure:
    colours = {"in order": palette.GAIN, "shuffled": palette.PLACEBO}
    points = [_point(row, "log_prob", row["examples"], row["prompts"], colours[row["prompts"]]) for row in rows]
    said = "; ".join(f"{p['at']} examples {p['who']}: {number(p['value'], 2)}" for p in points)
    chance = {"value": rows[0]["chance"]}
    domain = scale.spanning([*scale.ends(points), *scale.ends([chance])], scale.LOSS)
    title = "log-probability, nats"
    drawing = _drawn(points, _examples(rows), title, f"Of the right answer. {said}", domain, level=chance)
    shuffled = any(point["who"] == "shuffled" for point in points)
    return Figure(
        title="The right answer",
        drawing=drawing,
        caption="Log-probability of the right y among all numbers from 10 to 99; the line is chance."
        + (" Shuffled: the examples' y's in another order." if shuffled else "")
        + f" The axis spans at least {scale.LOSS:g} nats.",
        legend=[("dot gain", "examples in order"), *([("dot placebo", "shuffled")] if shuffled else [])],
        about=_ANSWERS,
    )


def _errors(rows: Sequence[Row]) -> Figure:
    points = [_point(row, "error", row["examples"], row["who"], *LINES[row["who"]]) for row in rows]
    most = max(row["examples"] for row in rows)
    said = "; ".join(f"{p['who']}: {number(p['value'], 2)}" for p in points if p["at"] == most)
    domain = scale.holding(scale.ends(points), 0, 1)
    title = "mean |answer − y|"
    drawing = _drawn(points, _examples(rows), title, f"With {most} examples: {said}", domain, names=True)
    beside = [who for who in dict.fromkeys(point["who"] for point in points) if who != "model"]
    return Figure(
        title="Distance from the right answer",
        drawing=drawing,
        caption="How far off is what the model expects"
        + (f", beside what {listing(beside)} would say to the same lines." if beside else "."),
        about=_ANSWERS,
    )


def _weights(rows: Sequence[Row]) -> Figure | None:
    wanted = [
        row for row in rows if row["value"] is not None and (row["examples"] is None or row["prompts"] != "in order")
    ]
    points = [
        {**_ends(row, "value"), "name": row["rule"] if row["prompts"] == "in order" else f"shuffled: {row['rule']}",
         "colour": palette.GAIN if row["rule"] == "least squares" and row["prompts"] == "in order"
         else palette.PLACEBO if row["prompts"] == "shuffled" else palette.SHARPEN}
        for row in wanted if row["prompts"] == "in order" or row["rule"].startswith("least squares, ")
    ]  # fmt: skip
    if not points:  # the rules could not be told apart
        return None
    points = [{**point, "fill": palette.PAPER if point["low"] is None else point["colour"]} for point in points]
    said = "; ".join(f"{point['name']}: {number(point['value'], sign=True)}" for point in points)
    return Figure(
        title="Which rule the answers follow",
        drawing=charts.lying(points, [point["name"] for point in points], f"Weights. {said}", title="weight",
                             domain=scale.holding(scale.ends(points), 0, 1)),
        caption="Weight of each rule in how answers change when the examples come from another line, over all lines "
        "with at least four; 1 on least squares alone solves it."
        + (" Shuffled: the line that the examples no longer show." if any(
            point["name"].startswith("shuffled") for point in points) else "")
        + (" Hollow: no interval." if any(point["low"] is None for point in points) else ""),
        about=_ANSWERS,
    )  # fmt: skip


def _probes(rows: Sequence[Row]) -> Figure | None:
    colours = {"slope": palette.GAIN}
    points = [
        _point(row, "value", row["layer"], f"{row['target']}, {row['prompts']}",
               colours.get(row["target"], palette.SHARPEN),
               row["prompts"] == "shuffled")
        for row in rows
    ]  # fmt: skip
    best = {who: max(p["value"] for p in points if p["who"] == who and p["value"] is not None)
            for who in dict.fromkeys(p["who"] for p in points if p["value"] is not None)}  # fmt: skip
    x = alt.X("at:Q", title="layer (0: embedding)", axis=alt.Axis(grid=False, tickMinStep=1, format="d"))
    said = "; ".join(f"{who}: at most {number(value, 2)}" for who, value in best.items())
    if not best:  # no probe could be fitted
        return None
    domain = scale.holding(scale.ends(points), 0, 1)
    legend = [("dot gain", "slope of the line")] if any(p["colour"] == palette.GAIN for p in points) else []
    legend += [("dot sharpen", "least squares beyond the other rules")] if any(
        p["colour"] == palette.SHARPEN for p in points) else []  # fmt: skip
    return Figure(
        title="Probes by layer",
        drawing=_drawn(points, x, "share of variance explained", f"Linear probes by layer. {said}", domain, zero=True),
        caption="Share of what the examples imply that a linear probe reads from the position which answers, in "
        "prompts that it was not fitted on."
        + (" Dashed: shuffled examples." if any(p["dash"] for p in points) else ""),
        legend=legend,
        about="what its layers hold of that line",
    )


def _examples(rows: Sequence[Row]) -> Any:
    values = sorted({row["examples"] for row in rows})
    return alt.X(
        "at:Q", title="examples before it", scale=alt.Scale(padding=10), axis=alt.Axis(grid=False, values=values)
    )


def _ends(row: Row, name: str) -> dict[str, Any]:
    low, high = ("low", "high") if name == "value" else (f"{name}_low", f"{name}_high")
    return {"value": row[name], "low": row[low], "high": row[high]}


def _point(row: Row, name: str, at: float, who: str, colour: str, dash: bool = False) -> dict[str, Any]:
    return {**_ends(row, name), "at": at, "who": who, "colour": colour, "dash": dash}


def _drawn(
    points: Sequence[Row], x: Any, title: str, label: str, domain: tuple[float, float], *, zero: bool = False,
    names: bool = False, level: Row | None = None,
) -> Any:  # fmt: skip
    """Lines with bands for their intervals; those of one `who` belong together."""
    usable = [dict(point) for point in points if point["value"] is not None]
    base = alt.Chart(alt.Data(values=usable))
    y = alt.Y(
        "value:Q", title=title, scale=alt.Scale(domain=list(domain), nice=False, zero=False), axis=alt.Axis(tickCount=5)
    )
    colour = alt.Stroke("colour:N", scale=None)
    dash = alt.StrokeDash("dash:N", scale=alt.Scale(domain=[False, True], range=[[1, 0], [4, 3]]), legend=None)
    whiskers = (
        base.transform_filter("isValid(datum.low) && isValid(datum.high)")
        .mark_rule(strokeWidth=1.4, opacity=0.6)
        .encode(x=x, y="low:Q", y2="high:Q", stroke=colour)
    )
    lines = base.mark_line(strokeWidth=1.5).encode(x=x, y=y, stroke=colour, strokeDash=dash, detail="who:N")
    dots = base.mark_point(size=26, opacity=1, filled=True).encode(x=x, y=y, fill=alt.Fill("colour:N", scale=None))
    layers = [whiskers, lines, dots]
    marks = [{"value": 0}] if zero else []
    if rule := [*marks, *([dict(level)] if level is not None else [])]:
        flat = alt.Chart(alt.Data(values=rule)).mark_rule(stroke=palette.MUTED, strokeWidth=1)
        layers.insert(0, flat.encode(y="value:Q"))
    if names:
        layers.append(_named(usable, domain[1] - domain[0]))
    return charts.svg(alt.layer(*layers).properties(width=300, height=210), label)


def _named(points: Sequence[Row], height: float) -> Any:
    """The name of each line at its end, moved apart where they would overlap on an axis of `height`."""
    last = {point["who"]: dict(point) for point in points}
    ends = sorted(last.values(), key=lambda end: end["value"])
    room = 0.065 * height
    for before, end in itertools.pairwise(ends):
        end["value"] = max(end["value"], before["value"] + room)
    text = alt.Chart(alt.Data(values=ends)).mark_text(align="left", dx=6, fontSize=11)
    return text.encode(x=alt.X("at:Q"), y="value:Q", text="who:N", fill=alt.Fill("colour:N", scale=None))
