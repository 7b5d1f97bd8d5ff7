"""An exam of a real, small transformer, with what its layers hold, and the figures of its report."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import snellen
from snellen.errors import InputError
from snellen.measures.in_context import InContext
from snellen.report import data, in_context
from snellen.report.html import write_report
from snellen.results.store import Run
from tests.report.reading import OF_LOOKAHEAD, said

SMALL = InContext(stretches=8, length=64, pairs=20, shots=(0, 4))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return snellen.exam(
        "pocket", measures=[SMALL], limit=500, window=128, out=tmp_path_factory.mktemp("in-context") / "run"
    )


def test_layers_are_probed_from_the_embedding_on(run: Run) -> None:
    rows = run.table("in_context_probes").to_pylist()
    assert len(rows) == 2 * 2 * 5
    assert {row["layer"] for row in rows} == set(range(5))
    # The embedding of the token before the answer is the same in all prompts: it says nothing.
    assert all(row["value"] == pytest.approx(0, abs=1e-6) for row in rows if row["layer"] == 0)
    probed = run.findings[0].details["lines"]["probes"]
    assert set(probed) == {"slope", "answer beyond the rules"}
    assert probed["slope"]["layer"] > 0


def test_the_bundled_model_does_not_solve_the_lines(run: Run) -> None:
    finding = run.findings[0]
    assert finding.details["lines"]["follows the line"] == "no"
    assert "Lines: no, answers do not follow" in finding.verdict
    # Each text once; each prompt once, once more for its layers, and one branch a number's first digit.
    assert finding.details["cost"]["passages"] == 8 * 5 + 20 * 4
    assert 8 * (64 + 6 + 12 + 36 + 64) < finding.details["cost"]["tokens run by the model"] < 12_000


def test_the_report_draws_what_was_measured(run: Run) -> None:
    page = (run.folder / "report.html").read_text()
    assert "<h2>What stands before</h2>" in page
    story, order = said(run.folder).split("Was the chart itself in order?")
    for absent in OF_LOOKAHEAD:  # it is a run without beams
        assert absent not in story, absent
    assert "How the loss runs along a stretch of text, what further context gives to the same tokens, whether" in story
    assert "holds a list of what was most probable" in story
    assert "Before any number is printed the model must pass the preflight. Preflight" in order
    figures = in_context.figures(data.read(run.folder))
    assert [figure.title for figure in figures] == [
        "Loss by position", "What further context gives", "The right answer", "Distance from the right answer",
        "Which rule the answers follow", "Probes by layer",
    ]  # fmt: skip
    for figure in figures:
        assert str(figure.drawing).count("<path") > 3
    names = re.findall(r">([^<>]+)</text>", str(figures[3].drawing))
    assert {"model", "least squares", "nearest", "last", "mean", "trend"} <= set(names)


def older(run: Run, folder: Path) -> Path:
    """The run as a version left it that noted no digests, and so may hold other tables."""
    shutil.copytree(run.folder, folder)
    content = json.loads((folder / "run.json").read_text())
    del content["sha256"], content["files"]
    (folder / "run.json").write_text(json.dumps(content))
    return folder


def test_a_part_that_was_left_out_is_not_drawn(run: Run, tmp_path: Path) -> None:
    folder = older(run, tmp_path / "run")
    for name in ("answers", "errors", "weights", "probes"):
        (folder / "tables" / f"in_context_{name}.parquet").unlink()
    assert len(in_context.figures(data.read(folder))) == 2
    write_report(folder)
    assert "stretch of text and what further context gives to the same tokens." in said(folder)
    assert "x = 3" not in said(folder).split("Was the chart itself in order?")[0]
    for path in (folder / "tables").glob("in_context_*"):
        path.unlink()
    assert in_context.figures(data.read(folder)) == []
    assert "What stands before" not in write_report(folder).read_text()


def test_tables_of_another_version_are_named(run: Run, tmp_path: Path) -> None:
    folder = older(run, tmp_path / "run")
    path = folder / "tables" / "in_context_errors.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["who"]), path)
    with pytest.raises(InputError, match="in_context_errors: no column who"):
        in_context.figures(data.read(folder))
