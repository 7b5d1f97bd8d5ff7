"""What must hold of a model before any number is computed with it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from snellen.errors import InputError
from snellen.models.body import device_of, embedding_rows, stated
from snellen.models.weights import Weights

_NUMBER = re.compile(r"\.\d+\.")  # of a layer, in the name of its weights
_MOST_LAYERS = 10_000
_PROBE = 8  # tokens a row in the causality probe
_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}  # of the logits' range; 2 % in half precision


def check_config(config: Any, source: str) -> None:
    """Refuse encoder-decoders, masked models and classifiers by their configuration, before weights are read.

    Raises
    ------
    InputError
        If the configuration is not that of a causal language model.
    """
    saved = getattr(config, "architectures", None) or []
    remote = getattr(config, "auto_map", None) or {}
    if not isinstance(saved, list) or not all(isinstance(name, str) for name in saved):
        raise InputError(f"model {source!r}: config.json: architectures {saved!r}: must be a list of names")
    if not isinstance(remote, dict):
        raise InputError(f"model {source!r}: config.json: auto_map {remote!r}: must be a table")
    check_layers(config, source)
    mend = "Snellen examines causal (left-to-right) language models"
    if any(name.endswith("ForMaskedLM") for name in saved):
        mend += "; a masked one is for `snellen evolve`"
    if getattr(config, "is_encoder_decoder", False):
        raise InputError(f"model {source!r}: {config.model_type} is an encoder-decoder; {mend}")
    registered = AutoModelForCausalLM._model_mapping  # also what other packages have added
    added = config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if added and type(config) not in registered and "AutoModelForCausalLM" not in remote:
        raise InputError(f"model {source!r}: {config.model_type} has no causal language model class; {mend}")
    if "AutoModelForCausalLM" in remote:
        return
    causal: set[str] = set()
    for names in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
        causal.update((names,) if isinstance(names, str) else names)
    if added:
        causal.add(registered[type(config)].__name__)
    others = [name for name in saved if "For" in name and name not in causal]
    if others and not any(name in causal for name in saved):
        raise InputError(f"model {source!r}: its weights are those of a {others[0]}; {mend}")


def check_layers(config: Any, source: str) -> None:
    """Refuse a number of layers that no model has: building them one by one would not end. Raises InputError."""
    layers = stated(config.get_text_config(decoder=True), "num_hidden_layers")
    if layers is not None and layers > _MOST_LAYERS:
        raise InputError(
            f"model {source!r}: config.json: num_hidden_layers {layers}: no model has so many; the file is damaged"
        )


def check_loading(info: dict[str, Any], names: Iterable[str], source: str) -> None:
    """Refuse a model some of whose weights were missing, and so are random numbers now, or some of whose layers were
    left over: those with names like its own (`names`) but for a number. Other parts may be there, such as an eye.

    Raises
    ------
    InputError
        Naming the first such parameter.
    """
    missing = sorted(info.get("missing_keys") or ())
    if missing:
        raise InputError(
            f"model {source!r}: {len(missing)} of its parameters are not in the weights, the first is {missing[0]} "
            "(they would be random): the file is incomplete or does not fit config.json"
        )
    known = {_NUMBER.sub(".#.", name) for name in names}
    over = [name for name in sorted(info.get("unexpected_keys") or ()) if _NUMBER.search(name)]
    if layers := [name for name in over if _NUMBER.sub(".#.", name) in known]:
        raise InputError(
            f"model {source!r}: {len(layers)} of its weights are of layers that config.json does not have, the first "
            f"is {layers[0]}: the two do not fit each other"
        )


def check_sizes(model: PreTrainedModel, source: str) -> None:
    """Refuse a model with a weight of no entries: some size in its configuration is 0.

    Raises
    ------
    InputError
        Naming the first such parameter.
    """
    for name, parameter in model.named_parameters():
        if parameter.numel() == 0:
            shape = list(parameter.shape)
            raise InputError(f"model {source!r}: {name} is of size {shape}: a size in its configuration is 0")


def check_finite(model: PreTrainedModel, source: str) -> None:
    """Refuse weights with NaN or infinity in them.

    Raises
    ------
    InputError
        Naming the first such parameter.
    """
    with torch.no_grad():
        for name, tensor in Weights(model).items():
            if not tensor.is_floating_point() or tensor.numel() == 0:
                continue
            low, high = torch.aminmax(tensor)  # NaN comes through, and nothing of the tensor's size is made
            if not (torch.isfinite(low) and torch.isfinite(high)):
                what = "NaN" if torch.isnan(low) else "infinite values"
                dtype = str(tensor.dtype).removeprefix("torch.")
                mend = "load it in float32" if dtype == "float16" else "the weights are damaged; fetch them again"
                raise InputError(f"model {source!r}: {what} in its weights, first in {name} ({dtype}): {mend}")


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, rows: int, source: str) -> None:
    """Refuse a tokenizer that knows tokens for which the model has no embedding.

    Added tokens beyond the embedding are let pass: fine-tuned models often add a padding token that no text
    contains. (`texts.encode` raises if one does occur.)

    Parameters
    ----------
    rows
        Number of the model's embedding rows.

    Raises
    ------
    InputError
        If an ordinary token lies outside, or if the tokenizer knows no tokens at all.
    """
    added = set(tokenizer.added_tokens_decoder)
    ordinary = [token for token in tokenizer.get_vocab().values() if token not in added]
    if not ordinary and len(added) <= len(tokenizer.all_special_ids):
        raise InputError(
            f"the tokenizer of {source!r} has no vocabulary ({len(tokenizer)} special tokens only): "
            "its files are missing; name a tokenizer of its own"
        )
    largest = max(ordinary, default=0)
    if largest >= rows:
        raise InputError(
            f"the tokenizer does not fit {source!r}: it has token ids up to {largest}, the model's embedding has "
            f"{rows} rows: use the tokenizer that the model was trained with"
        )


def probe_logits(model: PreTrainedModel, source: str) -> int:
    """Run the model once on two short rows that differ in their second half, and look at the first half.

    Configurations do not always tell (a Gemma can be bidirectional, a BERT loads as a causal class), so this
    asks the model itself.

    Returns
    -------
    int
        The size of the logits.

    Raises
    ------
    InputError
        If a prediction depends on later tokens, if logits are not finite, or if the model cannot run on token
        ids alone.
    """
    rows = embedding_rows(model)
    first = (torch.arange(_PROBE) * 7 + 3) % rows
    second = torch.where(torch.arange(_PROBE) < _PROBE // 2, first, (first + 1) % rows)
    device = device_of(model)
    with torch.inference_mode():
        try:
            logits = model(input_ids=torch.stack([first, second]).to(device)).logits
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:
            line = str(error).strip().split("\n")[0]
            raise InputError(f"model {source!r} does not run on token ids alone: {line}") from error
        head = logits[:, : _PROBE // 2].float()
        if not bool(torch.isfinite(head).all()):
            dtype = str(model.dtype).removeprefix("torch.")
            mend = "load it in float32 or bfloat16" if dtype == "float16" else "the model's weights are not usable"
            raise InputError(f"model {source!r}: NaN or infinite logits in {dtype} on a short probe: {mend}")
        scale = float(head.max() - head.min())
        drift = float((head[0] - head[1]).abs().max())
    if drift > _TOLERANCE.get(model.dtype, 2e-2) * max(scale, 1e-30):
        raise InputError(
            f"model {source!r}: its predictions depend on tokens that come later (changed by {drift:.2g} on a "
            "probe), so it is no causal language model: Snellen examines left-to-right models"
        )
    return int(logits.shape[-1])
