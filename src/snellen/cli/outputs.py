"""Files that a command writes where its user says, or under a name of its own: nothing is lost by it."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from snellen.errors import InputError


def free_name(path: Path) -> Path:
    """The path, or where there is such a file, the first of page-2.html, page-3.html, … that is none yet."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return free


def _takes_files(folder: Path) -> bool:
    """Tried, since permissions say nothing of a disk that is read-only, or of /proc."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError as error:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)  # may be freed until then


def check_outputs(files: Mapping[str, Path | None], *, overwrite: bool) -> None:
    """Before the work whose outcome is to be written there; the files by the options that name them.

    Raises
    ------
    InputError
        No folder to write it in, or one that cannot be written; a folder of that name; a file of that name, and no
        word that it may be replaced; such a word, and no file.
    """
    named = {option: path for option, path in files.items() if path is not None}
    if overwrite and not named:
        options = " or ".join(f"--{option}" for option in files)
        raise InputError(f"overwrite: no file is named that could be replaced; name it with {options}")
    for option, path in named.items():
        name, folder = f"{option} {str(path)!r}", path.absolute().parent
        if not folder.is_dir():
            raise InputError(f"{name}: no folder {folder}: make it first")
        if path.is_dir():
            raise InputError(f"{name}: is a folder: name a file in it")
        if not _takes_files(folder) or (path.exists() and not os.access(path, os.W_OK)):
            raise InputError(f"{name}: cannot be written: choose another place, or check its permissions")
        if path.exists() and not path.is_file():
            raise InputError(f"{name}: is no file (a device, say), which is not replaced: name a file")
        if path.exists() and not overwrite:
            raise InputError(f"{name}: is there already: choose another name, or replace it with --overwrite")
