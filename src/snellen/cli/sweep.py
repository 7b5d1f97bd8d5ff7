"""`snellen sweep`: whole studies, many trainings and measurements, resumable."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from snellen.cli.outputs import check_outputs
from snellen.cli.progress import Console, duration
from snellen.cli.terminal import put_json
from snellen.cli.terminal import say as tell
from snellen.errors import InputError

if TYPE_CHECKING:
    from snellen.studies.mesa.experiment import Results

Form = Literal["table", "json", "markdown"]


def run_study(
    study: Literal["stunting", "mesa"],
    /,
    *,
    seeds: int = 5,
    only: list[str] | None = None,
    tasks: list[str] | None = None,
    texts: Path | None = None,
    processes: int | None = None,
    out: Path | None = None,
    picture: Path | None = None,
    overwrite: bool = False,
    json: bool = False,
    markdown: bool = False,
    quiet: bool = False,
) -> None:
    """Run a whole study: many trainings, each looked at on the way. The same command goes on where it stopped.

    stunting: does stunting keep a model from learning to look ahead, and at what cost? Tiny models on languages that
    plan, each method beside the ordinary training and its controls (docs/results/stunting.md).

    mesa: one mesa-layer against deep linear and softmax attention of as many parameters, on tasks that are solved in
    context and on text, and what the trained layers turn out to do (docs/results/mesa.md).

    Parameters
    ----------
    study
        Which.
    seeds
        How many models of each kind.
    only
        Names of variants; by default all.
    tasks
        mesa: names of tasks (full, partial, contracting, nonlinear, regression, fixed, text); by default all.
    texts
        mesa: the folder with train.jsonl that the bundled model was trained on (docs/pocket.md); without it the task
        text is left out.
    processes
        How many work at once; by default one a core, four at most.
    out
        Folder of the results; by default runs/sweep-STUDY.
    picture
        A file for a drawing (SVG): stunting, the losses while models are trained; mesa, the errors by position (and
        those of text beside it, in a file whose name ends in -text).
    overwrite
        Replace the file that --picture names, if it is there.
    json
        Print JSON instead of the table.
    markdown
        Print the tables of the results page.
    quiet
        No progress.
    """
    check_outputs({"picture": picture}, overwrite=overwrite)
    from snellen import cli

    _check(study, seeds, only, processes)
    console = Watching(quiet=quiet)
    cli._console = console
    folder = out or Path("runs") / f"sweep-{study}"
    shown: Form = "json" if json else "markdown" if markdown else "table"
    options: dict[str, Any] = {
        "seeds": seeds, "only": only or (), "processes": processes, "progress": console.jobs,
    }  # fmt: skip
    if study == "mesa":
        if texts is None and not (tasks and "text" in tasks):
            console.say("the task text is left out: give --texts FOLDER for it (docs/pocket.md)")
        _mesa(folder, picture, shown, tasks=tasks or (), texts=texts, **options)
        return
    for name, value in (("tasks", tasks), ("texts", texts)):
        if value is not None:
            raise InputError(f"{name}: is an option of the study mesa; leave it out")
    _stunting(folder, picture, shown, **options)


def _check(study: str, seeds: int, only: list[str] | None, processes: int | None) -> None:
    """What can be told before torch is imported. Raises InputError."""
    from snellen.studies.names import named
    from snellen.studies.pool import at_once, check_seeds
    from snellen.studies.stunting.variants import NAMES

    check_seeds(seeds)
    at_once(processes, 1)
    if study == "stunting":
        named("only", only or NAMES, NAMES, "variant")


def _stunting(folder: Path, picture: Path | None, form: Form, **options: Any) -> None:
    from snellen.studies.stunting.experiment import experiment
    from snellen.studies.stunting.tables import LEVEL, QUANTITIES, document, rows, shown

    results = experiment(folder, **options)
    if picture is not None:
        from snellen.studies.stunting.picture import draw

        draw(results, picture)
    if form == "json":
        put_json(list(results), indent=1)
        return
    if form == "markdown":
        print(document(results))
        return
    from rich.console import Console as RichConsole
    from rich.table import Table

    table = Table(
        title=f"stunting: {options['seeds']} seeds, mean [{LEVEL:.0%}]; losses in nats over the best possible"
    )
    table.add_column("trained")
    for quantity in QUANTITIES:
        table.add_column(quantity, justify="right")
    for row in rows(results):
        table.add_row(row.variant, *(shown(row.means[quantity], quantity) for quantity in QUANTITIES))
    RichConsole(width=None if sys.stdout.isatty() else 240).print(table)
    tell(f"results {folder}")


def _mesa(folder: Path, picture: Path | None, form: Form, **options: Any) -> None:
    from dataclasses import asdict

    from snellen.studies.mesa.experiment import experiment
    from snellen.studies.mesa.tables import document

    results = experiment(folder, **options)
    if picture is not None:
        from snellen.studies.mesa.picture import draw

        draw(results, picture)
    if form == "json":
        put_json(asdict(results), indent=1)
        return
    if form == "markdown":
        print(document(results))
        return
    _mesa_table(results, options["seeds"])
    tell(f"results {folder}")


def _mesa_table(results: Results, seeds: int) -> None:
    from rich.console import Console as RichConsole
    from rich.table import Table

    from snellen.studies.mesa.tables import LEVEL, rows, shown, text_rows
    from snellen.studies.mesa.tasks import setups

    console = RichConsole(width=None if sys.stdout.isatty() else 160)
    for one in setups():
        if found := rows(results, one.name):
            table = Table(title=f"{one.name}: {one.says}; {seeds} seeds, mean [{LEVEL:.0%}]")
            for name in ("", "parameters", "error", "less the mesa-layer's"):
                table.add_column(name, justify="left" if not name else "right")
            for row in found:
                size = f"{row.parameters:,}" if row.parameters else ""
                table.add_row(row.says, size, shown(row.error), shown(row.difference, signed=True))
            console.print(table)
    if text := text_rows(results):
        table = Table(title=f"text: {seeds} seeds, mean [{LEVEL:.0%}]; nats a token")
        for name in ("", "parameters", "held-out loss", "less softmax and mesa"):
            table.add_column(name, justify="left" if not name else "right")
        for line in text:
            size = f"{line.parameters:,}" if line.parameters else ""
            table.add_row(line.says, size, shown(line.loss), shown(line.difference, signed=True))
        console.print(table)


class Watching(Console):
    """Tells how many models have been trained: a line for each, with the time left."""

    def __init__(self, *, quiet: bool = False) -> None:
        super().__init__(quiet=quiet)
        self._started, self._first_done = time.monotonic(), -1

    def jobs(self, done: int, total: int) -> None:
        self._first_done = done if self._first_done < 0 else self._first_done
        spent, new = time.monotonic() - self._started, done - self._first_done
        left = f", about {duration(spent / new * (total - done))} left" if new and done < total else ""
        self.say(f"{done} of {total} models trained{left}")

    def state(self) -> str:
        return ": results so far are kept; the same command goes on"
