"""Checks on the model itself, before any number of it is printed.

The attention hook fails silently in places: an architecture that ignores it, a window or a soft-cap that it does not
pass on, layers with a state of their own. So rollouts are compared with plain forward passes of the very model, at
the very length that will be scored. Tolerances are relative to what the model's own eager and sdpa attention differ
by. A model that fails with columns is run by the plain engine; one whose predictions depend on later tokens, or on
the length of the text, is refused. One whose cache is wrong (`cached`) is scored, and refused for generation.
"""

from __future__ import annotations

import functools
import logging
import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Concatenate, ParamSpec

import torch
from torch import Tensor
from transformers import PreTrainedModel

from snellen.errors import InputError, Refused, out_of_memory
from snellen.lookahead import passes
from snellen.lookahead.cached import read_on
from snellen.lookahead.engine import ColumnEngine, Engine, PlainEngine
from snellen.models.body import context_of, device_of

log = logging.getLogger(__name__)
P = ParamSpec("P")

ENGINES = ("auto", "columns", "plain")
# Least tolerances in units of the number format's epsilon (float32: 6e-5 and 1.2e-3 nats). Forward passes of other
# shapes differ by less than the first; a forgotten window, soft-cap or sink costs more than the second.
_LEAST = 500.0
_LEAST_OF_ATTENTION = 10_000.0
# A coarse format rounds so much that these would allow everything; there it is this many nats at most.
_LEAST_COARSE = 0.1
_FAULTS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, NotImplementedError)
_LONGEST_EAGER = 2048  # tokens; eager attention holds the whole matrix of scores


@dataclass(frozen=True, kw_only=True)
class Check:
    """The largest difference of log-probabilities over the vocabulary (nats) that was found, and what was allowed."""

    value: float
    tolerance: float

    @property
    def passed(self) -> bool:
        return self.value <= self.tolerance  # false for NaN

    def as_dict(self) -> dict[str, Any]:
        value = self.value if math.isfinite(self.value) else None
        return {"value": value, "tolerance": self.tolerance, "passed": self.passed}


@dataclass(frozen=True, kw_only=True)
class Preflight:
    """What was checked, at which length, and the engine that follows from it."""

    engine: str
    length: int
    horizon: int
    floor: float  # what the model's own arithmetic leaves open, nats: eager against sdpa, alone against in a batch
    power: float | None  # how far the check's branches differ when one of their tokens differs, nats
    checks: dict[str, Check]
    why_plain: str | None = None
    cache: str | None = None  # "used", "none"; None: it was not looked at
    why_no_generation: str | None = None
    drift: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return {
            "engine": self.engine,
            "why_plain": self.why_plain,
            "cache": self.cache,
            "why_no_generation": self.why_no_generation,
            "length": self.length,
            "horizon": self.horizon,
            "floor": self.floor,
            "power": self.power,
            "checks": {name: check.as_dict() for name, check in self.checks.items()},
            **({"drift": self.drift} if self.drift else {}),
        }


_known: weakref.WeakKeyDictionary[PreTrainedModel, dict[tuple[Any, ...], Preflight]] = weakref.WeakKeyDictionary()


def engine_for(model: PreTrainedModel, *, length: int, horizon: int, engine: str = "auto") -> Engine:
    """The engine that may be trusted with texts of `length`; the check runs once and is remembered.

    A longer text than any before is checked anew, at the next power of two, since windows and scaled positions show
    only there.
    """
    found = _remembered(model, length=length, horizon=horizon, engine=engine)
    return ColumnEngine(model) if found.engine == "columns" else PlainEngine(model)


def writing_engine_for(model: PreTrainedModel, *, length: int, horizon: int, engine: str = "auto") -> Engine:
    """The same for who generates, with or without lookahead: what one model writes must be of one model.

    Raises
    ------
    Refused
        Besides: the model's cache is wrong.
    """
    found = _remembered(model, length=length, horizon=horizon, engine=engine)
    if found.cache is None:
        found = _with_cache(model, found, passes.text_of(model, found.length, None))
        _known[model][_key(model, engine)] = found
    if found.why_no_generation is not None:
        raise Refused(f"{type(model).__name__}: refused for generation (not for scoring): {found.why_no_generation}")
    return ColumnEngine(model) if found.engine == "columns" else PlainEngine(model)


def _key(model: PreTrainedModel, engine: str) -> tuple[Any, ...]:
    return (engine, model.dtype, str(device_of(model)), model.config._attn_implementation)


