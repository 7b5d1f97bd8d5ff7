"""Whether a model reads on from its cache as it reads the whole text: what generation lives by, and scoring does not.

A cache fails in silence: an argument that is renamed and swallowed, positions that begin anew, a window that is off. So
one text is read as a whole, and in parts through the cache; and a padded batch is continued by the model's own
`generate`, with its cache and without, behind tokens that are forced upon it.
"""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from snellen.attention.caches import CACHE, cache_argument, cache_in
from snellen.errors import out_of_memory

USED, NONE = "used", "none"  # `ReadOn.cache`

_PARTS = (1, 1, 3)  # tokens that are read on from the cache, one after another and several at once
_PADDED_TEXT, _PADDING = 64, 3  # tokens; of the batch, whose shorter row is padded on the left


@dataclass(frozen=True, kw_only=True)
class ReadOn:
    """Whether there is a cache, and the largest differences found, nats; None without anything to compare."""

    cache: str
    value: float | None = None  # token by token, and by `generate`
    at_once: float | None = None  # several tokens at once
    error: str | None = None  # what was raised instead


def read_on(model: PreTrainedModel, text: Tensor) -> ReadOn:
    """How far predictions through the cache are from those of whole passes, on `text`, [pos]."""
    if len(text) < 2:
        return ReadOn(cache=NONE)
    cache, worst, at_once = NONE, [], None
    try:
        parts = _in_parts(model, text)
        if parts:
            cache, at_once = USED, parts.get(_PARTS[-1])
            worst.append(parts[1])
        if model.can_generate():
            worst.append(_continued(model, text[:_PADDED_TEXT]))
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # whatever a model does with its cache, it can still be scored
        if out_of_memory(error):
            raise
        return ReadOn(cache=cache, value=math.nan, error=f"{type(error).__name__}: {' '.join(str(error).split())}")
    return ReadOn(cache=cache, value=_worst(worst) if worst else None, at_once=at_once)


def _in_parts(model: PreTrainedModel, text: Tensor) -> dict[int, float]:
    """One row: its prefix, then one token after another, then several at once.

    Returns the difference by the size of what was read; nothing where no cache comes back.
    """
    known = inspect.signature(model.forward).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in known.values())
    name = cache_argument(model.forward) or (CACHE if open_ended else None)
    if name is None or not (open_ended or "use_cache" in known):
        return {}
    sizes = [size for size, end in zip(_PARTS, (1, 2, 5), strict=True) if end < len(text)]
    new = sum(sizes)
    keep = {"logits_to_keep": new + 1} if "logits_to_keep" in known else {}
    whole = _log_probs(model(input_ids=text[None], use_cache=False, **keep).logits[0, -new - 1 :])
    found: dict[int, float] = {}
    cache, seen = None, 0
    for size in (len(text) - new, *sizes):
        given: dict[str, Any] = {} if cache is None else {name: cache}
        out = model(input_ids=text[None, seen : seen + size], use_cache=True, **given, **keep)
        cache, seen = cache_in(out), seen + size
        if cache is None:
            return {}
        if seen > len(text) - new:  # behind the prefix
            here = slice(seen - size - len(text), None if seen == len(text) else seen - len(text))
            off = _difference(whole[here], _log_probs(out.logits[0, -size:]))
            found[size] = _worst([off, found.get(size, 0.0)])
    return found


def _continued(model: PreTrainedModel, text: Tensor) -> float:
    """A batch of two, one padded on the left: `generate` with the cache against `generate` without."""
    new = min(3, len(text) - 1)
    prompt = text[:-new].repeat(2, 1)
    mask = torch.ones_like(prompt)
    mask[1, : min(_PADDING, prompt.shape[1] - 1)] = 0
    found = []
    own = model.generation_config
    model.generation_config = GenerationConfig(pad_token_id=0)  # no end, no cache of another kind
    try:
        for cached in (True, False):
            out = model.generate(
                prompt.masked_fill(mask == 0, 0),
                attention_mask=mask,
                logits_processor=LogitsProcessorList([_Forcing(text[-new:], prompt.shape[1])]),
                generation_config=GenerationConfig(
                    max_new_tokens=new,
                    do_sample=False,
                    use_cache=cached,
                    output_logits=True,
                    return_dict_in_generate=True,
                    disable_compile=True,
                    pad_token_id=0,
                ),
            )
            found.append(_log_probs(torch.stack(out.logits)))
    finally:
        model.generation_config = own
    return _difference(*found)


class _Forcing(LogitsProcessor):  # type: ignore[misc]
    """Every row goes on with these tokens."""

    def __init__(self, tokens: Tensor, start: int) -> None:
        self.tokens, self.start = tokens, start

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        forced = torch.full_like(scores, -torch.inf)
        forced[:, self.tokens[input_ids.shape[1] - self.start]] = 0.0
        return forced


def _worst(differences: list[float]) -> float:
    return max(differences, key=lambda x: (math.isnan(x), x))


def _log_probs(logits: Tensor) -> Tensor:
    return logits.float().log_softmax(-1)


def _difference(a: Tensor, b: Tensor) -> float:
    return float(torch.where(a == b, 0.0, (a - b).abs()).max())
