"""What a user's word for a model means: bundled, a folder, a GGUF file, or an id on the hub."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from snellen.errors import InputError
from snellen.models.bundled import MASKED, NAME, pocket_folder
from snellen.models.shards import check_weight_files
from snellen.results.files import read_json, reading
from snellen.results.folders import refuse_overlap

Kind = Literal["bundled", "folder", "gguf", "hub", "memory"]

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.json",
    "vocab.txt",
    "tekken.json",
)
_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a model or a tokenizer is to be read from."""

    source: str  # as the user wrote it: what errors and the identity name
    kind: Kind
    location: str  # a folder, or a repository on the hub
    gguf: str | None = None  # the file in `location` to read
    revision: str | None = None  # only on the hub

    @property
    def remote(self) -> bool:
        """Whether it is read from the hub (also a GGUF file of a hub repository)."""
        return self.kind == "hub" or (self.kind == "gguf" and not Path(self.location).is_dir())


def resolve(source: str | os.PathLike[str], *, revision: str | None = None) -> Place:
    """Find out what a source means; touches no network.

    ``pocket`` is the bundled model. Otherwise an existing path wins over a hub id, so a folder named `gpt2`
    hides the hub's gpt2. Whatever can only be a path (starts with ``.``, ``/`` or ``~``, has more than one
    slash, or ends in ``.gguf``) must exist. The rest is a hub id, ``OWNER/NAME`` or ``OWNER/NAME:FILE.gguf``.

    Raises
    ------
    InputError
        If a path does not exist, is no model, or the word is neither a path nor a possible hub id; or if a
        revision is asked of something that is not on the hub.
    """
    word = os.fspath(source)
    if not word.strip():
        raise InputError("the model's name is empty: give a hub id, a folder, a .gguf file, or 'pocket'")
    path = Path(word).expanduser()
    if word in (NAME, MASKED) and not isinstance(source, os.PathLike):
        place = Place(source=word, kind="bundled", location=str(pocket_folder(word)))
    elif path.is_dir():
        place = _folder(word, path)
    elif path.is_file():
        place = _file(word, path)
    else:
        repository, _, file = word.partition(":")
        if isinstance(source, os.PathLike) or _only_a_path(repository if file else word):
            what = "file" if path.suffix == ".gguf" else "folder"
            raise InputError(f"model {word!r}: no such {what} (looked in {path.absolute().parent})")
        if not _HUB_ID.match(repository) or (file and not file.endswith(".gguf")):
            raise InputError(
                f"model {word!r}: no such folder, and no possible hub id either "
                "(those look like 'gpt2', 'OWNER/NAME' or 'OWNER/NAME:FILE.gguf')"
            )
        return Place(
            source=word,
            kind="gguf" if file else "hub",
            location=repository,
            gguf=file or None,
            revision=revision,
        )
    if revision is not None:
        raise InputError(
            f"revision {revision!r}: only models on the hub have revisions, and {word!r} is "
            f"{'bundled' if place.kind == 'bundled' else 'on this disk'}: leave the revision out"
        )
    return place


def check_files(place: Place) -> None:
    """Say at once, before anything is loaded, what a local folder lacks.

    Raises
    ------
    InputError
        Without config.json, without safetensors weights, or with pickled weights only, with a damaged
        generation_config.json; also as `check_weight_files`.
    """
    if place.kind not in ("folder", "bundled"):
        return
    folder = Path(place.location)
    check_weight_files(folder, place.source)
    decoding = folder / "generation_config.json"
    if decoding.exists():  # transformers takes a damaged one for none
        with reading(decoding, mend="save the model again, or take the file out"):
            dict(read_json(decoding)).keys()
    if not (folder / "config.json").is_file():
        mend = "it needs config.json beside the weights, as `save_pretrained` writes it"
        if (folder / "adapter_config.json").is_file():
            mend = "it holds an adapter only: merge it into its base model (`merge_and_unload`) and save that"
        raise InputError(f"model {place.source!r}: no config.json in the folder; {mend}")
    if any(folder.glob("*.safetensors")):
        return
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles:
        raise InputError(
            f"model {place.source!r}: its weights are pickles ({pickles[0]}), which can run code and are never "
            'read; if you trust them, convert once: python -c "from transformers import AutoModelForCausalLM '
            f"as M; M.from_pretrained('{place.source}').save_pretrained('NEW_FOLDER')\" and copy the tokenizer"
        )
    raise InputError(
        f"model {place.source!r}: no weights in the folder (no *.safetensors beside config.json): "
        "download or save the model again"
    )


