"""`snellen organisms`: the self-test, with its progress and its table. Nothing heavy is imported until it runs."""

from __future__ import annotations

import json as json_text
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from snellen.cli.outputs import check_outputs
from snellen.cli.progress import Console, duration
from snellen.cli.terminal import put_json, rich_text

if TYPE_CHECKING:
    from rich.console import Console as RichConsole
    from rich.table import Table

    from snellen.studies.organisms import Estimate, Row
    from snellen.studies.self_test import Outcome

NOT_AS_EXPECTED = 3
EXPECTED = {"gain": "gain", "nothing": "none", "shown": "–", "dose": "its dose"}


def examine_organisms(
    *,
    seeds: int = 3,
    only: list[str] | None = None,
    processes: int | None = None,
    out: Path | None = None,
    picture: Path | None = None,
    listed: Annotated[bool, Parameter(name="--list")] = False,
    overwrite: bool = False,
    json: bool = False,
    quiet: bool = False,
) -> None:
    """Examine models whose answer is known by construction: is the chart itself in order?

    Trains tiny models (kept for the next time), examines them, and holds what is found against what is known. Exit
    code 3 where an organism does not come out as expected.

    Parameters
    ----------
    seeds
        How many models and texts of each kind.
    only
        Names of organisms or examinations (see --list); a part is shown, and not filed for reports.
    processes
        How many work at once; by default one a core, four at most.
    out
        A file for the outcome as JSON.
    picture
        A file for a drawing (SVG) of what lookahead adds to a model while it learns to choose.
    overwrite
        Replace the files that --out and --picture name, if they are there.
    listed
        Name the organisms and examinations, with what is expected of each, and examine none.
    json
        Print JSON instead of the tables.
    quiet
        No progress.
    """
    check_outputs({"out": out, "picture": picture}, overwrite=overwrite)
    from snellen import cli
    from snellen.studies.examinations import asked

    asked(seeds, only or (), processes)
    if listed:
        show_names()
        return
    console = Watching(quiet=quiet)
    cli._console = console  # an interruption asks it what is kept
    console.say("raising and examining the organisms (about eight minutes on two idle cores; models are kept) …")
    from snellen.results.files import replacing
    from snellen.studies.self_test import self_test

    outcome = self_test(seeds=seeds, only=only or (), processes=processes, tell=console.say, progress=console.jobs)
    text = json_text.dumps(outcome.as_dict(), indent=1, ensure_ascii=False, allow_nan=False)
    if out is not None:
        with replacing(out) as file:
            file.write(text.encode())
    if picture is not None:
        from snellen.studies.picture import draw

        draw(outcome.rows, picture)
    if json:
        put_json(outcome.as_dict(), indent=1)
    else:
        show(outcome)
    if not outcome.passed:
        raise SystemExit(NOT_AS_EXPECTED)


def show_names() -> None:
    """What `--only` takes: the examinations, and beside each the organism that it is one of."""
    from snellen.cli.show import _console
    from snellen.studies.examinations import EXAMINATIONS
    from snellen.studies.names import slug

    table = _table("Either name may follow --only; that of an organism means all its examinations")
    for name in ("examination", "organism", "expected", "what it is"):
        table.add_column(name, no_wrap=name != "what it is")
    for one in EXAMINATIONS:
        table.add_row(slug(one.name), slug(one.organism), EXPECTED[one.expects], one.says)
    _console().print(table)


class Watching(Console):
    """Tells how many models have been examined: a line for each, with the time left."""

    def __init__(self, *, quiet: bool = False) -> None:
        super().__init__(quiet=quiet)
        self._started = time.monotonic()

    def jobs(self, done: int, total: int) -> None:
        spent = time.monotonic() - self._started
        left = f", about {duration(spent / done * (total - done))} left" if 0 < done < total else ""
        self.say(f"{done} of {total} models examined{left}")

    def state(self) -> str:
        return ": models that were raised are kept; the same command examines them again"