def _remembered(model: PreTrainedModel, *, length: int, horizon: int, engine: str) -> Preflight:
    key = _key(model, engine)
    seen = _known.setdefault(model, {})
    found = seen.get(key)
    if found is None or found.length < length or found.horizon < horizon:
        limit = context_of(model)
        at = 1 << max(3, (length - 1).bit_length())
        if limit is not None:
            at = min(at, limit - horizon + 1)
        found = preflight(model, length=max(length, at), horizon=horizon, engine=engine, drift=False, cache=False)
        seen[key] = found
    return found


def _refusing(check: Callable[Concatenate[PreTrainedModel, P], Preflight]) -> Callable[..., Preflight]:
    """Whatever a model's own code raises while it is checked becomes one line: that model is not examined."""

    @functools.wraps(check)
    def checked(model: PreTrainedModel, *args: P.args, **kwargs: P.kwargs) -> Preflight:
        try:
            return check(model, *args, **kwargs)
        except (InputError, Refused, torch.OutOfMemoryError):
            raise
        except _FAULTS as error:
            if out_of_memory(error):
                raise
            line = " ".join(str(error).split())[:300]
            raise Refused(
                f"{type(model).__name__} does not run as a causal language model on token ids: "
                f"{type(error).__name__}: {line}"
            ) from error

    return checked


@_refusing
@torch.no_grad()
def preflight(
    model: PreTrainedModel,
    *,
    length: int,
    horizon: int = 4,
    engine: str = "auto",
    input_ids: Tensor | None = None,
    drift: bool = True,
    cache: bool = True,
) -> Preflight:
    """Check `model` on a text of `length` tokens (the first ones of `input_ids`, then random ones).

    `drift` and `cache`: whether to look at these too, which scoring does not need.

    Raises
    ------
    InputError
        Unknown engine.
    Refused
        Predictions that depend on later tokens or on the length of the text, a head that cannot be split off, an
        engine asked for by name that fails, NaN.
    """
    if engine not in ENGINES:
        raise InputError(f"engine {engine!r}: must be one of {', '.join(ENGINES)}")
    text = passes.text_of(model, length, input_ids)
    length = len(text)
    own = passes.own_predictions(model, text)
    batched = passes.difference(own, passes.in_a_batch(model, text))
    if not math.isfinite(batched):
        raise Refused(f"{type(model).__name__} gives NaN or infinite logits on a text of {length} tokens")
    eager = passes.eager_difference(model, text[:_LONGEST_EAGER])
    epsilon = max(torch.finfo(model.dtype).eps, torch.finfo(torch.float32).eps)  # norms are float32 everywhere
    least, least_of_attention = (min(n * epsilon, _LEAST_COARSE) for n in (_LEAST, _LEAST_OF_ATTENTION))
    checks = {"own attention": Check(value=eager, tolerance=max(30 * batched, least_of_attention))}
    if not checks["own attention"].passed:
        raise Refused(
            f"{type(model).__name__}: its {model.config._attn_implementation} attention differs from its eager one by "
            f"{eager:.2g} nats, so one of them is not this model; load it with attn_implementation='eager'"
        )
    floor = max(batched, eager)
    tolerance = max(10 * floor, least)
    checks |= {
        "head": Check(value=passes.head_difference(model, text[:8]), tolerance=tolerance),
        "causality": Check(value=passes.causality_difference(model, text, own), tolerance=tolerance),
    }
    if not checks["head"].passed:
        raise Refused(
            f"{type(model).__name__}: logits computed from its last hidden states differ from its own by "
            f"{checks['head'].value:.2g} nats (allowed {tolerance:.2g}); its head cannot be used in blocks"
        )
    if not checks["causality"].passed:
        raise Refused(
            f"{type(model).__name__}: at a length of {length} tokens a prediction changes by "
            f"{checks['causality'].value:.2g} nats (allowed {tolerance:.2g}) when later tokens are removed, so it is "
            "no prediction from the past alone; try shorter texts (--window), where scaled positions may not set in"
        )
    power, why = None, "asked for" if engine == "plain" else None
    if engine != "plain":
        why, power = _check_columns(model, text, own, horizon, tolerance, checks)
        if why is not None and engine == "columns":
            raise Refused(f"{type(model).__name__}: rollouts over a shared prefix cannot be used: {why}")
        if why is not None:
            log.info("%s runs by the plain engine: %s", type(model).__name__, why)
    result = Preflight(
        engine="columns" if why is None else "plain",
        why_plain=why,
        length=length,
        horizon=horizon,
        floor=floor,
        power=power,
        checks=checks,
        drift=passes.drift(model, text) if drift and model.dtype != torch.float32 else {},
    )
    if cache:
        result = _with_cache(model, result, text)
    _known.setdefault(model, {})[_key(model, engine)] = result
    return result


