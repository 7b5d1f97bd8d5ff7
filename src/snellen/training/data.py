"""Training texts as rows of token ids: what comes as text is cut into windows, what comes as ids is taken as it is."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from snellen.errors import InputError
from snellen.texts.encode import encode
from snellen.texts.read import Document

IGNORED = -100  # a label that is no target


class Rows(Dataset[dict[str, Any]]):
    """Rows of token ids, each the text of one sequence: `{"input_ids": [pos], "row": its number}`."""

    def __init__(self, rows: Sequence[Any], *, own_bos: int = 0) -> None:
        self._rows = rows
        self.own_bos = own_bos  # texts that begin with the model's first token themselves

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self._rows[index]
        return {"input_ids": row["input_ids"] if isinstance(row, Mapping) else row, "row": index}

    def ids(self, index: int) -> NDArray[np.int64]:
        return np.asarray(self[index]["input_ids"], dtype=np.int64)


def rows_of(
    data: Any,
    *,
    tokenizer: Any,
    max_length: int,
    vocabulary: int,
    bos: int | None,
    name: str,
) -> Rows:
    """Rows of at most `max_length` tokens.

    Parameters
    ----------
    data
        Rows that can be counted and indexed, such as a list or a `datasets.Dataset`: texts (strings, `Document`s, or
        mappings with "text"), or token ids (sequences, or mappings with "input_ids"), which are taken as they stand.
        Texts are cut side by side into windows, each behind `bos` where there is one (once, where a text begins with
        it itself); a last window of one token, which has no target, is left out.
    tokenizer
        Of transformers; needed for texts alone.
    name
        What the data are called in an error.

    Raises
    ------
    InputError
        No rows, rows without text, ids that the model does not know or that are too many, a stream.
    """
    if data is None:
        raise InputError(f"{name}: there are no data; give texts or rows of token ids")
    if isinstance(data, (str, os.PathLike)):
        raise InputError(f"{name} = {str(data)!r:.80}: give a list of texts; files are read by snellen train")
    if isinstance(data, IterableDataset) or not hasattr(data, "__len__") or not hasattr(data, "__getitem__"):
        raise InputError(f"{name}: {type(data).__name__} cannot be counted and indexed; give rows, not a stream")
    if len(data) == 0:
        raise InputError(f"{name}: there is no row in it")
    first = data[0]
    if isinstance(first, Mapping):
        columns = [column for column in ("input_ids", "text") if column in first]
        if not columns:
            raise InputError(f"{name}: rows have {', '.join(map(str, first))}; needed is input_ids or text")
        if columns[0] == "text":
            data = [row["text"] for row in data]
            first = data[0]
    if isinstance(first, (str, Document)) or first is None:
        return _windows(data, tokenizer, max_length, vocabulary, bos, name)
    _check_ids(data, max_length, vocabulary, name)
    return Rows(data)


def _windows(
    texts: Sequence[Any], tokenizer: Any, max_length: int, vocabulary: int, bos: int | None, name: str
) -> Rows:
    if tokenizer is None:
        raise InputError(f"{name}: texts need a tokenizer; give processing_class=, or rows of token ids")
    ahead = [] if bos is None else [bos]
    room = max_length - len(ahead)
    rows, own_bos = [], 0
    for number, text in enumerate(texts):
        document = text if isinstance(text, Document) else Document(name=f"{name}, row {number}", text=text or "")
        if not document.text.strip():
            continue
        encoded = encode(tokenizer, document, vocabulary=vocabulary, bos=bos)
        own_bos += encoded.own_bos
        for start in range(0, len(encoded), room):
            row = np.asarray([*ahead, *encoded.ids[start : start + room]], dtype=np.int32)
            if len(row) > 1:
                rows.append(row)
    if not rows:
        raise InputError(f"{name}: there is no text in its {len(texts)} rows")
    return Rows(rows, own_bos=own_bos)


def _check_ids(rows: Sequence[Any], max_length: int, vocabulary: int, name: str) -> None:
    targets = 0
    for number in range(len(rows)):
        row = rows[number]
        ids = np.asarray(row["input_ids"] if isinstance(row, Mapping) else row)
        if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
            raise InputError(f"{name}, row {number}: of shape {ids.shape}, {ids.dtype}; a row is a sequence of ids")
        if isinstance(row, Mapping) and "position_ids" in row:
            raise InputError(
                f"{name}, row {number}: has position_ids; sequences packed into a row cannot be told apart here: "
                "give each a row of its own"
            )
        if len(ids) > max_length:
            raise InputError(
                f"{name}, row {number}: {len(ids)} tokens, and at most {max_length} fit; cut it, or raise max_length"
            )
        if len(ids) and (int(ids.min()) < 0 or int(ids.max()) >= vocabulary):
            raise InputError(
                f"{name}, row {number}: has the id {int(ids.max()) if ids.min() >= 0 else int(ids.min())}, and the "
                f"model knows 0…{vocabulary - 1}: use the tokenizer that the model was made for"
            )
        targets += max(0, len(ids) - 1)
    if not targets:
        raise InputError(f"{name}: no row has two tokens, so there is nothing to predict")


def collate(rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Rows padded on the right: `input_ids`, `labels` (−100 where padded), `rows`, which they are; a mask if needed."""
    ids = [torch.as_tensor(np.asarray(row["input_ids"], dtype=np.int64)) for row in rows]
    length = max(map(len, ids))
    input_ids = torch.zeros(len(ids), length, dtype=torch.long)
    labels = torch.full_like(input_ids, IGNORED)
    for row, own in enumerate(ids):
        input_ids[row, : len(own)], labels[row, : len(own)] = own, own
    batch = {"input_ids": input_ids, "labels": labels, "rows": torch.tensor([row["row"] for row in rows])}
    if any(len(own) < length for own in ids):
        batch["attention_mask"] = (labels != IGNORED).long()
    return batch


def fingerprint(rows: Rows) -> str:
    """A hash of all rows, one by one."""
    found = hashlib.sha256()
    for index in range(len(rows)):
        ids = rows.ids(index)
        found.update(f"{len(ids)} ".encode())
        found.update(ids.tobytes())
    return found.hexdigest()[:16]
