"""What an exam works through: documents, encoded and cut into windows, each row knowing its place in the text."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from snellen.errors import InputError
from snellen.models.load import Reading
from snellen.request import Request
from snellen.results import statistics
from snellen.texts.corpus import Corpus
from snellen.texts.encode import Counted, Encoded, count, encode, starts_word
from snellen.texts.read import Document, bundled, documents_from
from snellen.texts.windows import Window, plan_windows

IDENTICAL = "documents identical to an earlier one"
_NAMED = 5  # of them, on the console and in run.json; `tables/documents.parquet` has all
_KEPT = 4_000_000  # tokens of long documents that are held rather than encoded twice, 16 bytes each
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


class Tokens:
    """The tokens of one document: how many there are is known, and which they are is found where it is asked for."""

    def __init__(self, length: int, encoded: Callable[[], Encoded]) -> None:
        self._length, self._encoded = length, encoded

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, places: slice) -> NDArray[np.int64]:
        return self.ids[places]

    @property
    def ids(self) -> NDArray[np.int64]:
        return self._encoded().ids


@dataclass(frozen=True, kw_only=True)
class Text:
    """Everything that is read and scored, in its fixed order."""

    corpus: Corpus
    encoded: Sequence[Tokens]  # none of a document that is left out
    windows: Sequence[Work]
    window: int
    context: int
    excluded: Mapping[str, int]  # tokens that are not scored, by reason
    tokenizer: Any
    starts_word: NDArray[np.bool_]
    counted: Sequence[Counted]
    same_as: Sequence[int | None]  # the earlier document that each is identical to, and is left out for

    @property
    def names(self) -> list[str]:
        return self.corpus.names

    @property
    def own_bos(self) -> int:
        """How many documents begin with the model's first token themselves."""
        return sum(one.own_bos for one in self.counted)

    def key(self) -> dict[str, Any]:
        return {"window": self.window, "context": self.context}

    def identical(self) -> dict[str, Any]:
        """The documents that are left out because they stand there already; the first of them by name."""
        pairs = [(number, first) for number, first in enumerate(self.same_as) if first is not None]
        if not pairs:
            return {}
        entries = self.corpus.entries
        return {
            "documents": len(pairs),
            "tokens": sum(self.counted[number].tokens for number, _ in pairs),
            "first": [f"{entries[number].name} (as {entries[first].name})" for number, first in pairs[:_NAMED]],
        }

    def documents(self) -> pa.Table:
        """One row a document, in the order of `Scored.document`: `tables/documents.parquet`."""
        entries, scored = self.corpus.entries, self._scored()
        notes = [
            [*entry.notes, *([OWN_BOS] if counted.own_bos else [])]
            for entry, counted in zip(entries, self.counted, strict=True)
        ]
        return pa.table({
            "name": pa.array([entry.name for entry in entries], pa.string()),
            "sha256": pa.array([entry.sha256 for entry in entries], pa.string()),
            "characters": pa.array([entry.characters for entry in entries], pa.int64()),
            "tokens": pa.array([counted.tokens for counted in self.counted], pa.int64()),
            "scored": pa.array(scored, pa.int64()),
            "same_as": pa.array(self.same_as, pa.int32()),
            "notes": pa.array(notes, pa.list_(pa.string())),
        })  # fmt: skip

    def about(self) -> dict[str, Any]:
        """The entry of `run.json`: of any number of documents it is equally long."""
        scored, identical = self._scored(), self.identical()
        return {
            "documents": len(self.corpus),
            "documents scored": int((scored > 0).sum()),
            "characters": sum(entry.characters for entry in self.corpus.entries),
            "tokens": sum(one.tokens for one in self.counted),
            "scored": int(scored.sum()),
            "excluded": dict(self.excluded),
            "own_first_token": self.own_bos,
            **({IDENTICAL: identical} if identical else {}),
        }

    def _scored(self) -> NDArray[np.int64]:
        """[documents] tokens of each."""
        found = np.zeros(len(self.corpus), dtype=np.int64)
        for work in self.windows:
            found[int(work.rows["document"][0])] += work.scored
        return found


