"""Every table that is made from records is what the records make of it, and sentences say what they have."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def page() -> Iterator[ModuleType]:
    """`scripts/pages/page.py`, with scripts/ on the path."""
    before = list(sys.path)
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        import pages.page

        yield pages.page
    finally:
        sys.path[:] = before


NAMES = sorted(
    path.stem for path in (ROOT / "scripts" / "pages").glob("*.py") if "\nPAGE = " in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("name", NAMES)
def test_tables_are_made_again(page: ModuleType, name: str) -> None:
    one = page.pages()[name]
    assert one.remade() == one.text(), "python scripts/remake.py"


@pytest.mark.parametrize("name", NAMES)
def test_sentences_say_what_the_records_have(page: ModuleType, name: str) -> None:
    assert page.pages()[name].wrong() == []


def test_every_made_block_has_a_maker(page: ModuleType) -> None:
    made = {
        str(path.relative_to(ROOT))
        for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
        if re.search(r"^<!-- made: ", path.read_text(encoding="utf-8"), re.M)
    }
    assert made <= {one.path for one in page.pages().values() if one.blocks}


def changed(page: ModuleType, tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    (tmp_path / "page.md").write_text(text, encoding="utf-8")
    monkeypatch.setattr(page, "ROOT", tmp_path)
    return page


def test_a_block_is_written_anew_and_nothing_else(
    page: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed(page, tmp_path, "a\n<!-- made: t -->\n| old |\n<!-- /made -->\nb |\n", monkeypatch)
    one = page.Page(path="page.md", blocks={"t": lambda: "| new \\1 |\n"})
    assert one.remade() == "a\n<!-- made: t -->\n| new \\1 |\n<!-- /made -->\nb |\n"


@pytest.mark.parametrize("text", ["", "<!-- made: t -->\n|\n", "<!-- made: other -->\n|\n<!-- /made -->\n"])
def test_blocks_that_nobody_makes_are_noticed(
    page: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    changed(page, tmp_path, text, monkeypatch)
    with pytest.raises(ValueError, match="has the blocks"):
        page.Page(path="page.md", blocks={"t": str}).remade()


def test_a_sentence_with_another_number_is_noticed(
    page: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed(page, tmp_path, "it is .1846\nof them", monkeypatch)
    one = page.Page(path="page.md", said=lambda: ["is .1847 of", "it is .1846 of them"], faults=lambda: ["late"])
    assert one.wrong() == ["does not say: is .1847 of", "late"]


@pytest.mark.parametrize(
    ("value", "digits", "signed", "text"),
    [(0.18466, 4, False, ".1847"), (-0.5, 1, False, "−.5"), (1.25, 2, True, "+1.25"), (-0.0004, 3, True, ".000"),
     (-12.6, 0, False, "−13"), (0.2, 0, False, "0"), (0.485, 2, False, ".49")],
)  # fmt: skip
def test_numbers_of_sentences(page: ModuleType, value: float, digits: int, signed: bool, text: str) -> None:
    assert page.short(value, digits, signed=signed) == text


def test_tables_and_their_numbers_are_read(page: ModuleType) -> None:
    text = "## one\n\n| a | b |\n|---|---:|\n| x | −1,200 [-.5, 3e-06] |\n| y |  |\n\n| c |\n"
    assert page.rows(text, "## one") == [{"a": "x", "b": "−1,200 [-.5, 3e-06]"}, {"a": "y", "b": ""}]
    assert page.numbers("−1,200 [-.5, 3e-06]") == [-1200, -0.5, 3e-6]


def test_the_floors_of_the_tasks_are_what_a_command_prints(page: ModuleType) -> None:
    """docs/mesa.md names the command; the last digit may differ with the processor."""
    from snellen.organisms.tasks import table

    text = (ROOT / "docs" / "mesa.md").read_text(encoding="utf-8")
    written = page.rows(text, "**Floors.**")
    found = page.rows(f"again\n{table()}\n", "again")
    assert [row["task"] for row in written] == [row["task"] for row in found]
    for old, new in zip(written, found, strict=True):
        for column in ("floor", "best", "nothing", "repeat"):
            assert page.numbers(old[column]) == pytest.approx(page.numbers(new[column]), rel=2e-3, abs=1e-6), old


def test_the_loss_beside_the_weights_is_that_of_the_weights(page: ModuleType) -> None:
    """Of one document, the shortest; docs/pocket.md is made from the record of all."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    evaluate = page.script("scripts/pocket/evaluate.py")
    model = AutoModelForCausalLM.from_pretrained(evaluate.POCKET, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(evaluate.POCKET)
    name = "scripture-jonah"
    found = evaluate.document_loss(model, tokenizer, evaluate.held_out_documents()[name])
    recorded = json.loads((evaluate.POCKET / "provenance.json").read_text())["held-out loss"][name]
    assert (found.bytes, found.tokens) == (recorded["bytes"], recorded["tokens"])
    assert found.nats_per_token == pytest.approx(recorded["nats per token"], abs=1e-4)
    assert found.bits_per_byte == pytest.approx(recorded["bits per byte"], abs=1e-4)


def test_an_outcome_of_the_organisms_becomes_their_table(page: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Judged is the largest width; the gain at its full horizon, shorter ones by what is furthest from 0."""
    from snellen.studies.examinations import Examination
    from snellen.studies.organisms import Estimate, Point, SeedResult, as_dict, judge

    def point(width: int, horizon: int, gain: float) -> Point:
        ends = Estimate(value=gain, low=gain - 0.02, high=gain + 0.02)
        return Point(width=width, horizon=horizon, gain=ends, placebo=Estimate(value=-0.001, low=-0.002, high=0.001))

    one = Examination(
        name="planner", says="…", organism="planner", expects="gain", widths=(3, 96), horizon=3, judged_on={}
    )
    seeds = [
        SeedResult(
            examination="planner", seed=seed, losses={}, training={}, seconds=1.0,
            points=[point(3, 2, 0.0), point(3, 3, 0.3), point(96, 2, -0.004), point(96, 3, gain)],
        )
        for seed, gain in enumerate((0.938, 0.903, 0.898))
    ]  # fmt: skip
    page.pages()
    module = sys.modules["pages.organisms"]
    outcome = json.loads(json.dumps({"rows": [as_dict(judge(one, seeds))]}))
    monkeypatch.setattr(module, "_outcome", lambda: outcome)
    room = f"{one.room:.2f}".removeprefix("0")
    assert module.table().splitlines()[2] == (
        f"| planner | **+.913** [.901, .925] | .938 .903 .898 | [.859, .967] | {room} | −.004 | W = 3: +.30 | −.001 |"
    )
