"""What a row of token ids says of itself: its real tokens, and which of them are targets.

A column that would change what is learnt is honoured (`labels`, `attention_mask`, `completion_mask`,
`assistant_masks`) or refused by its name. Padding is taken off here: a padded row is the row without its padding, on
whichever side that stood.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snellen.errors import InputError

IGNORED = -100  # a label that is no target

# Masks of targets, as trl writes them: 1 where a token is to be learnt.
TARGET_MASKS = ("completion_mask", "assistant_masks")
# Where rows come from, how long they are: nothing that a model is taught.
HARMLESS = frozenset({
    "text", "length", "num_tokens", "token_count", "special_tokens_mask", "offset_mapping",
    "overflow_to_sample_mapping",
    "id", "idx", "index", "row", "name", "title", "url", "source", "timestamp", "date", "file_path", "dump", "meta",
    "metadata", "language", "language_score",
})  # fmt: skip
_READ = ("input_ids", "labels", "attention_mask", "position_ids", "token_type_ids", *TARGET_MASKS)


@dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """ids: the row's real tokens, int64 [pos]; targets: which of them are learnt, bool [pos].

    Nothing stands before the first token, so that it is never a target.
    """

    ids: NDArray[np.int64]
    targets: NDArray[np.bool_]

    @property
    def whole(self) -> bool:
        """Whether every token that has one before it is a target."""
        return bool(self.targets[1:].all())


def decisive(row: Any) -> list[str]:
    """The columns of a row of ids that say what is learnt."""
    if not isinstance(row, Mapping):
        return ["input_ids"]
    return [column for column in _READ if row.get(column) is not None]


def left_out(row: Any) -> list[str]:
    """The columns of a row that are not read, since they say nothing of what is learnt."""
    if not isinstance(row, Mapping):
        return []
    beside = HARMLESS if row.get("input_ids") is not None else HARMLESS - {"text"}
    return [str(column) for column in row if column in beside and row[column] is not None]


def check_columns(row: Mapping[str, Any], known: tuple[str, ...], name: str) -> None:
    """Refuse a column that is neither in `known` nor harmless.

    Raises
    ------
    InputError
        Naming it. A column of nothing (None) is none.
    """
    for column in row:
        if column not in known and column not in HARMLESS and row[column] is not None:
            raise InputError(
                f"{name}: has the column {column!r}, which could change what is learnt and is not known here; known "
                f"are {', '.join(known)}: leave it out (remove_columns({column!r}))"
            )


def read_row(row: Any, name: str) -> Row:
    """A sequence of ids, or a mapping with "input_ids" and what else it says.

    Parameters
    ----------
    name
        What the row is called in an error.

    Raises
    ------
    InputError
        No sequence of ids; a column that is not known, of another length, or that contradicts the row: a mask with
        other than 0 and 1 or with a hole in it, labels of another text, positions that do not count from 0.
    """
    columns: Mapping[str, Any] = row if isinstance(row, Mapping) else {"input_ids": row}
    check_columns(columns, _READ, name)
    if columns.get("input_ids") is None:
        raise InputError(f"{name}: has no input_ids; give its token ids")
    ids = np.asarray(columns["input_ids"])
    if ids.ndim != 1 or not (np.issubdtype(ids.dtype, np.integer) or ids.size == 0):
        raise InputError(f"{name}: of shape {ids.shape}, {ids.dtype}; a row is a sequence of ids")
    ids = ids.astype(np.int64)
    given = {one: _column(columns[one], one, len(ids), name) for one in _READ[1:] if columns.get(one) is not None}
    real = _mask(given, "attention_mask", ids, name)
    targets = real.copy()
    for one in TARGET_MASKS:
        targets &= _mask(given, one, ids, name)
    if "labels" in given:
        labels = given["labels"]
        targets &= labels != IGNORED
        _check_labels(labels, ids, targets, name)
    places = np.flatnonzero(real)
    begin, end = (int(places[0]), int(places[-1]) + 1) if len(places) else (0, 0)
    if end - begin != len(places):
        raise InputError(
            f"{name}: attention_mask hides tokens between others (place {begin + int(np.argmin(real[begin:end]))}); "
            "padding stands before or behind a row: cut it there into rows of their own"
        )
    _check_positions(given.get("position_ids"), begin, end, name)
    if "token_type_ids" in given and given["token_type_ids"][real].any():
        raise InputError(f"{name}: token_type_ids are not all 0, and no segments are trained here: leave them out")
    targets = targets[begin:end]
    targets[:1] = False
    return Row(ids=ids[begin:end], targets=targets)


def _column(value: Any, column: str, length: int, name: str) -> NDArray[np.int64]:
    found = np.asarray(value)
    if found.shape != (length,) or not (
        found.size == 0 or np.issubdtype(found.dtype, np.integer) or found.dtype == bool
    ):
        raise InputError(
            f"{name}: {column} of shape {found.shape}, {found.dtype}; must be {length} whole numbers, one for each of "
            "input_ids"
        )
    return found.astype(np.int64)


def _mask(given: Mapping[str, NDArray[np.int64]], column: str, ids: NDArray[np.int64], name: str) -> NDArray[np.bool_]:
    if column not in given:
        return np.ones(len(ids), dtype=np.bool_)
    mask = given[column]
    if ((mask != 0) & (mask != 1)).any():
        other = int(mask[(mask != 0) & (mask != 1)][0])
        raise InputError(f"{name}: {column} holds {other}; must be 0 and 1 (rows packed into one: give each its own)")
    ones: NDArray[np.bool_] = mask == 1
    return ones


def _check_labels(labels: NDArray[np.int64], ids: NDArray[np.int64], targets: NDArray[np.bool_], name: str) -> None:
    other = np.flatnonzero(targets & (labels != ids))
    if len(other):
        at = int(other[0])
        raise InputError(
            f"{name}: label {labels[at]} at place {at}, where the token is {ids[at]}; labels are the row's own tokens, "
            f"not shifted, and {IGNORED} where nothing is learnt"
        )


def _check_positions(positions: NDArray[np.int64] | None, begin: int, end: int, name: str) -> None:
    if positions is None or (positions[begin:end] == np.arange(end - begin)).all():
        return
    raise InputError(
        f"{name}: position_ids do not count 0, 1, 2 …; sequences packed into a row cannot be told apart here: give "
        "each a row of its own"
    )
