"""Turns what transformers and the hub raise into one line: what, where, the mend."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from huggingface_hub import errors as hub_errors
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from snellen.errors import InputError
from snellen.models.sources import Place

# What loading can raise because of the input; anything else is a fault of ours and stays as it is.
LOADING_ERRORS = (
    OSError,
    ValueError,
    RuntimeError,
    LookupError,
    struct.error,  # a GGUF file that ends too early
    ImportError,
    AttributeError,
    TypeError,
    ArithmeticError,  # no heads at all, say
    StrictDataclassError,  # a configuration whose fields are of other kinds
    SafetensorError,
)


def explain(error: BaseException, place: Place, *, what: str = "model") -> InputError:
    """The one line for an error met while `what` (a model, a tokenizer) was loaded from `place`."""
    name = f"{what} {place.source!r}"
    text = " ".join(str(error).split())
    first = re.split(r"(?<=[.!?])\s", text)[0] if text else type(error).__name__
    causes = list(_causes(error))

    def met(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    if isinstance(error, ImportError) or "requires the following packages" in text or "pip install gguf" in text:
        if place.gguf is not None:
            return InputError(f"{name}: reading GGUF files needs the package gguf: pip install 'snellen[gguf]'")
        return InputError(f"{name}: a package that it needs is missing: {text[:300]}")
    if "trust_remote_code" in text:
        return InputError(
            f"{name}: it comes with code of its own, which is not run unasked: read that code, "
            "and if you trust it pass trust_remote_code=True (--trust-remote-code)"
        )
    if met(hub_errors.GatedRepoError):
        return InputError(
            f"{name}: access to it is gated: accept its terms at https://huggingface.co/{place.location} "
            "and log in with `hf auth login`"
        )
    if met(hub_errors.RevisionNotFoundError):
        return InputError(f"{name}: the hub has no revision {place.revision!r} of it: see its page for the branches")
    if met(hub_errors.RepositoryNotFoundError):
        return InputError(
            f"{name}: no such folder here, and no such model on the hub (or it is private: `hf auth login`): "
            "check the spelling"
        )
    if place.remote and (met(hub_errors.OfflineModeIsEnabled, hub_errors.LocalEntryNotFoundError) or _network(causes)):
        return InputError(
            f"{name}: no such folder here, not in the hub's cache, and the hub cannot be reached: go online "
            "once, or give a local folder, a .gguf file or 'pocket' (the bundled model)"
        )
    if "does not recognize this architecture" in text or "Unrecognized model" in text:
        return InputError(f"{name}: {first[:300]} Check config.json, or upgrade transformers.")
    if isinstance(error, SafetensorError):
        return InputError(f"{name}: its weights cannot be read ({text[:200]}): the file is damaged; fetch it again")
    if "ignore_mismatched_sizes" in text:
        return InputError(
            f"{name}: the weights have other sizes than config.json says: the two are of different models"
        )
    if "safetensors" in text and place.remote:
        return InputError(
            f"{name}: the hub has no safetensors weights of it, and pickled ones can run code and are never read: "
            "convert it once with transformers and give the folder"
        )
    if place.gguf is not None and (isinstance(error, struct.error | IndexError) or "cannot reshape" in text):
        return InputError(f"{name}: the GGUF file is cut short or damaged ({text[:200]}): fetch it again")
    return InputError(f"{name} cannot be loaded: {type(error).__name__}: {text[:400]}")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _network(causes: list[BaseException]) -> bool:
    return any("connect to" in str(cause) or isinstance(cause, ConnectionError) for cause in causes)
