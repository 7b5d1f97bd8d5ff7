"""Held-out text, cut once: every look of the monitor is at the same windows, so that what moves is the model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from snellen.errors import InputError, Refused
from snellen.lookahead.settings import context_of
from snellen.models.checks import known_ids
from snellen.request import Request
from snellen.results import statistics
from snellen.texts.encode import encode
from snellen.texts.read import Document
from snellen.texts.windows import plan_windows

TOKENS = 4096
LEAST = statistics.REFUSED_BELOW * statistics.BLOCK


@dataclass(frozen=True, kw_only=True, eq=False)
class Window:
    """What the model reads at once; from place `first` of `ids` on it is scored."""

    ids: Tensor  # int64 [pos], on the CPU
    first: int
    document: int
    index: int  # of the first scored token in its document

    @property
    def scored(self) -> int:
        return len(self.ids) - self.first


@dataclass(frozen=True, kw_only=True, eq=False)
class HeldOut:
    """A systematic sample of held-out text.

    horizon: how deep every position can be searched; units: what intervals resample, documents or blocks.
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
            (sequences, or mappings with "input_ids"), each a document of its own. Windows cut from one document are no
            independent rows: where there are documents, give those.
        horizon
            The deepest that will be searched: so many places less one are kept free behind the text.
        bos
            Token in front of every window of a text; rows of ids are read as they are.

        Raises
        ------
        InputError
            No text, ids that the model does not know, a horizon without room, fewer `tokens` than an interval needs.
        Refused
            The text makes fewer than 8 units, so that no interval could be vouched for.
        """
        if tokens is not None and tokens < LEAST:
            raise InputError(f"monitor tokens {tokens}: an interval needs at least {LEAST}")
        vocabulary = known_ids(model)
        names, rows, given = _read(text, tokenizer, vocabulary, bos)
        ahead = [] if bos is None or given == "ids" else [bos]
        window, context = Request(horizon=horizon).windows(context_of(model))
        if max(map(len, rows)) + len(ahead) <= window:  # rows that fit are read from their beginning
            context = window - 1 - len(ahead)
        plan = plan_windows([len(row) for row in rows], window=window, context=context, bos=bool(ahead), limit=tokens)
        windows = [
            Window(
                ids=torch.tensor([*ahead, *rows[cut.document][cut.begin : cut.last].tolist()]),
                first=len(ahead) + cut.first - cut.begin,
                document=cut.document,
                index=cut.first,
            )
            for cut in plan.windows
        ]
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
        return found.hexdigest()


def _read(
    text: Any, tokenizer: Any, vocabulary: int, bos: int | None
) -> tuple[list[str], list[NDArray[np.int64]], str]:
    """Names and ids of the documents, and whether they came as "text" or as "ids"."""
    if isinstance(text, (str, Mapping)) or not hasattr(text, "__len__") or not hasattr(text, "__getitem__"):
        raise InputError(f"held-out text: {type(text).__name__}; give a list of documents or of rows of token ids")
    if not len(text):
        raise InputError("held-out text: there is none in it; the monitor needs some that is not trained on")
    given = [_bare(text[i]) for i in range(len(text))]
    if isinstance(given[0], (str, Document)):
        if tokenizer is None:
            raise InputError("held-out text: documents need a tokenizer; give one, or rows of token ids")
        documents = [
            one if isinstance(one, Document) else Document(name=f"document {i + 1}", text=one)
            for i, one in enumerate(given)
        ]
        documents = [one for one in documents if one.text.strip()]
        if not documents:
            raise InputError(f"held-out text: nothing but blanks in its {len(given)} documents")
        encoded = [encode(tokenizer, document, vocabulary=vocabulary, bos=bos).ids for document in documents]
        return [document.name for document in documents], encoded, "text"
    return [f"row {i + 1}" for i in range(len(given))], [_ids(row, i, vocabulary) for i, row in enumerate(given)], "ids"


def _bare(row: Any) -> Any:
    if not isinstance(row, Mapping):
        return row
    for name in ("input_ids", "text"):
        if name in row:
            return row[name]
    raise InputError(f"held-out text: rows have {', '.join(map(str, row))}; needed is input_ids or text")


def _ids(row: Any, number: int, vocabulary: int) -> NDArray[np.int64]:
    ids = np.asarray(row)
    if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
        raise InputError(f"held-out text, row {number}: of shape {ids.shape}, {ids.dtype}; must be a sequence of ids")
    if len(ids) and (int(ids.min()) < 0 or int(ids.max()) >= vocabulary):
        worst = int(ids.min()) if ids.min() < 0 else int(ids.max())
        raise InputError(f"held-out text, row {number}: has the id {worst}, and the model knows 0…{vocabulary - 1}")
    return ids.astype(np.int64)
