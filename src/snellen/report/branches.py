"""A beam tree as SVG: a column a depth, the best completion along the top, branches that died pale."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from markupsafe import escape

_LINE, _GAP, _TOP, _ROOT, _BOX, _END = 32, 26, 24, 84, 128, 66
_ROOM = 78  # pixels of a box that its token may take; the rest is its probability's


@dataclass(frozen=True, kw_only=True)
class Tree:
    """Survivors of a beam search from one position, each [depth][slot], best first."""

    pieces: Sequence[Sequence[str]]
    parents: Sequence[Sequence[int]]  # slots at the depth before; −1 at the first
    log_probs: Sequence[Sequence[float]]  # of the newest token after its branch, nats


@dataclass(eq=False)
class _Node:
    slot: int
    piece: str
    parent: _Node | None
    own: float
    total: float
    place: int = 0
    alive: bool = False
    best: bool = False

    @property
    def kind(self) -> str:
        return "node" + " best" * self.best + " dead" * (not self.alive)


@dataclass(kw_only=True)
class _Canvas:
    parts: list[str] = field(default_factory=list)

    def text(self, kind: str, x: float, y: float, words: str, anchor: str = "start") -> None:
        self.parts.append(f'<text class="{kind}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(words)}</text>')


def drawing(tree: Tree, label: Callable[[str], str], share: Callable[[float], str]) -> str:
    """An SVG element; tokens are named by `label`, probabilities by `share`."""
    depths = _nodes(tree)
    canvas = _Canvas()
    left = [_ROOT + _GAP + depth * (_BOX + _GAP) for depth in range(len(depths))]
    canvas.text("p", 2, _middle(0) + 4, "the text so far")
    for depth, nodes in enumerate(depths):
        canvas.text("depth", left[depth] + 6, 13, f"{depth + 1} ahead")
        for node in sorted(nodes, key=lambda node: (node.best, node.alive)):
            x, y = left[depth], _middle(node.place)
            start, height = (x - _GAP, _middle(0)) if node.parent is None else (x - _GAP, _middle(node.parent.place))
            bend = _GAP / 2
            curve = f"M{start:g} {height:g}C{start + bend:g} {height:g} {x - bend:g} {y:g} {x:g} {y:g}"
            canvas.parts.append(f'<path class="{node.kind.replace("node", "edge")}" d="{curve}"/>')
    for depth, nodes in enumerate(depths):
        for node in nodes:
            _box(canvas, node, left[depth], label, share, last=depth == len(depths) - 1)
    canvas.text("depth", left[-1] + _BOX + _END, 13, "in all", "end")
    width = left[-1] + _BOX + _END + 2
    height = _TOP + max(len(nodes) for nodes in depths) * _LINE + 2
    best = " ".join(label(node.piece) for nodes in depths for node in nodes if node.best)
    words = escape(f"Beam tree, {len(depths)} deep. Best completion: {best}")
    return (
        f'<svg class="tree" role="img" aria-label="{words}" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}">{"".join(canvas.parts)}</svg>'
    )


def _box(
    canvas: _Canvas, node: _Node, x: float, label: Callable[[str], str], share: Callable[[float], str], *, last: bool
) -> None:
    y, name = _middle(node.place), label(node.piece)
    own, whole = share(math.exp(node.own)), share(math.exp(node.total))
    canvas.parts.append(
        f'<g class="{node.kind}"><title>{escape(f"{name}: {own} after its branch, {whole} with it")}</title>'
    )
    canvas.parts.append(f'<rect x="{x:g}" y="{y - 12:g}" width="{_BOX}" height="24" rx="5"/>')
    canvas.text("piece", x + 8, y + 5, _clipped(name))
    canvas.text("p", x + _BOX - 7, y + 4, own, "end")
    if last:
        canvas.text("p", x + _BOX + _END, y + 4, whole, "end")
    canvas.parts.append("</g>")


def _middle(place: int) -> float:
    return _TOP + place * _LINE + _LINE / 2


def _clipped(name: str) -> str:
    """As much of it as surely has room: without a browser widths are guessed, wide scripts as twice as wide."""
    room = float(_ROOM)
    for i, character in enumerate(name):
        room -= 15 if ord(character) > 0x2E80 else 12 if character in "mwMWQ@%\u27e8\u27e9" else 8.2
        if room < 0:
            return name[: max(1, i - 1)] + "\u2026"
    return name


def _nodes(tree: Tree) -> list[list[_Node]]:
    depths: list[list[_Node]] = []
    for pieces, parents, log_probs in zip(tree.pieces, tree.parents, tree.log_probs, strict=True):
        level = []
        for slot, (piece, parent, own) in enumerate(zip(pieces, parents, log_probs, strict=True)):
            above = next((node for node in depths[-1] if node.slot == parent), None) if depths else None
            total = own + (above.total if above else 0.0)
            level.append(_Node(slot=slot, piece=piece, parent=above, own=own, total=total))
        depths.append(level)
    for last in depths[-1]:
        node: _Node | None = last
        while node is not None:
            node.alive, node.best, node = True, node.best or last.slot == 0, node.parent
    for level in depths:  # children in the order of their parents, so that no edges cross
        level.sort(key=lambda node: (node.parent.place if node.parent else 0, not node.best, node.slot))
        for place, node in enumerate(level):
            node.place = place
    return depths
