"""docs/results/genres.md, from genres.csv."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from pages.page import RESULTS, ROOT, Page, script

_RECORDS = RESULTS / "genres.csv"


def _tables() -> Any:
    folder = str(ROOT / "scripts" / "genres")
    sys.path.insert(0, folder)  # the scripts of that folder import one another
    try:
        return script("scripts/genres/tables.py")
    finally:
        sys.path.remove(folder)


def _rows() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = _tables().read(_RECORDS)
    return rows


def _again() -> str:
    rows = _rows()
    return str(_tables().grid(rows, sorted({row["text"] for row in rows if row["text"].startswith("chess, ")})))


def said() -> Iterator[str]:
    rows = _rows()
    fitted = [row for row in rows if row["alpha"] is None and row["text"] in _tables().GENRES]
    above = [row for row in fitted if row["low"] > 0]
    yield f"Of {len(fitted)} gains (two models, five genres, nine widths and horizons) {len(above)} have an"
    assert {(row["model"], row["text"]) for row in above} == {("pocket", "chess")}
    assert not [row for row in fitted if row["high"] < 0]
    for row in rows:
        if (
            row["alpha"] is None
            and row["model"] == "pocket"
            and row["text"].startswith("chess")
            and (row["width"], row["horizon"]) == (4, 4)
        ):
            assert row["low"] > 0
            yield _tables().interval(row)
    assert not [row for row in rows if row["text"].startswith("line ends") and row["low"] > 0]


PAGE = Page(
    path="docs/results/genres.md",
    blocks={
        "genres": lambda: _tables().genres(_rows()),
        "grid": lambda: _tables().grid(_rows(), _tables().GENRES),
        "again": _again,
        "line-ends": lambda: _tables().line_ends(_rows()),
        "census": lambda: _tables().census(_rows()),
    },
    said=said,
)
