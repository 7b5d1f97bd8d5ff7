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
TOKEN_COLUMNS = {"document", "index", "token", "piece", "log_prob"}


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """A run, as the report needs it: the small things in memory, the tokens left on disk."""

    folder: Path
    about: Mapping[str, Any]  # run.json
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

    def document_names(self) -> list[str]:
        documents = self.part("text").get("documents")
        if not isinstance(documents, Sequence) or isinstance(documents, str):
            return []
        return [str(entry.get("name", "")) if isinstance(entry, Mapping) else str(entry) for entry in documents]

    def scored_names(self) -> list[str]:
        """Of the documents of which anything was scored: a limit leaves some of them out."""
        entries = self.part("text").get("documents")
        names = self.document_names()
        if not names or not isinstance(entries, Sequence):
            return names
        counts = [entry.get("scored") if isinstance(entry, Mapping) else None for entry in entries]
        return [name for name, count in zip(names, counts, strict=True) if count != 0]


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
    return Evidence(
        folder=folder,
        about=run.content,
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
