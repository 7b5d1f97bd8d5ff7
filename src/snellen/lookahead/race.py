"""Drawing from a model's next-token distributions, many from each, without noise for the whole vocabulary.

Without replacement: each token v of a node arrives at an exponential time of rate π(v), and the first ones are
kept (the minus logarithm of the arrival is the Gumbel-perturbed log-probability; Kool, van Hoof & Welling 2019,
arXiv 1903.06059, section 4). The first arrival of a chunk of the vocabulary is exponential with the chunk's total rate,
so one number a chunk tells which chunks hold the first k, and only their tokens get noise of their own: given the
chunk's first arrival, its tokens are a fresh race, shifted in time to begin there. That is exact.

With replacement: the inverse of the distribution function, first of the chunks, then inside one chunk.

π ∝ p^β is the proposal, β its `exponent`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor

from snellen.lookahead.counter_noise import CHUNKS, OWN, child_keys, exponential, uniform
from snellen.lookahead.engine import Body
from snellen.lookahead.head import finite_logits, rows_per_block

CHUNK = 64
# Rows that are drawn from at once: a copy of their logits, and numbers for some entries, should stay in the cache.
_SCRATCH_BYTES = 2 << 20
# The fractional parts of its multiples are spread more evenly than independent numbers, over any run of them.
_GOLDEN_RATIO = 0.6180339887498949


@dataclass(frozen=True, kw_only=True)
class Draws:
    """What was drawn from the distributions of some nodes; −1 and −inf (+inf for gaps) where there is no more."""

    tokens: Int[Tensor, "*nodes draws"]
    log_probs: Float[Tensor, "*nodes draws"]  # log p
    proposals: Float[Tensor, "*nodes draws"]  # log π
    gaps: Float[Tensor, "*nodes draws"]  # log of (arrival − first arrival), in the time of this node: rates π

    def map(self, change: Callable[[Tensor], Tensor]) -> Draws:
        return Draws(**{field.name: change(getattr(self, field.name)) for field in fields(self)})

    def where(self, condition: Tensor, other: Draws) -> Draws:
        """`other` where the condition holds, these elsewhere."""
        names = [field.name for field in fields(self)]
        return Draws(**{n: torch.where(condition, getattr(other, n), getattr(self, n)) for n in names})

    def put(self, places: tuple[Tensor, ...], other: Draws) -> None:
        for field in fields(self):
            getattr(self, field.name)[places] = getattr(other, field.name)

    @staticmethod
    def empty(*shape: int, like: Draws) -> Draws:
        def filled(x: Tensor, value: float | int) -> Tensor:
            return x.new_full((*shape, like.tokens.shape[-1]), value)

        return Draws(
            tokens=filled(like.tokens, -1),
            log_probs=filled(like.log_probs, -torch.inf),
            proposals=filled(like.proposals, -torch.inf),
            gaps=filled(like.gaps, torch.inf),
        )


# Hidden states and keys of some nodes → what is drawn there.
Draw = Callable[[Tensor, Tensor], Draws]


def without_replacement(
    body: Body,
    hidden: Float[Tensor, "rows model"],
    keys: Int[Tensor, "rows"],
    *,
    count: int,
    exponent: float,
    budget: int,
) -> Draws:
    """The `count` tokens that arrive first at each row's node, in order of arrival."""
    block, few = _rows(body, budget, draws=count)
    parts = []
    for start in range(0, len(hidden), block):
        logits = finite_logits(body, hidden[start : start + block])
        for i in range(0, len(logits), few):
            here = keys[start + i : start + min(i + few, block)]
            parts.append(_first_arrivals(logits[i : i + few], here[:, None], min(count, body.vocabulary), exponent))
    return joined(parts)


