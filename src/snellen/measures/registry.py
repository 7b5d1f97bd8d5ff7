"""Measures by name: ours, and those that other packages add to the entry-point group `snellen.measures`."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata

from snellen.errors import InputError
from snellen.measures.base import Measure

GROUP = "snellen.measures"
# Also known where the package's metadata are missing, as in a source tree that was not installed.
_BUILT_IN = {
    "lookahead-gain": "snellen.measures.lookahead_gain:LookaheadGain",
    "degeneration": "snellen.measures.degeneration:Degeneration",
    "in-context": "snellen.measures.in_context:InContext",
}


def known() -> dict[str, metadata.EntryPoint]:
    """Entry points by name; a built-in name cannot be taken over by another package."""
    built_in = {name: metadata.EntryPoint(name, value, GROUP) for name, value in _BUILT_IN.items()}
    return {**{point.name: point for point in metadata.entry_points(group=GROUP)}, **built_in}


def check(names: Sequence[str | Measure]) -> None:
    """Refuse names that nobody knows, before anything of a measure is imported."""
    points = known()
    if not names:
        raise InputError(f"no measure asked for; known: {', '.join(sorted(points))}")
    for number, wanted in enumerate(names):
        if isinstance(wanted, Measure):
            continue
        if wanted not in points:
            raise InputError(f"unknown measure {wanted!r}; known: {', '.join(sorted(points))}")
        if wanted in names[:number]:
            raise InputError(f"measure {wanted!r} is asked for twice")


def find(names: Sequence[str | Measure]) -> dict[str, Measure]:
    """The measures, with their default settings where only a name is given; in the order asked for."""
    check(names)
    points, found = known(), dict[str, Measure]()
    for wanted in names:
        measure = wanted if isinstance(wanted, Measure) else _make(points[wanted])
        if measure.name in found:
            raise InputError(f"measure {measure.name!r} is asked for twice")
        found[measure.name] = measure
    return found


def _make(point: metadata.EntryPoint) -> Measure:
    try:
        kind = point.load()
    except (ImportError, AttributeError) as error:
        raise InputError(f"measure {point.name!r} ({point.value}) cannot be imported: {error}") from error
    if not (isinstance(kind, type) and issubclass(kind, Measure)):
        raise InputError(f"measure {point.name!r} ({point.value}) is not a snellen.measures.base.Measure")
    return kind()
