"""What an exam may be asked for: the settings with their only defaults, checked before any work."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Any

from snellen.errors import InputError
from snellen.kinds import MOST, check_fields

ENGINES = ("auto", "columns", "plain")
LONGEST_WINDOW, MOST_CONTEXT, SAMPLE = 1024, 256, 8192


_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_LEAST_MEMORY = 1_000_000


def bytes_of(memory: int | str) -> int:
    """A size in bytes: 2000000000, "512MB", "2GB", "1.5GiB".

    Raises
    ------
    InputError
        Not a size, or below 1 MB.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", str(memory).lower())
    if match is None or match[2] not in _UNITS:
        raise InputError(f"memory {memory!r}: not a size; write for example 512MB or 2GB")
    size = float(match[1]) * _UNITS[match[2]]
    if size > 2**62:
        raise InputError(f"memory {memory!r}: more than any machine has")
    if size < _LEAST_MEMORY:
        raise InputError(f"memory {memory!r}: at least 1MB is needed")
    return int(size)


@dataclass(frozen=True, kw_only=True)
class Request:
    """Settings of the search and of the windows that texts are cut into.

    Parameters
    ----------
    width
        Branches that beam search keeps (W).
    horizon
        How many tokens deep it looks (D).
    widths
        Further widths, each searched on its own; by default the powers of two below the width.
    particles
        Completions sampled beside the beams: an estimate for a beam of infinite width; 0 for none.
    limit
        Score at most so many tokens (by default all; 8192 of the bundled text). Below 8192 measures that write or
        read texts of their own do less of that too, in proportion, down to what an interval needs, unless a number was
        given to them.
    window
        Tokens read at once; by default as many as the model takes, at most 1024.
    context
        Tokens that each scored one is predicted from, at least; by default a quarter of the window, at most 256.
    memory
        What the search may hold beside the weights, as 512MB or 2GB; changes numbers by rounding alone (docs/runs.md).
    seed
        Of folds and resampling.
    engine
        "columns" (all positions at once), "plain" (one after another), or "auto": what passes the model's check.
    """

    width: int = 4
    horizon: int = 4
    widths: tuple[int, ...] | None = None
    particles: int = 8
    limit: int | None = None
    window: int | None = None
    context: int | None = None
    memory: str | int = "1GB"
    seed: int = 0
    engine: str = "auto"

    def __post_init__(self) -> None:
        check_fields(self)
        most = {"limit": math.inf, "seed": math.inf}
        least = {"width": 1, "horizon": 1, "particles": 0, "limit": 1, "window": 2, "context": 0, "seed": 0}
        for name, low in least.items():
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise InputError(f"{name} {value!r}: must be a whole number of at least {low}")
            if value > most.get(name, MOST):
                raise InputError(f"{name} {value!r}: must be at most {MOST}")
        bytes_of(self.memory)
        if self.engine not in ENGINES:
            raise InputError(f"engine {self.engine!r}: must be one of {', '.join(ENGINES)}")
        for value in self.widths or ():
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= self.width:
                raise InputError(f"widths {value!r}: must be whole numbers from 1 to the width, {self.width}")
        if self.window is not None and self.context is not None and self.context >= self.window:
            raise InputError(f"context {self.context}: must be below the window, {self.window}")

    @property
    def all_widths(self) -> tuple[int, ...]:
        """Ascending, with the width itself."""
        powers = tuple(2**k for k in range(self.width.bit_length()) if 2**k <= self.width)
        return tuple(sorted({*(powers if self.widths is None else self.widths), self.width}))

    def of_the_sample(self) -> Request:
        """The same for the text that ships with Snellen, of which less is scored where nothing is said."""
        return self if self.limit is not None else replace(self, limit=SAMPLE)

    @property
    def share(self) -> float:
        """Of what measures write and read besides: a limit below the sample's makes that less in proportion."""
        return 1.0 if self.limit is None else min(1.0, self.limit / SAMPLE)

    def key(self) -> dict[str, Any]:
        """What of it changes a number and is known before the model is."""
        return {
            "width": self.width,
            "widths": list(self.all_widths),
            "horizon": self.horizon,
            "particles": self.particles,
            "limit": self.limit,
            "seed": self.seed,
            "engine": self.engine,
        }

    def windows(self, longest: int | None) -> tuple[int, int]:
        """(window, context) for a model that takes `longest` tokens (None: any number)."""
        # The last position's branches need places of their own beyond the text.
        room = LONGEST_WINDOW if longest is None else longest - (self.horizon - 1)
        if room < 2:
            raise InputError(
                f"horizon {self.horizon}: the model takes {longest} tokens, which leaves no room for text; "
                f"lower --horizon to at most {max(1, (longest or 2) - 1)}"
            )
        if self.window is not None and self.window > room:
            raise InputError(
                f"window {self.window}: with horizon {self.horizon} the model takes texts of at most {room} tokens; "
                "lower --window"
            )
        window = min(room, LONGEST_WINDOW) if self.window is None else self.window
        context = min(window // 4, MOST_CONTEXT) if self.context is None else self.context
        if context >= window:
            raise InputError(f"context {context}: must be below the window, {window}; lower --context")
        return window, context


def in_proportion(number: int, share: float, *, least: int) -> int:
    """That share of a number of prompts or passages, but not below `least` where there were as many."""
    return max(min(number, least), round(number * share))
