"""Where the models that ship in the package lie."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from snellen.errors import InputError

NAME = "pocket"
MASKED = "pocket-masked"


def pocket_folder(name: str = NAME) -> Path:
    """The folder of a bundled model, in `save_pretrained` layout: `pocket`, or its masked sibling.

    Raises
    ------
    InputError
        If this installation came without it.
    """
    folder = Path(str(resources.files("snellen").joinpath("models", name)))
    if not (folder / "config.json").is_file():
        raise InputError(
            f"the bundled model {name!r} is missing from this installation (no config.json in {folder}): "
            "reinstall snellen"
        )
    return folder
