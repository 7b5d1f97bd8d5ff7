"""What a GGUF file says of its tokenizer and its arithmetic, held against what transformers has made of it.

transformers reads what it knows, and passes over the rest without a word: a tokenizer whose way of splitting it does
not know then splits as GPT-2's, and rotary positions that are scaled are not. Such numbers would be another model's.
The reference for what a field means is llama.cpp, which writes these files.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import transformers
from transformers import PreTrainedTokenizerBase
from transformers.utils import cached_file

from snellen.errors import InputError
from snellen.models.sources import Place

# Ways of splitting (`tokenizer.ggml.pre`) that are GPT-2's own under another name.
_AS_GPT2 = frozenset({
    "gpt-2", "phi-2", "jina-es", "jina-de", "gigachat", "jina-v2-es", "jina-v2-de", "a.x-4.0", "mellum", "modern-bert",
    "jina-v1-en", "jina-v2-code", "roberta-bpe", "exaone4", "mpt", "olmo", "jais", "trillion", "granite-docling",
})  # fmt: skip
# Those under which a word that is a token is that token, whatever the merges say; and BOS is put in front unless the
# file says otherwise.
_WHOLE_WORDS = frozenset({
    "llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano", "tekken",
})  # fmt: skip
BOS_NOTE = "choose with"  # of the notes that a choice makes void
_SENTENCEPIECE = ("llama", "gemma4", "t5")
# Numbers that change what a model computes, and what is in the names that configurations have for them: where a file
# states one, a field of such a name must have it.
_NUMBERS = {
    "attn_logit_softcapping": ("softcap",),
    "final_logit_softcapping": ("softcap",),
    "logit_scale": ("scal", "multiplier"),
    "embedding_scale": ("scal", "multiplier"),
    "residual_scale": ("scal", "multiplier"),
    "attention.scale": ("scal", "multiplier"),
    "expert_weights_scale": ("scal",),
    "expert_used_count": ("per_tok", "top"),
    "attention.layer_norm_epsilon": ("eps",),
    "attention.layer_norm_rms_epsilon": ("eps",),
    "attention.sliding_window": ("window",),
    "rope.freq_base": ("theta", "base"),
    "rope.scaling.factor": ("factor",),
}
_FACTORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")


def check_gguf(place: Place, config: Any, tokenizer: PreTrainedTokenizerBase | None) -> tuple[str, ...]:
    """Hold a file against the configuration, and the tokenizer if that was read from it (else None); notes.

    A tokenizer that can take whole words before merges, as the file asks, is told to.

    Raises
    ------
    InputError
        The file asks for what transformers does not do.
    """
    facts, tensors = _read(place)
    _check_arithmetic(place.source, facts, tensors, config)
    if tokenizer is None:
        return ()
    _check_splitting(place.source, facts, tokenizer)
    return tuple(_take_whole_words(facts, tokenizer)) + tuple(_first_tokens(facts, tokenizer))


def _read(place: Place) -> tuple[Mapping[str, Any], frozenset[str]]:
    """The file's single values by key, and the names of its tensors."""
    assert place.gguf is not None
    path = Path(place.location) / place.gguf
    if not path.is_file():
        path = Path(str(cached_file(place.location, place.gguf, revision=place.revision)))
    try:  # far quicker where it is there: it leaves the vocabulary unread
        reader = importlib.import_module("transformers.integrations.gguf.reader")
    except ImportError:
        from gguf import GGUFReader

        whole = GGUFReader(str(path))
        single = {key: value for key, field in whole.fields.items() if not isinstance(value := field.contents(), list)}
        return single, frozenset(tensor.name for tensor in whole.tensors)
    facts, names = reader.read_gguf_metadata(str(path))
    return facts, frozenset(names)