def show(outcome: Outcome) -> None:
    """The verdicts, then what each width and horizon shows, then what there is to object."""
    from snellen.cli.show import _console

    console = _console()
    console.print(_verdicts(outcome.rows))
    console.print()
    for title, tables in (("By width", _by_width(outcome.rows)), ("By horizon", _by_horizon(outcome.rows))):
        if tables is not None:
            tables.title = f"{title}: gain, mean over seeds"
            console.print(tables)
            console.print()
    _say_verdict(console, outcome)


def _verdicts(rows: Sequence[Row]) -> Table:
    table = _table("Gain over the best control, nats a decision, 95 % interval")
    for name in ("organism", "expected", "found", "interval", "each seed", "room", "placebo", ""):
        left = name in ("organism", "expected", "each seed", "")
        table.add_column(name, justify="left" if left else "right", no_wrap=name not in ("organism", "each seed"))
    for row in rows:
        found = row.found
        each = " ".join(_seed(row, i) for i in range(len(row.seeds)))
        table.add_row(
            row.name, EXPECTED[row.expects],
            "–" if found is None else _number(found.gain.value), "–" if found is None else _interval(found.gain),
            each, "–" if row.room is None else f"{row.room:.2f}", _worst_placebo(row),
            "–" if row.expects == "shown" else "as expected" if row.passed else "NOT as expected",
        )  # fmt: skip
    return table


def _seed(row: Row, place: int) -> str:
    points = row.seeds[place].points
    at = next((p for p in points if (p.width, p.horizon) == (row.width, row.horizon)), None)
    return "refused" if at is None else _number(at.gain.value)


def _worst_placebo(row: Row) -> str:
    judged = [p.placebo.value for p in row.points if p.width == row.width]
    return _number(max(judged, key=abs)) if judged else "–"


def _by_width(rows: Sequence[Row]) -> Table | None:
    several = [row for row in rows if len({p.width for p in row.points}) > 1]
    if not several:
        return None
    table = _table("")
    for name in ("organism", "horizon", "width: gain"):
        table.add_column(name, justify="right" if name == "horizon" else "left", no_wrap=name == "horizon")
    for row in several:
        gains = [f"{p.width}: {_number(p.gain.value)}" for p in row.points if p.horizon == row.horizon]
        table.add_row(row.name, str(row.horizon), "   ".join(gains))
    return table


def _by_horizon(rows: Sequence[Row]) -> Table | None:
    known = [row for row in rows if row.points and row.expects != "shown"]
    if not known:
        return None
    table = _table("")
    for name in ("organism", "width", "horizon: gain"):
        table.add_column(name, justify="right" if name == "width" else "left", no_wrap=name == "width")
    for row in known:
        gains = [f"{p.horizon}: {_number(p.gain.value)}" for p in row.points if p.width == row.width]
        table.add_row(row.name, str(row.width), "   ".join(gains))
    return table


def _say_verdict(console: RichConsole, outcome: Outcome) -> None:
    judged = [row for row in outcome.rows if row.expects != "shown"]
    wrong = [row for row in judged if not row.passed]
    for row in outcome.rows:
        for line in row.objections:
            console.print(rich_text(f"{row.name}: {line}"))
    said = "the chart is in order" if not wrong else f"{len(wrong)} of {len(judged)} NOT as expected"
    console.print(rich_text(f"{said} ({len(judged)} examinations, {outcome.seeds} seeds, {duration(outcome.seconds)})"))
    if not outcome.complete:
        console.print(rich_text("not filed for reports: that takes every organism and three seeds or more"))


def _table(title: str) -> Table:
    from rich.table import Table

    return Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim")


def _number(value: float) -> str:
    shown = f"{value:+.3f}"
    return " 0.000" if shown in ("-0.000", "+0.000") else shown


def _interval(estimate: Estimate) -> str:
    return f"[{_number(estimate.low).strip()}, {_number(estimate.high).strip()}]"
