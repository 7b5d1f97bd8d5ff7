"""README.md, where it states figures of the pages."""

from __future__ import annotations

from collections.abc import Iterator

from pages import mesa
from pages.page import Page


def said() -> Iterator[str]:
    bound, size, loss = (mesa.worst("float32", column) for column in ("out of bound", "out", "of all"))
    yield (
        f"is {bound} of the most that an output could be ({size} of its own size), and {loss} of what the loss "
        "changes by"
    )


PAGE = Page(path="README.md", said=said)
