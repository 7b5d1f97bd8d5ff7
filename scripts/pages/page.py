"""What a page is made of: blocks between `<!-- made: NAME -->` and `<!-- /made -->`, and fragments of its sentences."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results"  # records stand beside the pages
_BLOCK = re.compile(r"(<!-- made: ([\w-]+) -->\n)(.*?)(<!-- /made -->)", re.S)


@dataclass(frozen=True, kw_only=True)
class Page:
    """path: below the repository's root; blocks: by name, what makes each; said: fragments of the page's sentences, with
    the numbers that the records have. A fragment is looked for in the page without regard to line breaks.
    """

    path: str
    blocks: Mapping[str, Callable[[], str]] = field(default_factory=dict)
    said: Callable[[], Iterable[str]] = tuple

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

    def unsaid(self) -> list[str]:
        """The fragments that the page does not have: it states another number, or another sentence."""
        text = one_line(self.text())
        return [fragment for fragment in self.said() if one_line(fragment) not in text]


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
        assert spec is not None and spec.loader is not None, path
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def rows(text: str, after: str) -> list[dict[str, str]]:
    """The first table behind `after` (a heading or a mark), a dictionary of its cells for each row."""
    assert text.count(after) == 1, f"{after!r} stands there {text.count(after)} times"
    lines: list[str] = []
    for line in text.split(after)[1].splitlines():
        if line.startswith("|"):
            lines.append(line)
        elif lines:
            break
    split = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines]
    split = [cells if line.rstrip().endswith("|") else cells for line, cells in zip(lines, split, strict=True)]
    return [dict(zip(split[0], cells, strict=True)) for cells in split[2:]]


def numbers(cell: str) -> list[float]:
    """All numbers of a cell: `+0.10 [-0.2, 0.4]` has three."""
    return [float(found.replace(",", "").replace("−", "-")) for found in re.findall(r"[-−+]?[\d,]*\.?\d+(?:e[-+]?\d+)?", cell)]


def short(value: float, digits: int, *, signed: bool = False) -> str:
    """As sentences have it: no zero before the point, a true minus sign."""
    text = f"{abs(value):.{digits}f}".removeprefix("0") if digits else f"{abs(value):.0f}"
    zero = not text.strip("0.")
    return f"{'' if zero else '−' if value < 0 else '+' if signed else ''}{text}"
