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
LINE_ENDS = "line ends: "
MISSING = "not measured"
MILLI = ["gain, thou-", "sandths of a", "nat a token"]
BLUE, ORANGE, GREY = "#2563a8", "#b3401f", "#8a8a8a"
SHADES = ("#8fbfe6", "#3f83bf", "#123f73")
Row = dict[str, Any]


def read(path: Path) -> list[Row]:
    words = ("run", "model", "text", "unit_kind", "interval", "best_control", "fitted_kind")
    with path.open(encoding="utf-8", newline="") as file:
        return [
            {k: v if k in words else (float(v) if v else None) for k, v in line.items()}
            for line in csv.DictReader(file)
        ]


def clear(row: Row) -> int:
    """1 where the interval lies above 0, −1 below, 0 where it holds 0 or there is none."""
    if row["low"] is None:
        return 0
    return int(row["low"] > 0) - int(row["high"] < 0)


def grid(rows: list[str], columns: list[str], panel: Callable[[str, str], alt.Chart | None]) -> alt.TopLevelMixin:
    """Panels side by side, each drawn from rows of its own: a facet of Vega shifts where a panel is missing."""
    panels = []
    for row in rows:
        for column in columns:
            drawn = panel(row, column)
            if drawn is None:
                nothing = alt.Chart(alt.Data(values=[{}]))
                drawn = nothing.mark_text(color=GREY, fontSize=11).encode(text=alt.value(MISSING))
            title = alt.TitleParams([row, column], fontSize=12, fontWeight="normal", anchor="start")
            panels.append(drawn.properties(width=128, height=104, title=title))
    return alt.concat(*panels, columns=len(columns))


def thousandths(value: float) -> str:
    """With its sign, and a zero without one."""
    text = f"{1000 * value:+.1f}"
    return "0.0" if float(text) == 0 else text


def of_panel(rows: list[Row], model: str, text: str) -> list[Row]:
    return [row for row in rows if MODELS.get(row["model"]) == model and row["text"] == text]


def heatmap(rows: list[Row]) -> alt.TopLevelMixin:
    """Gain by width and horizon, one square a genre and model."""
    fitted = [row for row in rows if row["text"] in GENRES and row["alpha"] is None]
    most = max(5.0, *(abs(1000 * row["gain"]) for row in fitted))

    def panel(model: str, genre: str) -> alt.Chart | None:
        cells = [
            {
                "label": thousandths(row["gain"]) + ("*" if clear(row) else ""),
                "milli": 1000 * row["gain"],
                "W": int(row["width"]),
                "D": int(row["horizon"]),
            }
            for row in of_panel(fitted, model, genre)
        ]
        if not cells:
            return None
        base = alt.Chart(alt.Data(values=cells)).encode(
            x=alt.X("W:O", title="width W", axis=alt.Axis(labelAngle=0)),
            y=alt.Y("D:O", title="horizon D", sort="descending"),
        )
        scale = alt.Scale(domain=[-most, 0, most], range=[ORANGE, "#f4f4f4", BLUE], interpolate="rgb")
        square = base.mark_rect(stroke="#fff").encode(color=alt.Color("milli:Q", title=MILLI, scale=scale))
        dark = f"abs(datum.milli) > {0.6 * most}"
        text = base.mark_text(fontSize=11).encode(
            text="label:N", color=alt.condition(dark, alt.value("#fff"), alt.value("#222"))
        )
        return alt.layer(square, text)

    title = "Lookahead gain by genre and model, α fitted (* the 95 % interval does not hold 0)"
    return grid(list(MODELS.values()), list(GENRES), panel).properties(title=title)


def points(
    rows: list[Row], x: str, colour: str, colours: dict[str, str], unit: str, low: float, high: float, width: int = 128
) -> alt.Chart | None:
    """Values with their intervals and a line at zero; the axis, the same in all panels, runs from `low` to `high`."""
    if not rows:
        return None
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X(f"{x}:O", axis=alt.Axis(labelAngle=0)),
        xOffset=alt.XOffset(f"{colour}:N", sort=list(colours), scale=alt.Scale(paddingOuter=0.3)),
        color=alt.Color(f"{colour}:N", title=None, scale=alt.Scale(domain=list(colours), range=list(colours.values()))),
    )
    y = alt.Y("low:Q", title=unit, scale=alt.Scale(domain=[low, high], nice=False))
    zero = base.mark_rule(color=GREY, strokeDash=[3, 3]).encode(
        x=alt.value(0), x2=alt.value(width), xOffset=alt.value(0), y=alt.datum(0), color=alt.value(GREY)
    )
    bars = base.mark_rule(strokeWidth=1.6).encode(y=y, y2="high:Q")
    dots = base.mark_point(filled=True, size=30, opacity=1).encode(y="gain:Q")
    return alt.layer(zero, bars, dots)


