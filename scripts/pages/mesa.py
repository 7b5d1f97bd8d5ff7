"""docs/mesa.md: the largest errors found, from `mesa-bound.csv` (`benchmarks/mesa_bound.py`)."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence

from pages.page import RESULTS, Page, rows, script


def searches() -> Sequence[Mapping[str, str]]:
    with (RESULTS / "mesa-bound.csv").open() as file:
        return list(csv.DictReader(file))


def worst(numbers: str, column: str) -> str:
    """In either form, of any inputs, rounded up to one digit."""
    found = max(float(one[column]) for one in searches() if one["numbers"] == numbers)
    size = 10.0 ** math.floor(math.log10(found))
    return f"{math.ceil(found / size - 1e-9) * size:.0e}".replace("e-0", "e-")


def said() -> Iterator[str]:
    found = searches()
    numbers = {one["search"] for one in found}
    draws = {one["draws"] for one in found}
    assert len(draws) == 1
    yield f"{len(numbers)} searches of {draws.pop()} draws a row"
    lengths = [float(row["over d + d²/C"]) for row in rows(PAGE.text(), "<!-- length -->")]
    yield f"memory is {min(lengths):.0f} to {math.ceil(max(lengths)):.0f} numbers for each of d + d²/C"


PAGE = Page(
    path="docs/mesa.md",
    blocks={"bound": lambda: str(script("benchmarks/mesa_bound.py").table(searches()))},
    said=said,
)
