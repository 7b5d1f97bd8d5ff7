"""Writes any model that can be loaded as a folder of config, safetensors and tokenizer.

Worth it for a GGUF file: unpacking its weights and rebuilding its tokenizer takes up to a minute every time.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from snellen.errors import InputError
from snellen.models.identity import Identity
from snellen.models.load import load_model
from snellen.models.quiet import quiet
from snellen.models.sources import check_apart, check_new_folder


def convert(
    source: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    tokenizer: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    dtype: str = "float32",
    trust_remote_code: bool = False,
) -> Identity:
    """Write a model as a local folder, load that again, and check that nothing was lost.

    The folder appears only when it is complete and its weights and tokenizer have the hashes of the source's.
    `save_pretrained` refuses a model read from GGUF because transformers leaves a quantizer on it although the
    weights are unpacked; `load_model` asks for plain weights, and then it saves as any other model does.

    Parameters
    ----------
    source, tokenizer, revision, dtype, trust_remote_code
        As for `load_model`.
    folder
        Must not exist yet, or be empty.

    Returns
    -------
    Identity
        Of the model in the new folder.

    Raises
    ------
    InputError
        If the source cannot be loaded, the folder is in use or cannot be written, or the disk is full.
    """
    target = Path(folder).expanduser()
    check_new_folder(target)
    check_apart(source, target, name="folder")
    loaded = load_model(
        source,
        tokenizer=tokenizer,
        revision=revision,
        dtype=dtype,
        device="cpu",
        trust_remote_code=trust_remote_code,
    )
    assert loaded.tokenizer is not None  # only a model in memory can be without
    draft: Path | None = None
    try:
        target.absolute().parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.absolute().parent))
        with quiet():
            loaded.model.save_pretrained(draft)
            loaded.tokenizer.save_pretrained(draft)
        again = load_model(draft, dtype=dtype, device="cpu", trust_remote_code=trust_remote_code).identity
        for name in ("weights_sha256", "tokenizer_sha256", "bos", "context"):
            before, after = getattr(loaded.identity, name), getattr(again, name)
            if before != after:
                raise InputError(
                    f"model {os.fspath(source)!r} does not survive being written: {name} was {before} and is "
                    f"{after} when read again; nothing was written. Please report this model"
                )
        _open_up(draft)
        if target.exists():
            target.rmdir()
        draft.rename(target)
    except OSError as error:
        raise InputError(
            f"folder {str(folder)!r} cannot be written: {error.strerror or error}: free space there "
            "or name another folder"
        ) from error
    finally:
        if draft is not None and draft.exists():
            shutil.rmtree(draft, ignore_errors=True)
    return replace(again, source=os.fspath(folder), notes=loaded.identity.notes)


def _open_up(folder: Path) -> None:
    """Give files the permissions that the user's umask asks for (temporary ones are for the owner only)."""
    umask = os.umask(0)
    os.umask(umask)
    folder.chmod(0o777 & ~umask)
    for path in folder.rglob("*"):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)
