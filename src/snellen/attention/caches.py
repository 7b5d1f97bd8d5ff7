"""A model's cache by whatever name: what the installed transformers calls it, and what models and callers may.

transformers has renamed `past_key_values` (of recurrent models: `cache_params`) to `cache`, and passes its arguments on
through open `**kwargs`, where a name that nobody knows is lost in silence. So the name in use is found by looking, in
one place, and what is handed to a model of ours is checked by name.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

from transformers.cache_utils import Cache
from transformers.masking_utils import create_causal_mask

from snellen.errors import InputError

CACHE_NAMES = ("cache", "past_key_values", "cache_params")  # the newest first

# Under which name the installed transformers hands the cache to layers and mask functions, and finds it in outputs.
CACHE = next(name for name in CACHE_NAMES if name in inspect.signature(create_causal_mask).parameters)


def one_cache(**named: Cache | None) -> Cache | None:
    """The cache that was given, under either name.

    Raises
    ------
    InputError
        Two different ones.
    """
    given = {name: cache for name, cache in named.items() if cache is not None}
    caches = list(given.values())
    if any(cache is not caches[0] for cache in caches):
        raise InputError(f"{' and '.join(given)}: two names of one thing, given different caches; give one of them")
    return caches[0] if caches else None


def cache_argument(forward: Callable[..., Any]) -> str | None:
    """What a model's forward pass calls its cache; None where it names none."""
    known = inspect.signature(forward).parameters
    return next((name for name in CACHE_NAMES if name in known), None)


def cache_in(output: Mapping[str, Any]) -> Any:
    """The cache among a model's outputs; None where there is none."""
    return next((output[name] for name in list(output.keys()) if name in CACHE_NAMES), None)


def holds_text(cache: Any) -> bool:
    """Whether something was read into it; one of no known kind counts as filled."""
    if not isinstance(cache, Cache):
        return cache is not None
    return any(
        bool(layer.get_seq_length() > 0)
        if hasattr(layer, "get_seq_length")
        else any(layer.has_previous_state.values())  # of a recurrent layer, which counts no tokens
        for layer in cache.layers
    )


def refuse_unknown(whose: str, given: Mapping[str, Any], known: Collection[str]) -> None:
    """Raises InputError for an argument that is neither known nor None: it would have no effect."""
    for name, value in given.items():
        if value is not None and name not in known:
            raise InputError(f"{whose}: argument {name!r} is not known, and would have no effect; leave it out")
