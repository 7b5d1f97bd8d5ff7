"""One way to load a causal language model, whatever it is stored as.

Everything that can be wrong with the input is said here in one line (`InputError`), and as early as it can be
known: settings, then files, then the configuration, then the tokenizer, and only then the weights.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from snellen.errors import InputError, out_of_memory
from snellen.models import checks
from snellen.models.architectures import register
from snellen.models.body import context_length, context_of, device_of, embedding_rows, stated
from snellen.models.changes import change_config, check_changed
from snellen.models.explain import LOADING_ERRORS, explain
from snellen.models.gguf import BOS_NOTE, check_gguf
from snellen.models.identity import (
    Bos,
    Identity,
    dtype_name,
    tokenizer_sha256,
    weights_sha256,
)
from snellen.models.quiet import quiet
from snellen.models.remote import check_remote_weights
from snellen.models.sources import Place, check_files, check_tokenizer_files, resolve
from snellen.models.weights import Weights, number_of

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A model ready to be examined. Only a model given in memory can be without a tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    identity: Identity


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a model takes texts: known from its configuration and tokenizer, before the weights are read."""

    tokenizer: PreTrainedTokenizerBase | None
    bos: Bos
    context: int | None
    vocabulary: int

    def __hash__(self) -> int:
        return hash((self.bos, self.context, self.vocabulary))


