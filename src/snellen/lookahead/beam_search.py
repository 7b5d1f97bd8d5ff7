"""Beam search from every position of a text at once.

With `ColumnEngine` a depth is one forward pass of W rows of the text (DESIGN: *All positions at once*), so that a
search of width W and horizon D costs 1 + W(D − 1) forward passes of the text. The slow twin is
`reference.beam_search`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from snellen.errors import InputError
from snellen.lookahead.engine import Engine
from snellen.lookahead.head import Naive, naive, rows_per_block, top_next
from snellen.lookahead.preflight import engine_for
from snellen.lookahead.rollouts import Rollouts
from snellen.lookahead.settings import bytes_of, check_search

__all__ = ["WindowScores", "beam", "score_window"]


@dataclass(frozen=True, kw_only=True)
class Steps:
    """Survivors at each depth for n positions, each [pos, depth, width], on the CPU (see `Rollouts`)."""

    tokens: Int[Tensor, "pos depth width"]
    parents: Int[Tensor, "pos depth width"]
    log_probs: Tensor


@torch.no_grad()
def beam(
    model: PreTrainedModel,
    input_ids: Int[Tensor, "batch pos"],
    width: int = 4,
    horizon: int = 4,
    *,
    memory: int | str = "1GB",
    positions: tuple[int, int] | None = None,
    engine: str = "auto",
) -> Rollouts:
    """The `width` best completions of length `horizon` after every position of every text.

    Parameters
    ----------
    model
        Any causal language model of transformers, in eval mode.
    input_ids
        Texts of equal length without padding (give others one by one). Completions of position t continue x_≤t.
    width, horizon
        W branches kept at each depth, D tokens deep; both at least 1.
    memory
        What the search may hold beside the weights, in bytes or as "512MB", "2GB". It changes no result: positions
        and vocabulary are taken in blocks that fit.
    positions
        (first, last): search only from positions first ≤ t < last.
    engine
        "auto": columns over the shared text where a check on this model passes, else "plain" sequences; either
        can be asked for by name ("columns" is still checked).

    Raises
    ------
    InputError
        Width, horizon, positions or memory out of range, text beyond the model's context.
    Refused
        The model's numbers cannot be vouched for: a failed check, or NaN in its logits.
    """
    check_search(model, input_ids, width=width, horizon=horizon)
    budget = bytes_of(memory)
    length = input_ids.shape[1]
    first, last = positions or (0, length)
    if not 0 <= first < last <= length:
        raise InputError(f"positions {positions}: must be 0 <= first < last <= {length}, the length of the text")
    runner = engine_for(model, length=length, horizon=horizon, engine=engine)
    block = rows_per_block(runner.body, budget)
    steps, real = [], []
    for text in input_ids.to(model.device):
        hidden = runner.read(text)
        targets = torch.cat([text[1:], text.new_tensor([-1])])
        own = naive(runner.body, hidden, targets, count=width, block=block)
        steps.append(_search(runner, text, own, slice(first, last), width=width, horizon=horizon, budget=budget))
        real.append(own.log_prob[:-1].cpu())
    return Rollouts(
        step_tokens=torch.stack([s.tokens for s in steps]),
        step_parents=torch.stack([s.parents for s in steps]),
        step_log_probs=torch.stack([s.log_probs for s in steps]),
        naive=torch.stack(real),
        positions=torch.arange(first, last),
    )


@dataclass(frozen=True, kw_only=True)
class WindowScores:
    """The columns of `measures.base.Scored` for the targets `first` … of one window (see there)."""

    log_prob: NDArray[np.float32]
    entropy: NDArray[np.float32]
    rank: NDArray[np.int32]
    log_z: NDArray[np.float32]
    top_tokens: NDArray[np.int32]
    top_log_probs: NDArray[np.float32]
    log_word_start: NDArray[np.float32]
    beams: dict[int, tuple[NDArray[np.int32], NDArray[np.int16], NDArray[np.float32]]]


@torch.no_grad()
def score_window(
    model: PreTrainedModel,
    input_ids: Int[Tensor, "pos"],
    *,
    widths: Sequence[int],
    horizon: int,
    first: int,
    temperatures: Sequence[float] = (1.0,),
    top: int = 32,
    starts_word: Tensor | None = None,
    memory: int | str = "1GB",
    engine: str = "auto",
    progress: Callable[[float], None] | None = None,
) -> WindowScores:
    """Naive prediction and beams of each width for the targets x_first … of one window; 1 ≤ `first` < length.

    `beams[w]` holds (tokens, parents, log_probs), each [targets, horizon, w]; the branches of a target start at the
    position before it. `progress` is told the share of the work that is done, now and then. Raises as `beam` does.
    """
    for width in widths:
        check_search(model, input_ids[None], width=width, horizon=horizon)
    if not 1 <= first < len(input_ids):
        raise InputError(f"first {first}: targets must lie between 1 and {len(input_ids) - 1}")
    budget = bytes_of(memory)
    text = input_ids.to(model.device)
    runner = engine_for(model, length=len(text), horizon=horizon, engine=engine)
    hidden = runner.read(text)
    where = slice(first - 1, len(text) - 1)
    own = naive(
        runner.body,
        hidden[where],
        text[first:],
        count=max(top, *widths),
        block=rows_per_block(runner.body, budget),
        temperatures=temperatures,
        starts_word=None if starts_word is None else starts_word.to(text.device),
    )
    beams = {}
    work, done = len(own.log_prob) * (1 + sum(widths) * (horizon - 1)), len(own.log_prob)

    def advance(tokens: int) -> None:
        nonlocal done
        done += tokens
        if progress is not None:
            progress(done / work)

    for width in widths:
        steps = _search(
            runner, text, own, where, width=width, horizon=horizon, budget=budget, offset=first - 1, advance=advance
        )
        beams[width] = (
            steps.tokens.numpy().astype(np.int32),
            steps.parents.numpy().astype(np.int16),
            steps.log_probs.numpy(),
        )
    return WindowScores(
        log_prob=own.log_prob.cpu().numpy(),
        entropy=own.entropy.cpu().numpy(),
        rank=own.rank.cpu().numpy().astype(np.int32),
        log_z=own.log_z.cpu().numpy(),
        top_tokens=own.top_tokens[:, :top].cpu().numpy().astype(np.int32),
        top_log_probs=own.top_log_probs[:, :top].cpu().numpy(),
        log_word_start=own.log_word_start.cpu().numpy(),
        beams=beams,
    )


def _search(
    engine: Engine,
    text: Tensor,
    own: Naive,
    where: slice,
    *,
    width: int,
    horizon: int,
    budget: int,
    offset: int = 0,
    advance: Callable[[int], None] = lambda tokens: None,
) -> Steps:
    """Beam search from the positions `where`; row i of `own` belongs to position `offset` + i."""
    block = _positions_per_block(engine, where.stop - where.start, width=width, horizon=horizon, budget=budget)
    parts = []
    for first in range(where.start, where.stop, block):
        rows = slice(first - offset, min(first + block, where.stop) - offset)
        level = _Level.of_text(text, own, rows, first, width)
        parts.append(_search_block(engine, level, first, horizon=horizon, budget=budget, advance=advance))
    return Steps(
        tokens=torch.cat([p.tokens for p in parts]),
        parents=torch.cat([p.parents for p in parts]),
        log_probs=torch.cat([p.log_probs for p in parts]),
    )


def _exact(device: torch.device) -> torch.dtype:
    """The format in which log-probabilities are added up: float64, which MPS does not have."""
    return torch.float32 if device.type == "mps" else torch.float64


@dataclass(frozen=True, kw_only=True)
class _Level:
    """The branches of n positions at one depth: their last nodes, and the best continuations of each.

    A node is one token in one context; equal nodes stand for equal predictions. Depth 0 is the text itself.
    """

    nodes: Int[Tensor, "pos width"]
    parents: Int[Tensor, "pos width"]  # node of the branch before its last token
    tokens: Int[Tensor, "pos width"]  # last token, −1 where there is none
    total: Float[Tensor, "pos width"]  # log-probability of the branch
    next_tokens: Int[Tensor, "pos width top"]
    next_log_probs: Float[Tensor, "pos width top"]

    @classmethod
    def of_text(cls, text: Tensor, own: Naive, rows: slice, first: int, width: int) -> _Level:
        """Depth 0: at each position the one branch that is the text up to it."""
        place = torch.arange(first, first + rows.stop - rows.start, device=text.device)[:, None]
        return cls(
            nodes=place,
            parents=place - 1,
            tokens=text[place],
            total=torch.zeros(place.shape, dtype=_exact(text.device), device=text.device),
            next_tokens=own.top_tokens[rows, None, :width],
            next_log_probs=own.top_log_probs[rows, None, :width],
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


def _search_block(
    engine: Engine, level: _Level, first: int, *, horizon: int, budget: int, advance: Callable[[int], None]
) -> Steps:
    """All depths of one block of positions from `first`, from the text itself on."""
    width = level.next_tokens.shape[-1]
    kept = []
    engine.open_block(first, width * (horizon - 1) * len(level.nodes))
    for depth in range(1, horizon + 1):
        slot, tokens, log_probs, total = level.best(width)
        kept.append((tokens, slot if depth > 1 else torch.full_like(slot, -1), log_probs))
        if depth < horizon:
            level = _grow(engine, level, slot, tokens, total, root=depth == 1, budget=budget)
            advance(tokens.numel())
    stacked = (torch.stack(column, dim=1).cpu() for column in zip(*kept, strict=True))
    return Steps(**dict(zip(("tokens", "parents", "log_probs"), stacked, strict=True)))


def _grow(
    engine: Engine, level: _Level, slot: Tensor, tokens: Tensor, total: Tensor, *, root: bool, budget: int
) -> _Level:
    """Run the chosen tokens, each [pos, width], and list their best continuations.

    A token that follows the real text is a node of the next position's branches one depth before (at the root: of
    the text), with the same continuations; it is looked up there instead of being run again.
    """
    top = min(level.next_tokens.shape[-1], engine.body.vocabulary)
    rows = slot.clamp_min(0)
    parents = level.nodes.gather(1, rows)
    known = (parents[:-1, :, None] == level.parents[1:, None, :]) & (tokens[:-1, :, None] == level.tokens[1:, None, :])
    known &= tokens[:-1, :, None] >= 0
    known = F.pad(known, (0, 0, 0, 0, 0, 1))  # the block's last position has none after it to look at
    twin = known.long().argmax(-1)
    after = torch.arange(1, len(slot) + 1, device=slot.device).clamp_max(len(slot) - 1)[:, None]
    shared = torch.where(known.any(-1), level.nodes[after, twin], -1)
    shared = shared.masked_fill(tokens < 0, 0)  # an empty slot: nothing to run, and nothing follows it
    hidden, nodes = engine.step(tokens.clamp_min(0).T, None if root else rows.T, shared.T)
    next_tokens = level.next_tokens[after, twin, :top]
    next_log_probs = level.next_log_probs[after, twin, :top].masked_fill((tokens < 0)[..., None], -torch.inf)
    compute = shared.T < 0
    if len(hidden) > 0:
        best, ids = top_next(engine.body, hidden, count=top, block=rows_per_block(engine.body, budget))
        next_tokens, next_log_probs = (x.transpose(0, 1).clone() for x in (next_tokens, next_log_probs))
        next_tokens[compute], next_log_probs[compute] = ids, best
        next_tokens, next_log_probs = (x.transpose(0, 1) for x in (next_tokens, next_log_probs))
    return _Level(
        nodes=nodes.T,
        parents=parents,
        tokens=tokens,
        total=total,
        next_tokens=next_tokens,
        next_log_probs=next_log_probs,
    )


def _positions_per_block(engine: Engine, count: int, *, width: int, horizon: int, budget: int) -> int:
    """As many positions as half the budget holds beside the text, in blocks of about equal size."""
    if horizon == 1:
        return count
    each = engine.bytes_per_position(width, horizon)
    fitting = (budget // 2 - engine.bytes_of_text()) // each
    if fitting < 1:
        need = 2 * (each + engine.bytes_of_text())
        raise InputError(
            f"memory {budget:,} bytes: width {width} and horizon {horizon} need at least {need:,} for one position; "
            "raise the memory (--memory) or lower the width, the horizon or the window"
        )
    blocks = -(-count // fitting)
    return -(-count // blocks)
