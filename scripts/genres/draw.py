"""The four figures of docs/results/genres.md, from genres.csv.

python scripts/genres/draw.py genres.csv PICTURES [heatmap | alpha | line-ends | checkpoints …]
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import altair as alt

GENRES = ("couplets", "prose", "encyclopaedia", "chess", "code")
MODELS = {
    "gemma3-270m": "Gemma 3 270M",
    "smollm2-135m-instruct": "SmolLM2 135M Instruct",
    "pocket": "pocket (4M)",
}
HELD_OUT = "held-out documents of pocket"
FULL_STEPS = 2000  # of the recipe that the bundled weights come from
BLUE, ORANGE, GREY = "#2563a8", "#b3401f", "#8a8a8a"
Row = dict[str, Any]


def read(path: Path) -> list[Row]:
    rows: list[Row] = []
    for line in csv.DictReader(path.open(encoding="utf-8")):
        words = ("run", "model", "text", "unit_kind", "interval", "best_control", "fitted_kind")
        rows.append({k: v if k in words else (float(v) if v else None) for k, v in line.items()})
    return rows


def clear(row: Row) -> int:
    """1 where the interval lies above 0, −1 below, 0 where it holds 0 or there is none."""
    if row["low"] is None:
        return 0
    return int(row["low"] > 0) - int(row["high"] < 0)


def of_genres(rows: list[Row]) -> list[Row]:
    return [row | {"model": MODELS[row["model"]]} for row in rows if row["text"] in GENRES]


def heatmap(rows: list[Row]) -> alt.TopLevelMixin:
    """Gain by width and horizon, one square a genre and model."""
    signs = {1: "*", 0: "", -1: "*"}
    cells = [
        row
        | {
            "label": f"{1000 * row['gain']:+.1f}{signs[clear(row)]}",
            "milli": 1000 * row["gain"],
            "W": int(row["width"]),
            "D": int(row["horizon"]),
        }
        for row in of_genres(rows)
        if row["alpha"] is None
    ]
    most = max(5.0, *(abs(cell["milli"]) for cell in cells))
    base = alt.Chart(alt.Data(values=cells)).encode(
        x=alt.X("W:O", title="width W", axis=alt.Axis(labelAngle=0)),
        y=alt.Y("D:O", title="horizon D", sort="descending"),
    )
    square = base.mark_rect(stroke="#fff").encode(
        color=alt.Color(
            "milli:Q",
            title=["gain,", "thousandths", "of a nat", "a token"],
            scale=alt.Scale(domain=[-most, 0, most], range=[ORANGE, "#f4f4f4", BLUE], interpolate="rgb"),
        )
    )
    text = base.mark_text(fontSize=11).encode(
        text="label:N",
        color=alt.condition(f"abs(datum.milli) > {0.6 * most}", alt.value("#fff"), alt.value("#222")),
    )
    return (
        alt.layer(square, text)
        .properties(width=130, height=96)
        .facet(
            column=alt.Column("text:N", sort=list(GENRES), title=None, header=alt.Header(labelFontSize=13)),
            row=alt.Row("model:N", sort=list(MODELS.values()), title=None, header=alt.Header(labelFontSize=13)),
        )
        .properties(title="Lookahead gain by genre and model (* the 95 % interval does not hold 0)")
    )


def by_alpha(rows: list[Row]) -> alt.TopLevelMixin:
    """Gain with α held fixed at the greatest width, a line for each horizon."""
    chosen = [row for row in of_genres(rows) if row["alpha"] is not None and row["width"] == 8]
    points = [row | {"D": f"D = {int(row['horizon'])}"} for row in chosen]
    base = alt.Chart(alt.Data(values=points)).encode(
        x=alt.X("alpha:Q", title="α, held fixed", axis=alt.Axis(values=[0, 1, 2, 4])),
        color=alt.Color("D:N", title="W = 8", scale=alt.Scale(range=["#9ecae9", "#4c8fc7", "#123f73"])),
        xOffset="D:N",
    )
    scale = alt.Y("gain:Q", title="nats a token")
    line = base.mark_line(strokeWidth=1.5).encode(y=scale)
    bars = base.mark_rule(strokeWidth=1.2, opacity=0.7).encode(y=alt.Y("low:Q"), y2="high:Q")
    dots = base.mark_point(filled=True, size=26, opacity=1).encode(y=scale)
    zero = alt.Chart().mark_rule(color=GREY, strokeDash=[3, 3]).encode(y=alt.datum(0))
    return (
        alt.layer(zero, bars, line, dots, data=alt.Data(values=points))
        .properties(width=150, height=110)
        .facet(
            column=alt.Column("text:N", sort=list(GENRES), title=None, header=alt.Header(labelFontSize=13)),
            row=alt.Row("model:N", sort=list(MODELS.values()), title=None, header=alt.Header(labelFontSize=13)),
        )
        .properties(title="Lookahead gain with α held fixed, 95 % intervals")
    )


def line_ends(rows: list[Row]) -> alt.TopLevelMixin:
    """Gain and placebo at the first token of line-final words."""
    chosen = [row for row in rows if row["text"].startswith("line ends") and row["alpha"] is None]
    points = []
    for row in chosen:
        place = {
            "model": MODELS[row["model"]],
            "line": row["text"].removeprefix("line ends: "),
            "D": f"D = {int(row['horizon'])}",
        }
        for name, prefix in (("lookahead", ""), ("placebo", "placebo_")):
            value = row["gain"] if name == "lookahead" else row["placebo"]
            points.append(
                place | {"arm": name, "gain": value, "low": row[f"{prefix}low"], "high": row[f"{prefix}high"]}
            )
    base = alt.Chart(alt.Data(values=points)).encode(
        x=alt.X("D:N", title=None, axis=alt.Axis(labelAngle=0)),
        xOffset=alt.XOffset("arm:N", scale=alt.Scale(paddingInner=0.2, paddingOuter=0.35)),
        color=alt.Color("arm:N", title=None, scale=alt.Scale(domain=["lookahead", "placebo"], range=[BLUE, GREY])),
    )
    bars = base.mark_rule(strokeWidth=2).encode(y=alt.Y("low:Q", title="nats a line-final word"), y2="high:Q")
    dots = base.mark_point(filled=True, size=60, opacity=1).encode(y="gain:Q")
    zero = alt.Chart().mark_rule(color=GREY, strokeDash=[3, 3]).encode(y=alt.datum(0))
    return (
        alt.layer(zero, bars, dots, data=alt.Data(values=points))
        .properties(width=190, height=150)
        .facet(
            column=alt.Column("model:N", sort=list(MODELS.values()), title=None, header=alt.Header(labelFontSize=13)),
            row=alt.Row("line:N", title=None, header=alt.Header(labelFontSize=13)),
        )
        .properties(title="Gain at the word that ends a line of a couplet (W = 8), 95 % intervals")
    )


def step(model: str) -> int:
    """Training steps behind a checkpoint; the bundled weights are the recipe's end."""
    return FULL_STEPS if model == "pocket" else int(model.removeprefix("step-"))


