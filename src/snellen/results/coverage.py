"""Which characters of a text a run scored, and its log-likelihood summed over units of that text."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from snellen.results.files import reading
from snellen.results.store import Run

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
_OTHERS = ("log_prob", "piece")  # columns that are no whole numbers
_ABOVE_ZERO = 1e-3  # what rounding can make of a log-probability of zero


@dataclass(frozen=True, kw_only=True)
class Sums:
    """One entry a unit."""

    log_prob: Floats
    tokens: Floats
    characters: Floats
    bytes: Floats


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """What comparing needs of `tokens.parquet`."""

    document: Ints
    token: Ints
    start: Ints
    end: Ints
    log_prob: Floats
    unit: Ints
    kept: NDArray[np.bool_]  # not left out of the findings, as what has probability zero is
    piece: list[str]

    @classmethod
    def read(cls, run: Run) -> Tokens:
        names = ("document", "token", "start", "end", "log_prob", "piece")
        table = run.columns(*names, "unit")
        with reading(run.folder / "tokens.parquet", mend="run its command again in a new folder"):
            if missing := [name for name in names if name not in table.column_names]:
                raise ValueError(f"no column {', '.join(missing)}")
            if holes := [name for name in table.column_names if table[name].null_count]:
                raise ValueError(f"values are missing in {', '.join(holes)}")
            whole = {name: _whole_numbers(table[name]) for name in table.column_names if name not in _OTHERS}
            unit = whole["unit"] if "unit" in whole else whole["document"]
            start, end = whole["start"], whole["end"]
            log_prob = np.asarray(table["log_prob"].cast(pa.float64()).to_numpy())
            if np.isnan(log_prob).any() or (log_prob > _ABOVE_ZERO).any():
                raise ValueError("log_prob holds what is no log-probability")
            if (start < 0).any() or (end < start).any() or (end >= 2**31).any() or (whole["document"] < 0).any():
                raise ValueError("start and end are no stretches of a text")
            return cls(
                document=whole["document"],
                token=whole["token"],
                start=start,
                end=end,
                log_prob=log_prob,
                unit=np.unique(unit, return_inverse=True)[1].astype(np.int64),
                kept=unit >= 0,
                piece=table["piece"].cast(pa.string()).to_pylist(),
            )

    @property
    def n_units(self) -> int:
        return int(self.unit.max()) + 1 if len(self.unit) else 0

    def units(self) -> list[tuple[int, int, int]]:
        """The stretch of text that each unit covers: (document, first character, one past the last)."""
        spans = []
        for unit in range(self.n_units):
            rows = self.unit == unit
            spans.append((int(self.document[rows][0]), int(self.start[rows].min()), int(self.end[rows].max())))
        return spans

    def same_tokens(self, other: Tokens) -> bool:
        return (
            len(self.token) == len(other.token)
            and np.array_equal(self.token, other.token)
            and np.array_equal(self.start, other.start)
        )

    def same_characters(self, other: Tokens) -> bool:
        """Whether both scored the very same characters of the same documents, in whatever tokens."""
        ours, theirs = self.characters(), other.characters()
        return ours.keys() == theirs.keys() and all(
            np.array_equal(np.flatnonzero(size), np.flatnonzero(theirs[document][0]))
            for document, (size, _) in ours.items()
        )

    def judged(self) -> Tokens:
        """Without the tokens that findings leave out."""
        keep = self.kept
        unit = np.unique(self.unit[keep], return_inverse=True)[1].astype(np.int64)
        return Tokens(
            document=self.document[keep], token=self.token[keep], start=self.start[keep], end=self.end[keep],
            log_prob=self.log_prob[keep], unit=unit, kept=keep[keep],
            piece=[piece for piece, own in zip(self.piece, keep, strict=True) if own],
        )  # fmt: skip

    def characters(self) -> dict[int, tuple[Ints, Ints]]:
        """By document, for each of its characters: bytes in UTF-8 (0 where not scored), and its unit."""
        maps = {}
        for document in np.unique(self.document):
            rows = np.flatnonzero(self.document == document)
            size = np.zeros(int(self.end[rows].max()) + 1, dtype=np.int64)
            unit = np.zeros_like(size)
            for row in rows:
                begin, piece = int(self.start[row]), self.piece[row]
                lengths = [1] * len(piece) if piece.isascii() else [len(c.encode("utf-8", "replace")) for c in piece]
                lengths = lengths[: int(self.end[row]) - begin]
                place = slice(begin, begin + len(lengths))
                unit[place] = np.where(size[place] == 0, self.unit[row], unit[place])
                size[place] = lengths
            maps[int(document)] = (size, unit)
        return maps


def sums(tokens: Tokens) -> Sums:
    """Of one run, over all it scored."""
    return _sum(tokens, tokens.unit, np.ones(len(tokens.unit), dtype=bool), tokens.characters(), tokens.n_units)


def common_sums(first: Tokens, second: Tokens) -> tuple[Sums, Sums]:
    """Of two runs on one text, over the very same characters, in the units of the first.

    Those are the characters that both scored, less the tokens that reach beyond them: where two tokenizers
    cut differently at the edge of a stretch, it is shortened to a place where both have a boundary.
    """
    ours, theirs = first.characters(), second.characters()
    shared: dict[int, tuple[Ints, Ints]] = {}
    keep = [np.zeros(len(tokens.unit), dtype=bool) for tokens in (first, second)]
    unit_of = [np.zeros(len(tokens.unit), dtype=np.int64) for tokens in (first, second)]
    for document in ours.keys() & theirs.keys():
        (size, unit), (other, _) = ours[document], theirs[document]
        length = min(len(size), len(other))
        common = (size[:length] > 0) & (other[:length] > 0)
        places = [np.flatnonzero(tokens.document == document) for tokens in (first, second)]
        while True:
            before = common.sum()
            for which, tokens in enumerate((first, second)):
                rows = places[which]
                keep[which][rows] = _inside(tokens, rows, common)
                for row in rows[~keep[which][rows]]:
                    common[tokens.start[row] : tokens.end[row]] = False
            if common.sum() == before:
                break
        shared[document] = (np.where(common, size[:length], 0), unit[:length])
        for which, tokens in enumerate((first, second)):
            unit_of[which][places[which]] = unit[np.minimum(tokens.start[places[which]], length - 1)]
    results = [
        _sum(tokens, unit_of[which], keep[which], shared, first.n_units) for which, tokens in enumerate((first, second))
    ]
    kept = (results[0].tokens > 0) & (results[1].tokens > 0)
    return _only(results[0], kept), _only(results[1], kept)


def _inside(tokens: Tokens, rows: Ints, common: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Does all of each token lie in `common`? One without characters goes with the place it stands at."""
    counted = np.concatenate([[0], np.cumsum(common)])
    start = np.minimum(tokens.start[rows], len(common) - 1)
    end = np.maximum(tokens.end[rows], start + 1)
    length = end - start
    return np.asarray((end <= len(common)) & (counted[np.minimum(end, len(common))] - counted[start] == length))


def _sum(tokens: Tokens, unit: Ints, keep: NDArray[np.bool_], characters: dict[int, tuple[Ints, Ints]], n: int) -> Sums:
    count = np.zeros((2, n))
    for size, unit_of in characters.values():
        count[0] += np.bincount(unit_of[size > 0], minlength=n)
        count[1] += np.bincount(unit_of, weights=size, minlength=n)
    return Sums(
        log_prob=np.bincount(unit[keep], weights=tokens.log_prob[keep], minlength=n).astype(np.float64),
        tokens=np.bincount(unit[keep], minlength=n).astype(np.float64),
        characters=count[0],
        bytes=count[1],
    )


def _only(of: Sums, units: NDArray[np.bool_]) -> Sums:
    return Sums(
        log_prob=of.log_prob[units],
        tokens=of.tokens[units],
        characters=of.characters[units],
        bytes=of.bytes[units],
    )


def _whole_numbers(column: pa.ChunkedArray) -> Ints:
    if not pa.types.is_integer(column.type):
        raise ValueError(f"whole numbers are needed, not {column.type}")
    return np.asarray(column.cast(pa.int64()).to_numpy(), dtype=np.int64)
