"""What a page is made of: blocks between `<!-- made: NAME -->` and `<!-- /made -->`, and fragments of its sentences."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results"  # records stand beside the pages
_BLOCK = re.compile(r"(<!-- made: ([\w-]+) -->\n)(.*?)(<!-- /made -->)", re.S)


@dataclass(frozen=True, kw_only=True)
class Page:
    """path: below the repository's root; blocks: by name, what makes each; said: fragments of the page's sentences,
    with the numbers that the records have; faults: what else is wrong with it. A fragment is looked for without regard
    to line breaks.
    """

    path: str
    blocks: Mapping[str, Callable[[], str]] = field(default_factory=dict)
    said: Callable[[], Iterable[str]] = tuple
    faults: Callable[[], Iterable[str]] = tuple

    @property
    def file(self) -> Path:
        return ROOT / self.path

    def text(self) -> str:
        return self.file.read_text(encoding="utf-8")

    def remade(self) -> str:
        """The page with every block made anew.

        Raises
        ------
        ValueError
            The page's blocks are not those that the module makes.
        """
        text = self.text()
        named = [match[2] for match in _BLOCK.finditer(text)]
        if sorted(named) != sorted(self.blocks) or text.count("<!-- made: ") != len(named):
            raise ValueError(f"{self.path}: has the blocks {named}, its module makes {sorted(self.blocks)}")
        return _BLOCK.sub(lambda match: f"{match[1]}{self.blocks[match[2]]().strip()}\n{match[4]}", text)

    def wrong(self) -> list[str]:
        """The fragments that the page does not have, since it states another number or sentence; and the faults."""
        text = one_line(self.text())
        missing = [f"does not say: {fragment}" for fragment in self.said() if one_line(fragment) not in text]
        return [*missing, *self.faults()]


def one_line(text: str) -> str:
    return " ".join(text.split())


def pages() -> dict[str, Page]:
    """By the name of the module."""
    here = Path(__file__).parent
    modules = (importlib.import_module(f"pages.{found.name}") for found in pkgutil.iter_modules([str(here)]))
    return {module.__name__.removeprefix("pages."): module.PAGE for module in modules if hasattr(module, "PAGE")}


def script(path: str) -> ModuleType:
    """A file that is no module of a package, as one: the tables are made by what the page's command runs."""
    name = f"_script_{re.sub(r'[^a-z]', '_', path)}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, ROOT / path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def rows(text: str, after: str) -> list[dict[str, str]]:
    """The first table behind `after` (a heading or a mark), a dictionary of its cells for each row. A second column of
    a name is `name, again`.
    """
    assert text.count(after) == 1, f"{after!r} stands there {text.count(after)} times"
    lines: list[str] = []
    for line in text.split(after)[1].splitlines():
        if line.startswith("|"):
            lines.append(line)
        elif lines:
            break
    split = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines]
    head: list[str] = []
    for name in split[0]:
        head.append(f"{name}, again" if name in head else name)
    return [dict(zip(head, cells, strict=True)) for cells in split[2:]]


def numbers(cell: str) -> list[float]:
    """All numbers of a cell: `+0.10 [-0.2, 0.4]` has three."""
    return [
        float(found.replace(",", "").replace("−", "-"))
        for found in re.findall(r"[-−+]?[\d,]*\.?\d+(?:e[-+]?\d+)?", cell)
    ]


def by(found: Iterable[Mapping[str, str]], column: str) -> dict[str, Mapping[str, str]]:
    return {row[column].strip("`"): row for row in found}


def short(value: float, digits: int, *, signed: bool = False) -> str:
    """As sentences have it: no zero before the point, a true minus sign; rounded as one rounds what is written down."""
    rounded = Decimal(repr(abs(value))).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)
    text = f"{rounded}".removeprefix("0") if digits else f"{rounded}"
    zero = not text.strip("0.")
    return f"{'' if zero else '−' if value < 0 else '+' if signed else ''}{text}"


def cell(text: str, digits: int, *, interval: bool = False) -> str:
    """The number of a table's cell as a sentence has it, with its interval if that is wanted."""
    value, *ends = numbers(text)
    if not interval:
        return short(value, digits)
    return f"{short(value, digits)} [{short(ends[0], digits)}, {short(ends[1], digits)}]"
