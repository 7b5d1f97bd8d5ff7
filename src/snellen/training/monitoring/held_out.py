"""Held-out text, cut once: every look of the monitor is at the same windows, so that what moves is the model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from snellen.errors import InputError, Refused
from snellen.models.body import context_of, known_ids
from snellen.request import Request
from snellen.results import statistics
from snellen.texts.encode import encode
from snellen.texts.read import Document
from snellen.texts.windows import cut_stretch, plan_windows
from snellen.training.columns import Row, check_columns, read_row

TOKENS = 4096
LEAST = statistics.REFUSED_BELOW * statistics.BLOCK


@dataclass(frozen=True, kw_only=True, eq=False)
class Window:
    """What the model reads at once; from place `first` of `ids` on it is scored, where `targets` says so."""

    ids: Tensor  # int64 [pos], on the CPU
    first: int
    document: int
    index: int  # of the first scored token in its document
    targets: Tensor | None = None  # bool, of `ids[first:]`; None: all

    @property
    def scored(self) -> int:
        return len(self.ids) - self.first if self.targets is None else int(self.targets.sum())


@dataclass(frozen=True, kw_only=True, eq=False)
class HeldOut:
    """A systematic sample of held-out text.

    horizon: how deep every position can be searched; units: of the intervals, documents or blocks.
    """

    windows: Sequence[Window]
    documents: Sequence[str]
    horizon: int
    units: int
    vocabulary: int

    @classmethod
    def of(
        cls,
        text: Any,
        model: PreTrainedModel,
        *,
        horizon: int,
        tokens: int | None = TOKENS,
        tokenizer: Any = None,
        bos: int | None = None,
    ) -> HeldOut:
        """Cut `text` into windows as `snellen exam` does, and score at most `tokens` of it (None: all).

        Parameters
        ----------
        text
            Documents (strings, `Document`s or mappings with "text"; `tokenizer` is needed), or rows of token ids
            (sequences, or mappings with "input_ids"), each a document of its own, of which the targets alone are scored
            (`training.columns.read_row`). Windows cut from one document are no independent rows: where there are
            documents, give those.
        horizon
            The deepest that will be searched: so many places less one are kept free behind the text.
        bos
            Token in front of every window of a text; rows of ids are read as they are.

        Raises
        ------
        InputError
            No text or no target, columns or ids that are not known, a horizon without room, fewer `tokens` than an
            interval needs.
        Refused
            The text makes fewer than 8 units, so that no interval could be vouched for.
        """
        if tokens is not None and tokens < LEAST:
            raise InputError(f"monitor tokens {tokens}: an interval needs at least {LEAST}")
        vocabulary = known_ids(model)
        names, rows, given = _read(text, tokenizer, vocabulary, bos)
        ahead = [] if bos is None or given == "ids" else [bos]
        window, context = Request(horizon=horizon).windows(context_of(model))
        if max(len(row.ids) for row in rows) + len(ahead) <= window:  # rows that fit are read from their beginning
            context = window - 1 - len(ahead)
        windows = list(_cut(rows, ahead, window=window, context=context, limit=tokens))
        document = np.concatenate([np.full(one.scored, one.document, dtype=np.int32) for one in windows])
        try:
            units = statistics.units(document)
        except Refused as error:
            raise Refused(f"held-out text of the monitor: {error}") from error
        return cls(windows=windows, documents=names, horizon=horizon, units=units.count, vocabulary=vocabulary)

    @property
    def tokens(self) -> int:
        """How many are scored."""
        return sum(window.scored for window in self.windows)

    @property
    def sha256(self) -> str:
        """Of all that decides what is read and what is scored."""
        found = hashlib.sha256()
        for window in self.windows:
            found.update(f"{window.document} {window.index} {window.first} {len(window.ids)} ".encode())
            found.update(window.ids.numpy().astype("<i8").tobytes())
            if window.targets is not None:
                found.update(window.targets.numpy().tobytes())
        return found.hexdigest()


def _cut(
    rows: Sequence[Row], ahead: Sequence[int], *, window: int, context: int, limit: int | None
) -> Iterator[Window]:
    """Windows over the targets of rows, the first token of a row among them where something is put ahead of it.

    The sample is drawn as if each row were its targets alone, so that `limit` counts these; what stands between two of
    them is read and not scored.
    """
    unseen = 0 if ahead else 1  # the first token of a row, which nothing predicts
    spots = [np.flatnonzero(row.targets[unseen:]) + unseen for row in rows]
    if any(len(row.ids) > unseen for row in rows) and not any(map(len, spots)):
        raise InputError(f"held-out text: no token in its {len(rows)} rows is a target (labels, masks)")
    lengths = [len(places) + unseen for places in spots]
    whole = max(lengths) + len(ahead) + 1
    for stretch in plan_windows(lengths, window=whole, context=0, bos=bool(ahead), limit=limit).windows:
        places = spots[stretch.document][stretch.first - unseen : stretch.last - unseen]
        row, room = rows[stretch.document], window - len(ahead)
        for cut in cut_stretch(stretch.document, int(places[0]), int(places[-1]) + 1, room, max(context, unseen)):
            inside = places[(places >= cut.first) & (places < cut.last)]
            if not len(inside):
                continue
            first, last = int(inside[0]), int(inside[-1]) + 1
            yield Window(
                ids=torch.tensor([*ahead, *row.ids[cut.begin : last].tolist()]),
                first=len(ahead) + first - cut.begin,
                document=cut.document,
                index=first,
                targets=None if len(inside) == last - first else torch.from_numpy(row.targets[first:last].copy()),
            )


def _read(text: Any, tokenizer: Any, vocabulary: int, bos: int | None) -> tuple[list[str], list[Row], str]:
    """Names and rows of the documents, and whether they came as "text" or as "ids"."""
    if isinstance(text, (str, Mapping)) or not hasattr(text, "__len__") or not hasattr(text, "__getitem__"):
        raise InputError(f"held-out text: {type(text).__name__}; give a list of documents or of rows of token ids")
    if not len(text):
        raise InputError("held-out text: there is none in it; the monitor needs some that is not trained on")
    given = [_bare(text[i], f"held-out text, row {i}") for i in range(len(text))]
    if isinstance(given[0], (str, Document)):
        if tokenizer is None:
            raise InputError("held-out text: documents need a tokenizer; give one, or rows of token ids")
        documents = [
            one if isinstance(one, Document) else Document(name=f"document {i + 1}", text=one or "")
            for i, one in enumerate(given)
        ]
        documents = [one for one in documents if one.text.strip()]
        if not documents:
            raise InputError(f"held-out text: nothing but blanks in its {len(given)} documents")
        encoded = [encode(tokenizer, document, vocabulary=vocabulary, bos=bos).ids for document in documents]
        rows = [Row(ids=ids, targets=np.ones(len(ids), dtype=np.bool_)) for ids in encoded]
        return [document.name for document in documents], rows, "text"
    rows = [_ids(row, i, vocabulary) for i, row in enumerate(given)]
    return [f"row {i + 1}" for i in range(len(given))], rows, "ids"


def _bare(row: Any, name: str) -> Any:
    """A text where the row is one, otherwise the row."""
    if not isinstance(row, Mapping) or "input_ids" in row:
        return row
    if "text" not in row:
        raise InputError(f"held-out text: rows have {', '.join(map(str, row))}; needed is input_ids or text")
    check_columns(row, ("text",), name)
    return row["text"]


def _ids(raw: Any, number: int, vocabulary: int) -> Row:
    row = read_row(raw, f"held-out text, row {number}")
    if len(row.ids) and (int(row.ids.min()) < 0 or int(row.ids.max()) >= vocabulary):
        worst = int(row.ids.min()) if row.ids.min() < 0 else int(row.ids.max())
        raise InputError(f"held-out text, row {number}: has the id {worst}, and the model knows 0…{vocabulary - 1}")
    return row
