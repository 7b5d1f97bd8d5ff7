"""Where organisms and what was found on them are kept. Standard library only: the runner reads it too."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path


def folder() -> Path:
    """`$SNELLEN_CACHE`, else `snellen` in `$XDG_CACHE_HOME`, else `~/.cache/snellen`."""
    own = os.environ.get("SNELLEN_CACHE")
    if own:
        return Path(own)
    # The XDG specification: a relative path there is invalid and must be ignored.
    shared = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(shared) if os.path.isabs(shared) else Path.home() / ".cache") / "snellen"


def write(path: Path, content: bytes) -> None:
    """A file that appears whole or not at all. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
