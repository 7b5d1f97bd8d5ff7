"""The tokens of a run as compact JSON: numbers for every token, trees for the chosen ones.

Numbers travel as base64 of little-endian integers: 50,000 tokens with all their columns take about a megabyte,
and a browser unpacks them in milliseconds.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from snellen.report.data import Evidence
from snellen.report.scale import TOKEN, edges

MAX_TOKENS = 60_000  # beyond this a page no longer opens in a second; the report says so
MAX_TREES = 2_000
TREE_BYTES = 900_000  # what all trees together may take of the 3 MB
TOP = 10
UNDEFINED = {"i1": -128, "i2": -32768, "i4": -(2**31)}
Column = NDArray[Any]


def pack(values: Column, scale: int = 1) -> dict[str, Any]:
    """Integers (or numbers times `scale`, rounded) in the smallest type that holds them; NaN is 'undefined'."""
    scaled = np.asarray(values, dtype=np.float64) * scale
    known = np.isfinite(scaled)
    largest = float(np.abs(scaled[known]).max(initial=0))
    kind = "i1" if scale == 1 and largest < 127 else "i2" if scale > 1 or largest < 32767 else "i4"
    limit = -UNDEFINED[kind] - 1
    scaled = np.where(np.isnan(scaled), UNDEFINED[kind], np.clip(np.round(scaled), -limit, limit))
    content = base64.b64encode(scaled.astype(f"<{kind}").tobytes()).decode()
    return {"kind": kind, "scale": scale, "data": content}


def choose(interest: Column, most: int) -> Column:
    """Rows that get a tree: half for the largest |interest|, the rest spread evenly over the text."""
    n = len(interest)
    if n <= most:
        return np.arange(n)
    size = np.where(np.isfinite(interest), np.abs(interest), -1.0)
    chosen = np.zeros(n, dtype=bool)
    chosen[np.argsort(-size, kind="stable")[: most // 2]] = True
    rest = np.flatnonzero(~chosen)
    places = np.linspace(0, len(rest) - 1, most - int(chosen.sum())).round().astype(int)
    chosen[rest[places]] = True
    return np.flatnonzero(chosen)


def beams(names: Sequence[str]) -> list[int]:
    """Widths whose beams the table holds, whole."""
    found = (re.fullmatch(r"beam(\d+)_tokens", name) for name in names)
    widths = (int(match[1]) for match in found if match)
    return sorted(w for w in widths if {f"beam{w}_parents", f"beam{w}_log_probs"} <= set(names))


def strip(evidence: Evidence) -> dict[str, Any] | None:
    """Everything that the page's script draws the text and the trees from; None where no token was scored."""
    names = evidence.tokens.schema_arrow.names
    total = evidence.tokens.metadata.num_rows
    if not total:
        return None
    light = [name for name in ("document", "index", "token", "piece", "log_prob", "entropy", "rank",
                               "lookahead_log_prob", "control_log_prob", "token_class", "memorised")
             if name in names]  # fmt: skip
    table = _first(evidence, light, min(total, MAX_TOKENS))
    column = {name: _numbers(table, name) for name in light if name not in ("piece", "token_class")}
    for name in {"lookahead_log_prob", "control_log_prob"} & column.keys():  # infinite where a token was not judged
        column[name] = np.where(np.isfinite(column[name]), column[name], np.nan)
    modes = modes_of(column)
    pieces, piece = _dictionary(table["piece"].to_pylist())
    called = evidence.document_names()
    page: dict[str, Any] = {
        "total": total,
        "pieces": pieces,
        "piece": pack(piece),
        "segments": _segments(column["document"], column["index"]),
        "documents": {d: called[d] for d in np.unique(column["document"]).astype(int).tolist() if d < len(called)},
        "modes": [{**about, "values": pack(values, 1000)} for about, values in modes],
        "log_prob": pack(column["log_prob"], 1000),
    }
    for name, scale in (("entropy", 100), ("rank", 1), ("memorised", 1)):
        if name in column:
            page[name] = pack(column[name], scale)
    if "lookahead_log_prob" in column:
        page["lookahead"] = pack(column["lookahead_log_prob"], 1000)
    if "token_class" in names:
        page["classes"], place = _dictionary(table["token_class"].to_pylist())
        page["class"] = pack(place)
    page["inspect"], kept = _inspect(evidence, column, modes[0][1])
    page["open"] = opening(table["piece"].to_pylist(), [values for _, values in modes], kept)
    return page


