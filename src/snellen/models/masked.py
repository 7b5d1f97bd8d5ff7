"""One way to load a masked language model (BERT, RoBERTa, ModernBERT, …): those that fill gaps, looking both ways.

As in `load`, what is wrong with the input is said in one line, before the weights are read where that is possible.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor
from transformers import AutoModelForMaskedLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from snellen.errors import InputError
from snellen.models import checks
from snellen.models.body import context_of, device_of, embedding_rows
from snellen.models.bundled import MASKED
from snellen.models.identity import Bos, Identity, dtype_name, tokenizer_sha256, weights_sha256
from snellen.models.load import DTYPES, pick_device, read_config, read_tokenizer, read_weights
from snellen.models.sources import Place, check_files, resolve
from snellen.models.weights import Weights, number_of

_NEED = f"a masked language model (BERT, RoBERTa, …) is needed here; {MASKED!r} ships with Snellen"
_PROBE = 8  # tokens a row of the probe


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskedModel:
    """A masked language model in evaluation mode, gradients off, and what its tokenizer puts around a text."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    identity: Identity
    mask: int  # the token that stands for a gap
    opening: tuple[int, ...]  # what the tokenizer puts before a text: [CLS], <s>
    closing: tuple[int, ...]  # and after it: [SEP], </s>
    ordinary: Bool[Tensor, "vocab"]  # tokens that a text may hold: known to the tokenizer, and not special
    context: int | None  # most tokens of a row, those two included; None: no stated limit


