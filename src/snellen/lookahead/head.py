"""From hidden states to what is kept of a prediction, in blocks of rows: the vocabulary is never held for all rows.

All numbers are float32 natural logarithms, whatever the model's dtype.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from snellen.errors import Refused
from snellen.lookahead.engine import Body


@dataclass(frozen=True, kw_only=True)
class Naive:
    """The model's own prediction at each of n rows, and how it fared on the row's target."""

    log_prob: Float[Tensor, "rows"]  # log p(target)
    rank: Int[Tensor, "rows"]  # number of tokens strictly more probable than the target
    entropy: Float[Tensor, "rows"]
    log_z: Float[Tensor, "rows temperatures"]  # log Σ_v p(v)^τ
    top_tokens: Int[Tensor, "rows top"]  # −1 where the vocabulary is smaller
    top_log_probs: Float[Tensor, "rows top"]
    log_word_start: Float[Tensor, "rows"]  # log Σ p(v) over the v that begin a word


# Beyond this a processor gains nothing from more rows at once and loses by touching fresh memory.
_MOST_ROWS = {"cpu": 256}


def rows_per_block(body: Body, budget: int) -> int:
    """Rows whose logits fit a quarter of `budget` bytes (held up to twice: in the model's dtype and in float32)."""
    fitting = max(1, budget // (4 * 8 * body.vocabulary))
    return min(fitting, _MOST_ROWS.get(body.model.device.type, fitting))


def top_next(
    body: Body, hidden: Float[Tensor, "rows model"], *, count: int, block: int
) -> tuple[Float[Tensor, "rows top"], Int[Tensor, "rows top"]]:
    """The `count` most probable next tokens of each row: log-probabilities, best first, and ids."""
    values, ids = [], []
    for start in range(0, len(hidden), block):
        logits = _logits(body, hidden[start : start + block])
        best, index = logits.topk(min(count, logits.shape[-1]), dim=-1)
        lse = _log_sum_exp_in_place(logits)
        values.append(best - lse[:, None])
        ids.append(index)
    return torch.cat(values), torch.cat(ids)


def naive(
    body: Body,
    hidden: Float[Tensor, "rows model"],
    targets: Int[Tensor, "rows"],
    *,
    count: int,
    block: int,
    temperatures: Sequence[float] = (1.0,),
    starts_word: Bool[Tensor, "vocab"] | None = None,
) -> Naive:
    """Everything that is kept of the naive prediction of `targets`; a target of −1 stands for none (NaN, −1)."""
    parts: list[tuple[Tensor, ...]] = []
    block = max(1, block // 2)  # twice as many copies of the logits are held here as in a search
    for start in range(0, len(hidden), block):
        log_p = _logits(body, hidden[start : start + block])
        log_p -= log_p.logsumexp(-1, keepdim=True)
        target = targets[start : start + block]
        real = log_p.gather(-1, target.clamp_min(0)[:, None])
        rank = (log_p > real).sum(-1)
        best, index = log_p.topk(min(count, log_p.shape[-1]), dim=-1)
        begins = log_p.new_full((len(log_p),), torch.nan)
        if starts_word is not None:
            begins = log_p[:, starts_word.nonzero()[:, 0]].logsumexp(-1)
        # −inf · 0: a token that a model forbids (log p = −inf) adds nothing to the entropy.
        entropy = torch.special.entr(log_p.exp()).sum(-1)
        scaled = torch.empty_like(log_p)
        log_z = torch.stack([torch.mul(log_p, tau, out=scaled).logsumexp(-1) for tau in temperatures], dim=-1)
        missing = target < 0
        parts.append(
            (
                real[:, 0].masked_fill(missing, torch.nan),
                rank.masked_fill(missing, -1),
                entropy,
                log_z,
                index,
                best,
                begins,
            )
        )
    log_prob, rank, entropy, log_z, top_tokens, top_log_probs, begins = (
        torch.cat(column) for column in zip(*parts, strict=True)
    )
    short = count - top_tokens.shape[-1]
    if short > 0:
        top_tokens = torch.nn.functional.pad(top_tokens, (0, short), value=-1)
        top_log_probs = torch.nn.functional.pad(top_log_probs, (0, short), value=-torch.inf)
    return Naive(
        log_prob=log_prob,
        rank=rank,
        entropy=entropy,
        log_z=log_z,
        top_tokens=top_tokens.masked_fill(top_log_probs == -torch.inf, -1),
        top_log_probs=top_log_probs,
        log_word_start=begins,
    )


def _logits(body: Body, hidden: Tensor) -> Tensor:
    logits = body.logits(hidden).float()
    if not bool(torch.isfinite(logits.amax(-1)).all()):  # the largest of a row is NaN if any is
        raise Refused("the model's logits contain NaN or infinity: no prediction can be read from them")
    return logits


def _log_sum_exp_in_place(logits: Tensor) -> Tensor:
    """log Σ exp over the last dimension; overwrites its argument, since a second copy would cost the most here."""
    peak = logits.amax(-1, keepdim=True)
    return logits.sub_(peak).exp_().sum(-1).log_() + peak[:, 0]