def check_new_folder(folder: Path) -> None:
    """Refuse a folder that has something in it: what is written there should be there alone."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"folder {str(folder)!r} exists and is not empty: name a new one")


def check_apart(model: object, folder: str | os.PathLike[str], *, name: str) -> None:
    """Refuse to write into the folder that a model was or is to be read from, above it or inside it.

    model: as `load_model` takes it, or what it gave.

    Raises
    ------
    InputError
        `folder` is such a place.
    """
    identity = getattr(model, "identity", None)
    if identity is not None:
        word, kind = identity.source, identity.kind
    elif isinstance(model, str | os.PathLike):
        place = resolve(model)
        word, kind = place.location, place.kind
    else:
        word = getattr(getattr(model, "config", None), "_name_or_path", "") or ""
        kind = "folder"
    source = Path(word).expanduser()
    if kind in ("folder", "bundled", "memory") and word and source.is_dir():
        refuse_overlap(Path(folder).expanduser(), source, mend=f"choose another {name}")


def check_file_apart(model: str, file: Path, *, name: str) -> None:
    """Refuse to write a file into the folder that a model is to be read from: it could replace a part of it.

    Raises
    ------
    InputError
        `file` would lie there, or below.
    """
    place = resolve(model)
    source = Path(os.path.realpath(place.location))
    if place.kind != "hub" and source.is_dir() and source in Path(os.path.realpath(file)).parents:
        raise InputError(f"{name} {str(file)!r}: lies in the folder of the model {model!r}; write it elsewhere")


def check_tokenizer_files(place: Place, *, mend: str) -> None:
    """Transformers makes an empty tokenizer out of a folder that has none: say so instead."""
    if place.kind not in ("folder", "bundled"):
        return
    folder = Path(place.location)
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise InputError(f"{place.source!r}: no tokenizer in the folder (no tokenizer.json): {mend}")


def _only_a_path(word: str) -> bool:
    return word.startswith((".", "/", "~", "\\")) or word.count("/") > 1 or word.endswith(("/", ".gguf"))


def _folder(word: str, path: Path) -> Place:
    files = sorted(path.glob("*.gguf"))
    if (path / "config.json").is_file() or not files:
        return Place(source=word, kind="folder", location=str(path))
    if len(files) > 1:
        raise InputError(
            f"model {word!r}: {len(files)} GGUF files in the folder: name one, for example {path / files[0].name}"
        )
    return _file(word, files[0])


def _file(word: str, path: Path) -> Place:
    try:
        with path.open("rb") as handle:
            head = handle.read(32)
    except OSError as error:
        raise InputError(f"model {word!r}: cannot read the file: {error.strerror}") from error
    if head[:4] == b"GGUF":
        return Place(source=word, kind="gguf", location=str(path.parent), gguf=path.name)
    if head.startswith(b"version https://git-lfs"):
        raise InputError(f"model {word!r}: a Git LFS pointer, not the weights: run `git lfs pull` in its folder")
    if path.suffix in (".safetensors", ".bin", ".json"):
        raise InputError(f"model {word!r}: one file of a model: give the folder that it lies in")
    raise InputError(
        f"model {word!r}: not a GGUF file (it begins with {head[:4]!r} instead of b'GGUF'): "
        "give a GGUF file or a folder with config.json and *.safetensors"
    )
