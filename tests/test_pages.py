"""Every table that is made from records is what the records make of it, and sentences say what they have."""

from __future__ import annotations

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
