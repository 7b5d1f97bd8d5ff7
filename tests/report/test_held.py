"""The report says what the run holds, and offers no more: runs with and without beams, intervals, documents, widths."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.report.reading import OF_LOOKAHEAD, said
from tests.report.synthetic_run import make_run
from tests.report.test_report_file import page_of, words_of

from snellen.report import text
from snellen.report.html import write_report

BEAMS = tuple(f"beam{w}_{part}" for w in (2, 4) for part in ("tokens", "parents", "log_probs"))
OF_GAIN = ("unit", "fold", "lookahead_log_prob", "control_log_prob", "mix_tokens", "mix_probs")
TABLES = ("arms", "gains", "splits", "resamples")


def content(folder: Path) -> dict[str, Any]:
    return json.loads(re.findall(r'id="data">(.*?)</script>', page_of(folder), re.S)[0])


def test_without_beams_nothing_speaks_of_them(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", tokens=300, drop_columns=(*BEAMS, *OF_GAIN), drop_tables=TABLES, finding=False)
    write_report(folder)
    story = said(folder).split("Was the chart itself in order?")[0]
    for absent in OF_LOOKAHEAD:
        assert absent not in story, absent
    assert "Every token holds a list of what was most probable. Click one" in story
    assert "Next list" in story
    found = content(folder)
    assert [mode["label"] for mode in found["modes"]] == ["surprise of the model"]
    assert found["inspect"]["width"] == 0
    assert "beam" not in found["inspect"]


def test_every_tree_or_only_the_underlined_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_run(tmp_path / "run", tokens=300)
    write_report(folder)
    assert "Every token holds a beam tree. Click one, or move with the arrow keys and press Enter." in words_of(folder)
    monkeypatch.setattr("snellen.report.strip.MAX_TREES", 100)
    write_report(folder)
    assert "Underlined tokens hold a beam tree: the largest differences and an even" in words_of(folder)
    assert "with Shift to the next one underlined" in words_of(folder)


@pytest.mark.parametrize(
    ("kind", "words"), [("documents", "other documents."), ("blocks", "other blocks of the text.")]
)
def test_one_document_is_judged_by_its_blocks(tmp_path: Path, kind: str, words: str) -> None:
    folder = make_run(tmp_path / "run", tokens=300, documents=1 if kind == "blocks" else 9)
    path = folder / "findings.json"
    path.write_text(path.read_text().replace('"kind": "documents"', f'"kind": "{kind}"'))
    assert f'"kind": "{kind}"' in path.read_text()
    write_report(folder)
    assert f"weight fitted on {words}" in words_of(folder)
    assert f"Each arm is fitted on some {words.removeprefix('other ').rstrip('.')} and judged" in words_of(folder)


def test_one_width_has_no_map_of_widths(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", tokens=300, widths=(1,), horizon=1)
    write_report(folder)
    words = words_of(folder)
    assert "up to 1 beam, 1 token ahead" in words
    assert "Gain by beams W" not in words
    assert "How the gain changes with how strongly probable continuations count." in words
    assert "the tokens looked ahead" not in words
    assert 'class="dot gain"' not in page_of(folder)  # nothing is drawn in that colour: horizon 1 does not look ahead


def test_arms_without_placebo_promise_none(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", tokens=300)
    path = folder / "tables" / "arms.parquet"
    table = pq.read_table(path)
    pq.write_table(
        table.filter(pa.array(arm not in ("placebo", "lookahead") for arm in table["arm"].to_pylist())), path
    )
    write_report(folder)
    assert "Each arm is fitted on some documents and judged on others. arm" in words_of(folder).replace(
        "All arms, against naive", "").replace("  ", " ") or "the placebo shuffles" not in words_of(folder)  # fmt: skip
    assert "the distance from" not in words_of(folder)


def test_a_fit_that_took_no_lookahead_in_says_so_once(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", tokens=300)
    tokens = pq.read_table(folder / "tokens.parquet")
    place = tokens.column_names.index("lookahead_log_prob")
    pq.write_table(
        tokens.set_column(place, "lookahead_log_prob", tokens["control_log_prob"]), folder / "tokens.parquet"
    )
    path = folder / "tables" / "splits.parquet"
    rows = [{**row, "value": 0.0, "low": 0.0, "high": 0.0} for row in pq.read_table(path).to_pylist()]
    pq.write_table(pa.Table.from_pylist(rows), path)
    write_report(folder)
    words = words_of(folder)
    assert "the gain is zero in every group of tokens" in words
    assert "By class" not in words
    assert "there is no difference to colour" in words


def test_what_is_undefined_everywhere_has_no_figure(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", tokens=300)
    for name in ("gains", "arms", "splits"):
        path = folder / "tables" / f"{name}.parquet"
        table = pq.read_table(path)
        for key in ("value", "gain_over_naive", "low", "high", "placebo", "placebo_low", "placebo_high"):
            if key in table.column_names:
                nothing = pa.array(np.full(len(table), np.nan))
                table = table.set_column(table.column_names.index(key), key, nothing)
        pq.write_table(table, path)
    write_report(folder)
    words = words_of(folder)
    assert "no table of gains by horizon" in words
    assert "Where in the text" not in words


@pytest.mark.parametrize(
    ("n", "name", "words"),
    [(1, "documents", "1 document"), (2, "documents", "2 documents"), (1, "pairs of prompts", "1 pair of prompts"),
     (1, "stretches", "1 stretch"), (1, "tokens compared", "1 token compared"), (1234, "tokens", "1,234 tokens")],
)  # fmt: skip
def test_one_of_many(n: int, name: str, words: str) -> None:
    assert text.counted(n, name) == words


def test_parts_of_a_sentence() -> None:
    assert text.listing([]) == ""
    assert text.listing(["a", "", "a"]) == "a"
    assert text.listing(["a", "b", "c"]) == "a, b and c"
