"""A model's own configuration with some of its attributes changed before the model is built."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from snellen.errors import InputError

_SEPARATE = ("architectures", "auto_map", "dtype", "model_type", "quantization_config", "torch_dtype")


def change_config(config: Any, changes: Mapping[str, Any]) -> None:
    """Change attributes in place: those of the configuration itself, or of its text part where only that has them.

    Raises
    ------
    InputError
        An attribute that the configuration does not have, or a value of another kind than stands there.
    """
    text = config.get_text_config()
    for name, value in changes.items():
        owner = next((one for one in (config, text) if name in _names(one)), None)
        if owner is None or name in _SEPARATE:
            near = difflib.get_close_matches(name, _names(text), n=1)
            mend = f" (do you mean {near[0]}?)" if near else ""
            what = "is not changed this way" if name in _SEPARATE else f"{config.model_type} has no such attribute"
            raise InputError(f"model.config.{name} = {value!r}: {what}{mend}")
        try:
            setattr(owner, name, _like(value, getattr(owner, name), name))
        except (TypeError, ValueError, StrictDataclassError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"model.config.{name} = {value!r}: {' '.join(str(error).split())}") from error


def _names(config: Any) -> list[str]:
    return [*config.to_dict(), *config.attribute_map]


def _like(value: Any, standing: Any, name: str) -> Any:
    if "drop" in name and isinstance(standing, float) and isinstance(value, (int, float)) and not 0 <= value < 1:
        raise InputError(f"model.config.{name} = {value!r}: a share that is dropped lies from 0 to below 1")
    if isinstance(standing, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    numbers = isinstance(standing, float) and isinstance(value, float)
    if standing is None or numbers or (type(value) is type(standing)) or isinstance(standing, (list, tuple, dict)):
        return value
    raise InputError(f"model.config.{name} = {value!r}: must be like {standing!r}")


def check_changed(config: Any, changes: Mapping[str, Any]) -> None:
    """Refuse a change that the model, once built, does not have."""
    for name, value in changes.items():
        owner = next((one for one in (config, config.get_text_config()) if name in _names(one)), None)
        found = None if owner is None else getattr(owner, name)
        if found != value:
            raise InputError(f"model.config.{name} = {value!r}: the model was built with {found!r} nevertheless")
