"""Words of the command line as values: as cyclopts reads them, but for whole numbers, which it rounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args


def exact(kind: Any, tokens: Sequence[Any]) -> Any:
    """A converter of cyclopts: `1.5` is no whole number, where one is wanted. Raises ValueError."""
    from cyclopts import convert

    if _whole(kind):
        for token in tokens:
            if "." in token.value:
                raise ValueError(f"{token.value}: must be a whole number")
    return convert(kind, tokens)


def _whole(kind: Any) -> bool:
    """Whether it is a whole number, or holds nothing but such."""
    inside = [one for one in get_args(kind) if one not in (type(None), ...)]
    return kind is int or (bool(inside) and all(map(_whole, inside)))
