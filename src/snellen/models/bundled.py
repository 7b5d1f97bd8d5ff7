"""Where the model that ships in the package lies."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from snellen.errors import InputError

NAME = "pocket"


def pocket_folder() -> Path:
    """The folder of the bundled model, in `save_pretrained` layout.

    Raises
    ------
    InputError
        If this installation came without it.
    """
    folder = Path(str(resources.files("snellen").joinpath("models", NAME)))
    if not (folder / "config.json").is_file():
        raise InputError(
            f"the bundled model {NAME!r} is missing from this installation (no config.json in {folder}): "
            "reinstall snellen"
        )
    return folder
