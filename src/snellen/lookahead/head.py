"""From hidden states to what is kept of a prediction, in blocks of rows: the vocabulary is never held for all rows.

All numbers are float32 natural logarithms, whatever the model's dtype.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from snellen.errors import Refused
from snellen.lookahead.engine import Body
from snellen.models.body import device_of


@dataclass(frozen=True, kw_only=True)
class First:
    """The most probable next tokens of n rows, best first; −1 and −inf where the vocabulary holds no more."""

    tokens: Int[Tensor, "rows top"]
    log_probs: Float[Tensor, "rows top"]

    @classmethod
    def padded(cls, tokens: Tensor, log_probs: Tensor, count: int) -> First:
        short = count - tokens.shape[-1]
        log_probs = F.pad(log_probs, (0, short), value=-torch.inf)
        tokens = F.pad(tokens, (0, short), value=-1).masked_fill(log_probs == -torch.inf, -1)
        return cls(tokens=tokens, log_probs=log_probs)


@dataclass(frozen=True, kw_only=True)
class Naive:
    """The model's own prediction at each of n rows, and how it fared on the row's target."""

    log_prob: Float[Tensor, "rows"]  # log p(target)
    rank: Int[Tensor, "rows"]  # number of tokens strictly more probable than the target
    entropy: Float[Tensor, "rows"]
    log_z: Float[Tensor, "rows temperatures"]  # log Σ_v p(v)^τ
    first: First
    log_word_start: Float[Tensor, "rows"]  # log Σ p(v) over the v that begin a word


# Beyond this a processor gains nothing from more rows at once and loses by touching fresh memory.
_MOST_ROWS = {"cpu": 512}


def rows_per_block(body: Body, budget: int) -> int:
    """Rows whose logits fit a quarter of `budget` bytes (held up to twice: in the model's dtype and in float32)."""
    fitting = max(1, budget // (4 * 8 * body.vocabulary))
    return min(fitting, _MOST_ROWS.get(device_of(body.model).type, fitting))


def top_next(
    body: Body, hidden: Float[Tensor, "rows model"], *, count: int, block: int
) -> tuple[Float[Tensor, "rows top"], Int[Tensor, "rows top"]]:
    """The `count` most probable next tokens of each row: log-probabilities, best first, and ids."""
    values, ids = [], []
    for start in range(0, len(hidden), block):
        logits = finite_logits(body, hidden[start : start + block])
        best, index = best_of(logits, min(count, logits.shape[-1]))
        lse = _log_sum_exp_in_place(logits)
        values.append(best - lse[:, None])
        ids.append(index)
    return torch.cat(values), torch.cat(ids)


def first_tokens(
    body: Body,
    hidden: Float[Tensor, "rows model"],
    targets: Int[Tensor, "rows"],
    *,
    count: int,
    block: int,
) -> tuple[First, Float[Tensor, "rows"]]:
    """The `count` most probable next tokens of each row, and log p(target), NaN for a target of −1."""
    parts: list[tuple[Tensor, ...]] = []
    for start in range(0, len(hidden), block):
        logits = finite_logits(body, hidden[start : start + block])
        target = targets[start : start + block]
        real = logits.gather(-1, target.clamp_min(0)[:, None])[:, 0]
        best, index = best_of(logits, min(count, logits.shape[-1]))
        lse = _log_sum_exp_in_place(logits)
        parts.append((index, best - lse[:, None], (real - lse).masked_fill(target < 0, torch.nan)))
    tokens, log_probs, real = (torch.cat(column) for column in zip(*parts, strict=True))
    return First.padded(tokens, log_probs, count), real


def naive(
    body: Body,
    hidden: Float[Tensor, "rows model"],
    targets: Int[Tensor, "rows"],
    *,
    count: int,
    block: int,
    temperatures: Sequence[float],
    starts_word: Bool[Tensor, "vocab"] | None = None,
) -> Naive:
    """Everything that is kept of the naive prediction of `targets`."""
    parts: list[tuple[Tensor, ...]] = []
    block = max(1, block // 2)  # twice as many copies of the logits are held here as in a search
    for start in range(0, len(hidden), block):
        log_p = finite_logits(body, hidden[start : start + block])
        log_p -= log_p.logsumexp(-1, keepdim=True)
        real = log_p.gather(-1, targets[start : start + block, None])
        rank = (log_p > real).sum(-1)
        best, index = log_p.topk(min(count, log_p.shape[-1]), dim=-1)
        begins = log_p.new_full((len(log_p),), torch.nan)
        if starts_word is not None:
            begins = log_p[:, starts_word.nonzero()[:, 0]].logsumexp(-1)
        # A token that a model forbids (log p = −inf) adds nothing to the entropy.
        entropy = torch.special.entr(log_p.exp()).sum(-1)
        scaled = torch.empty_like(log_p)
        log_z = torch.stack([torch.mul(log_p, tau, out=scaled).logsumexp(-1) for tau in temperatures], dim=-1)
        parts.append((real[:, 0], rank, entropy, log_z, index, best, begins))
    log_prob, rank, entropy, log_z, index, best, begins = (torch.cat(column) for column in zip(*parts, strict=True))
    return Naive(
        log_prob=log_prob,
        rank=rank,
        entropy=entropy,
        log_z=log_z,
        first=First.padded(index, best, count),
        log_word_start=begins,
    )


def finite_logits(body: Body, hidden: Float[Tensor, "rows model"]) -> Float[Tensor, "rows vocab"]:
    """The model's logits in float32; refused where a row has none to choose from."""
    logits = body.logits(hidden).float()
    if not bool(torch.isfinite(logits.amax(-1)).all()):  # the largest of a row is NaN if any is
        raise Refused("the model's logits contain NaN or infinity: no prediction can be read from them")
    return logits


# Vocabulary entries whose largest is compared first: of the best k entries each lies in one of the best k chunks.
_CHUNK = 64


def best_of(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """`logits.topk(count)`, faster for few of many: only chunks that can hold one of the best are searched."""
    rows, vocabulary = logits.shape
    chunks = vocabulary // _CHUNK
    if chunks < 8 * count:
        return logits.topk(count, dim=-1)
    whole = logits[:, : chunks * _CHUNK].view(rows, chunks, _CHUNK)
    best = whole.amax(-1).topk(count, dim=-1, sorted=False).indices
    candidates = whole.gather(1, best[..., None].expand(-1, -1, _CHUNK)).flatten(1)
    ids = (best[..., None] * _CHUNK + torch.arange(_CHUNK, device=logits.device)).flatten(1)
    rest = torch.arange(chunks * _CHUNK, vocabulary, device=logits.device)
    candidates = torch.cat([candidates, logits[:, chunks * _CHUNK :]], dim=1)
    values, place = candidates.topk(count, dim=-1)
    return values, torch.cat([ids, rest.expand(rows, -1)], dim=1).gather(1, place)


def _log_sum_exp_in_place(logits: Tensor) -> Tensor:
    """log Σ exp over the last dimension; overwrites its argument, since a second copy would cost the most here."""
    peak = logits.amax(-1, keepdim=True)
    return logits.sub_(peak).exp_().sum(-1).log_() + peak[:, 0]
