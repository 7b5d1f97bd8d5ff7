"""What a model's `generation_config.json` would change in what is written: named, put aside, or followed.

transformers applies it to whatever `generate` is asked for, and our own decodings know nothing of it: a repetition
penalty there would make "greedy" one thing and "amplified with weight 0" another. So a decoding is what its name says,
and the file is asked for its special tokens alone, unless someone wants it followed; then every decoding follows it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from transformers import GenerationConfig, PreTrainedModel

from snellen.errors import InputError

_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
# What becomes a processor of the scores, for every decoding that goes token by token, and where it does nothing.
SAMPLING: Mapping[str, Any] = {
    "temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": None, "top_h": None, "typical_p": 1.0,
    "epsilon_cutoff": 0.0, "eta_cutoff": 0.0,
}  # fmt: skip
SCORES: Mapping[str, Any] = {
    "repetition_penalty": 1.0, "encoder_repetition_penalty": 1.0, "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0, "bad_words_ids": None, "sequence_bias": None, "min_length": 0,
    "min_new_tokens": None, "renormalize_logits": False, "forced_bos_token_id": None, "forced_eos_token_id": None,
    "remove_invalid_values": False, "exponential_decay_length_penalty": None, "suppress_tokens": None,
    "begin_suppress_tokens": None,
}  # fmt: skip
BEAMS: Mapping[str, Any] = {"num_beams": 1, "length_penalty": 1.0, "early_stopping": False}
# What changes no text, or what the caller always decides: how it is computed, how long, how many, sampled or not.
_INERT = frozenset({
    *_IDS, "decoder_start_token_id", "transformers_version", "do_sample", "max_length", "max_new_tokens",
    "num_return_sequences", "use_cache", "cache_implementation", "cache_config", "max_cache_len", "low_memory",
    "compile_config", "disable_compile", "prefill_chunk_size", "continuous_batching_config", "output_attentions",
    "output_hidden_states", "output_logits", "output_scores", "return_dict_in_generate", "is_assistant",
    "num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold", "assistant_early_exit",
    "assistant_ensemble_weight", "assistant_lookbehind", "target_lookbehind", "max_matching_ngram_size",
})  # fmt: skip
_OTHERS: Mapping[str, Any] = {"num_beam_groups": 1, "diversity_penalty": 0.0, "guidance_scale": 1.0}


def config_of(model: PreTrainedModel) -> GenerationConfig:
    """A model's own; an empty one where it has none, as those that transformers does not let generate."""
    return getattr(model, "generation_config", None) or GenerationConfig()


def held(model: PreTrainedModel) -> dict[str, Any]:
    """The settings in a model's generation config that would change what is written."""
    nothing = {**SAMPLING, **SCORES, **BEAMS, **_OTHERS}
    return {
        name: value
        for name, value in config_of(model).to_dict().items()
        if not name.startswith("_")
        and name not in _INERT
        and value not in (None, False, [], {})
        and value != nothing.get(name)
    }


def only_ids(model: PreTrainedModel, **more: Any) -> GenerationConfig:
    """A generation config with the model's special tokens and what is given."""
    ids = {name: getattr(config_of(model), name, None) for name in _IDS}
    return GenerationConfig(**{**ids, **more})


@contextlib.contextmanager
def aside(model: PreTrainedModel, config: GenerationConfig) -> Iterator[None]:
    """Another generation config in place of the model's own, which transformers asks for what a call leaves open."""
    own = model.generation_config
    model.generation_config = config
    try:
        yield
    finally:
        model.generation_config = own


def followed(settings: Mapping[str, Any], *, method: str, samples: bool, beams: bool) -> dict[str, Any]:
    """Those of the `held` settings that a decoding follows: of the others, what it has no use for is left out.

    Raises
    ------
    InputError
        A setting makes another decoding of it, which cannot be followed.
    """
    use: dict[str, Any] = {}
    for name, value in settings.items():
        if name in SCORES or (name in SAMPLING and samples) or (name in BEAMS and beams):
            use[name] = value
        elif name not in SAMPLING and (name not in BEAMS or name == "num_beams"):
            mend = "--method beam" if name == "num_beams" else "leave --generation-config out"
            raise InputError(f"generation-config: method {method} cannot follow {told({name: value})}; {mend}")
    return use


def told(settings: Mapping[str, Any]) -> str:
    """In words."""
    return ", ".join(f"{name} {short if len(short := str(value)) <= 40 else short[:39] + '…'}"
                     for name, value in settings.items())  # fmt: skip
