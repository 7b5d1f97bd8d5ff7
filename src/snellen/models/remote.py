"""What a model on the hub names for weights, looked at before any of it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers.utils import cached_file
from transformers.utils.import_utils import is_peft_available

from snellen.errors import InputError
from snellen.models.explain import LOADING_ERRORS, explain
from snellen.models.quiet import quiet
from snellen.models.shards import ADAPTER, INDEX, INDEX_ENDS, check_name, shards
from snellen.models.sources import Place


def check_remote_weights(place: Place, config: Any) -> None:
    """As `check_weight_files`, of the hub: fetches the index alone, which is small.

    Raises
    ------
    InputError
        Index or configuration name what is no safetensors file of the repository; an adapter would be mixed into the
        model.
    """
    if place.kind != "hub":
        return
    if is_peft_available() and _fetched(place, ADAPTER) is not None:
        raise InputError(
            f"model {place.source!r}: it holds an adapter, whose weights would be mixed into it: merge it "
            "(`merge_and_unload`), save that and give the folder"
        )
    named = getattr(config, "transformers_weights", None)
    if named is not None:
        check_name(named, "config.json", place.source, ends=(".safetensors", INDEX_ENDS))
    name = INDEX if named is None else named
    if name.endswith(INDEX_ENDS) and (index := _fetched(place, name)) is not None:
        shards(Path(index), place.source)


def _fetched(place: Place, name: str) -> str | None:
    """Where the file lies now; None where the hub has none, or cannot be reached and the cache has none."""
    try:
        with quiet():
            found: str | None = cached_file(
                place.location, name, revision=place.revision, _raise_exceptions_for_missing_entries=False,
                _raise_exceptions_for_connection_errors=False,
            )  # fmt: skip
    except LOADING_ERRORS as error:
        raise explain(error, place) from error
    return found
