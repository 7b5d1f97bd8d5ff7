"""Names as a command line takes them: what is called `markov, too flat` in a table is `markov-too-flat` there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from snellen.errors import InputError


def slug(name: str) -> str:
    """One word for a name: no spaces and no commas, so that a list of them can be read and typed."""
    return re.sub(r"[^A-Za-z0-9]+", "-", name.replace(" = ", "")).strip("-")


def named(option: str, wanted: Sequence[str], known: Iterable[str], what: str) -> set[str]:
    """Those of the `known` names that are wanted, as slugs (of either case) or as they are.

    Raises
    ------
    InputError
        There is none of that name; the message lists all of them, as slugs.
    """
    by_slug = {slug(name).lower(): name for name in known}
    found = set()
    for one in wanted:
        if slug(one).lower() not in by_slug:
            slugs = ", ".join(dict.fromkeys(slug(name) for name in by_slug.values()))
            raise InputError(f"{option} {one!r}: no such {what}; known are {slugs}")
        found.add(by_slug[slug(one).lower()])
    return found
