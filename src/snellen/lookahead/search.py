"""The search itself: levels of branches at many positions, grown depth by depth, each token run once.

A *node* is one token in one context, whoever asks for it. Two kinds of branches meet in the same nodes: a branch
that follows the real text is a branch of the next position, one depth before; and a narrower search keeps mostly
what a wider one keeps. So widths are searched together, the widest first, and what is known is looked up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from snellen.lookahead.blocks import Block, blocks
from snellen.lookahead.engine import Engine
from snellen.lookahead.head import First, rows_per_block, top_next
from snellen.lookahead.settings import bytes_of_candidates, too_little

# Nats by which a log-probability may come out above zero, and sums of them in another order.
ROUNDING = 1e-3


@dataclass(frozen=True, kw_only=True)
class Steps:
    """Survivors at each depth for n positions, each [pos, depth, width] (see `Rollouts`)."""

    tokens: Int[Tensor, "pos depth width"]
    parents: Int[Tensor, "pos depth width"]
    log_probs: Float[Tensor, "pos depth width"]
    states: Float[Tensor, "pos depth_less_1 width model"] | None = None  # behind each newest token that was run


@dataclass(frozen=True, kw_only=True)
class Level:
    """The branches of n positions at one depth: their last nodes, and the best continuations of each.

    Equal nodes stand for equal predictions. Depth 0 is the texts themselves.
    """

    pos: int  # positions of each text: they stand text by text
    nodes: Int[Tensor, "columns width"]
    parents: Int[Tensor, "columns width"]  # node of the branch before its last token
    tokens: Int[Tensor, "columns width"]  # last token, −1 where there is none
    total: Float[Tensor, "columns width"]  # log-probability of the branch
    next_tokens: Int[Tensor, "columns width top"]
    next_log_probs: Float[Tensor, "columns width top"]

    @classmethod
    def of_text(cls, texts: Tensor, own: First, block: Block, width: int) -> Level:
        """Depth 0: at each position the one branch that is the text up to it; −1 among `texts`: not to be found."""
        nodes = block.nodes(texts.device)
        # Log-probabilities are added up in float64, which MPS does not have.
        exact = torch.float32 if texts.device.type == "mps" else torch.float64
        return cls(
            pos=block.pos,
            nodes=nodes,
            parents=nodes - 1,
            tokens=block.cut(texts)[:, None],
            total=torch.zeros(nodes.shape, dtype=exact, device=texts.device),
            next_tokens=own.tokens[block.rows, None, :width],
            next_log_probs=own.log_probs[block.rows, None, :width],
        )

    def only(self, wanted: Bool[Tensor, "columns"] | None) -> Level:
        """Without continuations where none is wanted."""
        if wanted is None:
            return self
        forbidden = self.next_log_probs.masked_fill(~wanted[:, None, None], -torch.inf)
        return replace(self, next_log_probs=forbidden)

    def best(self, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The `width` best continuations of a position's branches: slot, token, log-probability, and total."""
        top = self.next_tokens.shape[-1]
        candidates = (self.total[..., None] + self.next_log_probs).flatten(1)
        total, place = candidates.topk(min(width, candidates.shape[1]), dim=-1)
        short = width - total.shape[1]
        total, place = F.pad(total, (0, short), value=-torch.inf), F.pad(place, (0, short))
        empty = total == -torch.inf
        slot = (place // top).masked_fill(empty, -1)
        token = self.next_tokens.flatten(1).gather(1, place).masked_fill(empty, -1)
        log_prob = self.next_log_probs.flatten(1).gather(1, place).masked_fill(empty, -torch.inf)
        return slot, token, log_prob, total

    def find(self, parents: Tensor, tokens: Tensor) -> tuple[Bool[Tensor, "pos width"], Int[Tensor, "pos width"]]:
        """Where (parent node, token), each [pos, width], is one of this level's branches at the same row, and which."""
        same = (parents[:, :, None] == self.parents[:, None, :]) & (tokens[:, :, None] == self.tokens[:, None, :])
        same &= tokens[:, :, None] >= 0
        return same.any(-1), same.long().argmax(-1)

    def after(self) -> Level:
        """The level as the position before sees it: row i holds position i + 1 (junk in a text's last row)."""
        shifted = {}
        for name in ("nodes", "parents", "tokens", "total", "next_tokens", "next_log_probs"):
            rows: Tensor = getattr(self, name)
            shifted[name] = torch.cat([rows[1:], rows[-1:]])
        shifted["tokens"][self.pos - 1 :: self.pos] = -1
        return Level(pos=self.pos, **shifted)


def search(
    engine: Engine,
    texts: Int[Tensor, "batch length"],
    own: First,
    where: slice,
    *,
    widths: Sequence[int],
    horizon: int,
    budget: int,
    progress: Callable[[float], None] = lambda share: None,
    wanted: Bool[Tensor, "batch length"] | None = None,
    context: Float[Tensor, "batch length model"] | None = None,
    device: torch.device | str = "cpu",
) -> dict[int, Steps]:
    """Beam search of each width from the positions `where` of each text; row i of `own` holds the first tokens of the
    i-th of them, text by text. What is found goes to `device`.

    `engine` has read the texts. Where a text has −1, no branch is taken to be the text itself; where not `wanted`, no
    branch is begun. With `context`, the texts' own hidden states, those of the branches are collected too, for one
    width; then none is pruned. `progress` is told the share that is done after each depth.
    """
    count = own.tokens.shape[0]
    work, done = count * sum(widths) * (horizon - 1), 0
    parts: dict[int, list[Steps]] = {width: [] for width in widths}
    for block in _blocks(engine, texts, where, widths=widths, horizon=horizon, budget=budget):
        engine.open_block(block.positions.start, sum(widths) * (horizon - 1) * block.columns, block.texts)
        here = None if wanted is None else block.cut(wanted)
        wide: list[Level] = []
        for width in sorted(widths, reverse=True):
            levels = [Level.of_text(texts, own, block, width)]
            kept, states = [], [] if context is None else [context[block.texts].flatten(0, 1)]
            engine.restart()
            for depth in range(1, horizon + 1):
                slot, tokens, log_probs, total = levels[-1].only(here if depth == 1 else None).best(width)
                kept.append((tokens, slot if depth > 1 else torch.full_like(slot, -1), log_probs))
                if depth < horizon:
                    beside = wide[depth] if wide else None
                    level, hidden = _grow(
                        engine, levels[-1], beside, slot, tokens, total, budget=budget, prune=context is None
                    )
                    levels.append(level)
                    states.append(hidden)
                    done += tokens.numel()
                    progress(done / work)
            wide = wide or levels
            found = None if context is None else _states(states, levels[1:], block.columns, width)
            parts[width].append(_steps(kept, found, device))
    return {width: _joined(steps) for width, steps in parts.items()}


def _grow(
    engine: Engine,
    level: Level,
    wide: Level | None,
    slot: Tensor,
    tokens: Tensor,
    total: Tensor,
    *,
    budget: int,
    prune: bool,
) -> tuple[Level, Float[Tensor, "computed model"]]:
    """Run the chosen tokens, each [columns, width], and list their best continuations; look up what is known.

    Also the hidden states of those that were run, in the order of their nodes.
    """
    top = min(level.next_tokens.shape[-1], engine.body.vocabulary)
    rows = slot.clamp_min(0)
    parents = level.nodes.gather(1, rows)
    shared = torch.full_like(tokens, -1).masked_fill(tokens < 0, 0)  # an empty slot: nothing to run
    next_tokens = tokens.new_full((*tokens.shape, top), -1)
    next_log_probs = level.next_log_probs.new_full((*tokens.shape, top), -torch.inf)
    for known in (level.after(), wide):
        if known is None:
            continue
        found, which = known.find(parents, tokens)
        shared = torch.where(found, known.nodes.gather(1, which), shared)
        which = which[..., None].expand(*which.shape, top)
        next_tokens = torch.where(found[..., None], known.next_tokens[..., :top].gather(1, which), next_tokens)
        next_log_probs = torch.where(found[..., None], known.next_log_probs[..., :top].gather(1, which), next_log_probs)
    if prune:
        # A continuation is no more probable than its branch, so a branch below the worst of as many known continuations
        # as are kept cannot have one among them: it is not run, and not to be found by others.
        bar = (total[..., None] + next_log_probs).flatten(1).topk(tokens.shape[1], dim=-1).values[:, -1:]
        hopeless = (shared < 0) & (total < bar - ROUNDING)
        shared, tokens = shared.masked_fill(hopeless, 0), tokens.masked_fill(hopeless, -1)
    hidden, nodes = engine.step(tokens.clamp_min(0).T, rows.T, shared.T)
    if len(hidden) > 0:
        best, ids = top_next(engine.body, hidden, count=top, block=rows_per_block(engine.body, budget))
        # The engine gives what it ran row by row; here positions come first.
        computed = (shared.T < 0).nonzero()
        next_tokens[computed[:, 1], computed[:, 0]] = ids
        next_log_probs[computed[:, 1], computed[:, 0]] = best
    grown = Level(
        pos=level.pos,
        nodes=nodes.T,
        parents=parents,
        tokens=tokens,
        total=total,
        next_tokens=next_tokens,
        next_log_probs=next_log_probs,
    )
    return grown, hidden


def _steps(kept: list[tuple[Tensor, Tensor, Tensor]], states: Tensor | None, device: torch.device | str) -> Steps:
    tokens, parents, log_probs = (torch.stack(column, dim=1).to(device) for column in zip(*kept, strict=True))
    return Steps(
        tokens=tokens, parents=parents, log_probs=log_probs, states=None if states is None else states.to(device)
    )


def _states(
    of_nodes: list[Tensor], levels: Sequence[Level], columns: int, width: int
) -> Float[Tensor, "columns depth_less_1 width model"]:
    """The hidden state of each survivor's newest token, zeros where a slot is empty."""
    table = torch.cat([x for x in of_nodes if len(x)])
    if not levels:
        return table.new_empty(columns, 0, width, table.shape[-1])
    nodes = torch.stack([level.nodes for level in levels], dim=1)
    empty = torch.stack([level.tokens < 0 for level in levels], dim=1)
    return table[nodes].masked_fill_(empty[..., None], 0)


def _joined(parts: Sequence[Steps]) -> Steps:
    states = [p.states for p in parts if p.states is not None]
    return Steps(
        states=torch.cat(states) if states else None,
        tokens=torch.cat([p.tokens for p in parts]),
        parents=torch.cat([p.parents for p in parts]),
        log_probs=torch.cat([p.log_probs for p in parts]),
    )


def _blocks(
    engine: Engine, texts: Tensor, where: slice, *, widths: Sequence[int], horizon: int, budget: int
) -> Iterator[Block]:
    deep = horizon > 1
    return blocks(
        texts.shape,
        where,
        of_text=engine.bytes_of_text() if deep else 0,
        of_position=(
            engine.bytes_per_position(widths, horizon)
            + bytes_of_candidates(max(widths), horizon, engine.body.vocabulary)
            if deep
            else 0
        ),
        budget=budget,
        too_small=lambda need: too_little(budget, max(widths), horizon, need),
    )
