"""Beam search from the end of a text that is being written, kept from token to token.

The tree of what was run stays: the token that is chosen becomes the text's last, the subtree under it the beginning
of the next search, all else is forgotten. What is known is looked up by (parent node, token), as in `search`, so
that a search costs mostly the one depth that is new; and unknown tokens of several depths are run in one pass, those
deeper down on the chance that what is not known yet above them will not displace them. When no unknown token is left
among the survivors the search is the one from scratch: the root is known; where all survivors of a depth are known,
or cannot have a survivor among their continuations, those of the next depth are right.

The slow twin is `beam_search.beam`, called anew for every prefix.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from snellen.lookahead.head import best_of, finite_logits, rows_per_block
from snellen.lookahead.rollouts import Rollouts
from snellen.lookahead.search import ROUNDING
from snellen.lookahead.stem import Stem


@dataclass(eq=False)
class Node:
    """One token in one context that was run: its most probable continuations, and all of its prediction."""

    token: int
    parent: Node | None  # None: the text's last token
    place: int  # among the stem's nodes; −1 for the text's last token
    next_tokens: list[int]
    next_log_probs: list[float]  # nats, best first
    state: Tensor  # logits [vocab] in float32, or the hidden state that they come from [model]
    children: dict[int, Node] = field(default_factory=dict)

    def chain(self) -> list[int]:
        """The nodes from the text to this one."""
        return [] if self.parent is None else [*self.parent.chain(), self.place]

    def below(self) -> Iterator[Node]:
        for child in self.children.values():
            yield child
            yield from child.below()


@dataclass(frozen=True, kw_only=True, eq=False)
class Branch:
    """A survivor of one depth."""

    token: int
    slot: int  # of the branch that it continues, at the depth before (−1 at the first)
    root: int  # its first token
    log_prob: float  # of its last token after the branch before it, nats
    total: float  # of all of it
    parent: Node

    @property
    def node(self) -> Node | None:
        """What is known of it; None where it was not run."""
        return self.parent.children.get(self.token)


class Growing:
    """The search from the last token of one text, for as long as it grows.

    Parameters
    ----------
    stem
        Runs the text and its branches; belongs to this search alone.
    prompt
        The text's beginning, at least one token.
    width, horizon
        W branches at each depth, D tokens deep.
    room
        How many tokens the text will grow by at most.
    budget
        Bytes that logits may take, an eighth of it kept with the nodes.
    reuse
        False: forget everything with each token. Changes no result.
    """

    def __init__(
        self,
        stem: Stem,
        prompt: Int[Tensor, "pos"],
        *,
        width: int,
        horizon: int,
        room: int,
        budget: int,
        reuse: bool = True,
    ) -> None:
        self.width, self.horizon = width, horizon
        self._stem, self._reuse = stem, reuse
        self._block = rows_per_block(stem.body, budget)
        # Room for the survivors of two searches, and for a chosen token that is none of them.
        spare = 2 * width * (horizon - 1) + 1
        self._free = list(range(spare))
        self._whole_rows = 4 * spare * stem.body.vocabulary <= budget // 8
        self._pending: int | None = None
        self.ran = self.passes = 0  # tokens behind the prompt that were run, and in how many passes
        self._root = self._nodes(stem.read(prompt, room=room, spare=spare), [int(prompt[-1])], [None], [-1])[0]

    def logits(self) -> Float[Tensor, "vocab"]:
        """The model's own prediction of the next token, float32 and not normalised."""
        state = self._at_end().state
        return state if self._whole_rows else finite_logits(self._stem.body, state[None])[0]

    def advance(self, token: int) -> None:
        """`token` is the text's next. (It is run when something is asked of the text behind it.)"""
        self._at_end()
        self._pending = token

    def survivors(self) -> list[list[Branch]]:
        """Beam search from the end of the text: the survivors of each depth 1 … D, best first."""
        self._at_end()
        while True:
            levels, unknown = self._provisional()
            if not unknown:
                return levels
            if len(self._free) < len(unknown):  # tokens that were run on a chance, and are in nobody's way but here
                self._forget(keep={node for level in levels for b in level if (node := b.node) is not None})
            self._run(unknown)

    def _provisional(self) -> tuple[list[list[Branch]], list[Branch]]:
        """The survivors as far as is known, and those of them that must still be run."""
        levels: list[list[Branch]] = []
        unknown: list[Branch] = []
        above: list[tuple[int, int, float, Node]] = [(-1, -1, 0.0, self._root)]  # slot, first token, total, node
        for depth in range(1, self.horizon + 1):
            grown = (
                (total + log_prob, slot, root, token, log_prob, node)
                for slot, root, total, node in above
                for token, log_prob in zip(node.next_tokens, node.next_log_probs, strict=True)
            )
            level = [
                Branch(
                    token=token,
                    slot=slot,
                    root=root if depth > 1 else token,
                    log_prob=log_prob,
                    total=total,
                    parent=node,
                )
                for total, slot, root, token, log_prob, node in heapq.nlargest(self.width, grown, key=lambda g: g[0])
            ]
            levels.append(level)
            if depth == self.horizon:
                break
            known = [(slot, branch, node) for slot, branch in enumerate(level) if (node := branch.node) is not None]
            totals = (branch.total + log_prob for _, branch, node in known for log_prob in node.next_log_probs)
            best = heapq.nlargest(self.width, totals)
            # A continuation is no more probable than its branch (see `search`).
            bar = best[-1] - ROUNDING if len(best) == self.width else -torch.inf
            unknown += [branch for branch in level if branch.total >= bar and branch.node is None]
            above = [(slot, branch.root, branch.total, node) for slot, branch, node in known]
        return levels, unknown

    def _run(self, branches: list[Branch]) -> None:
        parents: list[Node | None] = [branch.parent for branch in branches]
        tokens = [branch.token for branch in branches]
        self._add(tokens, parents)

    def _add(self, tokens: list[int], parents: list[Node | None]) -> None:
        places = [self._free.pop() for _ in tokens]
        chains = [parent.chain() for parent in parents if parent is not None]
        self.ran, self.passes = self.ran + len(tokens), self.passes + 1
        hidden = self._stem.run(tokens, chains, places)
        for node in self._nodes(hidden, tokens, parents, places):
            assert node.parent is not None
            node.parent.children[node.token] = node

    def _nodes(
        self, hidden: Float[Tensor, "n model"], tokens: list[int], parents: list[Node | None], places: list[int]
    ) -> list[Node]:
        nodes: list[Node] = []
        for start in range(0, len(tokens), self._block):
            part = slice(start, start + self._block)
            logits = finite_logits(self._stem.body, hidden[part])
            values, ids = best_of(logits, min(self.width, logits.shape[-1]))
            log_probs = values - logits.logsumexp(-1, keepdim=True)
            states = logits if self._whole_rows else hidden[part]
            for row, (best, found) in enumerate(zip(log_probs.tolist(), ids.tolist(), strict=True)):
                possible = [i for i, value in enumerate(best) if value > -torch.inf]
                nodes.append(
                    Node(
                        token=tokens[start + row],
                        parent=parents[start + row],
                        place=places[start + row],
                        next_tokens=[found[i] for i in possible],
                        next_log_probs=[best[i] for i in possible],
                        # A copy, since a row of the whole would keep all of it alive.
                        state=states[row].clone(),
                    )
                )
        return nodes

    def _at_end(self) -> Node:
        """The text's last token, with its prediction."""
        if self._pending is None:
            return self._root
        token, self._pending = self._pending, None
        if not self._reuse:
            self._forget(keep=set())
        if token not in self._root.children:
            if not self._free:
                self._forget(keep=set())
            self._add([token], [self._root])
        chosen = self._root.children.pop(token)
        self._forget(keep=set())
        self._stem.extend(chosen.place)
        self._free.append(chosen.place)
        chosen.parent, chosen.place = None, -1
        self._root = chosen
        return chosen

    def _forget(self, keep: set[Node]) -> None:
        """Drop all nodes behind the text's end but these."""
        for node in [node for node in self._root.below() if node not in keep]:
            self._free.append(node.place)
            if node.parent is not None:
                node.parent.children.pop(node.token)

    def rollouts(self) -> Rollouts:
        """The same as `beam` gives for the last position: one text, one position (without the real next tokens)."""
        return rollouts_of(self.survivors(), self.width)


def rollouts_of(levels: list[list[Branch]], width: int) -> Rollouts:
    """Survivors of one position as `Rollouts`."""

    def table(name: str, empty: int | float) -> Tensor:
        rows = [[getattr(b, name) for b in level] + [empty] * (width - len(level)) for level in levels]
        return torch.tensor([[rows]])

    return Rollouts(
        step_tokens=table("token", -1),
        step_parents=table("slot", -1),
        step_log_probs=table("log_prob", -torch.inf),
        naive=torch.empty(1, 0),
        positions=torch.zeros(1, dtype=torch.long),
    )
