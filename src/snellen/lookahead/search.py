"""The search itself: levels of branches at many positions, grown depth by depth, each token run once.

A *node* is one token in one context, whoever asks for it. Two kinds of branches meet in the same nodes: a branch
that follows the real text is a branch of the next position, one depth before; and a narrower search keeps mostly
what a wider one keeps. So widths are searched together, the widest first, and what is known is looked up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from snellen.errors import InputError
from snellen.lookahead.engine import Engine
from snellen.lookahead.head import First, rows_per_block, top_next

# Nats by which a log-probability may come out above zero, and sums of them in another order.
ROUNDING = 1e-3


@dataclass(frozen=True, kw_only=True)
class Steps:
    """Survivors at each depth for n positions, each [pos, depth, width], on the CPU (see `Rollouts`)."""

    tokens: Int[Tensor, "pos depth width"]
    parents: Int[Tensor, "pos depth width"]
    log_probs: Float[Tensor, "pos depth width"]


@dataclass(frozen=True, kw_only=True)
class Level:
    """The branches of n positions at one depth: their last nodes, and the best continuations of each.

    Equal nodes stand for equal predictions. Depth 0 is the text itself, whose position t is node t.
    """

    nodes: Int[Tensor, "pos width"]
    parents: Int[Tensor, "pos width"]  # node of the branch before its last token
    tokens: Int[Tensor, "pos width"]  # last token, −1 where there is none
    total: Float[Tensor, "pos width"]  # log-probability of the branch
    next_tokens: Int[Tensor, "pos width top"]
    next_log_probs: Float[Tensor, "pos width top"]

    @classmethod
    def of_text(cls, text: Tensor, own: First, rows: slice, first: int, width: int) -> Level:
        """Depth 0: at each position the one branch that is the text up to it."""
        place = torch.arange(first, first + rows.stop - rows.start, device=text.device)[:, None]
        # Log-probabilities are added up in float64, which MPS does not have.
        exact = torch.float32 if text.device.type == "mps" else torch.float64
        return cls(
            nodes=place,
            parents=place - 1,
            tokens=text[place],
            total=torch.zeros(place.shape, dtype=exact, device=text.device),
            next_tokens=own.tokens[rows, None, :width],
            next_log_probs=own.log_probs[rows, None, :width],
        )

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
        """The level as the position before sees it: row i holds position i + 1 (the last row, which has none, junk)."""
        shifted = {}
        for name in ("nodes", "parents", "tokens", "total", "next_tokens", "next_log_probs"):
            rows: Tensor = getattr(self, name)
            shifted[name] = torch.cat([rows[1:], rows[-1:]])
        shifted["tokens"][-1] = -1
        return Level(**shifted)


def search(
    engine: Engine,
    text: Int[Tensor, "length"],
    own: First,
    where: slice,
    *,
    widths: Sequence[int],
    horizon: int,
    budget: int,
    progress: Callable[[float], None] = lambda share: None,
) -> dict[int, Steps]:
    """Beam search of each width from the positions `where`; row i of `own` holds the first tokens of the i-th of them.

    `engine` has read the text. `progress` is told the share that is done after each depth.
    """
    count = where.stop - where.start
    block = _positions_per_block(engine, count, widths=widths, horizon=horizon, budget=budget)
    work, done = count * sum(widths) * (horizon - 1), 0
    parts: dict[int, list[Steps]] = {width: [] for width in widths}
    for first in range(where.start, where.stop, block):
        rows = slice(first - where.start, min(first + block, where.stop) - where.start)
        engine.open_block(first, sum(widths) * (horizon - 1) * (rows.stop - rows.start))
        wide: list[Level] = []
        for width in sorted(widths, reverse=True):
            levels = [Level.of_text(text, own, rows, first, width)]
            kept = []
            engine.restart()
            for depth in range(1, horizon + 1):
                slot, tokens, log_probs, total = levels[-1].best(width)
                kept.append((tokens, slot if depth > 1 else torch.full_like(slot, -1), log_probs))
                if depth < horizon:
                    beside = wide[depth] if wide else None
                    levels.append(_grow(engine, levels[-1], beside, slot, tokens, total, budget=budget))
                    done += tokens.numel()
                    progress(done / work)
            wide = wide or levels
            parts[width].append(_steps(kept))
    return {width: _joined(steps) for width, steps in parts.items()}


def _grow(
    engine: Engine, level: Level, wide: Level | None, slot: Tensor, tokens: Tensor, total: Tensor, *, budget: int
) -> Level:
    """Run the chosen tokens, each [pos, width], and list their best continuations; look up what is known."""
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
    # A continuation is no more probable than its branch, so a branch below the worst of as many known continuations as
    # are kept cannot have one among them: it is not run, and not to be found by others.
    bar = (total[..., None] + next_log_probs).flatten(1).topk(tokens.shape[1], dim=-1).values[:, -1:]
    hopeless = (shared < 0) & (total < bar - ROUNDING)
    shared = shared.masked_fill(hopeless, 0)
    hidden, nodes = engine.step(tokens.clamp_min(0).T, rows.T, shared.T)
    if len(hidden) > 0:
        best, ids = top_next(engine.body, hidden, count=top, block=rows_per_block(engine.body, budget))
        # The engine gives what it ran row by row; here positions come first.
        computed = (shared.T < 0).nonzero()
        next_tokens[computed[:, 1], computed[:, 0]] = ids
        next_log_probs[computed[:, 1], computed[:, 0]] = best
    return Level(
        nodes=nodes.T,
        parents=parents,
        tokens=tokens.masked_fill(hopeless, -1),
        total=total,
        next_tokens=next_tokens,
        next_log_probs=next_log_probs,
    )


def _steps(kept: list[tuple[Tensor, Tensor, Tensor]]) -> Steps:
    tokens, parents, log_probs = (torch.stack(column, dim=1).cpu() for column in zip(*kept, strict=True))
    return Steps(tokens=tokens, parents=parents, log_probs=log_probs)


def _joined(parts: Sequence[Steps]) -> Steps:
    return Steps(
        tokens=torch.cat([p.tokens for p in parts]),
        parents=torch.cat([p.parents for p in parts]),
        log_probs=torch.cat([p.log_probs for p in parts]),
    )


def _positions_per_block(engine: Engine, count: int, *, widths: Sequence[int], horizon: int, budget: int) -> int:
    """As many positions as half the budget holds beside the text, in blocks of about equal size."""
    if horizon == 1:
        return count
    each = engine.bytes_per_position(widths, horizon)
    fitting = (budget // 2 - engine.bytes_of_text()) // each
    if fitting < 1:
        need = 2 * (each + engine.bytes_of_text())
        raise InputError(
            f"memory {budget:,} bytes: width {max(widths)} and horizon {horizon} need at least {need:,} for one "
            "position; raise the memory (--memory) or lower the width, the horizon or the window"
        )
    blocks = -(-count // fitting)
    return -(-count // blocks)
