"""Every `snellen …` command in the README and in docs/ is one that the command line takes; none of them is run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from cyclopts import MissingArgumentError

from snellen.cli import app
from snellen.measures import registry
from snellen.studies.mesa.experiment import _wanted
from snellen.studies.names import named
from snellen.studies.self_test import chosen
from snellen.studies.stunting.experiment import NAMES

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
OPERATORS = {"&&", "||", "|", ";", "&", ">", ">>", "<", "2>"}


def commands(text: str) -> Iterator[tuple[list[str], bool]]:
    """Arguments behind `snellen`, and whether they stand in a block (a sentence may name a command without them)."""
    text = re.sub(r"```python\n.*?```", "", text, flags=re.DOTALL)
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    for block in blocks:
        for line in block.replace("\\\n", " ").splitlines():
            yield from ((found, True) for found in calls(line.removeprefix("$ ")))
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    for span in re.findall(r"`([^`]+)`", prose):
        yield from ((found, False) for found in calls(" ".join(span.split())))


def calls(line: str) -> Iterator[list[str]]:
    """`[--option value]` is an option that may be left out: it is taken."""
    if not re.search(r"(^|[\s/])snellen\s", line) or line.lstrip().startswith("#"):
        return
    lexer = shlex.shlex(re.sub(r"\[(--[^]]*)\]", r"\1", line), posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words = list(lexer)
    while words:
        end = next((i for i, word in enumerate(words) if word in OPERATORS), len(words))
        one, words = words[:end], words[end + 1 :]
        first = next((i for i, word in enumerate(one) if not re.fullmatch(r"[A-Z_]+=\S*", word)), 0)
        if one and (Path(one[first]).name == "snellen" or "-m snellen " in f"{' '.join(one)} "):
            at = next(i for i, word in enumerate(one) if Path(word).name == "snellen")
            yield one[at + 1 :]


FOUND = [
    pytest.param(arguments, in_block, id=f"{page.relative_to(ROOT)}: {' '.join(arguments)}")
    for page in PAGES
    for arguments, in_block in dict.fromkeys(
        (tuple(arguments), in_block) for arguments, in_block in commands(page.read_text(encoding="utf-8"))
    )
    if arguments and not arguments[0].isupper() and "…" not in arguments
]


def check(arguments: list[str], *, whole: bool) -> None:
    """Raises where the command line would refuse these arguments, names of kinds included."""
    try:
        command, bound, _ = app.parse_args(arguments, exit_on_error=False, print_error=False)
    except MissingArgumentError:
        if whole:
            raise
        return
    given = bound.arguments
    if command.__name__ == "exam":
        registry.find(given.get("measures") or ["lookahead-gain"])
    if command.__name__ == "examine_organisms":
        chosen(given.get("only") or ())
    if command.__name__ == "run_study" and given["study"] == "mesa":
        _wanted(1, given.get("only") or (), given.get("tasks") or (), given.get("texts"))
    if command.__name__ == "run_study" and given["study"] == "stunting":
        named("only", given.get("only") or (), NAMES, "variant")


@pytest.mark.parametrize(("arguments", "whole"), FOUND)
def test_the_command_line_takes_what_is_documented(arguments, whole):
    check(list(arguments), whole=whole)


def test_commands_are_found_and_wrong_ones_are_noticed():
    assert len([one for one in FOUND if one.values[1]]) >= 30
    page = """
Try `snellen exam`, or `snellen report`:
```bash
A=1 .venv/bin/snellen exam gpt2 --text a.txt b.txt \\
    --limit 20 [--json] | head    # a comment --none
torchrun --n 4 -m snellen train x.toml && echo done
```
"""
    assert list(commands(page)) == [
        (["exam", "gpt2", "--text", "a.txt", "b.txt", "--limit", "20", "--json"], True), (["train", "x.toml"], True),
        (["exam"], False), (["report"], False),
    ]  # fmt: skip
    check(["report"], whole=False)
    for wrong in (["exam", "--no-such-option", "3"], ["exam", "--limit", "many"], ["examine"], ["report"],
                  ["exam", "--measures", "gain"], ["organisms", "--only", "arms"], ["sweep", "mesas"],
                  ["sweep", "stunting", "--only", "no-such"], ["sweep", "mesa", "--tasks", "none"]):  # fmt: skip
        with pytest.raises(Exception, match=r"\S"):
            check(wrong, whole=True)
