"""Cuts documents into windows so that every token is scored once, with a stated minimum of context.

With a limit, what is scored is a systematic sample, without any randomness. It is taken in spans of consecutive
tokens, because a window costs its context besides what it scores. How the spans are laid out:

- Every document is represented, as long as the limit allows each at least `least` tokens (or all it has). Beyond
  that equal floor, tokens are shared in proportion to length, so that the mean over the sample estimates the mean
  over all tokens. (Short documents are somewhat over-represented by the floor; intervals are over documents.)
  Inside a document the spans lie one in each of equal stretches, at offsets that follow the golden ratio: even,
  but in no step with chapters or rows, and with beginnings of documents no rarer than they are.
- With more documents than that, all documents are laid end to end and spans are taken from that line in the same
  way. Every token is then as likely as any other to be scored, and some documents are left out.

What is scored, and from how much context, depends on the lengths and the arguments alone: never on memory,
batches or devices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from snellen.errors import InputError

FIRST_TOKEN = "first token of a document (nothing stands before it)"
OVER_LIMIT = "beyond the limit"

_GOLDEN = 0.6180339887498949


@dataclass(frozen=True)
class Window:
    """Tokens [begin, last) of a document are read (behind the first token, if any); [first, last) are scored."""

    document: int
    begin: int
    first: int
    last: int

    @property
    def scored(self) -> int:
        return self.last - self.first


@dataclass(frozen=True)
class Plan:
    """All windows, in the order of the texts, and how many tokens are not scored, by reason."""

    windows: tuple[Window, ...]
    excluded: dict[str, int]

    @property
    def scored(self) -> int:
        return sum(window.scored for window in self.windows)


def plan_windows(
    lengths: Sequence[int],
    *,
    window: int,
    context: int,
    bos: bool,
    limit: int | None = None,
    span: int = 256,
    least: int = 64,
) -> Plan:
    """Cut documents into windows.

    Parameters
    ----------
    lengths
        Tokens of each document, none of them special.
    window
        Most positions that a window may have, the first token included.
    context
        At least so many tokens of its document stand before every scored token in its window, or all that there
        are. (The first token of the model is not counted.) Without one, 0 means 1.
    bos
        Whether a first token is put in front of every window. Without it, the first token of a document cannot
        be scored.
    limit
        Score at most so many tokens; None scores all.
    span
        With a limit: how many consecutive tokens a sampled stretch is meant to have.
    least
        With a limit: the shortest stretch worth its context; fewer documents are represented rather than going
        below it.

    Returns
    -------
    Plan
        The windows and the exclusions {reason: number of tokens}.

    Raises
    ------
    InputError
        If the window has no room beside its context, a number is out of range, or there is no token to score.
    """
    front = 1 if bos else 0
    skipped = 1 - front
    _check(window=window, context=context, front=front, limit=limit, span=span, least=least)
    context = max(context, skipped)  # something must stand before every scored token
    sizes = [max(0, length - skipped) for length in lengths]
    total = sum(sizes)
    if total == 0:
        raise InputError(
            f"the texts have {sum(lengths)} tokens, and none can be scored "
            "(the first of each document has nothing before it): give longer texts"
        )
    if limit is None or limit >= total:
        stretches = [(document, 0, size) for document, size in enumerate(sizes) if size]
    else:
        stretches = list(_sample(sizes, limit, span, least))
    windows = tuple(
        cut
        for document, first, last in stretches
        for cut in cut_stretch(document, first + skipped, last + skipped, window - front, context)
    )
    excluded = {
        FIRST_TOKEN: sum(1 for length in lengths if length) * skipped,
        OVER_LIMIT: total - sum(cut.scored for cut in windows),
    }
    return Plan(windows=windows, excluded={reason: count for reason, count in excluded.items() if count})


def _check(*, window: int, context: int, front: int, limit: int | None, span: int, least: int) -> None:
    if context < 0:
        raise InputError(f"context {context}: must be 0 or more")
    needed = max(context + front, 1) + 1
    if window < needed:
        first = " and the first token" if front else ""
        raise InputError(
            f"window {window}: with {context} tokens of context{first} there is no room to score any: "
            f"the window must be at least {needed}, or the context smaller"
        )
    if limit is not None and limit < 1:
        raise InputError(f"limit {limit}: must be at least 1 token, or left out to score all")
    if not 1 <= least <= span:
        raise InputError(f"least {least}, span {span}: must be 1 <= least <= span")


def cut_stretch(document: int, first: int, last: int, room: int, context: int) -> Iterator[Window]:
    """Cover [first, last) of a document by windows of at most `room` tokens, each with `context` before it."""
    while first < last:
        begin = max(0, first - context)
        end = min(last, begin + room)
        yield Window(document, begin, first, end)
        first = end


def _sample(sizes: Sequence[int], limit: int, span: int, least: int) -> Iterator[tuple[int, int, int]]:
    """Stretches (document, first, last) with `limit` tokens in all, in order; `limit` is below the sum of sizes."""
    if sum(min(size, least) for size in sizes) > limit:
        yield from _from_one_line(sizes, limit, least)
        return
    count = 0
    for document, (size, share) in enumerate(zip(sizes, _shares(sizes, limit, span), strict=True)):
        for first, last in _spread(size, share, span, count):
            yield document, first, last
            count += 1


def _shares(sizes: Sequence[int], limit: int, span: int) -> list[int]:
    """How many tokens of each document: an equal floor first, then in proportion to length, `limit` in all."""
    size = np.asarray(sizes, dtype=np.int64)
    low, high = 0, span
    while low < high:  # the highest floor that all can have
        middle = (low + high + 1) // 2
        if int(np.minimum(size, middle).sum()) <= limit:
            low = middle
        else:
            high = middle - 1
    floors = np.minimum(size, low)
    rate, step = 0.0, 0.5
    for _ in range(50):  # the share of each document's length at which the limit is used up
        if np.maximum(floors, (rate + step) * size).sum() <= limit:
            rate += step
        step /= 2
    wanted = np.maximum(floors, rate * size)
    shares = wanted.astype(np.int64)
    # Largest remainders get the tokens that rounding left; the sort is stable, so ties go to earlier documents.
    order = np.argsort(shares - wanted, kind="stable")
    while (spare := limit - int(shares.sum())) > 0:
        shares[order[shares[order] < size[order]][:spare]] += 1
    return [int(share) for share in shares]


def _spread(size: int, share: int, span: int, count: int) -> Iterator[tuple[int, int]]:
    """`share` of `size` tokens as spans, one in each of equal stretches; `count` spans were laid before."""
    spans = max(1, round(share / span)) if share else 0
    rest = size - share
    low = 0
    for i in range(spans):
        length = share * (i + 1) // spans - share * i // spans
        slack = rest * (i + 1) // spans - rest * i // spans
        first = low + int((slack + 1) * ((count + i + 1) * _GOLDEN % 1.0))
        yield first, first + length
        low += length + slack


def _from_one_line(sizes: Sequence[int], limit: int, span: int) -> Iterator[tuple[int, int, int]]:
    """Spans from all documents laid end to end, cut where a document ends."""
    starts = [0]
    for size in sizes:
        starts.append(starts[-1] + size)
    document = 0
    for first, last in _spread(starts[-1], limit, span, 0):
        while first < last:
            while starts[document + 1] <= first:
                document += 1
            end = min(last, starts[document + 1])
            yield document, first - starts[document], end - starts[document]
            first = end
