"""Tables on the console, drawn from what a run folder says."""

from __future__ import annotations

import json as json_text
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console as RichConsole
from rich.table import Table

from snellen.cli.terminal import put_json, rich_text
from snellen.results.compare import Comparison
from snellen.results.differences import Value
from snellen.results.files import read_json
from snellen.results.findings import Finding
from snellen.results.store import Run


def show_findings(run: Run) -> None:
    """`findings.json`, as it stands."""
    with run.understood():
        run.findings  # noqa: B018  # are they whole?
        content = read_json(run.folder / "findings.json")
    put_json(content, indent=2)


def show_run(run: Run) -> None:
    """The arms, the gain by horizon, and what each finding says."""
    console = _console()
    with run.understood():
        _arms(console, run)
        _gains(console, run)
        for finding in run.findings:
            _finding(console, finding)
    console.print(rich_text(f"run     {run.folder}"))
    if run.report is not None:
        console.print(rich_text(f"report  {run.report}"))


def show_comparison(found: Comparison, *, json: bool) -> None:
    """Two runs side by side."""
    if json:
        put_json(found.as_dict(), indent=2)
        return
    console = _console()
    for letter, run in zip("AB", found.runs, strict=True):
        console.print(rich_text(f"{letter}  {run['folder']}: {run['model']}, {run['tokens']} tokens"))
    table = Table(title="B − A, with intervals", title_justify="left", box=None, pad_edge=False, header_style="bold")
    for name in ("", "unit", "A", "B", "B − A"):
        table.add_column(name, justify="left" if name in ("", "unit") else "right", overflow="fold")
    for row in found.rows:
        names = (rich_text(row.name), rich_text(row.unit))
        table.add_row(*names, _value(row.first), _value(row.second), _value(row.difference, signed=True))
    console.print(table)
    for row in found.rows:
        if row.difference.reason:
            console.print(rich_text(f"{row.name}: {row.difference.reason}"))
        elif row.difference.low is not None and row.difference.high is not None:
            clear = row.difference.low > 0 or row.difference.high < 0
            told = "a difference" if clear else "no difference found"
            console.print(rich_text(f"{row.name}: {told} ({row.method}, {row.level:.0%})"))
    if found.settings:
        console.print(rich_text("settings that differ", style="bold"))
        for name, (first, second) in found.settings.items():
            console.print(rich_text(f"  {name}: {_short(first)} | {_short(second)}"))
    for note in found.notes:
        console.print(rich_text(f"note: {note}"))


class Console(RichConsole):
    """Leaves a closed pipe to `main`, where rich would exit with 1."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def _console() -> Console:
    # Not on a terminal nothing may be cut at 80 columns: a file or a pipe takes lines of any length.
    return Console() if sys.stdout.isatty() else Console(width=200, soft_wrap=True)


def _arms(console: Console, run: Run) -> None:
    arms = run.table("arms")
    if arms is None or not arms.num_rows:
        return
    rows = [row for row in arms.to_pylist() if row.get("search", "beam") == "beam"]
    width, horizon = max(row["width"] for row in rows), max(row["horizon"] for row in rows)
    table = _table(f"Log-likelihood a token (nats), width {width}, horizon {horizon}")
    for name in ("arm", "log-likelihood", "over naive", "interval", "fit"):
        left = name in ("arm", "fit")
        table.add_column(name, justify="left" if left else "right", no_wrap=name != "fit", overflow="fold")
    for row in rows:
        if (row["width"], row["horizon"]) != (width, horizon):
            continue
        gain = _number(row["gain_over_naive"], signed=True)
        interval, fit = _interval(row["low"], row["high"]), rich_text(_fit(row))
        table.add_row(rich_text(row["arm"]), _number(row["log_likelihood"]), gain, interval, fit)
    console.print(table)
    console.print()


def _fit(row: Mapping[str, Any]) -> str:
    """How the arm mixes, where it does: kind, weight w, exponent α; and the temperature T below it."""
    parts = []
    if row.get("weight"):
        parts = [str(row.get("kind") or ""), f"w {row['weight']:.3g}"]
        if row.get("alpha") is not None:
            parts.append(f"α {row['alpha']:.3g}")
    if row.get("temperature") is not None:
        parts.append(f"T {row['temperature']:.3g}")
    return ", ".join(filter(None, parts))


def _gains(console: Console, run: Run) -> None:
    gains = run.table("gains")
    if gains is None or not gains.num_rows:
        return
    rows = [row for row in gains.to_pylist() if row["alpha"] is None]
    if not rows:
        return
    beams = [row for row in rows if row.get("search", "beam") == "beam"]
    width, horizon = max(row["width"] for row in beams), max(row["horizon"] for row in beams)
    _gain_table(console, f"horizon, width {width}", "horizon", [row for row in beams if row["width"] == width])
    wider = [row for row in rows if row["horizon"] == horizon]
    _gain_table(console, f"width, horizon {horizon}", "width", wider)


def _gain_table(console: Console, title: str, axis: str, rows: Sequence[Mapping[str, Any]]) -> None:
    table = _table(f"Gain over the best control, by {title} (nats/token)")
    for name in (axis, "gain", "interval", "placebo", "its interval"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in sorted(rows, key=lambda row: (row.get("search", "beam") != "beam", row[axis])):
        sampled = axis == "width" and row.get("search", "beam") != "beam"
        table.add_row(
            rich_text(f"∞ ({row[axis]} particles)" if sampled else row[axis]),
            _number(row["value"], signed=True), _interval(row["low"], row["high"]),
            _number(row["placebo"], signed=True), _interval(row["placebo_low"], row["placebo_high"]),
        )  # fmt: skip
    console.print(table)
    console.print()


def _finding(console: Console, finding: Finding) -> None:
    console.print(rich_text(f"{finding.measure}: {finding.question}", style="bold"))
    value = Value(value=finding.value, low=finding.low, high=finding.high)
    counts = ", ".join(f"{count} {name}" for name, count in finding.n.items())
    number = f"{_value(value, signed=True)} {finding.unit} ({finding.level:.0%} interval; {counts})"
    console.print(rich_text(number if finding.value is not None else f"no number: {finding.reason}"))
    console.print(rich_text(finding.verdict, style="bold"))
    if finding.detectable is not None and finding.detectable.get("value") is not None:
        seen, power = finding.detectable["value"], finding.detectable.get("power", 0.0)
        console.print(
            rich_text(f"detectable in this text: {_number(seen, signed=True)} {finding.unit} (power {power:.0%})")
        )
    console.print(rich_text(finding.reading))
    console.print()


def _table(title: str) -> Table:
    return Table(
        title=rich_text(title), title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim"
    )


def _number(value: float | None, *, signed: bool = False) -> str:
    if value is None or value != value:
        return "–"
    return f"{value:+.4f}" if signed else f"{value:.4f}"


def _interval(low: float | None, high: float | None) -> str:
    if low is None or high is None or low != low or high != high:
        return "–"
    return f"[{low:+.4f}, {high:+.4f}]"


def _value(value: Value, *, signed: bool = False) -> str:
    interval = _interval(value.low, value.high)
    return _number(value.value, signed=signed) + (f" {interval}" if interval != "–" else "")


def _short(value: Any) -> str:
    text = json_text.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"