def read(texts: Any, field: str | None, told: Callable[[float], None] = lambda share: None) -> Corpus:
    """Documents given as such, or files; the bundled text where none are given."""
    if texts is None:
        return Corpus.of(bundled())
    if isinstance(texts, Corpus):
        return texts
    options = {} if field is None else {"field": field}
    if isinstance(texts, os.PathLike):
        texts = [texts]
    if isinstance(texts, (list, tuple)) and texts and all(isinstance(one, os.PathLike) for one in texts):
        return Corpus.of_files(texts, **options, told=told)
    return Corpus.of(documents_from(texts, **options))


def cut(
    documents: Sequence[Document],
    reading: Reading,
    request: Request,
    told: Callable[[float], None] = lambda share: None,
) -> Text:
    """Encode and cut, as a model of this `reading` takes texts.

    Every document is counted, since a limit takes its sample from all of them; only those of which something is scored
    are encoded with their characters. told: hears which share of the characters has been counted.

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
    corpus, first = Corpus.of(documents), reading.bos.token_id
    options = {"vocabulary": reading.vocabulary, "bos": first}
    counted, kept, room = list[Counted](), dict[int, Encoded](), _KEPT
    for number, one in enumerate(_telling(count(reading.tokenizer, corpus, **options), corpus, told)):
        if one.encoded is not None and len(one.encoded) <= room:
            kept[number], room = one.encoded, room - len(one.encoded)
        counted.append(replace(one, encoded=None))
    same_as = _identical(counted)
    lengths = [one.tokens if same is None else 0 for one, same in zip(counted, same_as, strict=True)]

    @functools.lru_cache(maxsize=1)  # documents are asked for in their order
    def encoded(number: int) -> Encoded:
        found = kept[number] if number in kept else encode(reading.tokenizer, corpus[number], **options)
        if len(found) != counted[number].tokens:
            raise ValueError(f"{len(found)} tokens in document {number}, and {counted[number].tokens} were counted")
        return found

    plan = plan_windows(lengths, window=window, context=context, bos=first is not None, limit=request.limit)
    works = [
        _work(place, document, encoded(place.document), first)
        for number, places in itertools.groupby(plan.windows, lambda place: place.document)
        for document in [corpus[number]]
        for place in places
    ]
    statistics.units(np.concatenate([work.rows["document"] for work in works]))  # too few are refused here
    twice = sum(one.tokens for one in counted) - sum(lengths)
    return Text(
        corpus=corpus,
        encoded=[Tokens(length, functools.partial(encoded, number)) for number, length in enumerate(lengths)],
        windows=works,
        window=window,
        context=context,
        excluded={**plan.excluded, **({IDENTICAL: twice} if twice else {})},
        tokenizer=reading.tokenizer,
        starts_word=starts_word(reading.tokenizer, reading.vocabulary),
        counted=counted,
        same_as=same_as,
    )


def _identical(counted: Sequence[Counted]) -> list[int | None]:
    """For each document the first with the very same tokens, where there is an earlier one.

    A model says of both the same to the last digit: the second is no further evidence of anything, and as a unit of its
    own it would make every interval too narrow.
    """
    known = dict[bytes, int]()
    return [
        None if first == number else first
        for number, one in enumerate(counted)
        for first in [known.setdefault(one.digest, number)]
    ]


def _telling(found: Iterator[Counted], corpus: Corpus, told: Callable[[float], None]) -> Iterator[Counted]:
    total, done = max(1, sum(entry.characters for entry in corpus.entries)), 0
    told(0.0)
    for entry, one in zip(corpus.entries, found, strict=True):
        yield one
        before, done = done, done + entry.characters
        if done * 100 // total > before * 100 // total and done < total:
            told(done / total)
    told(1.0)


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
