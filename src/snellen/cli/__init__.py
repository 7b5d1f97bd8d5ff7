"""The command line. Nothing heavy is imported until a command runs, so that `--help` is quick."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter

from snellen.cli import faults
from snellen.cli.evolve import evolve_texts
from snellen.cli.generate import generate_texts
from snellen.cli.organisms import examine_organisms
from snellen.cli.sweep import run_study
from snellen.cli.terminal import forgiving, say
from snellen.cli.train import train_model
from snellen.cli.values import exact
from snellen.errors import InputError, Refused
from snellen.request import Request

if TYPE_CHECKING:
    from snellen.cli.progress import Console


app = App(
    name="snellen",
    help="An eye chart for language models: how far ahead does a causal language model look?",
    version=lambda: __import__("snellen").__version__,
    result_action="return_value",
    suppress_keyboard_interrupt=False,  # `main` says how to resume
    # `--text essays/*.txt` as a shell gives it, and not nothing; no --no-… and --empty-… twins.
    default_parameter=Parameter(consume_multiple=1, negative=(), converter=exact),
)
_console: Console | None = None  # of the command that runs: an interruption says what it had done


@app.command
def exam(
    model: str = "pocket",
    /,
    *,
    text: list[Path] | None = None,
    field: str | None = None,
    out: Path | None = None,
    measures: list[str] | None = None,
    request: Annotated[Request, Parameter(name="*")] | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    device: str | None = None,
    revision: str | None = None,
    tokenizer: str | None = None,
    bos: Literal["auto", "always", "never"] = "auto",
    trust_remote_code: bool = False,
    quiet: bool = False,
    json: bool = False,
) -> None:
    """Examine a model: does looking ahead help it predict this text, by how much, and where?

    The same command resumes a run that was interrupted.

    Parameters
    ----------
    model
        Hub id, folder or GGUF file of a causal language model; `pocket` ships with Snellen.
    text
        Files to examine it on: plain text, .jsonl or .parquet; by default the text that ships with Snellen.
    field
        Field of .jsonl and .parquet files that holds the text.
    out
        The run folder; by default runs/MODEL-HASH, the hash being that of all settings.
    measures
        Questions to ask; by default lookahead-gain.
    dtype
        Number format of the model.
    device
        cpu, cuda, cuda:1, mps; by default the best there is.
    revision
        Branch, tag or commit of a hub model.
    tokenizer
        Hub id or folder of the tokenizer, where the model's own place has none.
    bos
        First token (BOS) in front of every window: auto, as the tokenizer does.
    trust_remote_code
        Run code that the model brings.
    quiet
        No progress.
    json
        Print the findings as JSON instead of the table.
    """
    console = _begin(quiet=quiet)
    console.say(f"loading {model} …")
    from snellen.cli.beforehand import check_exam

    request, wanted = request or Request(), measures or ["lookahead-gain"]
    texts = check_exam(
        model, text, request, wanted, field=field, out=out, revision=revision, tokenizer=tokenizer,
        told=lambda share: console.stage("reading the texts", share, ""),
    )  # fmt: skip
    from snellen.cli.show import show_findings, show_run
    from snellen.runner import examine

    run = examine(
        model,
        texts,
        request,
        out=out,
        measures=wanted,
        field=field,
        progress=console,
        dtype=dtype,
        device=device,
        revision=revision,
        tokenizer=tokenizer,
        bos={"auto": None, "always": True, "never": False}[bos],
        trust_remote_code=trust_remote_code or None,
    )
    console.close()
    (show_findings if json else show_run)(run)


@app.command
def compare(first: Path, second: Path, /, *, json: bool = False) -> None:
    """Put two runs side by side, with intervals of the differences (second minus first).

    Parameters
    ----------
    first
        A finished run folder.
    second
        Another.
    json
        Print JSON instead of the table.
    """
    from snellen.cli.show import show_comparison
    from snellen.results.compare import compare_runs

    show_comparison(compare_runs(first, second), json=json)


@app.command
def report(run: Path, /) -> None:
    """Draw the report of a finished run anew.

    Parameters
    ----------
    run
        A finished run folder.
    """
    from snellen.report.html import write_report
    from snellen.results.files import guarded
    from snellen.results.store import Run

    folder = Run.read(run).folder
    with guarded(folder / "report.html"):
        say(write_report(folder))


@app.command
def convert(
    source: str,
    folder: Path,
    /,
    *,
    tokenizer: str | None = None,
    revision: str | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    trust_remote_code: bool = False,
) -> None:
    """Convert a model (a GGUF file, say) to a folder that loads quickly.

    Parameters
    ----------
    source
        Hub id, folder or GGUF file.
    folder
        Where to write it; must not exist, or be empty.
    tokenizer
        Hub id or folder of the tokenizer, where the model's own place has none.
    revision
        Branch, tag or commit of a hub model.
    dtype
        Number format of the weights.
    trust_remote_code
        Run code that the model brings.
    """
    console = _begin(quiet=False)
    console.say(f"converting {source} …")
    from snellen.cli.beforehand import check_model
    from snellen.models.sources import check_new_folder

    check_model(source, revision=revision, tokenizer=tokenizer)
    check_new_folder(folder.expanduser())
    from snellen.models.conversion import convert as convert_model

    identity = convert_model(
        source, folder, tokenizer=tokenizer, revision=revision, dtype=dtype, trust_remote_code=trust_remote_code
    )
    for note in identity.notes:
        console.say(f"note: {note}")
    console.close()
    say(folder)


app.command(evolve_texts, name="evolve")
app.command(generate_texts, name="generate")
app.command(examine_organisms, name="organisms")
app.command(run_study, name="sweep")
app.command(train_model, name="train")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. 0: done; 1: our fault; 2: input, settings or disk, or refused; 130: interrupted."""
    global _console
    _console = None
    # Threads that wait by spinning made an exam seven times slower beside one other busy process, and 9 % faster alone.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    forgiving()
    try:
        _refuse_bytes(sys.argv[1:] if arguments is None else arguments)
        app(arguments, exit_on_error=False, print_error=False)
        sys.stdout.flush()  # what cannot be written is to be said here, not when Python has ended
    except (InputError, Refused, CycloptsError) as error:
        return _fail(str(error), 2)
    except KeyboardInterrupt:
        return _fail(f"interrupted{_console.state() if _console is not None else ''}", 130)
    except BrokenPipeError as error:  # the reader of our output has seen enough, as in `snellen compare … | head`
        if faults.readers_stay():
            return _fail(faults.ours(error), 1)
        faults.silence()
    except Exception as error:
        said = faults.not_ours(error)
        return _fail(faults.ours(error), 1) if said is None else _fail(said, 2)
    return 0


def _refuse_bytes(arguments: Sequence[str]) -> None:
    """A name that is no UTF-8 comes with half characters in it, which neither JSON, Parquet nor a tokenizer has."""
    for argument in arguments:
        if "\0" in argument:
            raise InputError(f"argument {argument!r}: holds a character NUL, which no name has; leave it out")
        if any("\ud800" <= character <= "\udfff" for character in argument):
            name = argument.encode("utf-8", "backslashreplace").decode()
            raise InputError(f"argument '{name}': is not UTF-8 (surrogates); rename the file, or write it in UTF-8")


def _fail(line: str, code: int) -> int:
    with contextlib.suppress(OSError, ValueError):  # nobody may be left to tell
        if _console is not None:
            _console.close()
        say(f"snellen: {' '.join(line.split())}", error=True)
    with contextlib.suppress(ValueError):
        try:
            sys.stdout.flush()
        except OSError:
            faults.silence()
    return code


def _begin(*, quiet: bool) -> Any:
    global _console
    from snellen.cli.progress import Console

    _console = Console(quiet=quiet)
    return _console