def checkpoints(rows: list[Row]) -> alt.TopLevelMixin:
    """Gain and naive loss by training step."""
    chosen = [row for row in rows if row["text"] == HELD_OUT and row["alpha"] is None and row["horizon"] == 4]
    points = [
        row | {"step": step(row["model"]), "W": f"W = {int(row['width'])}", "loss": -row["naive"]} for row in chosen
    ]
    x = alt.X(
        "step:Q", title=None, scale=alt.Scale(type="log"), axis=alt.Axis(values=sorted({p["step"] for p in points}))
    )
    base = alt.Chart(alt.Data(values=points)).encode(
        x=x,
        color=alt.Color("W:N", title="D = 4", scale=alt.Scale(range=["#9ecae9", "#4c8fc7", "#123f73"])),
    )
    gain = alt.layer(
        alt.Chart().mark_rule(color=GREY, strokeDash=[3, 3]).encode(y=alt.datum(0)),
        base.mark_rule(opacity=0.7).encode(y=alt.Y("low:Q", title="gain, nats a token"), y2="high:Q"),
        base.mark_line(strokeWidth=1.5).encode(y="gain:Q"),
        base.mark_point(filled=True, size=36, opacity=1).encode(y="gain:Q"),
    ).properties(width=520, height=190, title="Lookahead gain of pocket's recipe as it learns, 95 % intervals")
    loss = (
        alt.Chart(alt.Data(values=[p for p in points if p["width"] == 8]))
        .mark_line(point=True, color=ORANGE)
        .encode(
            x=alt.X("step:Q", title="training step (4,096 tokens each)", scale=alt.Scale(type="log"), axis=axis),
            y=alt.Y("loss:Q", title="naive loss", scale=alt.Scale(zero=False)),
        )
        .properties(width=520, height=90)
    )
    return alt.vconcat(gain, loss)


FIGURES: dict[str, Callable[[list[Row]], alt.TopLevelMixin]] = {
    "heatmap": heatmap,
    "alpha": by_alpha,
    "line-ends": line_ends,
    "checkpoints": checkpoints,
}


def main(table: Path, pictures: Path, names: list[str]) -> None:
    rows = read(table)
    pictures.mkdir(parents=True, exist_ok=True)
    for name in names or FIGURES:
        path = pictures / f"genres-{name}.png"
        FIGURES[name](rows).configure_view(stroke="#ddd").save(str(path), scale_factor=1.6)  # type: ignore[attr-defined]
        print(path)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
