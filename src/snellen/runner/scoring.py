"""Windows of text → rows of `tokens.parquet` → `Scored`, the form in which measures read them.

What is scored always goes through the table, also when nothing was interrupted, so that a resumed run hands its
measures the very same arrays.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from snellen.errors import InputError, Refused, out_of_memory
from snellen.measures.base import Beams, Scored

# Exponents at which the whole vocabulary's normaliser is known: enough for any temperature arm in between.
TEMPERATURES = (
    0.25, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.15, 1.2, 1.3, 1.4, 1.6, 2.0, 3.0,
)  # fmt: skip
TOP = 32
VOCABULARY_TOP = 10
_NO_NAN = ("log_prob", "entropy", "log_z", "top_log_probs", "log_word_start")


def lists(values: NDArray[Any]) -> pa.Array:
    """[n] or [n, …] → an Arrow column; further axes are flattened into lists of fixed length."""
    values = np.ascontiguousarray(values)
    if values.ndim == 1:
        return pa.array(values)
    flat = values.reshape(len(values), -1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), flat.shape[1])


def arrays(column: pa.ChunkedArray) -> NDArray[Any]:
    """The reverse of `lists`: [n] or [n, length]."""
    joined = column.combine_chunks()
    if isinstance(joined, pa.ChunkedArray):
        joined = pa.concat_arrays(joined.chunks) if joined.num_chunks else pa.array([], type=column.type)
    if pa.types.is_fixed_size_list(column.type):
        flat = joined.flatten().to_numpy(zero_copy_only=False)
        return np.asarray(flat).reshape(len(joined), column.type.list_size)
    return np.asarray(joined.to_numpy(zero_copy_only=False))


def rows(where: Mapping[str, Any], scores: Any) -> pa.Table:
    """One window: `where` are the columns of the text, `scores` the `WindowScores` of the model."""
    columns: dict[str, pa.Array] = {
        "document": lists(np.asarray(where["document"], dtype=np.int32)),
        "index": lists(np.asarray(where["index"], dtype=np.int32)),
        "token": lists(np.asarray(where["token"], dtype=np.int32)),
        "piece": pa.array(where["piece"], type=pa.string()),
        "start": lists(np.asarray(where["start"], dtype=np.int32)),
        "end": lists(np.asarray(where["end"], dtype=np.int32)),
        "context": lists(np.asarray(where["context"], dtype=np.int32)),
        "log_prob": lists(np.asarray(scores.log_prob, dtype=np.float32)),
        "entropy": lists(np.asarray(scores.entropy, dtype=np.float32)),
        "rank": lists(np.asarray(scores.rank, dtype=np.int32)),
        "log_z": lists(np.asarray(scores.log_z, dtype=np.float32)),
        "top_tokens": lists(np.asarray(scores.top_tokens, dtype=np.int32)),
        "top_log_probs": lists(np.asarray(scores.top_log_probs, dtype=np.float32)),
        "log_word_start": lists(np.asarray(scores.log_word_start, dtype=np.float32)),
    }
    for width, (tokens, parents, log_probs) in sorted(scores.beams.items()):
        columns[f"beam{width}_tokens"] = lists(np.asarray(tokens, dtype=np.int32))
        columns[f"beam{width}_parents"] = lists(np.asarray(parents, dtype=np.int16))
        columns[f"beam{width}_log_probs"] = lists(np.asarray(log_probs, dtype=np.float32))
    if scores.particles is not None:
        names = ("tokens", "parents", "log_probs", "log_weights")
        columns |= {f"particle_{name}": lists(values) for name, values in zip(names, scores.particles, strict=True)}
    return pa.table(columns)


def refuse_nan(table: pa.Table, documents: Sequence[str]) -> None:
    """Refused, with the place, where the model gave NaN or no probability at all to a real token."""
    names = [
        *_NO_NAN,
        *(name for name in table.column_names if name.startswith("beam") and "log_probs" in name),
        *(name for name in ("particle_log_probs", "particle_log_weights") if name in table.column_names),
    ]
    for name in names:
        values = arrays(table[name])
        bad = np.isnan(values) if name != "log_prob" else ~np.isfinite(values)
        if bad.any():
            row = int(np.argmax(bad.reshape(len(bad), -1).any(axis=1)))
            document, index, start = (table[c][row].as_py() for c in ("document", "index", "start"))
            what = "an infinite log-probability" if not np.isnan(values[bad]).any() else "NaN"
            raise Refused(
                f"the model gives {what} for token {index} of {documents[document]} (character {start}): "
                "its weights or its dtype overflow there; try --dtype float32, or another checkpoint"
            )


def scored(
    table: pa.Table,
    *,
    widths: Sequence[int],
    horizon: int,
    starts_word: NDArray[np.bool_],
    documents: Sequence[str],
) -> Scored:
    """All rows of a run, as its measures read them."""
    particles = None
    if "particle_tokens" in table.column_names:
        count = table["particle_tokens"].type.list_size // horizon
        names = ("tokens", "parents", "log_probs", "log_weights")
        shape = (table.num_rows, horizon, count)
        particles = Beams(**{name: arrays(table[f"particle_{name}"]).reshape(shape) for name in names})
    beams = {}
    for width in widths:
        shape = (table.num_rows, horizon, width)
        beams[width] = Beams(
            tokens=arrays(table[f"beam{width}_tokens"]).reshape(shape),
            parents=arrays(table[f"beam{width}_parents"]).reshape(shape),
            log_probs=arrays(table[f"beam{width}_log_probs"]).reshape(shape),
        )
    plain = (
        "document", "index", "token", "start", "end", "context", "log_prob", "entropy", "rank", "log_z",
        "top_tokens", "top_log_probs", "log_word_start",
    )  # fmt: skip
    columns: dict[str, Any] = {name: arrays(table[name]) for name in plain}
    return Scored(
        **columns,
        pieces=table["piece"].to_pylist(),
        temperatures=np.asarray(TEMPERATURES, dtype=np.float64),
        beams=beams,
        horizon=horizon,
        starts_word=starts_word,
        documents=list(documents),
        particles=particles,
    )


def tokens_seen(table: pa.Table) -> list[int]:
    """Ids that the report may have to spell: texts, top candidates, beams, mixes."""
    seen = [np.unique(arrays(table["token"])), np.unique(arrays(table["top_tokens"])[:, :VOCABULARY_TOP])]
    names = (name for name in table.column_names if name.endswith("_tokens") and name != "top_tokens")
    seen += [np.unique(arrays(table[name])) for name in names]
    found = np.unique(np.concatenate(seen))
    return [int(token) for token in found if token >= 0]


@contextlib.contextmanager
def memory_errors(doing: str, mend: str) -> Iterator[None]:
    """Out of memory, in one line that says which setting to lower."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise InputError(f"out of memory while {doing}: {mend}") from error
