"""`snellen evolve`: texts from a masked language model by a genetic algorithm or by Metropolis–Hastings."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from snellen.cli.outputs import check_outputs
from snellen.cli.progress import Console, duration
from snellen.cli.terminal import put_json, rich_text
from snellen.errors import InputError
from snellen.evolution_settings import Genetic, Metropolis

if TYPE_CHECKING:
    from snellen.lookahead.evolution import Evolved

_SAVE_SECONDS = 10.0  # between two writings of the population while it evolves
_TRACE_ROWS = 8
_MIXED = 1.05  # R̂ above which chains have visibly not mixed
_SETTINGS = {"genetic": Genetic, "metropolis": Metropolis}


def _says(text: str, option: str) -> Parameter:
    """Help with the defaults as the settings have them: the option is None where the mode decides."""
    defaults = {name: getattr(kind, option) for name, kind in _SETTINGS.items() if hasattr(kind, option)}
    if len(set(defaults.values())) == 1:
        shown = str(next(iter(defaults.values())))
    else:
        shown = ", ".join(f"{name} {value}" for name, value in defaults.items())
    only = f" Mode {next(iter(defaults))} only." if len(defaults) == 1 else ""
    return Parameter(help=text + only + ("" if shown == "None" else f" [default: {shown}]"))


def evolve_texts(
    model: str = "pocket-masked",
    /,
    *,
    prompt: str = "",
    suffix: str = "",
    mode: Literal["genetic", "metropolis"] = "genetic",
    length: Annotated[int | None, _says("Tokens to write beside prompt and suffix.", "length")] = None,
    population: Annotated[int | None, _says("Texts that live at a time; chains.", "population")] = None,
    generations: Annotated[int | None, _says("How often the population is renewed.", "generations")] = None,
    islands: Annotated[int | None, _says("Groups of texts that breed apart.", "islands")] = None,
    migration: Annotated[int | None, _says("Generations between migrations; 0: none.", "migration")] = None,
    mutation: Annotated[float | None, _says("Share of a child's tokens written anew.", "mutation")] = None,
    insertion: Annotated[float | None, _says("Probability that a child gains a token.", "insertion")] = None,
    deletion: Annotated[float | None, _says("Probability that a child loses a token.", "deletion")] = None,
    slack: Annotated[float | None, _says("Share of the length that it may change by.", "slack")] = None,
    crossover: Annotated[float | None, _says("Probability of two parents.", "crossover")] = None,
    seam: Annotated[int | None, _says("Tokens written anew where two parents join.", "seam")] = None,
    tournament: Annotated[int | None, _says("Texts that compete to be a parent.", "tournament")] = None,
    elite: Annotated[int | None, _says("Best texts of an island that live on.", "elite")] = None,
    repetition: Annotated[float | None, _says("What full repetition costs, nats a token.", "repetition")] = None,
    steps: Annotated[int | None, _says("Proposals a chain.", "steps")] = None,
    burn_in: Annotated[int | None, _says("First steps that are no sample; by default half.", "burn_in")] = None,
    thin: Annotated[int | None, _says("Of the others every so many-th state is kept.", "thin")] = None,
    temperature: Annotated[
        float | None, _says("Of what masked tokens are drawn from; of the chains' target.", "temperature")
    ] = None,
    proposal_temperature: Annotated[
        float | None, _says("Of what proposals are drawn from.", "proposal_temperature")
    ] = None,
    passes: Annotated[int | None, _says("Most rows that the model is run on; by default no limit.", "passes")] = None,
    memory: Annotated[str | None, _says("What a batch may hold beside the weights.", "memory")] = None,
    seed: Annotated[int | None, _says("Of everything that is drawn.", "seed")] = None,
    start: Annotated[Path | None, Parameter(name="--from")] = None,
    out: Path | None = None,
    overwrite: bool = False,
    top: int = 5,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    device: str | None = None,
    revision: str | None = None,
    tokenizer: str | None = None,
    trust_remote_code: bool = False,
    quiet: bool = False,
    json: bool = False,
) -> None:
    """Evolve texts with a masked language model (BERT, RoBERTa, …).

    A genetic algorithm (mode genetic) looks for texts of high pseudo-likelihood; Metropolis–Hastings (mode metropolis)
    samples from exp(−energy).

    Parameters
    ----------
    model
        Hub id or folder of a masked language model; `pocket-masked` ships with Snellen.
    prompt
        How every text begins.
    suffix
        How every text ends.
    start
        A file that --out wrote: go on from its texts.
    out
        Write the population, its scores, the trace and the settings to this file, also while it evolves.
    overwrite
        Replace the file that --out names, if it is there. (The one of --from is replaced without.)
    top
        Texts to print.
    dtype
        Number format of the model.
    device
        cpu, cuda, cuda:1, mps; by default the best there is.
    revision
        Branch, tag or commit of a hub model.
    tokenizer
        Hub id or folder of the tokenizer, where the model's own place has none.
    trust_remote_code
        Run code that the model brings.
    quiet
        No progress.
    json
        Print what --out writes instead of tables.
    """
    wishes = {
        "length": length, "population": population, "generations": generations, "islands": islands,
        "migration": migration, "mutation": mutation, "insertion": insertion, "deletion": deletion, "slack": slack,
        "crossover": crossover, "seam": seam, "tournament": tournament, "elite": elite, "repetition": repetition,
        "steps": steps, "burn_in": burn_in, "thin": thin, "temperature": temperature,
        "proposal_temperature": proposal_temperature, "passes": passes, "memory": memory, "seed": seed,
    }  # fmt: skip
    settings = _settings(mode, wishes)
    from snellen.request import bytes_of
    from snellen.texts.read import check_characters

    bytes_of(settings.memory)

    for name, text in (("prompt", prompt), ("suffix", suffix)):
        check_characters(text, name)
    if top < 1:
        raise InputError(f"top {top}: must be at least 1")
    same = start is not None and out is not None and start.exists() and out.exists() and out.samefile(start)
    check_outputs({"out": out}, overwrite=overwrite or same)
    if out is not None:
        from snellen.models.sources import check_file_apart

        check_file_apart(model, out, name="out")
    total = settings.steps if isinstance(settings, Metropolis) else settings.generations
    console = Watching(quiet=quiet, out=out, total=total)
    from snellen import cli

    cli._console = console  # an interruption asks it what is kept
    console.say(f"loading {model} …")
    from snellen.lookahead import evolution
    from snellen.models.masked import load_masked

    record = None if start is None else evolution.read_record(start)
    loaded = load_masked(
        model,
        tokenizer=tokenizer,
        revision=revision,
        dtype=dtype,
        device=device or "auto",
        trust_remote_code=trust_remote_code,
    )
    texts = [] if record is None else evolution.population_of(record, loaded, str(start))
    common: dict[str, Any] = {"prompt": prompt, "suffix": suffix, "start": texts, "watch": console.turn}
    if isinstance(settings, Metropolis):
        found = evolution.metropolis(loaded, settings=settings, **common)
    else:
        found = evolution.evolve(loaded, settings=settings, **common)
    console.close()
    if out is not None:
        found.save(out)
    if json:
        put_json(found.as_dict(), indent=1)
    else:
        show(found, top=top, out=out)


def _settings(mode: str, wishes: dict[str, Any]) -> Genetic | Metropolis:
    kind = _SETTINGS[mode]
    given = {name: value for name, value in wishes.items() if value is not None}
    for name in given:
        if not hasattr(kind, name):
            other = next(other for other in _SETTINGS if other != mode)
            raise InputError(f"{name} {given[name]}: no option of mode {mode}: leave it out, or use --mode {other}")
    settings: Genetic | Metropolis = kind(**given)
    return settings


class Watching(Console):
    """Progress of an evolution, and the population on disk while it goes on."""

    def __init__(self, *, quiet: bool, out: Path | None, total: int) -> None:
        super().__init__(quiet=quiet)
        self._out, self._total, self._unit = out, total, ""
        self._saved = self._kept = 0.0
        self._shown = -10.0
        self._progress: Any = None

    def turn(self, state: Evolved) -> None:
        """A generation is done, or a step that is kept."""
        last = state.trace[-1]
        genetic = state.mode == "genetic"
        self._unit, done = ("generation", int(last["generation"])) if genetic else ("step", int(last["step"]))
        now = time.monotonic()
        if not done:
            self._began = now
        if self._out is not None and (now - self._saved >= _SAVE_SECONDS or not done):
            state.save(self._out)
            self._saved, self._kept = now, done
        if self._quiet:
            return
        what = f"best {last['best']:.3f}, mean {last['mean']:.3f} nats a token"
        share = done / max(1, self._total)
        left = f", about {duration((now - self._began) * (1 - share) / share)} left" if 0 < share < 1 else ""
        if self._terminal:
            self._bar_to(done, what + left)
        elif now - self._shown >= 10 or state.finished:
            self._shown = now
            print(f"{self._unit} {done} of {self._total}: {what}{left}", file=sys.stderr, flush=True)

    def _bar_to(self, done: int, text: str) -> None:
        from rich import progress
        from rich.console import Console as RichConsole

        if self._bar is None:
            bar = progress.Progress(
                progress.TextColumn(self._unit),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TimeElapsedColumn(),
                progress.TextColumn("{task.fields[text]}"),
                console=RichConsole(stderr=True),
                transient=True,
            )
            bar.start()
            self._bar = bar, bar.add_task("", total=self._total, text="")
        self._bar[0].update(self._bar[1], completed=done, text=text)

    def state(self) -> str:
        """What an interrupted command leaves, and how to go on."""
        if self._out is None:
            return ": nothing is kept; with --out FILE the population would be"
        if not self._saved:
            return ": nothing was written"
        return (
            f": the population of {self._unit} {self._kept:.0f} of {self._total} is kept in {self._out}; "
            f"--from {self._out} goes on from it"
        )


def show(found: Evolved, *, top: int, out: Path | None) -> None:
    """The best texts, the trace, and what it cost."""
    from rich.table import Table

    from snellen.cli.show import Console as Printer

    console = Printer() if sys.stdout.isatty() else Printer(width=200, soft_wrap=True)
    genetic = found.mode == "genetic"
    group = "island" if genetic else "chain"
    table = Table(title="Texts, nats a token", title_justify="left", box=None, pad_edge=False, header_style="bold")
    for name in ("fitness",) * genetic + ("log-likelihood", "repetition", group, "text"):
        table.add_column(name, justify="left" if name == "text" else "right", overflow="fold")
    for member in found.members[:top]:
        numbers = (member.fitness,) * genetic + (member.log_likelihood, member.repetition)
        table.add_row(*(f"{value:.3f}" for value in numbers), str(member.group), rich_text(_one_line(member.text)))
    console.print(table)
    console.print()
    rows = found.trace
    chosen = sorted({round(i * (len(rows) - 1) / (_TRACE_ROWS - 1)) for i in range(_TRACE_ROWS)})
    names = ("generation", "best", "mean", "distinct") if genetic else ("step", "best", "mean", "acceptance")
    table = Table(title="Trace", title_justify="left", box=None, pad_edge=False, header_style="bold")
    for name in (*names, "passes"):
        table.add_column(name, justify="right")
    for row in (rows[i] for i in chosen):
        table.add_row(*(f"{row[n]:.3f}" if isinstance(row[n], float) else f"{row[n]:,}" for n in (*names, "passes")))
    console.print(table)
    console.print()
    cost = found.cost
    lines = [f"cost    {cost.passes:,} passes, {cost.token_passes:,} tokens, {duration(cost.seconds)}"]
    if found.convergence is not None:
        lines.append(_convergence(found.convergence))
    if out is not None:
        lines.append(f"file    {out}")
    for line in lines:
        console.print(rich_text(line))


def _convergence(told: dict[str, float | None]) -> str:
    r_hat, samples = told["r_hat"], told["effective_samples"]
    if r_hat is None or samples is None:
        return "chains  too short to tell whether they have converged"
    verdict = "" if r_hat <= _MIXED else ": the chains have NOT mixed; these are no samples of the target yet (--steps)"
    return f"chains  R̂ of the energy {r_hat:.3f}, {samples:.0f} effective samples{verdict}"


def _one_line(text: str) -> str:
    return text.replace("\n", "⏎")
