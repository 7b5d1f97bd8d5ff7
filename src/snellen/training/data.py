"""Training texts as rows of token ids: what comes as text is cut into windows, what comes as ids is taken as it is."""

from __future__ import annotations

import hashlib
import logging
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
from snellen.texts.read import Document, check_characters
from snellen.training.columns import IGNORED, Row, check_columns, decisive, left_out, read_row

log = logging.getLogger(__name__)


class Rows(Dataset[dict[str, Any]]):
    """Rows of token ids, each the text of one sequence without padding.

    `{"input_ids": [pos], "targets": bool [pos], "row": its number in the data}`; numbers: which rows of the data, None:
    all; own_bos: how many texts begin with the model's first token themselves.
    """

    def __init__(self, rows: Sequence[Any], numbers: Sequence[int] | None = None, *, own_bos: int = 0) -> None:
        self._rows, self._numbers = rows, range(len(rows)) if numbers is None else numbers
        self.own_bos = own_bos

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.row(index)
        return {"input_ids": row.ids, "targets": row.targets, "row": self._numbers[index]}

    def row(self, index: int) -> Row:
        number = self._numbers[index]
        return read_row(self._rows[number], f"row {number}")

    def ids(self, index: int) -> NDArray[np.int64]:
        return self.row(index).ids


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
        mappings with "text"), or token ids (sequences, or mappings with "input_ids" and what `columns.read_row` knows
        beside it: labels, masks), which are taken as they stand. Texts are cut side by side into windows, each behind
        `bos` where there is one (once, where a text begins with it itself); a last window of one token, which has no
        target, is left out, and so is a row without a target.
    tokenizer
        Of transformers; needed for texts alone.
    name
        What the data are called in an error.

    Raises
    ------
    InputError
        No rows, rows without text or without any target, columns that are not known, ids that the model does not know
        or that are too many, a stream.
    """
    if data is None:
        raise InputError(f"{name}: there are no data; give texts or rows of token ids")
    if isinstance(data, (str, os.PathLike)):
        raise InputError(f"{name} = {str(data)!r:.80}: give a list of texts; files are read by snellen train")
    if isinstance(data, Mapping):
        raise InputError(f"{name}: a mapping of {', '.join(map(str, data))}; give rows: a list of texts or of mappings")
    if isinstance(data, IterableDataset) or not hasattr(data, "__len__") or not hasattr(data, "__getitem__"):
        raise InputError(f"{name}: {type(data).__name__} cannot be counted and indexed; give rows, not a stream")
    if len(data) == 0:
        raise InputError(f"{name}: there is no row in it")
    first = data[0]
    if unread := left_out(first):
        log.warning("%s: not read, since they say nothing of what is learnt: %s", name, ", ".join(unread))
    if isinstance(first, Mapping) and "input_ids" not in first:
        if "text" not in first:
            raise InputError(f"{name}: rows have {', '.join(map(str, first))}; needed is input_ids or text")
        data = [_text(row, f"{name}, row {number}") for number, row in enumerate(_each(data))]
        first = data[0]
    if isinstance(first, (str, Document)) or first is None:
        return _windows(data, tokenizer, max_length, vocabulary, bos, name)
    return Rows(data, _checked(data, max_length, vocabulary, name))


def _each(data: Any) -> Any:
    return (data[number] for number in range(len(data)))


def _text(row: Any, name: str) -> Any:
    if not isinstance(row, Mapping) or "text" not in row:
        raise InputError(f"{name}: has no text, as row 0 has; give all rows the same columns")
    check_columns(row, ("text",), name)
    return row["text"]


def _windows(
    texts: Sequence[Any], tokenizer: Any, max_length: int, vocabulary: int, bos: int | None, name: str
) -> Rows:
    if tokenizer is None:
        raise InputError(f"{name}: texts need a tokenizer; give processing_class=, or rows of token ids")
    ahead = [] if bos is None else [bos]
    room = max_length - len(ahead)
    rows, own_bos = [], 0
    for number, text in enumerate(texts):
        if not (text is None or isinstance(text, str | Document)):
            raise InputError(f"{name}, row {number}: a {type(text).__name__}, not a text: write it as a string")
        document = text if isinstance(text, Document) else Document(name=f"{name}, row {number}", text=text or "")
        check_characters(document.text, document.name)
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


def _checked(rows: Sequence[Any], max_length: int, vocabulary: int, name: str) -> list[int]:
    """The numbers of the rows that have a target."""
    found, columns = list[int](), decisive(rows[0])
    for number in range(len(rows)):
        raw, called = rows[number], f"{name}, row {number}"
        row = read_row(raw, called)
        if decisive(raw) != columns:
            other = sorted({*columns} ^ {*decisive(raw)})
            raise InputError(
                f"{called}: differs from row 0 in having {', '.join(other)}; give all rows the same columns"
            )
        if len(row.ids) > max_length:
            raise InputError(
                f"{called}: {len(row.ids)} tokens, and at most {max_length} fit; cut it, or raise max_length"
            )
        if len(row.ids) and (int(row.ids.min()) < 0 or int(row.ids.max()) >= vocabulary):
            raise InputError(
                f"{called}: has the id {int(row.ids.max()) if row.ids.min() >= 0 else int(row.ids.min())}, and the "
                f"model knows 0…{vocabulary - 1}: use the tokenizer that the model was made for"
            )
        if row.targets.any():
            found.append(number)
    if not found:
        what = "no row has two tokens" if columns == ["input_ids"] else f"no token is a target ({', '.join(columns)})"
        raise InputError(f"{name}: {what}, so there is nothing to predict")
    if len(found) < len(rows):
        log.warning("%s: %d of %d rows have no target and are left out", name, len(rows) - len(found), len(rows))
    return found


def collate(rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Rows padded on the right: `input_ids`, `labels`, `rows`, which they are; `attention_mask` where one is padded.

    Labels are −100 where padded, where nothing is learnt, and at each row's first token, which nothing predicts: so
    their number is that of the predictions, however a model counts them.
    """
    ids = [torch.as_tensor(np.asarray(row["input_ids"], dtype=np.int64)) for row in rows]
    length = max(map(len, ids))
    input_ids = torch.zeros(len(ids), length, dtype=torch.long)
    labels, mask = torch.full_like(input_ids, IGNORED), torch.zeros_like(input_ids)
    for number, (row, own) in enumerate(zip(rows, ids, strict=True)):
        targets = torch.as_tensor(np.asarray(row["targets"], dtype=np.bool_))
        input_ids[number, : len(own)], mask[number, : len(own)] = own, 1
        labels[number, : len(own)] = own.masked_fill(~targets, IGNORED)
    labels[:, :1] = IGNORED
    batch = {"input_ids": input_ids, "labels": labels, "rows": torch.tensor([row["row"] for row in rows])}
    if not bool(mask.all()):
        batch["attention_mask"] = mask
    return batch


def fingerprint(rows: Rows) -> str:
    """A hash of all rows, one by one: their tokens, and where they are not all learnt, which are."""
    found = hashlib.sha256()
    for index in range(len(rows)):
        row = rows.row(index)
        found.update(f"{len(row.ids)} ".encode())
        found.update(row.ids.tobytes())
        if not row.whole:
            found.update(b"targets" + row.targets.tobytes())
    return found.hexdigest()[:16]