def _first_arrivals(logits: Tensor, key: Tensor, count: int, exponent: float) -> Draws:
    norm, rates = _norms(logits, exponent)
    total = rates.logsumexp(-1, keepdim=True)
    chunks = torch.arange(rates.shape[1], device=key.device)
    arrival = exponential(child_keys(key, CHUNKS - chunks), rates.dtype) / (rates - total).exp_()
    soonest, chosen = arrival.topk(min(count, rates.shape[1]), dim=-1, largest=False)
    ids, inside = _members(logits, chosen)
    proposal = _powered(inside.to(rates.dtype), exponent) - total
    time = (exponential(child_keys(key, ids), rates.dtype) / proposal.exp()).view(*chosen.shape, CHUNK)
    gap = (soonest - soonest[:, :1])[..., None] + (time - time.amin(-1, keepdim=True))
    gap = torch.where(torch.isfinite(time), gap, torch.inf).flatten(1)  # impossible tokens never arrive
    gap, place = gap.topk(count, dim=-1, largest=False)
    never = gap == torch.inf
    return Draws(
        tokens=ids.gather(1, place).masked_fill_(never, -1),
        log_probs=(inside.gather(1, place) - norm).masked_fill_(never, -torch.inf),
        proposals=proposal.gather(1, place).float().masked_fill_(never, -torch.inf),
        gaps=gap.log_().float(),
    )


def with_replacement(
    body: Body,
    hidden: Float[Tensor, "rows model"],
    keys: Int[Tensor, "rows"],
    *,
    count: int,
    exponent: float,
    budget: int,
) -> Draws:
    """The first `count` draws of each row's node (see `turns`): [rows, count]."""
    row, turn = torch.arange(len(hidden), device=keys.device), torch.arange(count, device=keys.device)
    owner, turn = row.repeat_interleave(count), turn.repeat(len(hidden))
    flat = turns(body, hidden, keys, owner, turn, exponent=exponent, budget=budget)
    return flat.map(lambda x: x.view(len(hidden), count))


def turns(
    body: Body,
    hidden: Float[Tensor, "rows model"],
    keys: Int[Tensor, "rows"],
    owner: Int[Tensor, "draws"],
    turn: Int[Tensor, "draws"],
    *,
    exponent: float,
    budget: int,
) -> Draws:
    """The turn[i]-th draw from the proposal of row owner[i], each exactly distributed, together spread evenly.

    Draw i of a node takes the quantile u + iφ (modulo 1) with one uniform u a node and φ the golden ratio: a shifted
    Kronecker sequence, of lower variance than independent draws, over any run of neighbouring i. `owner` ascends.
    """
    most = int(turn.max()) + 1
    block, few = _rows(body, budget, draws=most)
    parts = []
    for start in range(0, len(hidden), block):
        logits = finite_logits(body, hidden[start : start + block])
        for i in range(0, len(logits), few):
            first, last = start + i, start + min(i + few, block)
            here = (owner >= first) & (owner < last)
            rows = logits[i : i + few], keys[first:last, None]
            parts.append(_turns(*rows, owner[here] - first, turn[here], most, exponent))
    return joined(parts)


def _turns(logits: Tensor, key: Tensor, row: Tensor, turn: Tensor, most: int, exponent: float) -> Draws:
    norm, rates = _norms(logits, exponent)
    total = rates.logsumexp(-1, keepdim=True)
    steps = torch.arange(most, device=key.device, dtype=rates.dtype) * _GOLDEN_RATIO
    quantile = (uniform(child_keys(key, OWN), rates.dtype) + steps).remainder_(1)
    chunk, quantile = (x[row, turn, None] for x in _inverse((rates - total).exp_(), quantile))
    ids, inside = _members(logits, chunk, row)
    proposal = _powered(inside.to(rates.dtype), exponent) - total[row]
    place, _ = _inverse(proposal.exp(), quantile)
    token, log_prob, log_proposal = (x.gather(-1, place)[:, 0] for x in (ids, inside - norm[row], proposal))
    return Draws(tokens=token, log_probs=log_prob, proposals=log_proposal.float(), gaps=torch.zeros_like(log_prob))


def joined(parts: list[Draws]) -> Draws:
    return Draws(**{field.name: torch.cat([getattr(p, field.name) for p in parts]) for field in fields(Draws)})


