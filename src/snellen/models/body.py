"""What a model's body is: where it runs, how many tokens it reads, how wide it is; measured, where it can be."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from snellen.errors import Refused

# What configurations call the most positions; a window of attention is no limit, so none of those is here.
_LIMITS = (
    "max_position_embeddings",
    "n_positions",
    "max_target_positions",
    "max_seq_len",
    "max_sequence_length",
    "seq_length",
    "model_max_length",
    "n_ctx",
)
# What modules call a table with one row a position.
_TABLES = ("wpe", "positions_embed", "position_embeddings", "embed_positions", "position_embedding", "pos_embed")


def body_of(model: PreTrainedModel) -> nn.Module:
    """The part that makes hidden states of tokens, and that the head is put on.

    For OPT, say, that is not `base_model`; ModernBERT's decoder calls its output layer "decoder", which `get_decoder`
    then finds; and Llama 4's finds the whole model. But a body reads token ids, and is not the model.

    Raises
    ------
    Refused
        There is none.
    """
    base = model.base_model
    inner = base.get_decoder() if isinstance(base, PreTrainedModel) else base
    for found in (model.get_decoder(), inner, base, *model.children()):
        if isinstance(found, nn.Module) and found is not model and _reads_tokens(found):
            return found
    raise Refused(f"{type(model).__name__} has no body below its head: load it as a causal language model")


def embedding_rows(model: PreTrainedModel) -> int:
    """How many token ids the model has embeddings for: what it can read."""
    embeddings = model.get_input_embeddings()
    rows = getattr(embeddings, "num_embeddings", None)  # packed weights have another shape
    return int(rows if isinstance(rows, int) else embeddings.weight.shape[0])


def logit_columns(model: PreTrainedModel) -> int:
    """How many token ids the model predicts: what it can write, and what can be scored. Mostly the same number."""
    head = model.get_output_embeddings()
    if head is None:
        return embedding_rows(model)
    columns = getattr(head, "out_features", None)
    return int(columns if isinstance(columns, int) else head.weight.shape[0])


def known_ids(model: PreTrainedModel) -> int:
    """How many token ids the model both reads and predicts: those that a scored text may hold."""
    return min(embedding_rows(model), logit_columns(model))


def device_of(model: PreTrainedModel) -> torch.device:
    """Where the model runs: not where its weights lie, if accelerate fetches them for every pass.

    Raises
    ------
    Refused
        Its weights are nowhere.
    """
    here: torch.device = model.device
    if here.type != "meta":
        return here
    for module in model.modules():
        where = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
        if where is not None:
            return torch.device(f"cuda:{where}" if isinstance(where, int) else where)
    raise Refused(f"{type(model).__name__} has no weights: its parameters are on the meta device; load them first")


def stated(config: Any, name: str) -> int | None:
    """A number of the configuration; the largest, where it has one for each layer; None where it states none.

    A configuration whose layers differ may refuse to be asked for one number of all of them, and its layers' own
    configurations are asked then.
    """
    try:
        value = getattr(config, name, None)
    except RuntimeError:  # transformers' own, which has no public name: "may vary across layers"
        layers = getattr(config, "per_layer_config", None) or ()
        value = [getattr(layer, name, None) for layer in layers]
    values = value if isinstance(value, list | tuple) else [value]
    numbers = [one for one in values if isinstance(one, int) and not isinstance(one, bool) and one > 0]
    return max(numbers, default=None)


def context_length(config: Any) -> int | None:
    """The most positions that a configuration states, or None where it states no limit (ALiBi, recurrent).

    Scaled rotary positions that state how far they were stretched, and from which length, reach that far.
    """
    text = config.get_text_config(decoder=True)
    limit = next((found for name in _LIMITS if (found := stated(text, name)) is not None), None)
    return None if limit is None else max(limit, _stretched(text))


def context_of(model: PreTrainedModel) -> int | None:
    """How many tokens the model takes, None for any number: what its configuration states, or its table of positions
    holds if that is fewer.
    """
    limits = [context_length(model.config), *_places(model)]
    return min((limit for limit in limits if limit is not None), default=None)


def width_of(model: PreTrainedModel) -> int:
    """Units of the widest linear map in the model's layers, its head over the vocabulary left out."""
    ends = {id(model.get_input_embeddings()), id(model.get_output_embeddings())}
    return max(
        (max(shape) for module in model.modules() if id(module) not in ends for shape in _shapes(module)), default=1
    )


def hidden_size(model: PreTrainedModel) -> int:
    """Units of the residual stream, an upper estimate where embeddings are projected."""
    found = stated(model.config.get_text_config(decoder=True), "hidden_size")
    return found if found is not None else int(model.get_input_embeddings().weight.shape[-1])


def _reads_tokens(module: nn.Module) -> bool:
    return "input_ids" in inspect.signature(type(module).forward).parameters


def _stretched(text: Any) -> int:
    parameters = getattr(text, "rope_parameters", None)
    kinds = [parameters, *parameters.values()] if isinstance(parameters, dict) else []  # one for each type of layer
    lengths = [0]
    for kind in kinds:
        if not isinstance(kind, dict):
            continue
        factor, original = kind.get("factor"), kind.get("original_max_position_embeddings")
        if isinstance(factor, int | float) and isinstance(original, int):
            lengths.append(int(factor * original))
    return max(lengths)


def _places(model: PreTrainedModel) -> Iterator[int]:
    """Rows that positions have in a table, learned or computed once."""
    for name, module in model.named_modules():
        if name.rsplit(".", 1)[-1] not in _TABLES or not isinstance(module, nn.Embedding):
            continue
        rows = module.num_embeddings - int(getattr(module, "offset", 0))  # OPT's kind begins behind its offset
        if module.padding_idx is not None:  # RoBERTa's kind numbers its places from behind the padding's id
            rows = module.num_embeddings - module.padding_idx - 1
        yield rows


def _shapes(module: nn.Module) -> Iterator[tuple[int, ...]]:
    """Of a module's linear maps; packed weights have other shapes than the map that they stand for."""
    ends = (getattr(module, "in_features", None), getattr(module, "out_features", None))
    if all(isinstance(end, int) for end in ends):
        yield tuple(int(end) for end in ends if end is not None)
        return
    if isinstance(module, nn.Embedding):
        return
    for parameter in module.parameters(recurse=False):
        if parameter.ndim >= 2:
            yield tuple(parameter.shape[-2:])  # of a stack of experts, one