def _check_splitting(source: str, facts: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> None:
    kind, pre = facts.get("tokenizer.ggml.model"), facts.get("tokenizer.ggml.pre")
    here = f"transformers {transformers.__version__}"
    mend = "name the tokenizer of the model that it was made from with tokenizer=... (--tokenizer)"
    known = pre in _known_splits()
    if kind == "gpt2" and not known and pre not in _AS_GPT2:
        says = "does not say how its tokenizer splits texts" if pre is None else f"splits texts as {pre!r}"
        raise InputError(
            f"model {source!r}: the GGUF file {says} (tokenizer.ggml.pre), which {here} would read as GPT-2's way: "
            f"{mend}"
        )
    if kind in _SENTENCEPIECE and known:
        raise InputError(
            f"model {source!r}: the GGUF file has a {kind!r} tokenizer with the splitting {pre!r} of another kind: "
            f"{mend}"
        )
    space = facts.get("tokenizer.ggml.add_space_prefix")
    if kind in _SENTENCEPIECE and space is not None:
        first = (_pieces(tokenizer, "a") or [""])[0]
        if first.startswith("\u2581") != bool(space):
            what = "a space in front of a text" if space else "no space in front of a text"
            raise InputError(
                f"model {source!r}: the GGUF file asks for {what} (tokenizer.ggml.add_space_prefix), which {here} "
                f"does not do: {mend}"
            )
    if facts.get("tokenizer.ggml.remove_extra_whitespaces") and _pieces(tokenizer, "a  a") != _pieces(tokenizer, "a a"):
        raise InputError(
            f"model {source!r}: the GGUF file asks that spaces be joined (tokenizer.ggml.remove_extra_whitespaces), "
            f"which {here} does not do: {mend}"
        )


def _known_splits() -> Mapping[str, Any]:
    try:
        mapping = importlib.import_module("transformers.integrations.gguf.gguf_tokenizer_mapping")
    except ImportError:
        return {}
    return dict(getattr(mapping, "GGUF_PRE_TOKENIZER_SPLITS", {}))


def _pieces(tokenizer: PreTrainedTokenizerBase, text: str) -> list[str]:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return list(tokenizer.convert_ids_to_tokens(ids))


def _take_whole_words(facts: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    model: Any = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    pre = facts.get("tokenizer.ggml.pre")
    if pre not in _WHOLE_WORDS or getattr(model, "ignore_merges", None) is not False:
        return
    added = set(tokenizer.get_added_vocab())
    lost = [word for word in tokenizer.get_vocab() if word not in added and len(model.tokenize(word)) != 1]
    if lost:
        model.ignore_merges = True
        yield f"{len(lost)} tokens that no merges lead to are taken as whole words, as the file's {pre!r} asks"


def _first_tokens(facts: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    for name in ("bos", "eos"):
        said, has = facts.get(f"tokenizer.ggml.{name}_token_id"), getattr(tokenizer, f"{name}_token_id")
        if said is not None and said != has:
            yield f"the GGUF file's {name.upper()} token is {said}, the tokenizer's is {has}"
    flag = facts.get("tokenizer.ggml.add_bos_token")
    wanted = flag if flag is not None else facts.get("tokenizer.ggml.pre") in _WHOLE_WORDS
    ids = tokenizer("a")["input_ids"]
    does = bool(ids) and tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id
    if bool(wanted) and not does:
        why = "asks for" if flag else "says nothing of"
        yield (
            f"the GGUF file {why} a first token (BOS), and llama.cpp puts one; the tokenizer puts none: "
            f"{BOS_NOTE} bos=True or False (--bos always or never)"
        )
    elif flag is False and does:
        yield (
            "the GGUF file asks for no first token (BOS), and the tokenizer puts one: "
            f"{BOS_NOTE} bos=True or False (--bos always or never)"
        )


def _check_arithmetic(source: str, facts: Mapping[str, Any], tensors: frozenset[str], config: Any) -> None:
    prefix = f"{facts.get('general.architecture')}."
    has = list(_fields(config.get_text_config(decoder=True).to_dict()))
    context = facts.get(f"{prefix}context_length") or math.inf
    lost = []
    for name, words in _NUMBERS.items():
        value = facts.get(prefix + name)
        if not isinstance(value, int | float) or value in (0, 1):  # nothing is capped or scaled
            continue
        if name == "attention.sliding_window" and value >= context:
            continue
        numbers = [number for field, number in has if any(word in field for word in words)]
        if not any(isinstance(number, int | float) and math.isclose(value, number, rel_tol=1e-5) for number in numbers):
            lost.append(f"{prefix}{name} = {value:.6g}")
    unscaled = all(kind == "default" for field, kind in has if field == "rope_type")
    scaling = facts.get(f"{prefix}rope.scaling.type")
    if unscaled and scaling not in (None, "none"):
        lost.append(f"{prefix}rope.scaling.type = {scaling!r}")
    lost += [f"the tensor {name}" for name in _FACTORS if unscaled and name in tensors]
    if lost:
        raise InputError(
            f"model {source!r}: transformers {transformers.__version__} does not read {', '.join(lost)} of the GGUF "
            "file, so its numbers would be another model's: use the original weights (a folder or a hub id)"
        )


def _fields(content: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Fields at any depth, with their values; those of a list under its name."""
    if isinstance(content, Mapping):
        for key, inner in content.items():
            yield from _fields(inner, str(key))
    elif isinstance(content, list | tuple):
        for inner in content:
            yield from _fields(inner, name)
    else:
        yield name, content
