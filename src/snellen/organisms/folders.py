"""Where organisms and what was found on them are kept."""

from __future__ import annotations

import os
from pathlib import Path

from snellen.results.files import guarded, replacing


def folder() -> Path:
    """`$SNELLEN_CACHE`, else `snellen` in `$XDG_CACHE_HOME`, else `~/.cache/snellen`."""
    own = os.environ.get("SNELLEN_CACHE")
    if own:
        return Path(own)
    # The XDG specification: a relative path there is invalid and must be ignored.
    shared = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(shared) if os.path.isabs(shared) else Path.home() / ".cache") / "snellen"


def write(path: Path, content: bytes) -> None:
    """A file that appears whole or not at all. Its name says what is in it, so that any two writers write the same.

    Raises
    ------
    InputError
        It cannot be written.
    """
    with guarded(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(content)