def load_masked(
    source: str | os.PathLike[str] | PreTrainedModel = MASKED,
    *,
    tokenizer: str | os.PathLike[str] | PreTrainedTokenizerBase | None = None,
    revision: str | None = None,
    dtype: str = "float32",
    device: str = "auto",
    trust_remote_code: bool = False,
) -> MaskedModel:
    """Load a masked language model, in evaluation mode and with gradients off.

    Parameters
    ----------
    source
        ``pocket-masked`` (bundled), a folder, a hub id, or a model in memory (then with its `tokenizer`).
    tokenizer, revision, dtype, device, trust_remote_code
        As in `load.load_model`.

    Raises
    ------
    InputError
        In one line: what is wrong, where, and the mend; above all for a causal model, for a tokenizer without a mask
        token, and for a model that does not look both ways.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype {dtype!r}: must be one of {', '.join(DTYPES)}")
    if isinstance(source, PreTrainedModel):
        if tokenizer is None:
            raise InputError("a masked model in memory needs its tokenizer: pass tokenizer=...")
        name = getattr(source.config, "_name_or_path", "") or type(source).__name__
        check_masked_config(source.config, name)
        place = Place(source=name, kind="memory", location=name)
        return _finish(source.eval(), read_tokenizer(tokenizer, trust_remote_code), place)
    if not isinstance(source, str | os.PathLike):
        raise InputError(
            f"model of type {type(source).__name__}: must be a name, a path or a transformers PreTrainedModel"
        )
    where = pick_device(device)
    place = resolve(source, revision=revision)
    if place.gguf is not None:
        raise InputError(f"model {place.source!r}: a GGUF file, which holds a causal model; {_NEED}")
    check_files(place)
    config, place = read_config(place, trust_remote_code)
    check_masked_config(config, place.source)
    own = read_tokenizer(place if tokenizer is None else tokenizer, trust_remote_code)
    checks.check_tokenizer(own, config.get_text_config().vocab_size, place.source)
    _mask_token(own, place.source)  # before the weights are read
    model = read_weights(place, config, DTYPES[dtype], where, trust_remote_code, auto=AutoModelForMaskedLM)
    return _finish(model, own, place)


def check_masked_config(config: Any, source: str) -> None:
    """Refuse causal models, encoder-decoders and classifiers by their configuration.

    Raises
    ------
    InputError
        If the configuration is not that of a masked language model.
    """
    remote = getattr(config, "auto_map", None) or {}
    saved = getattr(config, "architectures", None) or []
    known = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if getattr(config, "is_encoder_decoder", False):
        raise InputError(f"model {source!r}: {config.model_type} is an encoder-decoder; {_NEED}")
    if "AutoModelForMaskedLM" in remote:
        return
    masked = set(MODEL_FOR_MASKED_LM_MAPPING_NAMES.values())
    others = [name for name in saved if name not in masked and ("For" in name or name.endswith("HeadModel"))]
    if others and not any(name in masked for name in saved):
        raise InputError(f"model {source!r}: its weights are those of a {others[0]}; {_NEED}")
    if not known:
        raise InputError(f"model {source!r}: {config.model_type} has no masked language model class; {_NEED}")


def _mask_token(tokenizer: PreTrainedTokenizerBase, source: str) -> int:
    if tokenizer.mask_token_id is None:
        raise InputError(
            f"the tokenizer of {source!r} has no mask token: use the tokenizer that the model was trained with; {_NEED}"
        )
    return int(tokenizer.mask_token_id)


def _finish(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, place: Place) -> MaskedModel:
    rows = embedding_rows(model)
    checks.check_tokenizer(tokenizer, rows, place.source)
    mask = _mask_token(tokenizer, place.source)
    if mask >= rows:
        raise InputError(
            f"the mask token {mask} of {place.source!r} lies outside its {rows} embedding rows: "
            "use the tokenizer that the model was trained with"
        )
    checks.check_finite(model, place.source)
    opening, closing = _around(tokenizer)
    vocabulary = _probe(model, place.source, (opening, mask, closing))
    ordinary = torch.zeros(vocabulary, dtype=torch.bool)
    special = {*tokenizer.all_special_ids, mask}
    ordinary[[i for i in tokenizer.get_vocab().values() if i < min(rows, vocabulary) and i not in special]] = True
    if int(ordinary.sum()) < 2:
        raise InputError(
            f"the tokenizer of {place.source!r} has fewer than two ordinary tokens: nothing can be written"
        )
    identity = Identity(
        source=place.source,
        kind=place.kind,
        revision=place.revision,
        model_type=model.config.model_type,
        class_name=type(model).__name__,
        parameters=number_of(model),
        weights_sha256=weights_sha256(Weights(model)),
        tokenizer_sha256=tokenizer_sha256(tokenizer),
        tokenizer_class=type(tokenizer).__name__,
        vocabulary=vocabulary,
        dtype=dtype_name(model),
        device=str(device_of(model)),
        attention=getattr(model.config, "_attn_implementation", None),
        context=context_of(model),
        bos=Bos(policy="tokenizer", token_id=opening[0] if opening else None),
    )
    return MaskedModel(
        model=model,
        tokenizer=tokenizer,
        identity=identity,
        mask=mask,
        opening=opening,
        closing=closing,
        ordinary=ordinary.to(device_of(model)),
        context=identity.context,
    )


def _around(tokenizer: PreTrainedTokenizerBase) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What the tokenizer puts before and after a text."""
    text = "a"  # any text will do
    bare = tokenizer(text, add_special_tokens=False)["input_ids"]
    full = tokenizer(text, add_special_tokens=True)["input_ids"]
    at = next((i for i in range(len(full)) if full[i : i + len(bare)] == bare), 0) if bare else 0
    return tuple(full[:at]), tuple(full[at + len(bare) :])


@torch.inference_mode()
def _probe(model: PreTrainedModel, source: str, frame: tuple[tuple[int, ...], int, tuple[int, ...]]) -> int:
    """Run the model on two rows that differ behind a gap, and see that the gap's prediction differs; size of logits."""
    opening, mask, closing = frame
    rows = embedding_rows(model)
    first = (torch.arange(_PROBE) * 7 + 3) % rows
    first[_PROBE // 2] = mask
    second = torch.where(torch.arange(_PROBE) > _PROBE // 2, (first + 1) % rows, first)
    around = [torch.tensor(part, dtype=torch.long) for part in (opening, closing)]
    batch = torch.stack([torch.cat([around[0], row, around[1]]) for row in (first, second)])
    try:
        logits = model(input_ids=batch.to(device_of(model))).logits
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:
        line = str(error).strip().split("\n")[0]
        raise InputError(f"model {source!r} does not run on token ids alone: {line}") from error
    gap = logits[:, len(opening) + _PROBE // 2].float()
    if not bool(torch.isfinite(gap).all()):
        raise InputError(f"model {source!r}: NaN or infinite logits on a short probe: load it in float32")
    if bool((gap[0] == gap[1]).all()):
        raise InputError(
            f"model {source!r}: its prediction of a gap does not depend on what comes after it (is_decoder in its "
            f"configuration?); {_NEED}"
        )
    return int(logits.shape[-1])