def load_model(
    source: str | os.PathLike[str] | PreTrainedModel,
    *,
    tokenizer: str | os.PathLike[str] | PreTrainedTokenizerBase | None = None,
    revision: str | None = None,
    dtype: str = "float32",
    device: str = "auto",
    trust_remote_code: bool = False,
    bos: bool | Literal["auto"] = "auto",
    before: Callable[[Reading], None] | None = None,
    config_changes: Mapping[str, Any] | None = None,
) -> Loaded:
    """Load a causal language model, in evaluation mode and with gradients off.

    Parameters
    ----------
    source
        ``pocket`` (bundled), a folder, a GGUF file, a hub id (``OWNER/NAME`` or ``OWNER/NAME:FILE.gguf``; see
        `sources.resolve` for which wins), or a model in memory. A model in memory stays on its device, in its
        dtype and with its gradient flags; only its evaluation mode is set.
    tokenizer
        Where to read the tokenizer instead of from the model's own place, or the tokenizer itself. Without it a
        model in memory has none.
    revision
        Branch, tag or commit on the hub. The configuration, tokenizer and weights all come from the commit that
        it points to.
    dtype
        ``float32``, ``bfloat16`` or ``float16``.
    device
        ``auto`` (CUDA where there is any, else the CPU), ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
    trust_remote_code
        Run code that comes with the model. Pickled weights are never read (but such code may read what it likes).
    bos
        The token in front of every window: ``"auto"`` what the tokenizer itself puts there, True its BOS token,
        False none.
    before
        Called before the weights are read, of a model that is not in memory: whoever has texts for it can refuse
        them then.
    config_changes
        Attributes of the model's own configuration that are changed before it is built (`{"attn_pdrop": 0.0}`).

    Raises
    ------
    InputError
        In one line: what is wrong, where, and the mend.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype {dtype!r}: must be one of {', '.join(DTYPES)}")
    if isinstance(source, PreTrainedModel):
        if config_changes:
            raise InputError("config_changes: a model in memory is built already: load it with them")
        return _from_memory(source, tokenizer, revision, dtype, device, trust_remote_code, bos)
    if not isinstance(source, str | os.PathLike):
        raise InputError(
            f"model of type {type(source).__name__}: must be a name, a path or a transformers PreTrainedModel"
        )
    where = pick_device(device)
    place = resolve(source, revision=revision)
    check_files(place)
    config, place = read_config(place, trust_remote_code)
    checks.check_config(config, place.source)
    change_config(config, config_changes or {})
    checks.check_layers(config, place.source)
    own = read_tokenizer(place if tokenizer is None else tokenizer, trust_remote_code)
    notes = () if place.gguf is None else _gguf_notes(place, config, own if tokenizer is None else None)
    first = _bos(own, bos, place.source)
    rows = stated(config.get_text_config(decoder=True), "vocab_size")
    if rows is not None:  # before gigabytes are fetched
        checks.check_tokenizer(own, rows, place.source)
        if before is not None:
            before(Reading(tokenizer=own, bos=first, context=context_length(config), vocabulary=rows))
    model = read_weights(place, config, DTYPES[dtype], where, trust_remote_code, auto=AutoModelForCausalLM)
    check_changed(model.config, config_changes or {})
    return _finish(model, own, place, first, checked=rows, notes=notes)


def _gguf_notes(place: Place, config: Any, tokenizer: PreTrainedTokenizerBase | None) -> tuple[str, ...]:
    try:
        with quiet(downloads=place.remote):
            return check_gguf(place, config, tokenizer)
    except InputError:
        raise
    except LOADING_ERRORS as error:
        raise explain(error, place) from error


def pick_device(device: str) -> torch.device:
    """The torch device that a user's word means.

    Raises
    ------
    InputError
        If there is no such device, or torch cannot use it here.
    """
    cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        return torch.device("cuda" if cuda else "cpu")
    try:
        where = torch.device(device)
    except (RuntimeError, TypeError):
        where = torch.device("meta")
    if where.type == "cpu":
        return torch.device("cpu")
    if where.type == "cuda":
        if not cuda:
            raise InputError(f"device {device!r}: torch sees no CUDA device here: use 'cpu' or 'auto'")
        if (where.index or 0) >= cuda:
            raise InputError(f"device {device!r}: there are {cuda} CUDA devices, numbered from 0")
        return where
    if where.type == "mps":
        if not torch.backends.mps.is_available():
            raise InputError(f"device {device!r}: torch has no Metal device here: use 'cpu' or 'auto'")
        return where
    raise InputError(f"device {device!r}: must be auto, cpu, cuda, cuda:N or mps")


def read_config(place: Place, trust_remote_code: bool) -> tuple[Any, Place]:
    """The configuration, and the place with the revision pinned to the commit it came from."""
    extra = {"gguf_file": place.gguf} if place.gguf is not None else {}
    try:
        with quiet():
            config = _read(
                AutoConfig, place.location, revision=place.revision, trust_remote_code=trust_remote_code, **extra
            )
    except LOADING_ERRORS as error:
        raise explain(error, place) from error
    commit = getattr(config, "_commit_hash", None)
    if place.remote and isinstance(commit, str):
        place = replace(place, revision=commit)
    return config, place


def read_tokenizer(
    source: Place | str | os.PathLike[str] | PreTrainedTokenizerBase, trust_remote_code: bool
) -> PreTrainedTokenizerBase:
    """The tokenizer of a place, or one that is named or given."""
    if isinstance(source, PreTrainedTokenizerBase):
        return source
    mend = "name one with tokenizer=... (--tokenizer)"
    if isinstance(source, Place):
        place = source
    elif isinstance(source, str | os.PathLike):
        place = resolve(source)
        mend = "give the folder that holds tokenizer.json"
    else:
        raise InputError(
            f"tokenizer of type {type(source).__name__}: must be a name, a path or a transformers tokenizer"
        )
    check_tokenizer_files(place, mend=mend)
    extra = {"gguf_file": place.gguf} if place.gguf is not None else {}
    try:
        with quiet():
            tokenizer = _read(
                AutoTokenizer, place.location, revision=place.revision, trust_remote_code=trust_remote_code, **extra
            )
    except InputError:
        raise
    except Exception as error:  # tokenizers raises plain ones
        raise explain(error, place, what="tokenizer of") from error
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    longest: Any = tokenizer.model_max_length  # compared with every text's length
    if isinstance(longest, bool) or not isinstance(longest, int | float):
        raise InputError(
            f"tokenizer of {place.source!r}: tokenizer_config.json: model_max_length {longest!r}: must be a number"
        )
    return tokenizer


def _read(auto: Any, location: str, **arguments: Any) -> Any:
    """By one of transformers' Auto classes; once more where it only lacked an architecture that some package has."""
    try:
        return auto.from_pretrained(location, **arguments)
    except (ValueError, StrictDataclassError):
        try:
            content, _ = PreTrainedConfig.get_config_dict(location, **arguments)
        except OSError:
            content = {}
        if not register(content.get("model_type")):
            raise
    return auto.from_pretrained(location, **arguments)


def read_weights(
    place: Place, config: Any, dtype: torch.dtype, device: torch.device, trust_remote_code: bool, *, auto: Any
) -> PreTrainedModel:
    """The weights, as the class that `auto` (one of transformers' Auto classes) finds for them; evaluation mode."""
    extra: dict[str, Any] = {"use_safetensors": True}
    if place.gguf is not None:
        extra = {"gguf_file": place.gguf}
        packed = getattr(transformers, "GgufConfig", None)
        if packed is not None:  # newer versions may keep the blocks packed, which no hook of ours could read
            extra["quantization_config"] = packed(dequantize=True)
    check_remote_weights(place, config)
    try:
        with quiet(downloads=place.remote, standard_error=place.gguf is not None and not place.remote):
            model, info = auto.from_pretrained(
                place.location,
                config=config,
                revision=place.revision,
                dtype=dtype,
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
                **extra,
            )
        checks.check_loading(info, model.state_dict().keys(), place.source)
        model = model.to(device)
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise InputError(_no_room(place.source, device, dtype)) from error
    except InputError:
        raise
    except LOADING_ERRORS as error:
        if out_of_memory(error):
            raise InputError(_no_room(place.source, device, dtype)) from error
        raise explain(error, place) from error
    assert isinstance(model, PreTrainedModel)
    return model.eval().requires_grad_(False)


