"""Which files the weights of a model come from: safetensors in its own folder, and nothing else.

transformers reads a sharded model by its index, and takes whatever file that names: one that does not end in
.safetensors is unpickled, and one with `..` in it lies elsewhere. So what an index names is looked at first.
"""

from __future__ import annotations

import json
import os
from pathlib import Path, PurePosixPath

from snellen.errors import InputError
from snellen.results.files import UNREADABLE, opened, read_bytes, read_json, reading

INDEX_ENDS = ".safetensors.index.json"
INDEX = f"model{INDEX_ENDS}"
ADAPTER = "adapter_config.json"
_MEND = "download or save the model again"


def check_weight_files(folder: Path, source: str) -> None:
    """Look at everything that transformers may take for the weights of the model in `folder`.

    Raises
    ------
    InputError
        Its index or its configuration names a file that is no safetensors file, is missing, or lies elsewhere, also
        behind a link (the hub's cache apart, whose files are links to its blobs); or an adapter lies beside the model,
        which would be put into it. (`model.safetensors`, which nothing names, may be a link: who made it is the user.)
    """
    if (folder / ADAPTER).is_file() and (folder / "config.json").is_file():
        raise InputError(
            f"model {source!r}: an adapter lies in its folder ({ADAPTER}), whose weights would be mixed into it: merge "
            "it (`merge_and_unload`) and save that, or take it out"
        )
    indices = [folder / INDEX] if (folder / INDEX).exists() else []
    named = _of_config(folder, source)
    if named is not None:
        path = _inside(folder, named, "config.json", source)
        if named.endswith(INDEX_ENDS):
            indices.append(path)
    for index in indices:
        for name in shards(index, source):
            _inside(folder, name, index.name, source)


def shards(index: Path, source: str) -> list[str]:
    """The files that an index names, in the order in which it does.

    Raises
    ------
    InputError
        It is damaged, or names what is no safetensors file of the same folder.
    """
    with reading(index, mend=_MEND):
        names = list(dict.fromkeys(read_json(index)["weight_map"].values()))
        if not all(isinstance(name, str) for name in names):
            raise ValueError("weight_map names what is no file")
    for name in names:
        check_name(name, index.name, source)
    return names


def check_name(name: object, by: str, source: str, *, ends: tuple[str, ...] = (".safetensors",)) -> str:
    """A name of weights, once it is one of safetensors in the model's own folder; InputError for any other."""
    if not isinstance(name, str) or not name.endswith(ends):
        raise _refused(source, by, name, "which is no safetensors file (pickles can run code)")
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name:
        raise _refused(source, by, name, "which lies outside the model's folder")
    return name


def _of_config(folder: Path, source: str) -> str | None:
    """The file of weights that config.json names, if it does."""
    path = folder / "config.json"
    if not path.is_file():
        return None
    try:
        named = json.loads(read_bytes(path))["transformers_weights"]
    except InputError:
        raise
    except UNREADABLE:  # none is named, or transformers will say what is wrong with the file
        return None
    return None if named is None else check_name(named, path.name, source, ends=(".safetensors", INDEX_ENDS))


def _inside(folder: Path, name: str, by: str, source: str) -> Path:
    """The file, which is there, a regular one, and in the folder or (hub's cache) among its blobs."""
    path = folder / name
    root, real = Path(os.path.realpath(folder)), Path(os.path.realpath(path))
    roots = [root]
    if root.parent.name == "snapshots":  # models--OWNER--NAME/{snapshots/COMMIT, blobs}: files are links to the blobs
        roots.append(root.parent.parent / "blobs")
    if not any(allowed in real.parents for allowed in roots):
        raise _refused(source, by, name, f"which lies outside the model's folder ({real}); put the file itself there")
    try:
        opened(path).close()
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"model {source!r}: {name} cannot be read ({error.strerror}): {_MEND}") from error
    return path


def _refused(source: str, by: str, name: object, why: str) -> InputError:
    return InputError(f"model {source!r}: {by} names {name!r} for weights, {why}: {_MEND}")
