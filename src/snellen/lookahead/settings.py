"""What a search may be asked for, checked before any work."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from snellen.errors import InputError
from snellen.kinds import MOST
from snellen.models.body import context_of, embedding_rows, known_ids
from snellen.request import bytes_of

# Bytes of a continuation that a branch may take: its id and log-probability at each depth, and what is made of them
# while a depth is grown.
_KEPT, _AT_WORK = 12, 40


def check_batch(input_ids: object) -> None:
    """Refuses what is no batch of token ids, or one without a text or a token. Raises InputError."""
    if not isinstance(input_ids, Tensor):
        what = type(input_ids).__name__
        raise InputError(f"input_ids of type {what}: must be a tensor of ids [batch, pos], as torch.tensor([[…]])")
    if input_ids.ndim == 2 and input_ids.shape[1] == 0:
        raise InputError("input_ids: an empty prompt; begin with the model's first token (BOS)")
    whole = input_ids.dtype in (torch.int64, torch.int32)
    if input_ids.ndim != 2 or 0 in input_ids.shape or not whole:
        raise InputError(f"input_ids of shape {tuple(input_ids.shape)}, {input_ids.dtype}: must be ids [batch, pos]")
    if input_ids.layout != torch.strided or input_ids.is_meta:
        raise InputError("input_ids: a sparse tensor, or one without content (meta): must be dense ids [batch, pos]")


def check_search(
    model: PreTrainedModel,
    input_ids: Tensor,
    *,
    width: int,
    horizon: int,
    names: tuple[str, str] = ("width", "horizon"),
    scored: bool = True,
) -> None:
    """Refuses a search that cannot be run, naming field, value and mend; `names` are what the user calls the two.

    A text whose own tokens are `scored` may hold only ids that the model predicts too, a prompt all that it reads.

    Raises
    ------
    InputError
        Width or horizon below 1, a text that is no batch of token ids or too long for its branches to have places.
    """
    for field, value in zip(names, (width, horizon), strict=True):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{field} {value}: must be a whole number of at least 1")
        if value > MOST:
            raise InputError(f"{field} {value}: must be at most {MOST}")
    check_batch(input_ids)
    limit = context_of(model)
    if limit is not None and input_ids.shape[1] + horizon - 1 > limit:
        raise InputError(
            f"{names[1]} {horizon}: a text of {input_ids.shape[1]} tokens and {horizon - 1} further ones exceed the "
            f"model's context of {limit}; shorten the text (--window) or lower the {names[1]}"
        )
    vocabulary = known_ids(model) if scored else embedding_rows(model)
    low, high = int(input_ids.min()), int(input_ids.max())
    if low < 0 or high >= vocabulary:
        kind = "'s vocabulary has" if vocabulary == embedding_rows(model) else " predicts"
        raise InputError(f"input_ids {low}…{high}: the model{kind} the ids 0…{vocabulary - 1}")


def bytes_of_candidates(width: int, horizon: int, vocabulary: int) -> int:
    """What the continuations of one position's branches take: each branch may take as many as are kept."""
    return width * min(width, vocabulary) * (_KEPT * horizon + _AT_WORK)


def check_memory(model: PreTrainedModel, *, width: int, horizon: int, memory: int | str) -> None:
    """Refuses a width whose continuations at a single position are more than memory holds: before any work.

    Raises
    ------
    InputError
        With the memory that would do.
    """
    need = 2 * bytes_of_candidates(width, horizon, known_ids(model))
    if horizon > 1 and need > bytes_of(memory):
        raise InputError(too_little(bytes_of(memory), width, horizon, need))


def too_little(budget: int, width: int, horizon: int, need: int) -> str:
    """The line for a memory in which not even one position can be searched."""
    return (
        f"memory {budget:,} bytes: width {width} and horizon {horizon} need at least {need:,} for one position; raise "
        "the memory (--memory) or lower the width, the horizon or the window"
    )
