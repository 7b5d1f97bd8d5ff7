"""The figures of `degeneration`: how plausible what was written is to the model, token by token, and what repeats."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import pyarrow as pa
from markupsafe import Markup

from snellen.errors import InputError
from snellen.report import charts, palette, scale
from snellen.report.data import Evidence
from snellen.report.figures import Figure
from snellen.report.text import number, visible
from snellen.results.store import Run

HUMAN = "human"
NEEDED = {
    "degeneration_metrics": {"decoding", "metric", "value", "difference", "difference_low", "difference_high"},
    "degeneration_traces": {"decoding", "first", "last", "log_prob", "log_prob_low", "log_prob_high"},
    "degeneration_texts": {"decoding", "prompt", "log_prob", "text"},
}
# Metric, title, unit of the axis, and what it reaches at least.
DIFFERENCES = (
    ("seq-rep-4", "Repeated sequences of four tokens", "share, minus that of the human text", scale.SHARE),
    ("ends in a loop", "Texts that end in a loop", "share, minus that of the human text", scale.SHARE),
    ("distinct-2", "Different pairs of tokens", "share, minus that of the human text", scale.SHARE),
    ("drift of log-probability", "Drift of plausibility", "nats per token per 100 tokens, minus human", scale.LOSS),
)
_HEIGHT, _LABEL = 230, 12  # of the traces; the least distance between two of their names


def figures(evidence: Evidence) -> list[Figure]:
    """None where the run did not measure it. Raises InputError for tables of another version."""
    run = Run.read(evidence.folder)
    found = {name: run.table(name) for name in NEEDED}
    tables = {name: table for name, table in found.items() if table is not None}
    if len(tables) < len(NEEDED):
        return []
    for name, needed in NEEDED.items():
        if missing := sorted(needed - set(tables[name].column_names)):
            raise InputError(f"{name}: no column {', '.join(missing)}; the run was made by another version of snellen")
    headline = next((f.settings.get("decoding") for f in evidence.findings if f.measure == "degeneration"), None)
    rows = tables["degeneration_metrics"].to_pylist()
    drawn = [_example(tables["degeneration_texts"]), _traces(tables["degeneration_traces"].to_pylist(), headline)]
    drawn += [_differences(rows, *about) for about in DIFFERENCES]
    return [figure for figure in drawn if figure is not None]


def _shown(names: Sequence[str], headline: Any) -> dict[str, str]:
    """The decodings whose traces are drawn, with their colours: few enough to be told apart."""
    beam = next((name for name in names if name.startswith("beam")), None)
    nucleus = [name for name in names if name.startswith("nucleus")]
    power = next((name for name in names if name.startswith("power")), None)
    wanted = {
        HUMAN: palette.INK, "greedy": palette.PLACEBO, beam: palette.LOSS, "pure": palette.MUTED,
        nucleus[-1] if nucleus else None: palette.MUTED, headline: palette.GAIN, power: palette.GAIN,
    }  # fmt: skip
    return {name: colour for name, colour in wanted.items() if name in names}


def _example(texts: pa.Table) -> Figure | None:
    """Human against beam text behind one prompt: the one whose human text is the median in plausibility."""
    rows = texts.select(["decoding", "prompt", "log_prob", "text"]).to_pylist()
    human = [row for row in rows if row["decoding"] == HUMAN]
    beam = {row["prompt"]: row for row in rows if row["decoding"].startswith("beam")}
    if not human or not beam:
        return None
    human.sort(key=lambda row: float(np.mean(row["log_prob"])))
    one = human[len(human) // 2]
    other = beam[one["prompt"]]
    colours = {HUMAN: palette.INK, other["decoding"]: palette.LOSS}
    points = [
        {"place": place, "value": float(np.exp(value)), "who": who, "colour": colours[who]}
        for who, row in ((HUMAN, one), (other["decoding"], other))
        for place, value in enumerate(row["log_prob"], start=1)
    ]
    base = alt.Chart(alt.Data(values=points))
    lines = base.mark_line(strokeWidth=1.4).encode(
        x=_places("place:Q", len(one["log_prob"])),
        y=alt.Y(
            "value:Q", title="probability of the token", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(tickCount=4)
        ),
        stroke=alt.Stroke("colour:N", scale=None),
        detail="who:N",
    )
    means = {who: float(np.mean([p["value"] for p in points if p["who"] == who])) for who in colours}
    said = "; ".join(f"{who}: mean probability {mean:.2f}" for who, mean in means.items())
    at = [{"who": who, "place": len(one["log_prob"]), "value": mean} for who, mean in means.items()]
    chart = alt.layer(lines, _names(_ends(at, colours, height=1.0))).properties(width=300, height=_HEIGHT)
    return Figure(
        title="One prompt, token by token",
        drawing=charts.svg(chart, f"Probability of each token. {said}"),
        caption="What the human wrote and what beam search wrote behind the same prompt, that of median plausibility. "
        f"Beam search went on: \u201c{_cut(other['text'])}\u201d",
    )


def _traces(rows: Sequence[Mapping[str, Any]], headline: Any) -> Figure | None:
    names = list(dict.fromkeys(str(row["decoding"]) for row in rows))
    colours = _shown(names, headline)
    points = [
        {"place": (row["first"] + row["last"]) / 2, "who": row["decoding"], "colour": colours[row["decoding"]],
         "dash": _dashed(row["decoding"]), "value": row["log_prob"], "low": row["log_prob_low"],
         "high": row["log_prob_high"]}
        for row in rows
        if row["decoding"] in colours and row["log_prob"] is not None
    ]  # fmt: skip
    if not points:
        return None
    length = max(row["last"] for row in rows)
    base = alt.Chart(alt.Data(values=points))
    x, colour = _places("place:Q", length), alt.Stroke("colour:N", scale=None)
    spread = scale.ends(points)
    domain = scale.spanning(spread, scale.LOSS)
    y = alt.Y("value:Q", title="mean log-probability, nats", axis=alt.Axis(tickCount=5),
              scale=alt.Scale(domain=list(domain), nice=False, zero=False))  # fmt: skip
    band = (
        base.transform_filter("isValid(datum.low) && isValid(datum.high)")
        .mark_area(opacity=0.16)
        .encode(x=x, y=alt.Y("low:Q"), y2="high:Q", fill=alt.Fill("colour:N", scale=None), detail="who:N")
    )
    dash = alt.StrokeDash("dash:N", scale=alt.Scale(domain=[False, True], range=[[1, 0], [4, 3]]), legend=None)
    lines = base.mark_line(strokeWidth=1.6).encode(x=x, y=y, stroke=colour, strokeDash=dash, detail="who:N")
    bands = "; bands are intervals" if any(point["low"] is not None for point in points) else ""
    ends = _ends(points, colours, height=domain[1] - domain[0])
    said = "; ".join(f"{end['who']}: {number(end['last'], 2)} at the end" for end in ends)
    drawing = charts.svg(
        alt.layer(band, lines, _names(ends)).properties(width=275, height=_HEIGHT),
        f"Mean log-probability by position in the continuation. {said}",
    )
    return Figure(
        title="Plausibility along the text",
        drawing=drawing,
        caption=f"Mean over prompts of the model's own log-probability of each token{bands}. A line above that of the "
        "human text is text that is more predictable than people's, one that rises is a drift. The axis spans at least "
        f"{scale.LOSS:g} nats.",
    )


def _ends(points: Sequence[Mapping[str, Any]], colours: Mapping[str, str], *, height: float) -> list[dict[str, Any]]:
    """Where the name of each line stands: at its end, moved apart where names would overlap on an axis of `height`."""
    last = {point["who"]: point for point in points}
    ends = sorted(
        ({"who": who, "place": point["place"], "value": point["value"], "last": point["value"], "colour": colours[who]}
         for who, point in last.items()),
        key=lambda end: end["value"],
    )  # fmt: skip
    for before, end in itertools.pairwise(ends):
        end["value"] = max(end["value"], before["value"] + height * _LABEL / _HEIGHT)
    return ends


def _names(ends: Sequence[Mapping[str, Any]]) -> Any:
    return (
        alt.Chart(alt.Data(values=[dict(end) for end in ends]))
        .mark_text(align="left", dx=4, fontSize=11)
        .encode(x=alt.X("place:Q"), y="value:Q", text="who:N", fill=alt.Fill("colour:N", scale=None))
    )


def _dashed(name: str) -> bool:
    """Those that share the colour of another."""
    return name.startswith(("nucleus", "power"))


def _differences(rows: Sequence[Mapping[str, Any]], metric: str, title: str, unit: str, floor: float) -> Figure | None:
    points = [
        {"name": row["decoding"], "value": row["difference"], "low": row["difference_low"],
         "high": row["difference_high"], "colour": _colour(row["decoding"]),
         "fill": palette.PAPER if row["difference_low"] is None else _colour(row["decoding"])}
        for row in rows
        if row["metric"] == metric and row["decoding"] != HUMAN and row["difference"] is not None
    ]  # fmt: skip
    human = next((row for row in rows if row["metric"] == metric and row["decoding"] == HUMAN), None)
    if not points or human is None:
        return None
    said = "; ".join(f"{point['name']}: {number(point['value'], sign=True)}" for point in points)
    hollow = " Hollow: the same for every prompt, no interval." if any(p["low"] is None for p in points) else ""
    drawing: Markup = charts.lying(
        points, [point["name"] for point in points], f"{title}, difference from the human text. {said}", title=unit,
        domain=scale.around_zero(scale.ends(points), floor),
    )  # fmt: skip
    return Figure(
        title=title, drawing=drawing,
        caption=f"Zero is the human text, at {number(human['value'], 3)}.{hollow}" + scale.reaches(floor, ""),
    )  # fmt: skip


def _colour(name: str) -> str:
    """Lookahead, sharpening without lookahead, and the ordinary decodings."""
    if name.startswith(("amplified", "power")):
        return palette.GAIN
    return palette.PLACEBO if name.startswith("horizon 1") else palette.SHARPEN


def _places(field: str, length: int) -> Any:
    ends = alt.Scale(domain=[0, length], nice=False)
    return alt.X(field, title="token of the continuation", scale=ends, axis=alt.Axis(grid=False, tickCount=6))


def _cut(text: str) -> str:
    words = " ".join(visible(text).split())
    return words if len(words) <= 160 else words[:159] + "\u2026"