@torch.no_grad()
def check_causal(model: PreTrainedModel, *, length: int) -> None:
    """That no prediction in a text of `length` random tokens depends on what stands after it.

    Less than `preflight`, and asked of the model's forward pass alone: later tokens are exchanged, not removed, so that
    a model whose positions are scaled by the length of the text passes.

    Raises
    ------
    Refused
        Predictions that depend on later tokens, NaN.
    """
    text = passes.text_of(model, length, None)
    vocabulary = model.get_input_embeddings().weight.shape[0]

    def predicted(rows: Tensor) -> Tensor:
        logits = model(input_ids=rows, use_cache=False).logits[-1, passes.places(len(text))]
        log_probs: Tensor = logits.float().log_softmax(-1)
        return log_probs

    own = predicted(text[None])
    floor = passes.difference(own, predicted(text.expand(2, -1)))
    if not math.isfinite(floor):
        raise Refused(f"{type(model).__name__} gives NaN or infinite logits on a text of {len(text)} tokens")
    epsilon = max(torch.finfo(model.dtype).eps, torch.finfo(torch.float32).eps)
    tolerance = max(10 * floor, min(_LEAST * epsilon, _LEAST_COARSE))
    for number, place in enumerate(passes.places(len(text))[:-1], start=1):
        other = text.clone()
        other[place + 1 :] = (other[place + 1 :] + 1) % vocabulary
        worst = passes.difference(own[:number], predicted(other[None])[:number])
        if not worst <= tolerance:
            raise Refused(
                f"{type(model).__name__}: a prediction at place {place} or before changes by {worst:.2g} nats (allowed "
                f"{tolerance:.2g}) when later tokens change, so it is no causal language model: only left-to-right "
                "ones can be trained here"
            )


def _with_cache(model: PreTrainedModel, found: Preflight, text: Tensor) -> Preflight:
    """What was found, and whether the model may generate."""
    read, tolerance = read_on(model, text), found.checks["causality"].tolerance
    values = {"cache": read.value, "cache, several at once": read.at_once}
    new = {name: Check(value=value, tolerance=tolerance) for name, value in values.items() if value is not None}
    checks, why = {**found.checks, **new}, None
    # Recurrent models of transformers forget their state when several tokens are read at once, and no generation does.
    needed = [check for name, check in new.items() if name == "cache" or not getattr(model, "_is_stateful", False)]
    if wrong := [check.value for check in needed if not check.passed]:
        off = f"differ from those of whole passes by {max(wrong):.2g} nats (allowed {tolerance:.2g})"
        why = f"predictions through its cache {off if read.error is None else f'fail: {read.error}'}"
        log.info("%s: %s", type(model).__name__, why)
    return replace(found, checks=checks, cache=read.cache, why_no_generation=why)


def _check_columns(
    model: PreTrainedModel,
    text: Tensor,
    own: Tensor,
    horizon: int,
    tolerance: float,
    checks: dict[str, Check],
) -> tuple[str | None, float | None]:
    """Why columns cannot be used (None: they can), and the power of the check; adds to `checks`."""
    try:
        engine = ColumnEngine(model)
        hidden = engine.read(text)
        checks["forward identity"] = Check(
            value=passes.difference(own, passes.log_probs(engine.body, hidden[passes.places(len(text))])),
            tolerance=tolerance,
        )
        worst, power = passes.rollout_difference(engine, text, max(2, min(horizon, 4)))
        checks["rollouts"] = Check(value=worst, tolerance=tolerance)
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # whatever an architecture does with the hook, it then runs plainly
        if out_of_memory(error):
            raise
        return f"{error}" if isinstance(error, Refused) else f"{type(error).__name__}: {error}", None
    for name in ("forward identity", "rollouts"):
        if not checks[name].passed:
            return f"{name}: off by {checks[name].value:.2g} nats (allowed {tolerance:.2g})", power
    return None, power
