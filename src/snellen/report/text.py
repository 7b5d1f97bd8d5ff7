"""How numbers and strange characters are written: for people, and never as something they are not."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

MINUS, DASH = "\u2212", "\u2014"
_LIST_SHOWN = 12


def number(value: float | None, digits: int = 4, *, sign: bool = False) -> str:
    """A real number with a true minus sign; an undefined one is a dash (its reason stands beside it)."""
    if value is None or math.isnan(value):
        return DASH
    if math.isinf(value):
        return "\u221e" if value > 0 else f"{MINUS}\u221e"
    text = f"{abs(value):,.{digits}f}"
    if value < 0 and float(text.replace(",", "")) != 0:
        return MINUS + text
    return f"+{text}" if sign and float(text.replace(",", "")) != 0 else text


def short(value: float | None) -> str:
    """A setting such as alpha or a weight: as few digits as say it."""
    if value is None or math.isnan(value) or math.isinf(value):
        return number(value)
    return f"{value:.3g}".replace("-", MINUS)


def brief(value: float | None) -> str:
    """An order of magnitude, such as a rounding error."""
    return DASH if value is None else f"{value:.2g}".replace("-", MINUS)


def count(value: int) -> str:
    return f"{value:,}"


def plural(n: int, name: str) -> str:
    """A number of things, one of them in the singular."""
    return f"{count(n)} {name}{'' if n == 1 else 's'}"


def counted(n: int, name: str) -> str:
    """The same for a name that comes as a plural, of one word or with more behind it ("pairs of prompts")."""
    if n == 1:
        name = re.sub(r"(?:(?<=ch)es|s)(?= |$)", "", name, count=1)
    return f"{count(n)} {name}"


def listing(parts: Sequence[str]) -> str:
    """Parts of a sentence, one after the other: "a, b and c"; what is said twice is said once."""
    parts = list(dict.fromkeys(part for part in parts if part))
    return " and ".join(part for part in (", ".join(parts[:-1]), *parts[-1:]) if part)


def share(value: float | None) -> str:
    return DASH if value is None else f"{100 * value:.1f} %"


def interval(low: float | None, high: float | None, digits: int = 4) -> str:
    if low is None or high is None:
        return DASH
    return f"[{number(low, digits, sign=True)}, {number(high, digits, sign=True)}]"


# What an interval without width means of a lookahead gain: that there was nothing to be uncertain about.
NO_WEIGHT = "no fit gave lookahead a weight"


def estimate(entry: Mapping[str, Any], digits: int = 4, *, zero: str = "") -> str:
    """A number with its interval, or with the reason why there is none; `zero`: what zero for certain means here."""
    value, low, high = entry["value"], entry["low"], entry["high"]
    if zero and value == low == high == 0:
        return f"{number(value, digits)} ({zero})"
    bounds = f" {interval(low, high, digits)}" if low is not None and high is not None else ""
    reason = f" ({entry['reason']})" if entry.get("reason") else ""
    return number(value, digits, sign=True) + bounds + reason


def plain(value: Any) -> str:
    """Any value of `run.json` as one piece of text."""
    if value is None:
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}".replace("-", MINUS) if abs(value) < 1e16 else str(value)
    if isinstance(value, int):
        return str(value).replace("-", MINUS)
    return str(value)


def flat(mapping: Mapping[str, Any], before: str = "", zero: str = "") -> Iterator[tuple[str, str]]:
    """A nested mapping as rows of a table; a long list says how much of it is not shown. `zero`: as in `estimate`."""
    for key, value in mapping.items():
        name = f"{before}{key}".replace("_", " ")
        if isinstance(value, Mapping):
            if {"value", "low", "high"} <= value.keys():
                yield name, estimate(value, zero=zero)
                value = {inner: entry for inner, entry in value.items() if inner not in ("value", "low", "high")}
            yield from flat(value, f"{name} \u203a ", zero)
        elif isinstance(value, Sequence) and not isinstance(value, str):
            if any(isinstance(entry, Mapping) for entry in value):
                numbered = {str(place + 1): entry for place, entry in enumerate(value[:_LIST_SHOWN])}
                yield from flat(numbered, f"{name} \u203a ", zero)
                if len(value) > _LIST_SHOWN:
                    yield name, f"\u2026 and {len(value) - _LIST_SHOWN} more"
                continue
            more = f" \u2026 and {len(value) - _LIST_SHOWN} more" if len(value) > _LIST_SHOWN else ""
            yield name, (", ".join(plain(entry) for entry in value[:_LIST_SHOWN]) or DASH) + more
        else:
            yield name, plain(value)


_C0 = ["NUL", "SOH", "STX", "ETX", "EOT", "ENQ", "ACK", "BEL", "BS", "TAB", "LF", "VT", "FF", "CR", "SO", "SI", "DLE",
       "DC1", "DC2", "DC3", "DC4", "NAK", "SYN", "ETB", "CAN", "EM", "SUB", "ESC", "FS", "GS", "RS", "US"]  # fmt: skip
_DIRECTION = {0x061C: "ALM", 0x200E: "LRM", 0x200F: "RLM", 0x202A: "LRE", 0x202B: "RLE", 0x202C: "PDF",
              0x202D: "LRO", 0x202E: "RLO", 0x2066: "LRI", 0x2067: "RLI", 0x2068: "FSI", 0x2069: "PDI"}  # fmt: skip
_HIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """Control characters and direction marks as signs that can be seen and that do nothing."""

    def sign(match: re.Match[str]) -> str:
        code = ord(match[0])
        if code in _DIRECTION:
            return f"\u27e8{_DIRECTION[code]}\u27e9"
        if 0xD800 <= code <= 0xDFFF:
            return "\ufffd"
        return f"\u27e8{_C0[code] if code < 0x20 else f'{code:02X}'}\u27e9"

    return _HIDDEN.sub(sign, text)
