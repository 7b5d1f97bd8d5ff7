"""What is written in this repository can be followed by who has nothing but the repository."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WRITTEN = (".py", ".md", ".toml", ".j2", ".js", ".css", ".csv")
ROOMS = ("docs", "src", "tests", "scripts", "benchmarks", "examples")
# Notes, lists and talks that a reader has never seen: say the thing itself.
UNKNOWN = re.compile(
    r"\bDESIGN\b|\bHOUSE\b|\bshared/[A-Z]|\bsource idea\b|\b(?:that|as) we were (?:given|asked)\b"
    r"|\b(?:first|second|third|fourth|last|next|this) session\b"
    r"|\b(?:of|by|in|from|see|closes|fixes) (?:the|this) issue\b"
    r"|\bissue #?\d|(?<!\w)#\d+ asks|\b(?:the|our|a) helper (?:session|agent)s?\b|\bthe brief (?:says|asks|wants)\b"
    r"|\bthe plan (?:says|asks|wants)\b|\bthe plan's (?:\w+ )?(?:modules?|items?)\b|\bwe were asked\b|\btask list\b"
)
PAGES = sorted([ROOT / "README.md", ROOT / "LOG.md", *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def written() -> list[Path]:
    """All that people wrote here, but this file; corpora and weights of the bundled models are not ours."""
    found = [path for room in ROOMS for path in (ROOT / room).rglob("*") if path.suffix in WRITTEN]
    return [*ROOT.glob("*.md"), *ROOT.glob("*.toml"), *(path for path in found if path != Path(__file__))]


def test_nothing_refers_to_what_no_reader_has() -> None:
    lines = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in written()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if UNKNOWN.search(line)
    ]
    assert not lines, "\n".join(lines)


@pytest.mark.parametrize(
    "line",
    ["the letter of DESIGN.md", "With the gates of the issue", "2026-01-01, second session",
     "figures that we were given",
     "Skip (v1 of the source idea)", "wider than the plan's three modules",
     "see HOUSE.md", "as in issue #12"],
)  # fmt: skip
def test_such_words_are_noticed(line: str) -> None:
    assert UNKNOWN.search(line)


@pytest.mark.parametrize(
    "line",
    ["design = np.column_stack(columns)", "the plan of a call", "timings over all its sessions", "scope='session'",
     "values at their places, as they were given", "an issue tracker", "learns nothing of the plan (1.04)"],
)  # fmt: skip
def test_ordinary_words_are_not(line: str) -> None:
    assert not UNKNOWN.search(line)


def anchors(page: Path) -> set[str]:
    """The names of a page's headings, as they are linked to."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    heads = re.findall(r"^#+ +(.+?)\s*$", text, re.M)
    return {
        re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", head).lower()).replace(" ", "-")
        for head in heads
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        there = (page.parent / name).resolve() if name else page
        assert there.exists(), f"{target}: no such file"
        assert there.is_relative_to(ROOT), f"{target}: leads out of the repository"
        assert not anchor or anchor in anchors(there), f"{target}: no such heading"
