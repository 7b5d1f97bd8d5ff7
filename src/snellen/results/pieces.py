"""Parts of a run's work on disk, each known to be whole, of this run, and in its own place.

Parquet's checksums guard its pages and nothing else: not the names, types and numbers of rows that stand behind them,
nor whether two files were exchanged. So a piece says what it is, and what all of it hashes to.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from snellen.results.files import UNREADABLE, read_table, write_table

_LABEL = b"snellen.piece"  # in its metadata


def write_piece(path: Path, table: pa.Table, mark: str) -> None:
    """A piece of the run of that mark."""
    written = io.BytesIO()
    pq.write_table(table, written)
    as_read = pq.read_table(io.BytesIO(written.getvalue()))  # a table that was never on disk can be laid out otherwise
    write_table(path, table.replace_schema_metadata({_LABEL: _label(path, as_read, mark)}))


def read_piece(path: Path, rows: int, mark: str) -> pa.Table | None:
    """The piece, without its label; None where it is not there, damaged, another run's or another piece."""
    try:
        table = read_table(path)
        label = (table.schema.metadata or {}).get(_LABEL)
        good = table.num_rows == rows and label == _label(path, table, mark)
    except UNREADABLE:  # cut short or garbled, by a power failure for one
        return None
    return table.replace_schema_metadata(None) if good else None


def _label(path: Path, table: pa.Table, mark: str) -> bytes:
    content, plain = pa.BufferOutputStream(), table.replace_schema_metadata(None)
    with pa.ipc.new_stream(content, plain.schema) as stream:
        stream.write_table(plain)
    return f"{mark} {path.name} {hashlib.sha256(content.getvalue()).hexdigest()}".encode()
