"""`exam`: a model and texts → a run folder, window by window, resumable, the same numbers however it was cut."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import snellen
from snellen.errors import InputError
from snellen.kinds import checked
from snellen.lookahead.beam_search import WindowScores, score_window
from snellen.lookahead.preflight import preflight
from snellen.lookahead.settings import check_memory
from snellen.measures import registry
from snellen.measures.base import Measure
from snellen.models.load import Reading
from snellen.models.sources import check_apart
from snellen.request import Request
from snellen.results.files import guarded
from snellen.results.store import SCHEMA, Run, Writer, fingerprint, is_finished, read_run_json, refuse_other
from snellen.runner import generating, reading, scoring
from snellen.runner.measuring import finish
from snellen.runner.naive import score_naive
from snellen.runner.progress import Progress, Silent
from snellen.runner.record import content_of, made_by, measures_key, plain, slug, subject_key
from snellen.runner.work import OWN_BOS, Text, Work, cut, read
from snellen.subject import Subject, load

READING, COUNTING = "reading the texts", "counting their tokens"


@checked
def exam(
    model: Subject | PreTrainedModel | str | os.PathLike[str] = "pocket",
    texts: Any = None,
    *,
    width: int = Request.width,
    horizon: int = Request.horizon,
    widths: Sequence[int] | None = None,
    particles: int = Request.particles,
    out: str | os.PathLike[str] | None = None,
    measures: Sequence[str | Measure] = ("lookahead-gain",),
    limit: int | None = None,
    window: int | None = None,
    context: int | None = None,
    memory: str | int = Request.memory,
    seed: int = Request.seed,
    engine: str = Request.engine,
    field: str | None = None,
    progress: Progress | None = None,
    report: bool = True,
    tokenizer: PreTrainedTokenizerBase | str | os.PathLike[str] | None = None,
    revision: str | None = None,
    dtype: str | None = None,
    device: str | None = None,
    bos: bool | str | None = None,
    trust_remote_code: bool | None = None,
) -> Run:
    """Examine a model on texts and return the finished run.

    Parameters
    ----------
    model
        What `snellen.load` takes (hub id, folder, GGUF file, "pocket", a loaded model), or what it gave.
    texts
        `pathlib.Path`s of files, folders or patterns; strings that are texts; `Document`s. None examines on the
        text that ships with Snellen.
    width, horizon, widths
        Beams of `width` branches, `horizon` tokens deep; further `widths` are searched beside (default: the powers
        of two below `width`).
    particles
        Completions sampled beside the beams (without replacement): an estimate for infinite width; 0 for none.
    out
        The run folder; by default `runs/MODEL-HASH`, the hash being that of all settings.
    measures
        Names, or `Measure` objects with settings of their own.
    limit, window, context
        Score at most so many tokens; read so many at once; predict each scored token from at least so many.
    memory
        What the search may hold beside the weights; changes numbers by rounding alone (docs/runs.md).
    tokenizer, revision, dtype, device, bos, trust_remote_code
        As in `snellen.load`, for a model that is not loaded yet; None leaves them as they are there.

    Raises
    ------
    InputError
        Settings, texts, model or folder are wrong; nothing was written to another run.
    Refused
        The model's numbers cannot be vouched for, or the data carry no answer.
    """
    request = Request(
        width=width,
        horizon=horizon,
        widths=None if widths is None else tuple(widths),
        particles=particles,
        limit=limit,
        window=window,
        context=context,
        memory=memory,
        seed=seed,
        engine=engine,
    )
    loading = {
        "tokenizer": tokenizer,
        "revision": revision,
        "dtype": dtype,
        "device": device,
        "bos": bos,
        "trust_remote_code": trust_remote_code,
    }
    return examine(
        model,
        texts,
        request,
        out=out,
        measures=measures,
        field=field,
        progress=progress,
        report=report,
        **loading,
    )


def examine(
    model: Subject | PreTrainedModel | str | os.PathLike[str],
    texts: Any,
    request: Request,
    *,
    out: str | os.PathLike[str] | None = None,
    measures: Sequence[str | Measure] = ("lookahead-gain",),
    field: str | None = None,
    progress: Progress | None = None,
    report: bool = True,
    **loading: Any,
) -> Run:
    """`exam` with its settings in one piece."""
    tell: Progress = Silent() if progress is None else progress
    chosen = registry.find(measures)
    documents = read(texts, field, partial(_tell, tell, READING))
    if not texts:
        request = request.of_the_sample()
    key = {
        "snellen": snellen.__version__,
        "schema": SCHEMA,
        **request.key(),
        **measures_key(chosen),
        **documents.key(),
        **made_by(chosen),
    }
    if out is not None:
        found = read_run_json(Path(out))
        if found is not None:
            refuse_other(Path(out), found, key)
    # Where it goes of itself is known later; were it here, it would be inside the model's folder as well.
    check_apart(model, Path("runs", "-") if out is None else out, name="--out")
    began = time.monotonic()
    cuts: dict[Reading, Text] = {}

    def cut_early(reading: Reading) -> None:
        """What is wrong with texts and windows is said before the weights are read."""
        cuts[reading] = cut(documents, reading, request, partial(_tell, tell, COUNTING))
        tell.say("reading the weights")

    subject = _subject(model, loading, cut_early)
    if any("rollouts" in measure.needs for measure in chosen.values()):
        check_memory(subject.model, width=request.width, horizon=request.horizon, memory=request.memory)
    for note in subject.identity.notes:
        tell.say(f"note: {note}")
    taken = subject.reading
    text = cuts[taken] if taken in cuts else cut(documents, taken, request, partial(_tell, tell, COUNTING))
    if text.own_bos:
        tell.say(f"{text.own_bos} of {len(documents)} texts: {OWN_BOS}")
    if identical := text.identical():
        tell.say(_left_out(identical))
    prompts = generating.planned(chosen, text, subject, request)  # too few are refused here
    passages = reading.planned(chosen, text, subject, request)
    key |= text.key() | subject_key(subject)
    folder = Path(out) if out is not None else Path("runs") / f"{slug(subject)}-{fingerprint(key)}"
    check_apart(model, folder, name="--out")
    content = content_of(subject, request, chosen, text)
    if not is_finished(folder, key):
        content["preflight"]["longest window"] = _check_longest(subject, request, text, tell)
    with Writer(folder, key=key, content=content, windows=[work.scored for work in text.windows]) as writer:
        if writer.finished:
            tell.say(f"{folder} is complete: nothing to do")
        else:
            writer.spend("loading", began)
            searched = any("rollouts" in measure.needs for measure in chosen.values())
            _score(subject, request, text, writer, tell, searched=searched)
            began = time.monotonic()
            written = generating.generate_all(subject, prompts, folder, fingerprint(key), request, tell)
            if written:
                writer.spend("writing", began)
            began = time.monotonic()
            found = reading.read_all(subject, passages, folder, fingerprint(key), request, tell)
            if found:
                writer.spend("reading", began)
            with scoring.memory_errors("measuring", "lower --limit, which begins another run"):
                finish(request, text, chosen, writer, tell, written=written, read=found, searched=searched)
        if report and not (folder / "report.html").exists():
            _report(folder, tell)
    return Run.read(folder)


def _tell(tell: Progress, stage: str, share: float) -> None:
    tell.stage(stage, share, "")


def _left_out(identical: Mapping[str, Any]) -> str:
    """Which documents are not scored a second time, in a line."""
    count, named = identical["documents"], identical["first"]
    further = f", and {count - len(named)} more" if count > len(named) else ""
    what = f"{count} documents are" if count > 1 else "1 document is"
    return (
        f"{what} identical to an earlier one and left out ({identical['tokens']} tokens): {', '.join(named)}{further}"
    )


def _check_longest(subject: Subject, request: Request, text: Text, tell: Progress) -> dict[str, Any]:
    """Short texts never reach a sliding window: the model is checked at the length that will be scored."""
    longest = max(text.windows, key=lambda work: len(work.ids)).ids
    tell.say(f"checking the model on {len(longest)} tokens")
    with scoring.memory_errors(f"checking the model on {len(longest)} tokens", _less(request)):
        checked = preflight(
            subject.model,
            length=len(longest),
            horizon=request.horizon,
            engine=request.engine,
            input_ids=longest,
        )
    return dict(plain(checked.as_dict()))


def _score(subject: Subject, request: Request, text: Text, writer: Writer, tell: Progress, *, searched: bool) -> None:
    total, done = len(text.windows), len(writer.done)
    if done:
        tell.say(f"resuming: {done} of {total} windows done")
    starts_word = torch.from_numpy(text.starts_word)
    tell.windows(writer.folder, done, total)
    for number, work in enumerate(text.windows):
        if number in writer.done:
            continue
        began = time.monotonic()
        widths = f", widths {list(request.all_widths)}" if searched else ""
        what = f"scoring window {number + 1} of {total} ({len(work.ids)} tokens{widths})"
        with scoring.memory_errors(what, _less(request)):
            scores = _predictions(subject, request, work, starts_word, tell, searched=searched)
        table = scoring.rows(work.rows, scores)
        scoring.refuse_nan(table, text.names)
        writer.spend("scoring", began)
        writer.write_piece(number, table)
        tell.windows(writer.folder, len(writer.done), total)


def _predictions(
    subject: Subject, request: Request, work: Work, starts_word: torch.Tensor, tell: Progress, *, searched: bool
) -> WindowScores:
    """Of one window: with its beams and particles, or without them where no measure asks for them."""
    alone: dict[str, Any] = {
        "first": work.first,
        "horizon": request.horizon,
        "temperatures": scoring.TEMPERATURES,
        "top": scoring.TOP,
        "starts_word": starts_word,
        "memory": request.memory,
        "engine": request.engine,
    }
    if not searched:
        return score_naive(subject.model, work.ids, **alone)
    return score_window(
        subject.model,
        work.ids,
        **alone,
        widths=request.all_widths,
        progress=tell.within,
        particles=request.particles,
        # windows of equal tokens in two documents get particles of their own
        seed=request.seed * 1_000_003 + int(work.rows["document"][0]),
    )


def _report(folder: Path, tell: Progress) -> None:
    from snellen.report.html import write_report

    tell.say("drawing the report")
    with guarded(folder / "report.html"):
        write_report(folder)


def _subject(model: Any, loading: dict[str, Any], before: Callable[[Reading], None]) -> Subject:
    given = {name: value for name, value in loading.items() if value is not None}
    if not isinstance(model, Subject):
        with scoring.memory_errors(
            "loading the model", "choose --dtype bfloat16, another --device, or a smaller model"
        ):
            return load(model, **given, before=before)
    if given:
        raise InputError(f"{', '.join(given)}: set it in snellen.load; this model is loaded already")
    return model


def _less(request: Request) -> str:
    return (
        f"lower --memory (now {request.memory}), which changes numbers by rounding alone and resumes this run; "
        "if that does not suffice, lower --window or --width"
    )
