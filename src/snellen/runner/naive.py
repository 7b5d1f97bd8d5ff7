"""A window scored by the model alone, where no measure asks what its branches say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel

from snellen.lookahead.beam_search import WindowScores
from snellen.lookahead.head import naive, rows_per_block
from snellen.lookahead.preflight import engine_for
from snellen.models.body import device_of
from snellen.request import bytes_of


@torch.no_grad()
def score_naive(
    model: PreTrainedModel,
    input_ids: Int[Tensor, "pos"],
    *,
    first: int,
    horizon: int = 1,
    temperatures: Sequence[float] = (1.0,),
    top: int = 1,
    starts_word: Tensor | None = None,
    memory: int | str = "1GB",
    engine: str = "auto",
) -> WindowScores:
    """`score_window` without any search: the predictions of the targets x_first …, 1 ≤ `first` < length.

    `horizon` is that of the engine's check, so that searches on the same model need no second one. Raises `Refused`
    where the model's numbers cannot be vouched for.
    """
    text = input_ids.to(device_of(model))
    runner = engine_for(model, length=len(text), horizon=horizon, engine=engine)
    own = naive(
        runner.body,
        runner.read(text)[first - 1 : -1],
        text[first:],
        count=top,
        block=rows_per_block(runner.body, bytes_of(memory)),
        temperatures=temperatures,
        starts_word=None if starts_word is None else starts_word.to(text.device),
    )
    return WindowScores(
        log_prob=own.log_prob.cpu().numpy(),
        entropy=own.entropy.cpu().numpy(),
        rank=own.rank.cpu().numpy().astype(np.int32),
        log_z=own.log_z.cpu().numpy(),
        top_tokens=own.first.tokens.cpu().numpy().astype(np.int32),
        top_log_probs=own.first.log_probs.cpu().numpy(),
        log_word_start=own.log_word_start.cpu().numpy(),
        beams={},
    )
