"""Whole exams of models whose use of context is known; how a run resumes; settings; what cannot be measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import snellen
from snellen.errors import InputError, Refused
from snellen.measures.in_context import InContext
from snellen.results.findings import Finding
from snellen.results.store import Run
from snellen.runner import reading
from tests.measures import letters, readers

TEXT = InContext(stretches=40, pairs=0, near=16, block=16)
LINES = InContext(stretches=0, pairs=24, shots=(0, 4, 5))


def exam(model: Any, texts: list[str], measure: InContext, out: Path, **options: Any) -> Run:
    subject = snellen.load(model, tokenizer=readers.tokenizer(), bos="auto")
    options = {"window": 200, "context": 16, "report": False} | options
    return snellen.exam(subject, texts, measures=[measure], out=out, **options)


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return readers.own_order(24, 400)


def test_a_model_that_copies_gains_from_its_own_text_alone(texts: list[str], tmp_path: Path) -> None:
    run = exam(readers.reader(readers.copying), texts, TEXT, tmp_path / "run")
    finding = run.findings[0]
    assert finding.low > 0.15
    assert finding.control["foreign text in the place of further context"]["high"] < 0.5 * finding.low
    assert finding.control["own further context beyond foreign text"]["low"] > 0.2
    assert finding.verdict.startswith("Text: yes, further context helps, and foreign text")
    score = finding.details["text"]["in-context-learning score"]
    assert score["high"] < 0
    contexts = run.table("in_context_contexts").to_pylist()
    own = [row["loss"] for row in contexts if row["source"] == "own"]
    assert own == sorted(own, reverse=True)
    by_position = run.table("in_context_positions").to_pylist()
    assert by_position[0]["loss_low"] > by_position[-1]["loss_high"]
    assert not (run.folder / "pieces").exists()


def test_a_model_that_sees_one_token_gains_nothing(tmp_path: Path) -> None:
    """All readings of a token give it the very same probability: the gain is zero, and its interval too."""
    P = letters.table()
    subject = snellen.load(letters.model(P), tokenizer=letters.tokenizer(), bos="auto")
    out, texts = tmp_path / "run", letters.texts(P, number=24, length=300)
    finding = snellen.exam(subject, texts, measures=[TEXT], out=out, window=128, context=16, report=False).findings[0]
    for number in (finding.value, finding.low, finding.high, *_three(finding, "own further context beyond foreign")):
        assert number == pytest.approx(0, abs=1e-6)
    assert finding.verdict.startswith("Text: no gain from further context was found.")


def _three(finding: Finding, name: str) -> list[float]:
    entry = next(entry for key, entry in finding.control.items() if key.startswith(name))
    return [entry["value"], entry["low"], entry["high"]]


def line(x: Sequence[int], y: Sequence[int], query: int) -> float:
    return float(np.polyval(np.polyfit(x, y, 1), query)) if len(x) > 1 else y[-1]


def around(x: Sequence[int], y: Sequence[int], query: int) -> float:
    weight = np.exp(-0.5 * ((np.array(x) - query) / 4) ** 2) + 1e-12
    return float(weight @ np.array(y) / weight.sum())


@pytest.mark.parametrize(
    ("rule", "said", "share"),
    [
        (line, "yes", 0.97),
        (lambda x, y, query: y[-1], "no", 0.0),
        (lambda x, y, query: y[int(np.abs(np.array(x) - query).argmin())], "no", 0.0),
        (lambda x, y, query: float(np.mean(y)), "no", 0.0),
    ],
    ids=["line", "last", "nearest", "mean"],
)  # fmt: skip
def test_what_solves_the_lines_is_told_from_what_does_not(
    rule: Any, said: str, share: float, texts: list[str], tmp_path: Path
) -> None:
    run = exam(readers.reader(readers.answering(rule)), texts, LINES, tmp_path / "run")
    lines = run.findings[0].details["lines"]
    assert lines["follows the line"] == said
    # Of the probability 0.97 goes to the answer's digits, the rest pulls a little towards all numbers.
    assert lines["weight of least squares"]["value"] == pytest.approx(share, abs=0.06)
    assert abs(lines["weight of the unseen line, shuffled"]["value"]) < 0.06
    right = lines["share of prompts whose likeliest answer is right"]["value"]
    assert right == 1 if said == "yes" else right < 0.2
    errors = {(row["examples"], row["who"]): row["error"] for row in run.table("in_context_errors").to_pylist()}
    assert errors[5, "least squares"] == pytest.approx(0, abs=1e-9)
    assert (errors[5, "model"] < 3) == (said == "yes")
    assert run.findings[0].value is None
    assert "left out by the settings" in str(run.findings[0].reason)
    # A rule has no layers to probe, and the report of that is no number.
    assert "layers" in lines["probes"]["reason"]
    assert run.table("in_context_probes") is None


def test_a_stopped_run_goes_on_where_it_was(texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, measure = readers.reader(readers.copying), replace(TEXT, stretches=8, pairs=20, shots=(0, 4))
    whole = exam(model, texts, measure, tmp_path / "whole")
    real, made = reading.read, list[int]()

    def counting(*arguments: Any) -> Any:
        made.append(1)
        if len(made) == 40:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(reading, "read", counting)
    with pytest.raises(KeyboardInterrupt):
        exam(model, texts, measure, tmp_path / "run")
    pieces = sorted((tmp_path / "run" / "pieces").glob("read-*.parquet"))
    assert len(pieces) == 2  # whole batches of 16
    pieces[-1].write_bytes(pieces[-1].read_bytes()[:-20])  # a power failure
    made[:] = [0] * 100
    again = exam(model, texts, measure, tmp_path / "run")
    assert len(made) - 100 == 8 * 5 + 20 * 4 - 16  # five readings of a stretch, four of a pair; one piece was whole
    assert again.findings == whole.findings
    for name in ("in_context_positions", "in_context_weights", "in_context_answers"):
        assert again.table(name).equals(whole.table(name))


def test_both_parts_are_told_when_neither_can_be_read(tmp_path: Path) -> None:
    """Letters have no digits, and the texts are too short: one line says both, before any work."""
    P = letters.table()
    subject = snellen.load(letters.model(P), tokenizer=letters.tokenizer(), bos="auto")
    short = letters.texts(P, number=7, length=110)
    with pytest.raises(Refused, match=r"in-context: text: the texts give 7 stretches of 62.*lines: the tokenizer"):
        snellen.exam(
            subject, short, measures=[InContext(length=62)], out=tmp_path / "run", window=64, context=8
        )  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_one_document_has_no_foreign_text(tmp_path: Path) -> None:
    run = exam(readers.reader(readers.copying), readers.own_order(1, 4000), TEXT, tmp_path / "run")
    finding = run.findings[0]
    assert finding.value > 0.2
    entry = finding.control["own further context beyond foreign text"]
    assert entry["value"] is None
    assert "one document" in entry["reason"]
    assert "there is no control" in finding.verdict


def test_prompts_that_do_not_fit_are_said(texts: list[str], tmp_path: Path) -> None:
    measure = replace(TEXT, stretches=8, pairs=20, shots=(8,))
    run = exam(readers.reader(readers.copying, 128), texts, measure, tmp_path / "run", window=100)
    assert run.findings[0].value is not None
    assert "set shots lower, or --window higher" in run.findings[0].details["lines"]["reason"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"stretches": 0, "pairs": 0}, "nothing is left"),
        ({"stretches": 7}, "at least 8; 0 leaves it out"),
        ({"pairs": 19}, "at least 20; 0 leaves it out"),
        ({"length": True}, "length True"),
        ({"near": 0}, "near 0"),
        ({"block": -1}, "block -1"),
        ({"positions": (50,)}, "an early and a late"),
        ({"positions": (5, 50)}, "positions 5"),
        ({"shots": ()}, "shots"),
        ({"shots": (4, 2)}, "must ascend"),
        ({"shots": (0, 2)}, "lie between 4 and 29"),
        ({"shots": (0, 30)}, "lie between 4 and 29"),
        ({"least": 0.0}, "least = 0.0"),
        ({"resamples": 10}, "resamples = 10"),
        ({"level": 1.0}, "level = 1.0"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        InContext(**settings)


def test_the_command_line_knows_it() -> None:
    from snellen.measures import registry

    assert registry.find(["in-context"])["in-context"] == InContext()
