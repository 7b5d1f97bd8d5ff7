"""What the report takes from a run folder, checked against the contract of `docs/architecture.md`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from snellen.errors import InputError
from snellen.results.files import opened, reading
from snellen.results.findings import Finding
from snellen.results.store import Run

Row = Mapping[str, Any]

GAIN = "lookahead-gain"
COLUMNS = {
    "arms": {"width", "horizon", "arm", "gain_over_naive", "low", "high"},
    "gains": {"width", "horizon", "alpha", "value", "low", "high"},
    "splits": {"split", "group", "value", "low", "high"},
    "vocabulary": {"token", "text"},
}
_IDENTICAL = "documents identical to an earlier one"  # `runner.work.IDENTICAL`, which lies above this room
DOCUMENT = ("name", "sha256", "characters", "tokens", "scored", "notes")
TOKEN_COLUMNS = {"document", "index", "token", "piece", "log_prob"}


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """A run, as the report needs it: the small things in memory, the tokens left on disk."""

    folder: Path
    about: Mapping[str, Any]  # run.json
    documents: Mapping[str, list[Any]]  # of the texts, by column
    findings: Sequence[Finding]
    arms: Sequence[Row]
    gains: Sequence[Row]
    splits: Sequence[Row]
    vocabulary: Mapping[int, str]
    tokens: pq.ParquetFile

    @property
    def gain(self) -> Finding | None:
        return next((finding for finding in self.findings if finding.measure == GAIN), None)

    def part(self, name: str) -> Mapping[str, Any]:
        """A section of run.json; empty where it is missing."""
        value = self.about.get(name)
        return value if isinstance(value, Mapping) else {}

    def text(self) -> Mapping[str, Any]:
        """The section of run.json on the text, with its documents as rows."""
        names = [name for name in DOCUMENT if any(value is not None for value in self.documents[name])]
        columns = [self.documents[name] for name in names]
        rows = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
        return {**self.part("text"), **({"document": rows} if rows else {})}

    def identical(self) -> int:
        """How many documents were left out because an earlier one is the same."""
        found = self.part("text").get(_IDENTICAL)
        count = found.get("documents") if isinstance(found, Mapping) else None
        return count if isinstance(count, int) else 0

    def document_names(self) -> list[str]:
        return [str(name or "") for name in self.documents["name"]]

    def scored_names(self) -> list[str]:
        """Of the documents of which anything was scored: a limit leaves some of them out."""
        names = self.document_names()
        return [name for name, count in zip(names, self.documents["scored"], strict=True) if count != 0]


def read(folder: Path) -> Evidence:
    """Raises InputError for what is no finished run folder, or one whose tables break the contract."""
    run = Run.read(folder)
    findings = run.findings
    with reading(folder / "tokens.parquet", mend="run its command again in a new folder"):
        opened(folder / "tokens.parquet").close()  # is it a file?
        tokens = pq.ParquetFile(folder / "tokens.parquet", page_checksum_verification=True)
    _demand(folder / "tokens.parquet", TOKEN_COLUMNS, tokens.schema_arrow.names)
    with run.understood():
        vocabulary = {int(row["token"]): str(row["text"]) for row in _rows(run, "vocabulary")}
        documents = run.documents(*DOCUMENT)
    return Evidence(
        folder=folder,
        about=run.content,
        documents=documents,
        findings=findings,
        arms=_widths(_rows(run, "arms")),
        gains=_widths(_rows(run, "gains")),
        splits=_rows(run, "splits"),
        vocabulary=vocabulary,
        tokens=tokens,
    )


def _rows(run: Run, name: str) -> list[Row]:
    """A small table as rows; a table that the run lacks has none. NaN is an undefined number like null."""
    table = run.table(name)
    if table is None:
        return []
    _demand(run.folder / "tables" / f"{name}.parquet", COLUMNS[name], table.column_names)
    return [{key: _defined(value) for key, value in row.items()} for row in table.to_pylist()]


def _widths(rows: list[Row]) -> list[Row]:
    """Particles are an estimate for infinite width, however many they are."""
    return [
        {**row, "width": math.inf, "particles": row["width"]} if row.get("search") == "particles" else row
        for row in rows
    ]


def _defined(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def _demand(path: Path, needed: set[str], found: Sequence[str]) -> None:
    missing = sorted(needed - set(found))
    if missing:
        raise InputError(f"{path}: no column {', '.join(missing)}; the run was made by another version of snellen")
