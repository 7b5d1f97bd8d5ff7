"""The charts: rows of a run's tables in, inline SVG out. Each is drawn small, to be set side by side or stacked."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
from markupsafe import Markup, escape

from snellen.report import palette
from snellen.report.text import count, visible

Point = Mapping[str, Any]  # value, low, high, colour, hollow, and what the axes and offsets name

UNIT = "nats per token"
_SIGNED = "datum.value == 0 ? '0' : format(datum.value, '+.4~f')"
_OPENING = re.compile(r'<svg[^>]*? width="([\d.]+)" height="([\d.]+)"[^>]*>')
_ATTRIBUTE = re.compile(r'="[^"<>]*"')
_DECIMALS = re.compile(r"(\d\.\d\d)\d+")
_NOISE = re.compile(r' (?:aria-hidden|pointer-events|role|aria-roledescription)="[^"]*"')


def svg(chart: Any, label: str) -> Markup:
    """The drawing for inlining, with `label` for who cannot see it; sized by the page, not by itself."""
    axis = alt.AxisConfig(
        labelFontSize=11, titleFontSize=11, titleFontWeight="normal", labelColor=palette.MUTED, labelLimit=180,
        titleColor=palette.MUTED, gridColor=palette.GRID, domain=False, ticks=False, labelPadding=6, titlePadding=10,
    )  # fmt: skip
    view = alt.ViewConfig(stroke=None)
    padding = {"left": 0, "right": 8, "top": 6, "bottom": 4}
    with io.StringIO() as buffer:
        chart.configure(
            aria=False, background="transparent", font="sans-serif", axis=axis, view=view, padding=padding
        ).save(buffer, format="svg")
        text = buffer.getvalue()
    opening = _OPENING.match(text)
    if opening is None:
        raise ValueError(f"vl-convert gave no SVG but {text[:80]!r}")
    body = _NOISE.sub("", text[opening.end() :])
    body = _ATTRIBUTE.sub(lambda found: _DECIMALS.sub(r"\1", found[0]), body)  # coordinates, never words
    size = f'viewBox="0 0 {opening[1]} {opening[2]}" style="max-width:{1.25 * float(opening[1]):.0f}px"'
    return Markup(f'<svg {size} role="img" aria-label="{escape(visible(label))}">{body}')


def by_horizon(points: Sequence[Point], label: str, domain: tuple[float, float]) -> Markup:
    """Gain by horizon; horizon 1, which is sharpening and no lookahead, stands apart behind a line."""
    names = [str(h) for h in sorted({point["horizon"] for point in points})]
    places = ["1", " ", *[name for name in names if name != "1"]] if "1" in names else names
    x = alt.X("horizon:O", scale=alt.Scale(domain=places), title="horizon, tokens ahead",
              axis=alt.Axis(labelAngle=0, grid=False))  # fmt: skip
    offset = alt.XOffset("series:N", scale=alt.Scale(domain=["lookahead", "placebo"], paddingOuter=0.9))
    layers = [_zero("y"), *_upright(points, x, domain, xOffset=offset)]
    if " " in places:
        apart = alt.Chart(alt.Data(values=[{"horizon": " "}]))
        layers.insert(0, apart.mark_rule(color=palette.GRID, strokeDash=[3, 3]).encode(x=x))
    return svg(alt.layer(*layers).properties(width=350, height=190), label)


def curves(points: Sequence[Point], labels: Sequence[str], title: str, label: str,
           domain: tuple[float, float]) -> Markup:  # fmt: skip
    """One line a horizon over the values of `at`, dodged so that the intervals do not hide one another."""
    x = alt.X("at:O", scale=alt.Scale(domain=list(labels)), title=title, axis=alt.Axis(labelAngle=0, grid=False))
    offset = alt.XOffset("horizon:O", scale=alt.Scale(paddingOuter=1))
    line = alt.Chart(alt.Data(values=[dict(point) for point in points])).mark_line(strokeWidth=1.4, opacity=0.75)
    colour = alt.Stroke("colour:N", scale=None)
    drawn = line.encode(x=x, xOffset=offset, y="value:Q", stroke=colour, detail="horizon:O")
    chart = alt.layer(_zero("y"), drawn, *_upright(points, x, domain, xOffset=offset))
    return svg(chart.properties(width=330, height=210), label)


def heat(points: Sequence[Point], rows: Sequence[str], columns: Sequence[str], titles: tuple[str, str],
         label: str) -> Markup:  # fmt: skip
    """Cells with their numbers: those marked `sure` in their colour and bold, the others without colour and muted."""
    base = alt.Chart(alt.Data(values=[dict(point) for point in points])).encode(
        x=alt.X("column:O", scale=alt.Scale(domain=list(columns), paddingInner=0.06), title=titles[1],
                axis=alt.Axis(labelAngle=0, grid=False)),
        y=alt.Y("row:O", scale=alt.Scale(domain=list(rows), paddingInner=0.08), title=titles[0],
                axis=alt.Axis(grid=False)),
    )  # fmt: skip
    cells = base.mark_rect(cornerRadius=3).encode(fill=alt.Fill("colour:N", scale=None))
    number = base.encode(text="text:N")
    strong = number.transform_filter("datum.sure").mark_text(fontSize=11, fontWeight="bold")
    strong = strong.encode(fill=alt.value(palette.INK))
    weak = number.transform_filter("!datum.sure").mark_text(fontSize=11).encode(fill=alt.value(palette.MUTED))
    chart = alt.layer(cells, strong, weak)
    return svg(chart.properties(width=alt.Step(64), height=alt.Step(34)), label)


def lying(points: Sequence[Point], names: Sequence[str], label: str, *, domain: tuple[float, float],
          title: str = UNIT, longest: int | None = None) -> Markup:  # fmt: skip
    """Dot and interval of each name, one under the other; names start flush left, with room for `longest` letters."""
    room = 7 * (longest or max(len(name) for name in names))  # generous: the reader's font is not known here
    ends = alt.Scale(domain=list(domain), nice=False, zero=False)
    axis = alt.Axis(labelExpr=_SIGNED, tickCount=5)
    y = alt.Y("name:N", scale=alt.Scale(domain=[visible(name) for name in names]), title=None,
              axis=alt.Axis(labelColor=palette.INK, grid=False, labelAlign="left", labelPadding=room,
                            minExtent=room, labelLimit=room))  # fmt: skip
    base = alt.Chart(alt.Data(values=[{**point, "name": visible(point["name"])} for point in points]))
    colour = alt.Stroke("colour:N", scale=None)
    whiskers = (
        base.transform_filter("isValid(datum.low) && isValid(datum.high)")
        .mark_rule(strokeWidth=1.8)
        .encode(x=alt.X("low:Q", scale=ends), x2="high:Q", y=y, stroke=colour)
    )
    x = alt.X("value:Q", scale=ends, title=title, axis=axis)
    dots = base.mark_point(size=56, opacity=1, strokeWidth=1.6).encode(
        x=x, y=y, stroke=colour, fill=alt.Fill("fill:N", scale=None)
    )
    return svg(alt.layer(_zero("x"), whiskers, dots).properties(width=250, height=alt.Step(30)), label)


def _upright(points: Sequence[Point], x: Any, domain: tuple[float, float], **encode: Any) -> list[Any]:
    base = alt.Chart(alt.Data(values=[dict(point) for point in points]))
    colour = alt.Stroke("colour:N", scale=None)
    ends = alt.Scale(domain=list(domain), nice=False, zero=False)
    y = alt.Y("value:Q", title=UNIT, scale=ends, axis=alt.Axis(labelExpr=_SIGNED, tickCount=5))
    whiskers = (
        base.transform_filter("isValid(datum.low) && isValid(datum.high)")
        .mark_rule(strokeWidth=1.8)
        .encode(x=x, y="low:Q", y2="high:Q", stroke=colour, **encode)
    )
    dots = base.mark_point(size=56, opacity=1, strokeWidth=1.6)
    return [whiskers, dots.encode(x=x, y=y, stroke=colour, fill=alt.Fill("fill:N", scale=None), **encode)]


def _zero(axis: str) -> Any:
    line = alt.Chart(alt.Data(values=[{"zero": 0}])).mark_rule(stroke=palette.MUTED, strokeWidth=1)
    return line.encode(**{axis: alt.X("zero:Q") if axis == "x" else alt.Y("zero:Q")})


def sized(name: str, n: int | None) -> str:
    return name if n is None else f"{name}  \u00b7  {count(n)}"
