"""Spans of documents → a folder with `tokens.parquet` and `run.json`, as `snellen exam` has them; resumable.

`exam` scores a systematic sample of at least 64 tokens a document. Here a document is represented by fewer: many short
spans say more than few long ones when a token costs a second, since intervals are over documents.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from snellen.lookahead.beam_search import score_window
from snellen.runner import scoring
from snellen.runner.record import plain
from snellen.subject import Subject
from snellen.texts.encode import Encoded, encode, starts_word
from snellen.texts.read import Document

RUN = 20  # tokens: LookaheadGain.memorised_run
_GOLDEN = 0.6180339887498949


@dataclass(frozen=True, kw_only=True)
class Span:
    """Tokens [begin, last) of a document are read behind the model's first token; [first, last) are scored."""

    document: int
    begin: int
    first: int
    last: int


def one_span(document: int, length: int, *, size: int, context: int, reach: int) -> Span:
    """`size` tokens at an offset that follows the golden ratio, from `context` on (less where the text is short).

    The offset stays below `reach`, which bounds what must be read; everything before the span is read.
    """
    last = min(length, reach + size)
    size = min(size, last - 1)
    low = min(context, last - size)
    first = low + int((last - size - low + 1) * ((document + 1) * _GOLDEN % 1.0))
    return Span(document=document, begin=0, first=first, last=first + size)


def memorised(greedy: NDArray[np.bool_], run: int = RUN) -> NDArray[np.bool_]:
    """[n] inside a run of at least `run` tokens, each of them the model's most probable one."""
    edges = np.flatnonzero(np.diff(np.r_[False, greedy, False].astype(np.int8)))
    out = np.zeros(len(greedy), dtype=np.bool_)
    for start, end in edges.reshape(-1, 2):
        out[start:end] = end - start >= run
    return out


@torch.no_grad()
def _greedy(subject: Subject, ids: torch.Tensor, first: int) -> NDArray[np.bool_]:
    """Whether each token from `first` on is the most probable one."""
    kept = len(ids) - first + 1  # the position before a token predicts it; the last one's prediction is not needed
    logits = subject.model(input_ids=ids[None].to(subject.model.device), logits_to_keep=kept).logits[0]
    found: NDArray[np.bool_] = (logits[:-1].argmax(-1).cpu() == ids[first:]).numpy()
    return found


def _rows(
    subject: Subject,
    document: Document,
    encoded: Encoded,
    span: Span,
    *,
    widths: Sequence[int],
    horizon: int,
    words: NDArray[np.bool_],
    look_for_runs: bool,
) -> pa.Table:
    token = subject.identity.bos.token_id
    ahead = [] if token is None else [token]
    own = slice(span.first, span.last)
    first = len(ahead) + span.first - span.begin
    ids = torch.tensor([*ahead, *encoded.ids[span.begin : span.last + RUN].tolist()])
    read = ids[: len(ahead) + span.last - span.begin]
    scores = score_window(
        subject.model,
        read,
        widths=widths,
        horizon=horizon,
        first=first,
        temperatures=scoring.TEMPERATURES,
        top=scoring.TOP,
        starts_word=torch.from_numpy(words),
    )
    places = np.arange(span.first, span.last, dtype=np.int32)
    where = {
        "document": np.full(len(places), span.document, dtype=np.int32),
        "index": places,
        "token": encoded.ids[own],
        "piece": [document.text[a:b] for a, b in zip(encoded.start[own], encoded.end[own], strict=True)],
        "start": encoded.start[own],
        "end": encoded.end[own],
        "context": places - span.begin,
    }
    table = scoring.rows(where, scores)
    if not look_for_runs:
        return table
    # A run may begin before the span and end after it.
    before = max(1, first - RUN)
    within = memorised(_greedy(subject, ids, before))[first - before :][: len(places)]
    return table.append_column("memorised_run", pa.array(within))


def score(
    subject: Subject,
    documents: Sequence[Document],
    spans: Sequence[Span],
    out: Path,
    *,
    widths: Sequence[int] = (2, 4, 8),
    horizon: int = 8,
    about: dict[str, object] | None = None,
    look_for_runs: bool = True,
) -> Path:
    """Score the spans one by one, each a file under `out/pieces`; what is there already is not scored again.

    `look_for_runs` adds the column `memorised_run`, for one more forward pass of what is read.
    """
    pieces = out / "pieces"
    pieces.mkdir(parents=True, exist_ok=True)
    vocabulary = subject.identity.vocabulary
    words = starts_word(subject.tokenizer, vocabulary)
    known = {
        "widths": list(widths),
        "horizon": horizon,
        "identity": plain(subject.identity.as_dict()),
        "preflight": plain(subject.preflight.as_dict()),
        "documents": [document.name for document in documents],
        "spans": [asdict(span) for span in spans],
        "about": about or {},
    }
    record = out / "run.json"
    text = json.dumps(known, indent=1)
    if record.exists() and json.loads(record.read_text())["spans"] != known["spans"]:
        raise SystemExit(f"{out} holds a run of other spans: remove it, or choose another folder")
    record.write_text(text)
    np.save(out / "starts_word.npy", words)
    encoded: dict[int, Encoded] = {}
    for number, span in enumerate(spans):
        path = pieces / f"{number:05d}.parquet"
        if path.exists():
            continue
        document = documents[span.document]
        if span.document not in encoded:
            encoded = {span.document: encode(subject.tokenizer, document, vocabulary=vocabulary)}
        table = _rows(
            subject,
            document,
            encoded[span.document],
            span,
            widths=widths,
            horizon=horizon,
            words=words,
            look_for_runs=look_for_runs,
        )
        scoring.refuse_nan(table, [one.name for one in documents])
        pq.write_table(table, path.with_suffix(".new"))
        os.replace(path.with_suffix(".new"), path)
        print(f"{out.name}: {number + 1} of {len(spans)} spans", flush=True)
    table = pa.concat_tables(pq.read_table(path) for path in sorted(pieces.glob("*.parquet")))
    pq.write_table(table, out / "tokens.parquet")
    return out
