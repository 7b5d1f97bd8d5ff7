"""Pieces of a run that is not finished yet: tables that are believed only as they were written, where they were.

Parquet checksums values, not what says which column they are of: one turned bit in a hundred is read as another table.
So a digest of the whole file lies beside it, and the file says whose it is and which.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from snellen.results.files import UNREADABLE, read_bytes, read_table, replacing, sha256_of, write_table

RUN, NAME = b"snellen.run", b"snellen.piece"


def write_piece(path: Path, table: pa.Table, run: str) -> None:
    """Of the run that is known as `run`."""
    own = {RUN: run.encode(), NAME: path.stem.encode()}
    write_table(path, table.replace_schema_metadata({**(table.schema.metadata or {}), **own}))
    with replacing(_beside(path)) as file:
        file.write(sha256_of(path).encode())


def read_piece(path: Path, run: str, rows: int) -> pa.Table | None:
    """None: it is not there, damaged, another's or of another place, or has another number of rows."""
    try:
        if read_bytes(_beside(path)) != sha256_of(path).encode():
            return None
        table = read_table(path)
    except UNREADABLE:  # not there, or cut short or garbled, by a power failure for one
        return None
    found = table.schema.metadata or {}
    ours = found.get(RUN) == run.encode() and found.get(NAME) == path.stem.encode()
    return table if ours and table.num_rows == rows else None


def _beside(path: Path) -> Path:
    return path.with_suffix(".sha256")