def log_sums(
    logits: Float[Tensor, "rows vocab"], exponent: float
) -> tuple[Float[Tensor, "rows chunks"], Float[Tensor, "rows chunks"]]:
    """log Σ exp(logit) and log Σ exp(exponent · logit) of each chunk of the vocabulary; the last may be short."""
    rows, vocabulary = logits.shape
    whole = vocabulary // CHUNK * CHUNK
    parts = [logits[:, :whole].view(rows, -1, CHUNK)] if whole else []
    parts += [logits[:, None, whole:]] if whole < vocabulary else []
    sums = [_log_sums(part, exponent) for part in parts]
    return torch.cat([plain for plain, _ in sums], dim=-1), torch.cat([powered for _, powered in sums], dim=-1)


def _log_sums(x: Tensor, exponent: float) -> tuple[Tensor, Tensor]:
    peak = x.amax(-1)
    peak = torch.where(peak == -torch.inf, torch.zeros_like(peak), peak)  # a chunk of impossible tokens alone
    below = x - peak[..., None]
    powered = below.mul(exponent).exp_().sum(-1) if exponent not in (0, 1, 2) else None
    mass = below.exp_()
    plain = mass.sum(-1)
    if powered is None:  # nothing to exponentiate again; squares lose only what a sum loses anyway
        powered = (plain, mass.square_().sum(-1))[int(exponent) - 1] if exponent else (x > -torch.inf).sum(-1).float()
    return plain.log() + peak, powered.log() + peak * exponent


def _powered(x: Tensor, exponent: float) -> Tensor:
    """log of exp(x) to the power of the exponent, where 0 to the power of 0 is 0: what is impossible stays so."""
    if exponent == 1:
        return x
    return torch.where(x == -torch.inf, x, x * exponent) if exponent == 0 else x * exponent


def _norms(logits: Tensor, exponent: float) -> tuple[Tensor, Tensor]:
    """log Σ exp of each row, [rows, 1], and the chunks' log Σ exp(exponent · logit), in float64 where there is one."""
    exact = torch.float32 if logits.device.type == "mps" else torch.float64
    plain, powered = (sums.to(exact) for sums in log_sums(logits, exponent))
    return plain.logsumexp(-1, keepdim=True).float(), powered


def _members(logits: Tensor, chosen: Tensor, row: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Tokens of the chosen chunks and their logits, [rows, chosen · CHUNK]; −inf beyond the vocabulary.

    `chosen` [rows, chosen] are chunks of the same row of `logits`, or of row[i].
    """
    ids = (chosen[..., None] * CHUNK + torch.arange(CHUNK, device=chosen.device)).flatten(1)
    within = ids.clamp_max(logits.shape[1] - 1)
    inside = logits.gather(1, within) if row is None else logits[row[:, None], within]
    return ids, inside.masked_fill_(ids >= logits.shape[1], -torch.inf)


def _inverse(
    weights: Float[Tensor, "*rows entries"], quantile: Float[Tensor, "*rows draws"]
) -> tuple[Int[Tensor, "*rows draws"], Float[Tensor, "*rows draws"]]:
    """The entries at which a share `quantile` of the weights is reached, and the share of the entry's own at that."""
    reached = weights.cumsum(-1)
    below = 1 - torch.finfo(weights.dtype).eps  # so that no rounding goes beyond the last entry that weighs anything
    target = reached[..., -1:] * quantile.clamp_max(below)
    place = torch.searchsorted(reached, target, right=True)
    weight = weights.gather(-1, place)
    return place, (1 - (reached.gather(-1, place) - target) / weight).clamp_(0, 1)


def _rows(body: Body, budget: int, *, draws: int) -> tuple[int, int]:
    """How many rows' logits are held at once, and how many of them are drawn from at once."""
    entries = min(draws, -(-body.vocabulary // CHUNK)) * CHUNK
    most = budget // 4  # beside the logits; about ten numbers of eight bytes are held for each entry
    few = max(1, min(_SCRATCH_BYTES // (4 * body.vocabulary + 8 * entries), most // (80 * entries)))
    return rows_per_block(body, budget), few
