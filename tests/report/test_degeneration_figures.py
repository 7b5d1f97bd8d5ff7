"""The figures of what a model writes, drawn from hand-made tables in an otherwise ordinary run folder."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.report.synthetic_run import make_run

from snellen.errors import InputError
from snellen.report import data, degeneration
from snellen.report.html import write_report

DECODINGS = (
    "human",
    "greedy",
    "beam 4",
    "pure",
    "nucleus 0.9",
    "horizon 1 w 0.2 α 2",
    "amplified w 0.2 α 2",
    "power α 2",
)
METRICS = ("seq-rep-4", "ends in a loop", "distinct-2", "drift of log-probability")
LENGTH, PROMPTS = 24, 9


def _tables(text: str = "and so on") -> dict[str, pa.Table]:
    rng = np.random.default_rng(0)
    metrics = [
        {"decoding": name, "metric": metric, "value": 0.25, "difference": None if name == "human" else 0.125 * place,
         "difference_low": None if name in ("human", "pure") else 0.1 * place,
         "difference_high": None if name in ("human", "pure") else 0.15 * place}
        for metric in METRICS for place, name in enumerate(DECODINGS)
    ]  # fmt: skip
    traces = [
        {"decoding": name, "first": first, "last": first + 8, "log_prob": -4.0 + 0.01 * place,
         "log_prob_low": -4.2, "log_prob_high": -3.8}
        for place, name in enumerate(DECODINGS) for first in range(0, LENGTH, 8)
    ]  # fmt: skip
    texts = pa.table({
        "decoding": [name for name in DECODINGS for _ in range(PROMPTS)],
        "prompt": [prompt for _ in DECODINGS for prompt in range(PROMPTS)],
        "text": [text] * len(DECODINGS) * PROMPTS,
        "log_prob": [(-rng.gamma(1, 2, LENGTH)).tolist() for _ in range(len(DECODINGS) * PROMPTS)],
    })  # fmt: skip
    return {
        "degeneration_metrics": pa.Table.from_pylist(metrics),
        "degeneration_traces": pa.Table.from_pylist(traces),
        "degeneration_texts": texts,
    }


def _run(folder: Path, tables: dict[str, pa.Table], **options: object) -> Path:
    make_run(folder, tokens=80, **options)  # type: ignore[arg-type]
    for name, table in tables.items():
        pq.write_table(table, folder / "tables" / f"{name}.parquet")
    return folder


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> list[degeneration.Figure]:
    folder = _run(tmp_path_factory.mktemp("written") / "run", _tables())
    return degeneration.figures(data.read(folder))


def test_every_figure_is_drawn_with_its_numbers(figures: list[degeneration.Figure]) -> None:
    assert len(figures) == 2 + len(METRICS)
    example, traces, repetition = figures[:3]
    assert example.drawing.count("<path") >= 2
    assert "human: mean probability" in example.drawing
    assert "and so on" in example.caption
    assert "human: \u22124.00 at the end" in traces.drawing
    assert "pure: +0.3750" in repetition.drawing
    assert "Zero is the human text, at 0.250. Hollow" in repetition.caption
    assert "human" not in re.findall(r">([^<>]+)</text>", str(repetition.drawing))


def test_names_at_the_ends_of_lines_keep_apart(figures: list[degeneration.Figure]) -> None:
    placed = re.findall(r"<text[^>]*translate\(([\d.]+),([\d.]+)\)[^>]*>([^<]*)</text>", str(figures[1].drawing))
    heights = sorted(float(y) for _, y, words in placed if words in DECODINGS)
    assert len(heights) == 6  # human, greedy, beam, pure, nucleus, power; the headline is not known here
    assert min(np.diff(heights)) > 10


def test_a_run_without_it_has_no_such_section(tmp_path: Path) -> None:
    plain = _run(tmp_path / "plain", {})
    assert degeneration.figures(data.read(plain)) == []
    assert "What the model writes" not in write_report(plain).read_text()


def test_what_was_written_cannot_act(tmp_path: Path) -> None:
    evil = '<script>alert("1")</script>\u202e<img src=x onerror=alert(2)>'
    page = write_report(_run(tmp_path / "run", _tables(evil))).read_text()
    assert "What the model writes" in page
    assert "<script>alert(" not in page
    assert "<img src=x" not in page
    assert "\u202e" not in page


def test_tables_of_another_version_are_named(tmp_path: Path) -> None:
    tables = _tables()
    tables["degeneration_traces"] = tables["degeneration_traces"].drop_columns(["log_prob"])
    with pytest.raises(InputError, match="degeneration_traces: no column log_prob"):
        degeneration.figures(data.read(_run(tmp_path / "run", tables)))
