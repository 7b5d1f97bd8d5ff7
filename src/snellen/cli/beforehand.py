"""What can be wrong with a command and is seen in a second: said before torch is imported, let alone a model read."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import snellen
from snellen.errors import InputError
from snellen.measures import registry
from snellen.models.sources import check_files, resolve
from snellen.request import Request
from snellen.results.store import SCHEMA, read_run_json, refuse_other
from snellen.texts.corpus import Corpus
from snellen.texts.read import PLAIN


def check_model(model: str, *, revision: str | None, tokenizer: str | None) -> None:
    """Refuse a model, or a tokenizer of its own, that is neither here nor a possible word of the hub."""
    check_files(resolve(model, revision=revision))
    if tokenizer is not None:
        resolve(tokenizer)


def check_exam(
    model: str,
    text: Sequence[Path] | None,
    request: Request,
    measures: Sequence[str],
    *,
    field: str | None,
    out: Path | None,
    revision: str | None,
    tokenizer: str | None,
    told: Callable[[float], None] = lambda share: None,
) -> Corpus | None:
    """The texts of an exam (None: the bundled ones), once all is checked that needs no model.

    Raises
    ------
    InputError
        Measures, model, texts, or a run folder that is another run's.
    """
    registry.check(measures)
    if field is not None and not any(_has_fields(path) for path in text or ()):
        raise InputError(f"field {field!r}: plain texts have no fields (.jsonl and .parquet do); leave it out")
    check_model(model, revision=revision, tokenizer=tokenizer)
    options = {} if field is None else {"field": field}
    documents = None if text is None else Corpus.of_files(text, **options, told=told)
    if out is None:
        return documents
    found = read_run_json(out)
    if found is None:
        check_place(out, "out")
        return documents
    key = {"snellen": snellen.__version__, "schema": SCHEMA}
    key |= request.of_the_sample().key() if documents is None else request.key() | documents.key()
    refuse_other(out, found, key)
    return documents


def _has_fields(path: Path) -> bool:
    """Whether it may hold a text in a field: also what is a folder, or a pattern."""
    return not path.is_file() or path.suffix.lower() not in (*PLAIN, "")


def check_place(path: Path, name: str) -> None:
    """Refuse a file or folder that could not be made where it is wanted."""
    above = next(folder for folder in [path, *path.absolute().parents] if folder.exists())
    if above == path and not path.is_dir():
        above = path.absolute().parent
    if not above.is_dir() or not os.access(above, os.W_OK):
        why = "no folder" if not above.is_dir() else "not to be written by you"
        raise InputError(f"{name} {str(path)!r}: {above} is {why}: name another place")