def ends(rows: list[Row]) -> tuple[float, float]:
    """The axis that holds every interval."""
    if not rows:
        raise SystemExit(
            "the table has no rows for this figure: run scripts/genres/measure.py on the runs that make it"
        )
    low, high = min(row["low"] for row in rows), max(row["high"] for row in rows)
    room = 0.05 * (high - low)
    return low - room, high + room


def by_alpha(rows: list[Row]) -> alt.TopLevelMixin:
    """Gain with α held fixed at the greatest width, a colour for each horizon."""
    chosen = [
        row | {"α, held fixed": int(row["alpha"]), "search": f"W = 8, D = {int(row['horizon'])}"}
        for row in rows
        if row["text"] in GENRES and row["alpha"] is not None and row["width"] == 8 and row["low"] is not None
    ]
    colours = {f"W = 8, D = {d}": c for d, c in zip((2, 4, 8), SHADES, strict=True)}
    axis = ends(chosen)

    def panel(model: str, genre: str) -> alt.Chart | None:
        return points(of_panel(chosen, model, genre), "α, held fixed", "search", colours, "nats a token", *axis)

    return grid(list(MODELS.values()), list(GENRES), panel).properties(
        title="Lookahead gain with α held fixed, 95 % intervals"
    )


def line_ends(rows: list[Row]) -> alt.TopLevelMixin:
    """Gain and placebo at the first token of line-final words."""
    chosen: list[Row] = []
    for row in rows:
        if row["text"].startswith(LINE_ENDS) and row["alpha"] is None and row["low"] is not None:
            place = {
                "model": row["model"],
                "text": row["text"].removeprefix(LINE_ENDS),
                "horizon D": int(row["horizon"]),
            }
            chosen.append(place | {"arm": "lookahead", **{name: row[name] for name in ("gain", "low", "high")}})
            placebo = {"gain": row["placebo"], "low": row["placebo_low"], "high": row["placebo_high"]}
            chosen.append(place | {"arm": "placebo", **placebo})
    axis = ends(chosen)

    def panel(role: str, model: str) -> alt.Chart | None:
        own = of_panel(chosen, model, role)
        return points(own, "horizon D", "arm", {"lookahead": BLUE, "placebo": GREY}, "nats a word", *axis)

    return grid(["first line", "second line"], list(MODELS.values()), panel).properties(
        title="Gain at the word that ends a line of a couplet, W = 8, 95 % intervals"
    )


def step(model: str) -> int:
    """Training steps behind a checkpoint; the bundled weights are the recipe's end."""
    return FULL_STEPS if model == "pocket" else int(model.removeprefix("step-"))


def checkpoints(rows: list[Row]) -> alt.TopLevelMixin:
    """Gain and naive loss by training step."""
    chosen = [row for row in rows if row["text"] == HELD_OUT and row["alpha"] is None and row["horizon"] == 4]
    found = [
        row | {"training step": step(row["model"]), "W": f"W = {int(row['width'])}, D = 4", "loss": -row["naive"]}
        for row in sorted(chosen, key=lambda row: step(row["model"]))
        if row["low"] is not None
    ]
    colours = {f"W = {w}, D = 4": c for w, c in zip((2, 4, 8), SHADES, strict=True)}
    gain = points(found, "training step", "W", colours, "gain, nats a token", *ends(found), width=560)
    assert gain is not None
    loss = (
        alt.Chart(alt.Data(values=[row for row in found if row["width"] == 8]))
        .mark_line(point={"color": ORANGE}, color=ORANGE)
        .encode(
            x=alt.X("training step:O", title="training step (4,096 tokens each)", axis=alt.Axis(labelAngle=0)),
            y=alt.Y("loss:Q", title="naive loss", scale=alt.Scale(zero=False)),
        )
    )
    title = "Lookahead gain of pocket's recipe as it learns, 95 % intervals"
    return alt.vconcat(gain.properties(width=560, height=200, title=title), loss.properties(width=560, height=90))


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
        FIGURES[name](rows).configure_view(stroke="#ddd").save(str(path), scale_factor=1.3)  # type: ignore[attr-defined]
        print(path)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