def modes_of(column: dict[str, Column]) -> list[tuple[dict[str, Any], Column]]:
    """The ways of colouring the text, the most telling first. A difference that no token has is none."""
    modes: list[tuple[dict[str, Any], Column]] = []
    own = column["log_prob"]
    lookahead = column.get("lookahead_log_prob")
    for name, label, other in (
        ("control", "lookahead against the best control", column.get("control_log_prob")),
        ("naive", "lookahead against naive", own),
    ):
        if lookahead is None or other is None or not np.nan_to_num(values := lookahead - other).any():
            continue
        modes.append(({"name": name, "label": label, "diverging": True, "edges": edges(values, TOKEN)}, values))
    label = "surprise of the model" if lookahead is None else "surprise of the naive model"
    modes.append(({"name": "surprise", "label": label, "diverging": False, "edges": [0.1, 1.0, 3.0, 6.0]}, -own))
    for about, values in modes:
        about["undefined"] = bool(np.isnan(values).any())
    return modes


def opening(pieces: Sequence[str | None], modes: Sequence[Column], kept: Column | None) -> int:
    """The row that the page opens on: where a word begins and the first way of colouring is largest, gains first.

    Only among the rows that hold something to look at (`kept`; None: all are alike). Where no word begins any token
    with something to be seen will do, and white space only where there is nothing else.
    """
    rows = np.arange(len(pieces)) if kept is None or not len(kept) else kept[kept < len(pieces)]
    text = [pieces[row] or "" for row in rows.tolist()]
    readable = np.array([2 * bool(re.match(r"\s+[^\W\d_]", one)) + bool(one.strip()) for one in text])
    rows = rows[readable == readable.max()]
    for values in modes:
        size = np.nan_to_num(values[rows], nan=0.0, neginf=0.0, posinf=0.0)
        if (size > 0).any():
            return int(rows[np.argmax(size)])
        if size.any():
            return int(rows[np.argmax(np.abs(size))])
    return int(rows[0])


