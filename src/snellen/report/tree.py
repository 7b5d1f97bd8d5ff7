"""What was written with lookahead, token by token: one HTML file, no network, nothing in it that came from a text acts.

It is drawn from plain data, beam trees included, so that the page needs a script only for comfort: without one its
links still lead from each token to what was considered there.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from snellen.report import text
from snellen.report.branches import Tree, drawing
from snellen.results.files import replacing

MAX_CHOICES = 600  # of all texts together: beyond this a page takes seconds to open
_EDGES = (0.1, 0.5, 1.0, 2.0)  # nats by which lookahead made the token more or less probable


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A token that could have come: its probability under the model, the lookahead (None: no candidate), the mix."""

    piece: str
    p: float
    q: float | None
    mix: float
    chosen: bool


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One token that was written, and what was known when it was chosen. Candidates by falling mix."""

    piece: str
    candidates: Sequence[Candidate]
    tree: Tree

    @property
    def token(self) -> Candidate:
        return next(c for c in self.candidates if c.chosen)

    @property
    def effect(self) -> float:
        """Nats by which lookahead made the token more probable."""
        if self.token.mix <= 0 or self.token.p <= 0:
            return math.inf if self.token.mix > 0 else 0.0
        return math.log(self.token.mix / self.token.p)

    @property
    def shade(self) -> str:
        """The colour class of the effect."""
        level = sum(abs(self.effect) >= edge for edge in _EDGES)
        return f"{'g' if self.effect > 0 else 'l'}{level}" if level else ""

    @property
    def reading(self) -> str:
        """What lookahead changed here, in words."""
        naive, best = max(self.candidates, key=lambda c: c.p), self.candidates[0]
        if naive.piece != best.piece:
            return f"Lookahead changed the favourite: from {_moved(naive)} to {_moved(best)}."
        change = "more" if best.mix > best.p else "less"
        return f"The favourite stays, {change} probable: {_moved(best)}."


@dataclass(frozen=True, kw_only=True)
class Written:
    """A prompt and what was written behind it."""

    prompt: str
    choices: Sequence[Choice]


def write_tree_page(path: Path, *, model: str, about: Sequence[str], texts: Sequence[Written]) -> Path:
    """Write the page, whole or not at all. `about` are the settings, in words. Raises InputError where it cannot."""
    with replacing(path) as file:
        file.write(render(model=model, about=about, texts=texts).encode())
    return path


def render(*, model: str, about: Sequence[str], texts: Sequence[Written]) -> str:
    script = _own("generation.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    room, shown = MAX_CHOICES, []
    for written in texts:
        shown.append(Written(prompt=written.prompt, choices=written.choices[: max(0, room)]))
        room -= len(written.choices)
    page = (
        _environment()
        .get_template("page")
        .render(
            model=model,
            about=about,
            texts=shown,
            left_out=max(0, -room),
            script=Markup(script),
            script_hash=f"sha256-{digest}",
            style=Markup(_own("report.css") + _own("generation.css")),
        )
    )
    return re.sub("[\x00\ud800-\udfff]", "\ufffd", page)


def share(value: float | None) -> str:
    """A probability, with as many digits as tell it from 0 and 1."""
    if value is None:
        return text.DASH
    if value < 0.0001:
        return "< .01 %" if value > 0 else "0 %"
    percent = 100 * value
    return f"{percent:.0f} %" if 10 <= percent <= 99 else f"{percent:.2g} %" if percent < 10 else f"{percent:.4g} %"


def _moved(candidate: Candidate) -> str:
    return f"\u201c{label(candidate.piece)}\u201d ({share(candidate.p)} \u2192 {share(candidate.mix)})"


def label(piece: str) -> str:
    """A token as a name: its spaces and line ends to be seen."""
    seen = text.visible(piece).replace("\n", "\u21b5").replace("\t", "\u21e5")
    if seen.startswith(" ") or not seen.strip():
        seen = re.sub("^ +", lambda match: "\u2423" * len(match[0]), seen)
    return seen or "\u2205"


def _environment() -> Environment:
    environment = Environment(
        loader=DictLoader({"page": _own("generation.html.j2")}), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    filters: dict[str, Any] = {"visible": lambda value: text.visible(str(value)), "label": label, "share": share}
    environment.filters.update(filters)
    environment.globals["signed"] = lambda value: text.number(value, 2, sign=True)
    environment.globals["drawing"] = lambda tree: Markup(drawing(tree, label, share))
    return environment


def _own(name: str) -> str:
    return resources.files("snellen.report").joinpath(name).read_text(encoding="utf-8")