def _no_room(source: str, device: torch.device, dtype: torch.dtype) -> str:
    lower = "use dtype='bfloat16' (half the memory)" if dtype == torch.float32 else "use a smaller model"
    other = " or device='cpu'" if device.type != "cpu" else ""
    return f"model {source!r} does not fit into the memory of {device}: {lower}{other}"


def _from_memory(
    model: PreTrainedModel,
    tokenizer: str | os.PathLike[str] | PreTrainedTokenizerBase | None,
    revision: str | None,
    dtype: str,
    device: str,
    trust_remote_code: bool,
    bos: bool | Literal["auto"],
) -> Loaded:
    name = getattr(model.config, "_name_or_path", "") or type(model).__name__
    if revision is not None:
        raise InputError(f"revision {revision!r}: a model in memory has none: leave the revision out")
    if dtype not in ("float32", dtype_name(model)):
        raise InputError(f"dtype {dtype!r}: the model in memory is {dtype_name(model)}: convert it with model.to()")
    if device != "auto" and pick_device(device).type != device_of(model).type:
        raise InputError(f"device {device!r}: the model in memory is on {device_of(model)}: move it with model.to()")
    place = Place(source=name, kind="memory", location=name)
    checks.check_config(model.config, name)
    own = None if tokenizer is None else read_tokenizer(tokenizer, trust_remote_code)
    return _finish(model.eval(), own, place, _bos(own, bos, name))


def _finish(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    place: Place,
    bos: Bos,
    *,
    checked: object = None,
    notes: tuple[str, ...] = (),
) -> Loaded:
    """The checks that need the weights; `checked` are the rows for which the tokenizer was found to fit before."""
    rows = embedding_rows(model)
    if tokenizer is not None and rows != checked:
        checks.check_tokenizer(tokenizer, rows, place.source)
    if bos.token_id is not None and bos.token_id >= rows:
        raise InputError(
            f"the tokenizer's first token {bos.token_id} lies outside the {rows} embedding rows of "
            f"{place.source!r}: use the model's own tokenizer, or bos=False"
        )
    checks.check_finite(model, place.source)
    vocabulary = checks.probe_logits(model, place.source)
    identity = Identity(
        source=place.source,
        kind=place.kind,
        revision=place.revision,
        model_type=model.config.model_type,
        class_name=type(model).__name__,
        parameters=number_of(model),
        weights_sha256=weights_sha256(Weights(model)),
        tokenizer_sha256=None if tokenizer is None else tokenizer_sha256(tokenizer),
        tokenizer_class=None if tokenizer is None else type(tokenizer).__name__,
        vocabulary=vocabulary,
        dtype=dtype_name(model),
        device=str(device_of(model)),
        attention=getattr(model.config, "_attn_implementation", None),
        context=context_of(model),
        bos=bos,
        notes=notes if bos.policy == "tokenizer" else tuple(note for note in notes if BOS_NOTE not in note),
    )
    return Loaded(model=model, tokenizer=tokenizer, identity=identity)


def _bos(tokenizer: PreTrainedTokenizerBase | None, wish: bool | Literal["auto"], source: str) -> Bos:
    """Decide what stands in front of every window."""
    if wish is False:
        return Bos(policy="never", token_id=None)
    if wish is True:
        token = None if tokenizer is None else tokenizer.bos_token_id
        if token is None:
            what = "no tokenizer was given" if tokenizer is None else "its tokenizer has no BOS token"
            raise InputError(f"bos=True for {source!r}: {what}: use bos='auto' or False")
        return Bos(policy="always", token_id=int(token))
    if wish != "auto":
        raise InputError(f"bos {wish!r}: must be 'auto', True or False")
    if tokenizer is None:
        return Bos(policy="tokenizer", token_id=None)
    text = "a"  # any text will do: what matters is what is put before it
    bare = tokenizer(text, add_special_tokens=False)["input_ids"]
    full = tokenizer(text, add_special_tokens=True)["input_ids"]
    at = next((i for i in range(len(full)) if full[i : i + len(bare)] == bare), 0) if bare else 0
    if at > 1:
        raise InputError(
            f"the tokenizer of {source!r} puts {at} tokens in front of a text; Snellen can put one there: "
            "choose with bos=True or bos=False"
        )
    return Bos(policy="tokenizer", token_id=int(full[0]) if at == 1 else None)