def _inspect(
    evidence: Evidence, column: dict[str, Column], interest: Column
) -> tuple[dict[str, Any] | None, Column | None]:
    """Top-10 lists and beams of the chosen rows, and these rows; None where the run keeps none of them."""
    names = evidence.tokens.schema_arrow.names
    widths = beams(names)
    lists = [name for name in ("top_tokens", "top_log_probs", "mix_tokens", "mix_probs") if name in names]
    if not widths and not lists:
        return None, None
    width = widths[-1] if widths else 0
    nodes = _length(evidence, f"beam{width}_tokens") if widths else 0
    rows = choose(interest, min(MAX_TREES, TREE_BYTES // (7 * nodes + 90) or 1))
    trees = [f"beam{width}_{part}" for part in ("tokens", "parents", "log_probs")] if widths else []
    found = _at(evidence, lists + trees, rows)
    page: dict[str, Any] = {
        "rows": pack(rows),
        "chosen": len(rows),
        "width": width,
        "horizon": nodes // width if width else 0,
    }
    tokens: dict[str, Column] = {}
    if "top_tokens" in found and "top_log_probs" in found:
        tokens["top"] = found["top_tokens"][:, :TOP]
        page["top_probs"] = pack(np.exp(found["top_log_probs"][:, :TOP].astype(np.float64)).ravel(), 30000)
    if "mix_tokens" in found and "mix_probs" in found:
        tokens["mix"] = found["mix_tokens"][:, :TOP]
        page["mix_probs"] = pack(found["mix_probs"][:, :TOP].ravel(), 30000)
    if widths:
        tokens["beam"] = found[trees[0]]
        page["parents"] = pack(found[trees[1]].ravel())
        page["log_probs"] = pack(found[trees[2]].ravel(), 1000)
    tokens["real"] = _real(column, rows, max(1, page["horizon"]))
    every = np.concatenate([part.ravel() for part in tokens.values()])
    known, place = np.unique(every, return_inverse=True)
    place = np.where(every < 0, -1, place)
    text = evidence.vocabulary
    page["vocabulary"] = [text.get(int(token), f"#{token}") for token in known]
    cut = 0
    for name, part in tokens.items():
        page[name] = pack(place[cut : cut + part.size])
        page[f"{name}_each"] = part.shape[1]
        cut += part.size
    return page, rows


def _real(column: dict[str, Column], rows: Column, horizon: int) -> Column:
    """The text's own tokens from each row on, [rows horizon]; -1 where the document or the scored run ends."""
    at = rows[:, None] + np.arange(horizon)
    inside = at < len(column["token"])
    at = np.minimum(at, len(column["token"]) - 1)
    same = column["document"][at] == column["document"][rows][:, None]
    follows = column["index"][at] - column["index"][rows][:, None] == np.arange(horizon)
    return np.where(inside & same & follows, column["token"][at], -1)


def _segments(document: Column, index: Column) -> list[list[int]]:
    """[first row, document, its index there] of each unbroken run of tokens."""
    breaks = (np.diff(document) != 0) | (np.diff(index) != 1)
    first = [0, *(np.flatnonzero(breaks) + 1).tolist()] if len(document) else []
    return [[int(row), int(document[row]), int(index[row])] for row in first]


def _dictionary(values: Sequence[str | None]) -> tuple[list[str], Column]:
    known: dict[str, int] = {}
    place = [known.setdefault(value or "", len(known)) for value in values]
    return list(known), np.array(place, dtype=np.int64)


def _first(evidence: Evidence, names: list[str], most: int) -> pa.Table:
    batches, rows = [], 0
    for batch in evidence.tokens.iter_batches(batch_size=16_384, columns=names):
        batches.append(batch)
        rows += batch.num_rows
        if rows >= most:
            break
    schema = pa.schema([evidence.tokens.schema_arrow.field(name) for name in names])
    return pa.Table.from_batches(batches, schema).slice(0, most).select(names)


def _at(evidence: Evidence, names: list[str], rows: Column) -> dict[str, Column]:
    """List columns at the chosen rows only, as [rows length]; the rest of the file is never held at once."""
    parts: dict[str, list[Column]] = {name: [] for name in names}
    begin = 0
    for batch in evidence.tokens.iter_batches(batch_size=4_096, columns=names):
        here = rows[(rows >= begin) & (rows < begin + batch.num_rows)] - begin
        begin += batch.num_rows
        for name in names:
            picked = batch.column(batch.schema.get_field_index(name)).take(pa.array(here))
            parts[name].append(np.array(picked.flatten().to_numpy(zero_copy_only=False)).reshape(len(here), -1)
                               if len(here) else np.empty((0, 0)))  # fmt: skip
        if not len(rows) or begin > rows[-1]:
            break
    return {name: np.concatenate([part for part in found if part.size]) for name, found in parts.items()}


def _length(evidence: Evidence, name: str) -> int:
    kind = evidence.tokens.schema_arrow.field(name).type
    if pa.types.is_fixed_size_list(kind):
        return int(kind.list_size)
    first = next(evidence.tokens.iter_batches(batch_size=1, columns=[name]), None)
    return 0 if first is None else len(first.column(0)[0])


def _numbers(table: pa.Table, name: str) -> Column:
    """A column as an array; null becomes NaN."""
    values = table[name].combine_chunks()
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.int8())
    return np.asarray(values.to_numpy(zero_copy_only=False))
