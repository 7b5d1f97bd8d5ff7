"""Beam search from every position of a text at once.

With `ColumnEngine` a depth is one forward pass of W rows of the text, one row a branch of every position, so that
a search of width W and horizon D costs 1 + W(D − 1) forward passes of the text. The slow twin is
`reference.beam_search`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from snellen.errors import InputError
from snellen.kinds import checked
from snellen.lookahead import without_replacement
from snellen.lookahead.head import first_tokens, naive, rows_per_block
from snellen.lookahead.preflight import engine_for
from snellen.lookahead.rollouts import Rollouts
from snellen.lookahead.search import search
from snellen.lookahead.settings import check_memory, check_search
from snellen.models.body import device_of
from snellen.request import bytes_of

__all__ = ["WindowScores", "beam", "score_window"]


@checked
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
        What the search may hold beside the weights, in bytes or as "512MB", "2GB". It changes results by rounding
        alone: positions and vocabulary are taken in blocks that fit.
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
    check_memory(model, width=width, horizon=horizon, memory=memory)
    budget = bytes_of(memory)
    length = input_ids.shape[1]
    first, last = positions or (0, length)
    if not 0 <= first < last <= length:
        raise InputError(f"positions {positions}: must be 0 <= first < last <= {length}, the length of the text")
    runner = engine_for(model, length=length, horizon=horizon, engine=engine)
    block = rows_per_block(runner.body, budget)
    steps, real = [], []
    for text in input_ids.to(device_of(model)):
        hidden = runner.read(text)
        targets = torch.cat([text[1:], text.new_tensor([-1])])
        own, log_prob = first_tokens(runner.body, hidden[first:last], targets[first:last], count=width, block=block)
        found = search(runner, text[None], own, slice(first, last), widths=(width,), horizon=horizon, budget=budget)
        steps.append(found[width])
        real.append(log_prob[: length - 1 - first].cpu())
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
    particles: tuple[NDArray[np.int32], NDArray[np.int16], NDArray[np.float32], NDArray[np.float32]] | None = None


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
    particles: int = 0,
    seed: int = 0,
) -> WindowScores:
    """Naive prediction and beams of each width for the targets x_first … of one window; 1 ≤ `first` < length.

    `beams[w]` holds (tokens, parents, log_probs), each [targets, horizon, w]; the branches of a target start at the
    position before it. `particles` (0: none) completions are sampled without replacement beside them, from `seed` and
    the window's tokens: the same four arrays with log-weights. `progress` is told the share of the work that is done,
    now and then. Raises as `beam` does.
    """
    for width in widths:
        check_search(model, input_ids[None], width=width, horizon=horizon)
    if not 1 <= first < len(input_ids):
        raise InputError(f"first {first}: targets must lie between 1 and {len(input_ids) - 1}")
    budget = bytes_of(memory)
    text = input_ids.to(device_of(model))
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
    tell = (lambda share: None) if progress is None else progress
    part = sum(widths) / (sum(widths) + particles)
    found = search(
        runner, text[None], own.first, where, widths=widths, horizon=horizon, budget=budget,
        progress=lambda share: tell(part * share),
    )  # fmt: skip
    sampled = None
    if particles:
        steps = without_replacement.sample(
            runner, text, hidden, where, particles=particles, horizon=horizon, budget=budget, seed=seed,
            progress=lambda share: tell(part + (1 - part) * share),
        )  # fmt: skip
        sampled = (
            steps.tokens.numpy().astype(np.int32),
            steps.parents.numpy().astype(np.int16),
            steps.log_probs.numpy().astype(np.float32),
            steps.log_weights.numpy().astype(np.float32),
        )
    beams = {
        width: (steps.tokens.numpy().astype(np.int32), steps.parents.numpy().astype(np.int16), steps.log_probs.numpy())
        for width, steps in found.items()
    }
    return WindowScores(
        log_prob=own.log_prob.cpu().numpy(),
        entropy=own.entropy.cpu().numpy(),
        rank=own.rank.cpu().numpy().astype(np.int32),
        log_z=own.log_z.cpu().numpy(),
        top_tokens=own.first.tokens[:, :top].cpu().numpy().astype(np.int32),
        top_log_probs=own.first.log_probs[:, :top].cpu().numpy(),
        log_word_start=own.log_word_start.cpu().numpy(),
        beams=beams,
        particles=sampled,
    )
