"""The branches of many positions at one depth, with what was drawn at their last nodes; each node is run once.

As in `search`: a branch that follows the real text is a branch of the next position, one depth before, and is looked
up. What is drawn at a node depends on its context alone (`counter_noise`), so that it can be looked up too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from snellen.lookahead.blocks import Block, blocks
from snellen.lookahead.counter_noise import child_keys
from snellen.lookahead.engine import Engine
from snellen.lookahead.race import Draw, Draws
from snellen.lookahead.settings import bytes_of_draws


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """Rows are columns of a block, slots are branches; depth 0 is the texts themselves."""

    pos: int  # positions of each text: they stand text by text
    nodes: Int[Tensor, "columns width"]
    parents: Int[Tensor, "columns width"]  # node of the branch before its last token
    tokens: Int[Tensor, "columns width"]  # last token, −1 where there is none
    keys: Int[Tensor, "columns width"]  # of the branch as a context
    draws: Draws  # [columns, width, draws]

    @classmethod
    def of_text(cls, texts: Tensor, keys: Tensor, own: Draws, block: Block) -> Cohort:
        """Depth 0: one branch a position, the text up to it; −1 among `texts`: not to be found.

        `keys` are of all positions of the texts; row i of `own` was drawn at the i-th position searched, text by text.
        """
        nodes = block.nodes(texts.device)
        return cls(
            pos=block.pos,
            nodes=nodes,
            parents=nodes - 1,
            tokens=block.cut(texts)[:, None],
            keys=block.cut(keys)[:, None],
            draws=own.map(lambda x: x[block.rows, None]),
        )

    def after(self) -> Cohort:
        """As the position before sees it: row i holds position i + 1 (a text's last row, which has none, junk)."""

        def shifted(x: Tensor) -> Tensor:
            return torch.cat([x[1:], x[-1:]])

        tokens = shifted(self.tokens)
        tokens[self.pos - 1 :: self.pos] = -1
        return Cohort(
            pos=self.pos,
            nodes=shifted(self.nodes),
            parents=shifted(self.parents),
            tokens=tokens,
            keys=shifted(self.keys),
            draws=self.draws.map(shifted),
        )

    def find(self, parents: Tensor, tokens: Tensor) -> tuple[Bool[Tensor, "pos width"], Int[Tensor, "pos width"]]:
        """Where (parent node, token), each [pos, width], is one of these branches at the same row, and which."""
        same = (parents[:, :, None] == self.parents[:, None, :]) & (tokens[:, :, None] == self.tokens[:, None, :])
        same &= tokens[:, :, None] >= 0
        return same.any(-1), same.long().argmax(-1)

    def grow(
        self,
        engine: Engine,
        slot: Int[Tensor, "pos width"],
        tokens: Int[Tensor, "pos width"],
        draw: Draw,
        *,
        hopeless: Callable[[Tensor, Draws], Tensor] | None = None,
    ) -> Cohort:
        """Append `tokens` to the branches in `slot` and draw from where they lead; −1: an empty slot.

        `hopeless` says, given keys and what is drawn at the nodes that are known already (+inf gaps elsewhere),
        which of the others cannot matter: they are not run, and nothing is drawn there.
        """
        rows = slot.clamp_min(0)
        parents = self.nodes.gather(1, rows)
        keys = child_keys(self.keys.gather(1, rows), tokens)
        after = self.after()
        found, which = after.find(parents, tokens)
        shared = torch.full_like(tokens, -1).masked_fill(tokens < 0, 0)
        shared = torch.where(found, after.nodes.gather(1, which), shared)
        drawn = Draws.empty(*tokens.shape, like=self.draws)
        which = which[..., None].expand(*which.shape, drawn.tokens.shape[-1])
        drawn = drawn.where(found[..., None], after.draws.map(lambda x: x.gather(1, which)))
        if hopeless is not None:
            skipped = (shared < 0) & hopeless(keys, drawn)
            shared, tokens = shared.masked_fill(skipped, 0), tokens.masked_fill(skipped, -1)
        hidden, nodes = engine.step(tokens.clamp_min(0).T, rows.T, shared.T)
        if len(hidden) > 0:
            # The engine gives what it ran row by row; here positions come first.
            computed = shared.T < 0
            slots, positions = computed.nonzero(as_tuple=True)
            drawn.put((positions, slots), draw(hidden, keys.T[computed]))
        return Cohort(pos=self.pos, nodes=nodes.T, parents=parents, tokens=tokens, keys=keys, draws=drawn)


def blocks_of(
    engine: Engine, texts: Int[Tensor, "batch length"], where: slice, *, particles: int, horizon: int, budget: int
) -> Iterator[Block]:
    """As many positions as half the budget holds beside the text, in blocks of about equal size."""
    draws = bytes_of_draws(particles)
    return blocks(
        texts.shape,
        where,
        of_text=engine.bytes_of_text() if horizon > 1 else 0,
        of_position=(engine.bytes_per_position((particles,), horizon) if horizon > 1 else 0) + draws,
        budget=budget,
        too_small=lambda need: (
            f"memory {budget:,} bytes: {particles} particles and horizon {horizon} need at least {need:,} "
            "for one position; raise the memory (--memory) or lower the particles, the horizon or the window"
        ),
    )
