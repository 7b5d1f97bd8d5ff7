"""What an exam works through: documents, encoded and cut into windows, each row knowing its place in the text."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from snellen.errors import InputError
from snellen.models.load import Reading
from snellen.request import Request
from snellen.results import statistics
from snellen.texts.encode import Encoded, encode, starts_word
from snellen.texts.read import Document, bundled, documents_from, read_documents
from snellen.texts.windows import Window, plan_windows

OWN_BOS = "begins with the model's first token (BOS), which is read once"


@dataclass(frozen=True, kw_only=True)
class Work:
    """One window: what the model reads, which of it is scored, and where that stands in the text."""

    ids: torch.Tensor  # [pos], with the first token where the policy says so
    first: int  # place in `ids` of the first scored token
    rows: Mapping[str, Any]  # the text's columns of `tokens.parquet`

    @property
    def scored(self) -> int:
        return len(self.ids) - self.first


@dataclass(frozen=True, kw_only=True)
class Text:
    """Everything that is read and scored, in its fixed order."""

    documents: Sequence[Document]
    encoded: Sequence[Encoded]
    windows: Sequence[Work]
    window: int
    context: int
    excluded: Mapping[str, int]  # tokens that are not scored, by reason
    tokenizer: Any
    starts_word: NDArray[np.bool_]

    @property
    def names(self) -> list[str]:
        return [document.name for document in self.documents]

    @property
    def own_bos(self) -> int:
        """How many documents begin with the model's first token themselves."""
        return sum(one.own_bos for one in self.encoded)

    def key(self) -> dict[str, Any]:
        return {"window": self.window, "context": self.context}

    def about(self) -> dict[str, Any]:
        """The entry of `run.json`."""
        scored = [0] * len(self.documents)
        for work in self.windows:
            scored[int(work.rows["document"][0])] += work.scored
        entries = [
            {
                "name": document.name,
                "sha256": document.sha256,
                "characters": len(document.text),
                "tokens": len(encoded),
                "scored": count,
                "notes": list(document.notes),
            }
            for document, encoded, count in zip(self.documents, self.encoded, scored, strict=True)
        ]
        return {
            "documents": entries,
            "scored": sum(scored),
            "excluded": dict(self.excluded),
            "own_first_token": self.own_bos,
        }


def read(texts: Any, field: str | None) -> list[Document]:
    """Documents given as such, or files; the bundled text where none are given."""
    if texts is None:
        return bundled()
    options = {} if field is None else {"field": field}
    if isinstance(texts, (list, tuple)) and texts and all(isinstance(one, os.PathLike) for one in texts):
        return read_documents(texts, **options)
    return documents_from(texts, **options)


def cut(documents: Sequence[Document], reading: Reading, request: Request) -> Text:
    """Encode and cut, as a model of this `reading` takes texts.

    Raises
    ------
    InputError
        No tokenizer, a text that it cannot encode, a window without room.
    Refused
        The text is too short for an interval.
    """
    window, context = request.windows(reading.context)
    if reading.tokenizer is None:
        raise InputError("the model has no tokenizer: name one with tokenizer=... (--tokenizer)")
    first = reading.bos.token_id
    encoded = [encode(reading.tokenizer, document, vocabulary=reading.vocabulary, bos=first) for document in documents]
    plan = plan_windows(
        [len(tokens) for tokens in encoded],
        window=window,
        context=context,
        bos=first is not None,
        limit=request.limit,
    )
    works = [_work(place, documents[place.document], encoded[place.document], first) for place in plan.windows]
    statistics.units(np.concatenate([work.rows["document"] for work in works]))  # too few are refused here
    return Text(
        documents=[
            replace(document, notes=(*document.notes, OWN_BOS)) if tokens.own_bos else document
            for document, tokens in zip(documents, encoded, strict=True)
        ],
        encoded=encoded,
        windows=works,
        window=window,
        context=context,
        excluded=plan.excluded,
        tokenizer=reading.tokenizer,
        starts_word=starts_word(reading.tokenizer, reading.vocabulary),
    )


def _work(place: Window, document: Document, encoded: Encoded, bos: int | None) -> Work:
    ahead = [] if bos is None else [bos]
    own = slice(place.first, place.last)
    count = place.last - place.first
    spans = zip(encoded.start[own].tolist(), encoded.end[own].tolist(), strict=True)
    return Work(
        ids=torch.tensor([*ahead, *encoded.ids[place.begin : place.last].tolist()]),
        first=len(ahead) + place.first - place.begin,
        rows={
            "document": np.full(count, place.document, dtype=np.int32),
            "index": np.arange(place.first, place.last, dtype=np.int32),
            "token": encoded.ids[own].astype(np.int32),
            "piece": [document.text[a:b] for a, b in spans],
            "start": encoded.start[own],
            "end": encoded.end[own],
            # Of its own document: the model's first token is not counted.
            "context": np.arange(place.first, place.last, dtype=np.int32) - place.begin,
        },
    )


def spell(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text of each token id alone, as the report shows it."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        return list(backend.decode_batch([[token] for token in ids], skip_special_tokens=False))
    return [tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False) for token in ids]
