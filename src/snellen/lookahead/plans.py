"""What a generation may be asked for, brought into one form and checked before any work.

Two callers: our own, with the options of `Sampling`; and transformers' `generate`, which has made processors and
criteria of its own options already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from jaxtyping import Int
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    PreTrainedModel,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.generation import EosTokenCriteria

from snellen.attention.caches import CACHE_NAMES, holds_text, one_cache
from snellen.errors import InputError
from snellen.kinds import LEAST_TEMPERATURE, check_fields
from snellen.lookahead.generation_config import config_of
from snellen.lookahead.settings import check_batch
from snellen.lookahead.stop_texts import StopText
from snellen.models.body import context_of, device_of, embedding_rows, logit_columns

# What transformers hands over besides, and what does not matter here.
_INERT = frozenset({"use_cache", "logits_to_keep", "position_ids", "cache_position", "return_dict"})
_CARRIED = (*CACHE_NAMES, "inputs_embeds", "token_type_ids")


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Options of a direct call, under transformers' names.

    Parameters
    ----------
    max_new_tokens, min_new_tokens
        How many tokens are written at most, and at least (no end token before).
    do_sample
        Sample; otherwise the most probable token of the amplified distribution.
    temperature, top_p, top_k
        Applied to the amplified distribution; by default not at all. Only with `do_sample`.
    eos_token_id
        Tokens that end a row: by default the model's own, None or () for none.
    pad_token_id
        Behind the end of a row; by default the model's, else its end token. Where no `attention_mask` is given, it is
        what prompts are taken to be padded with, unless it is an end token as well.
    """

    max_new_tokens: int = 64
    min_new_tokens: int = 0
    do_sample: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    eos_token_id: int | Sequence[int] | str | None = "model"
    pad_token_id: int | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        for name, least in (("max_new_tokens", 1), ("min_new_tokens", 0), ("top_k", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InputError(f"{name} {value}: must be a whole number of at least {least}")
        if isinstance(self.eos_token_id, str) and self.eos_token_id != "model":
            raise InputError(f"eos_token_id {self.eos_token_id!r}: must be a token id, several, None, or 'model'")
        if self.min_new_tokens > self.max_new_tokens:
            raise InputError(f"min_new_tokens {self.min_new_tokens}: above max_new_tokens, {self.max_new_tokens}")
        if not LEAST_TEMPERATURE <= self.temperature < float("inf"):
            raise InputError(f"temperature {self.temperature}: must be above 0 (for the best token: do_sample=False)")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p {self.top_p}: must lie above 0 and at most at 1")
        for name in ("temperature", "top_p", "top_k"):
            if not self.do_sample and getattr(self, name) != getattr(Sampling, name):
                raise InputError(f"{name} {getattr(self, name)}: has no effect without sampling; add do_sample=True")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A generation, whoever asked for it."""

    logits_processor: LogitsProcessorList
    stopping_criteria: StoppingCriteriaList
    attention_mask: Tensor | None
    max_new_tokens: int
    do_sample: bool
    pad_token_id: int


def direct_plan(
    model: PreTrainedModel,
    input_ids: Tensor,
    logits_processor: LogitsProcessorList | None,
    stopping_criteria: StoppingCriteriaList | None,
    stop: int | str | Sequence[int | str],
    tokenizer: Any,
    options: Mapping[str, Any],
) -> Plan:
    """The plan of a call of our own. Raises InputError."""
    if not model.can_generate():
        raise InputError(f"{type(model).__name__}: does not write text; a causal language model is needed")
    options = dict(options)
    mask = options.pop("attention_mask", None)
    if mask is not None and not isinstance(mask, Tensor):
        raise InputError(
            f"attention_mask of type {type(mask).__name__}: must be a tensor like input_ids, 1 where text is"
        )
    known = {field.name for field in fields(Sampling)}
    if unknown := sorted(options.keys() - known):
        raise InputError(f"option {unknown[0]!r}: not known; there are attention_mask, {', '.join(sorted(known))}")
    sampling = Sampling(**options)
    config = config_of(model)
    eos = _ids(config.eos_token_id if sampling.eos_token_id == "model" else sampling.eos_token_id)
    ids, texts = _stops(stop)
    ends = [*dict.fromkeys([*eos, *ids])]
    check_ids(model, "stop token", ends, written=True)
    check_ids(model, "pad_token_id", _ids(sampling.pad_token_id))
    processors = LogitsProcessorList(logits_processor or [])
    if sampling.min_new_tokens and ends:
        processors.append(
            MinNewTokensLengthLogitsProcessor(
                input_ids.shape[-1], sampling.min_new_tokens, ends, device=str(device_of(model))
            )
        )
    if sampling.temperature != 1:
        processors.append(TemperatureLogitsWarper(float(sampling.temperature)))
    if sampling.top_k:
        processors.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        processors.append(TopPLogitsWarper(float(sampling.top_p)))
    padding = [*_ids(sampling.pad_token_id), *_ids(config.pad_token_id)][:1]
    if mask is None:
        mask = inferred_mask(input_ids, padding, ends=[*eos, *_ids(config.eos_token_id)], model=model)
    several = len(input_ids) > 1 and bool(ends or texts or stopping_criteria)
    pads = padding or ends
    if several and not pads:
        raise InputError("pad_token_id: the model has none, and rows may end at different lengths; give one")
    if several:
        check_ids(model, "pad_token_id", pads[:1])
    return Plan(
        logits_processor=processors,
        stopping_criteria=_criteria(stopping_criteria, ends, texts, tokenizer, input_ids.shape[-1]),
        attention_mask=mask,
        max_new_tokens=sampling.max_new_tokens,
        do_sample=sampling.do_sample,
        pad_token_id=pads[0] if pads else 0,  # then no row ends before the others
    )


def transformers_plan(
    model: PreTrainedModel,
    input_ids: Tensor,
    logits_processor: LogitsProcessorList | None,
    stopping_criteria: StoppingCriteriaList | None,
    config: Any,
    stop: int | str | Sequence[int | str],
    tokenizer: Any,
    model_kwargs: Mapping[str, Any],
) -> Plan:
    """The plan of a call by transformers' `generate`. Raises InputError for what it could ask and is not done here."""
    for name, nothing in (("num_beams", 1), ("output_scores", False), ("output_logits", False)):
        if getattr(config, name, None) not in (nothing, None):
            raise InputError(f"{name}={getattr(config, name)}: not with lookahead; leave it out (see `details`)")
    one_cache(**{name: model_kwargs.get(name) for name in CACHE_NAMES})
    for name, value in model_kwargs.items():
        if value is None or name in _INERT or name == "attention_mask" or name.startswith("output_"):
            continue
        if name not in _CARRIED:
            raise InputError(f"option {name!r}: not known to lookahead; leave it out")
        if name in CACHE_NAMES and not holds_text(value):
            continue
        if name == "token_type_ids" and not bool(value.any()):
            continue
        raise InputError(f"{name}: lookahead begins with token ids alone; leave it out")
    ids, texts = _stops(stop)
    check_ids(model, "stop token", [*_ids(config.eos_token_id), *ids], written=True)
    pads = [*_ids(config._pad_token_tensor), *_ids(config.eos_token_id), *ids]
    if len(input_ids) > 1:
        check_ids(model, "pad_token_id", pads[:1])
    return Plan(
        logits_processor=LogitsProcessorList(logits_processor or []),
        stopping_criteria=_criteria(stopping_criteria, ids, texts, tokenizer, input_ids.shape[-1]),
        attention_mask=model_kwargs.get("attention_mask"),
        max_new_tokens=int(config.max_length) - input_ids.shape[-1],
        do_sample=bool(config.do_sample),
        pad_token_id=pads[0] if pads else 0,
    )


def inferred_mask(
    input_ids: Int[Tensor, "batch pos"], padding: Sequence[int], *, ends: Sequence[int], model: PreTrainedModel
) -> Int[Tensor, "batch pos"] | None:
    """The mask of prompts that came without one, as transformers infers it: all but the padding token, where there is
    one that is no end token too. None where nothing is padded.

    Raises
    ------
    InputError
        It could be either: the padding token stands inside a prompt, or is the model's first token (BOS) too.
    """
    if not padding or padding[0] in ends or input_ids.ndim != 2:
        return None
    pad = padding[0]
    real = input_ids != pad
    if bool(real.all()):
        return None
    mend = "give attention_mask, 1 where there is text"
    first = [*_ids(config_of(model).bos_token_id), *_ids(getattr(model.config, "bos_token_id", None))]
    if pad in first:
        # The longest prompt of a batch is not padded: one in front of every row is its first token.
        leading = (~real).int().cumprod(1).sum(1)
        if bool((leading == leading[0]).all()) and int(leading[0]) <= 1:
            return None
        raise InputError(f"input_ids: token {pad} is the model's padding and its first token (BOS): {mend}")
    if bool((real.int().diff(dim=1) < 0).any()):
        raise InputError(
            f"input_ids: the padding token {pad} stands inside a prompt or behind it: prompts must be padded on the "
            f"left (tokenizer.padding_side = 'left'); where it belongs to the text, {mend}"
        )
    return real.long()


def refuse_padding(model: PreTrainedModel, input_ids: Int[Tensor, "batch pos"]) -> None:
    """Raises InputError for texts that are padded (see `inferred_mask`), where no mask could say so."""
    check_batch(input_ids)
    config = config_of(model)
    mask = inferred_mask(input_ids, _ids(config.pad_token_id), ends=_ids(config.eos_token_id), model=model)
    if mask is not None:
        row = int((mask == 0).any(1).nonzero()[0])
        raise InputError(
            f"input_ids: row {row} is padded with token {config.pad_token_id}: texts of other lengths one by one"
        )


def prompts_of(input_ids: Tensor, attention_mask: Tensor | None) -> list[Int[Tensor, "own"]]:
    """The rows without their padding. Raises InputError unless it is all on the left."""
    check_batch(input_ids)
    if attention_mask is None:
        return list(input_ids)
    if attention_mask.shape != input_ids.shape:
        raise InputError(f"attention_mask of shape {tuple(attention_mask.shape)}: must be {tuple(input_ids.shape)}")
    seen = attention_mask.to(input_ids.device) != 0
    if bool((seen.int().diff(dim=1) < 0).any()):
        raise InputError("attention_mask: prompts must be padded on the left (tokenizer.padding_side = 'left')")
    if not bool(seen.any(1).all()):
        raise InputError("attention_mask: a prompt is all padding; begin it with the model's first token (BOS)")
    return [row[own] for row, own in zip(input_ids, seen, strict=True)]


def check_room(
    model: PreTrainedModel, prompts: Sequence[Tensor], *, new: int, horizon: int, name: str = "max_new_tokens"
) -> None:
    """Raises InputError where a prompt, its new tokens and the branches behind the last exceed the model's context."""
    limit, length = context_of(model), max(map(len, prompts))
    if limit is None or length + new + horizon - 2 <= limit:
        return
    room = limit - length - horizon + 2
    mend = f"at most {room} tokens can be new" if room > 0 else "shorten the prompt"
    ahead = f" and {horizon - 1} of lookahead behind the last" if horizon > 1 else ""
    raise InputError(
        f"{name} {new}: with a prompt of {length} tokens{ahead} it exceeds the model's context of {limit}; {mend}"
    )


def check_ids(model: PreTrainedModel, what: str, ids: Sequence[int], *, written: bool = False) -> None:
    """Raises InputError for a token that the model cannot read; where `written`, for one that it cannot predict."""
    known = logit_columns(model) if written else embedding_rows(model)
    for token in {int(token) for token in ids}:
        if not 0 <= token < known:
            kind = "'s vocabulary has" if known == embedding_rows(model) else " predicts" if written else " reads"
            raise InputError(f"{what} {token}: the model{kind} the ids 0…{known - 1}")


def _criteria(
    given: StoppingCriteriaList | None,
    ends: Sequence[int],
    texts: Sequence[str],
    tokenizer: Any,
    prompt: int,
) -> StoppingCriteriaList:
    criteria = StoppingCriteriaList(given or [])
    if ends:
        criteria.append(EosTokenCriteria(list(ends)))
    if texts:
        if tokenizer is None:
            raise InputError(
                f"stop {texts[0]!r}: a text needs the tokenizer: call snellen.lookahead.generate(…, tokenizer=…), "
                "or give transformers' own stopping_criteria"
            )
        criteria.append(StopText(texts, tokenizer, prompt))
    return criteria


def _stops(stop: int | str | Sequence[int | str]) -> tuple[list[int], list[str]]:
    given = [stop] if isinstance(stop, int | str) else list(stop)
    for one in given:
        if isinstance(one, bool) or not isinstance(one, int | str) or one == "":
            raise InputError(f"stop {one!r}: must be a token id or a text")
    return [one for one in given if isinstance(one, int)], [one for one in given if isinstance(one, str)]


def _ids(value: Any) -> list[int]:
    if value is None:
        return []
    if isinstance(value, Tensor):
        value = value.tolist()
    return [int(value)] if isinstance(value, int) else [int(token) for token in value]
