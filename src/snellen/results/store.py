"""The run folder: claimed, written piece by piece, resumed, finished, read.

A run is recognised by its *key*: everything that changes its numbers, the code among it. The same key resumes the
run or finds it complete; another key is refused, and nothing in the folder is touched. What is on disk is the truth:
files appear whole (temporary file, fsync, rename) or not at all; a piece that fails its checksum is done again.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pyarrow as pa

from snellen.errors import InputError
from snellen.kinds import checked
from snellen.results import findings as findings_file
from snellen.results.files import (
    brief,
    json_text,
    read_json,
    read_schema,
    read_table,
    reading,
    replacing,
    sha256_of,
    write_json,
    write_table,
)
from snellen.results.findings import Finding
from snellen.results.folders import contents, lock, unlock
from snellen.results.pieces import read_piece, write_piece

SCHEMA = 1
MADE_BY = "made by"  # the entry of a key that says which code and libraries its numbers come from
DIGEST, FILES = "sha256", "files"  # in run.json: of the rest of it, and of the files beside it, by name
_MEND = "run its command again in a new folder"


def fingerprint(key: Mapping[str, Any]) -> str:
    """Short and stable name of a key."""
    return hashlib.sha256(json.dumps(key, sort_keys=True, allow_nan=False).encode()).hexdigest()[:10]


def read_run_json(folder: Path) -> dict[str, Any] | None:
    """What `run.json` says; None where nothing stands yet; InputError where something else stands."""
    names = contents(folder, mend="choose another --out")
    if not names:
        return None
    file = folder / "run.json"
    if file.name not in names:
        raise InputError(f"{folder} is not empty and not a run (no run.json); choose another --out")
    with reading(file, mend="remove the folder or choose another --out"):
        content = read_json(file)
        found = content.get("schema") if isinstance(content, dict) else None
        if found != SCHEMA:
            raise InputError(f"{file}: schema {found!r}, this version of snellen reads {SCHEMA}; choose another --out")
        _check(content)
    return dict(content)


def _check(content: Mapping[str, Any]) -> None:
    """The kinds of what everybody reads of it. Raises ValueError."""
    for name in ("key", "settings", "identity", "text", "preflight", "chart", "environment", "progress", "timings"):
        if not isinstance(content.get(name, {}), dict):
            raise ValueError(f"{name} is no object")
    if not isinstance(content.get("key", {}).get("made by", {}), dict):
        raise ValueError("key.made by is no object")
    documents = content.get("text", {}).get("documents", [])
    entries = isinstance(documents, list) and all(isinstance(entry, dict) for entry in documents)
    if not entries and (isinstance(documents, bool) or not isinstance(documents, int)):
        raise ValueError("text.documents is neither a number nor a list of objects")
    own = content.get(DIGEST)
    if own is not None and own != digest_of(content):
        raise ValueError("it is not what was written: its digest is another")


def digest_of(content: Mapping[str, Any]) -> str:
    """SHA-256 of a `run.json` without its own digest."""
    plain = {name: value for name, value in content.items() if name != DIGEST}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def refuse_other(folder: Path, content: Mapping[str, Any], key: Mapping[str, Any]) -> None:
    """InputError where the run in `folder` was made with other values of what `key` names."""
    theirs = content.get("key", {})
    settings = [name for name in key if name != MADE_BY]
    if other := _differing(theirs, key, settings):
        raise InputError(f"{folder} holds a run with other settings ({other}); choose another --out")
    ours = key.get(MADE_BY, {})
    if other := _differing(theirs.get(MADE_BY, {}), ours, ours):
        raise InputError(
            f"{folder} holds a run that was made by other code ({other}): its numbers and those of this code do not "
            "belong together; choose another --out"
        )


def _differing(theirs: Mapping[str, Any], ours: Mapping[str, Any], names: Iterable[str]) -> str:
    other = (name for name in names if theirs.get(name) != _plain(ours[name]))
    return "; ".join(f"{name} {_brief(theirs.get(name))}, now {_brief(ours[name])}" for name in other)


def is_finished(folder: Path, key: Mapping[str, Any]) -> bool:
    """Does the whole run of this key stand there? InputError where something else does."""
    content = read_run_json(folder)
    if content is None:
        return False
    refuse_other(folder, content, key)
    return bool(content.get("progress", {}).get("finished"))


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, allow_nan=False))


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:44]}… ({hashlib.sha256(text.encode()).hexdigest()[:6]})"


class Writer:
    """A run being written: holds the folder's lock until it is closed.

    `windows` gives the number of rows of each piece; `done` the windows whose pieces are whole.
    """

    def __init__(
        self, folder: Path, *, key: Mapping[str, Any], content: Mapping[str, Any], windows: Sequence[int]
    ) -> None:
        self.folder, self._windows = folder, list(windows)
        self._mark = fingerprint(key)
        found = read_run_json(folder)
        if found is not None:
            refuse_other(folder, found, key)
        self._lock = lock(folder)
        try:
            # Once more under the lock: another process may have begun or finished this very run meanwhile.
            found = read_run_json(folder)
            if found is not None:
                refuse_other(folder, found, key)
            for entry in [
                *folder.glob(".*.tmp"),
                *folder.glob("pieces/.*.tmp"),
                *folder.glob("tables/.*.tmp"),
            ]:
                entry.unlink(missing_ok=True)
            before = found or {}
            self.finished = bool(before.get("progress", {}).get("finished"))
            if self.finished:  # it may have been killed before its pieces were cleared away
                self._clear()
            self.done = {number for number in range(len(windows)) if self.finished or self._whole(number)}
            # The record of the first start stands: a resumption changes none of the numbers.
            self.content = {"schema": SCHEMA, **content, **before, "key": _plain(key)}
            timings = {"sessions": 0, **self.content.get("timings", {})}
            self.content["timings"] = timings
            if not self.finished:
                timings["sessions"] += 1
                self._note()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        unlock(self._lock)
        self._lock = None

    def spend(self, what: str, began: float) -> None:
        """Add the time since `began` (`time.monotonic`) to the run's timings, over all its sessions."""
        timings = self.content["timings"]
        timings[what] = round(timings.get(what, 0.0) + time.monotonic() - began, 3)

    def write_piece(self, number: int, table: pa.Table) -> None:
        write_piece(self._piece(number), table, self._mark)
        self.done.add(number)
        self._note()

    def pieces(self) -> pa.Table:
        """All rows, in the order of the windows."""
        tables = [read_table(self._piece(number)) for number in range(len(self._windows))]
        return pa.concat_tables(tables).combine_chunks().replace_schema_metadata(None)

    def finish(self, tokens: pa.Table, tables: Mapping[str, pa.Table], findings: Sequence[Finding]) -> None:
        write_table(self.folder / "tokens.parquet", tokens)
        for name, table in tables.items():
            write_table(self.folder / "tables" / f"{name}.parquet", table)
        with replacing(self.folder / "findings.json") as file:
            file.write(findings_file.dumps(findings).encode())
        names = ["tokens.parquet", "findings.json", *(f"tables/{name}.parquet" for name in tables)]
        self.content[FILES] = {name: sha256_of(self.folder / name) for name in names}
        self.finished = True
        self._note()
        self._clear()

    def _clear(self) -> None:
        shutil.rmtree(self.folder / "pieces", ignore_errors=True)

    def _note(self) -> None:
        done = len(self._windows) if self.finished else len(self.done)
        progress = {"windows": len(self._windows), "done": done, "finished": self.finished}
        content = {**self.content, "progress": progress}
        write_json(self.folder / "run.json", {**content, DIGEST: digest_of(json.loads(json_text(content)))})

    def _piece(self, number: int) -> Path:
        return self.folder / "pieces" / f"{number:05d}.parquet"

    def _whole(self, number: int) -> bool:
        return read_piece(self._piece(number), self._mark, self._windows[number]) is not None


@dataclass(frozen=True)
class Run:
    """A finished run, read from its folder."""

    folder: Path
    content: Mapping[str, Any]

    @classmethod
    @checked
    def read(cls, folder: str | os.PathLike[str]) -> Run:
        path = Path(folder)
        content = read_run_json(path)
        if content is None:
            raise InputError(f"{path} is not a run folder (no run.json); give the folder that `snellen exam` made")
        progress = content.get("progress", {})
        if not progress.get("finished"):
            done, windows = progress.get("done", 0), progress.get("windows", "?")
            raise InputError(f"{path} is not finished ({done} of {windows} windows); run its command again first")
        missing = [name for name in ("findings.json", "tokens.parquet") if not (path / name).exists()]
        if missing:
            raise InputError(f"{path} lacks {' and '.join(missing)}; remove the folder and run its command again")
        run = cls(path, content)
        run.verify()
        return run

    @property
    def vouched(self) -> bool:
        """Whether the folder says by its digests that it is as Snellen wrote it (older runs have none)."""
        return DIGEST in self.content and FILES in self.content

    def verify(self) -> None:
        """InputError where a file is not the one that was written with this run."""
        digests = self.content.get(FILES, {})
        with reading(self.folder / "run.json", mend=_MEND):
            pairs = [(self.folder / name, str(digest)) for name, digest in dict(digests).items()]
        for path, digest in pairs:
            with reading(path, mend=_MEND):
                if _known_sha256(path, os.stat(path).st_mtime_ns, os.stat(path).st_size) != digest:
                    raise ValueError("it is not what the run wrote: damaged, or changed since")

    @contextlib.contextmanager
    def understood(self) -> Iterator[None]:
        """Around whatever makes sense of the run: what breaks in a folder of other making is said of the folder.

        In one that its digests vouch for, an exception is a fault of ours, and stays what it is.
        """
        try:
            yield
        except InputError:
            raise
        except Exception as error:
            if self.vouched or isinstance(error, BrokenPipeError):
                raise
            raise InputError(
                f"{self.folder} does not hold what a run of this version holds ({brief(error)}); {_MEND}"
            ) from error

    @property
    def findings(self) -> list[Finding]:
        path = self.folder / "findings.json"
        with reading(path, mend=_MEND):
            return findings_file.load(path)

    @property
    def tokens(self) -> pa.Table:
        return self._table(self.folder / "tokens.parquet")

    def columns(self, *names: str) -> pa.Table:
        """Some columns of the tokens, without reading the others; those that are missing are left out."""
        path = self.folder / "tokens.parquet"
        with reading(path, mend=_MEND):
            there = set(read_schema(path).names)
        return self._table(path, [name for name in names if name in there])

    @checked
    def table(self, name: str) -> pa.Table | None:
        path = self.folder / "tables" / f"{name}.parquet"
        if path.exists():
            return self._table(path)
        if f"tables/{name}.parquet" in self.content.get(FILES, {}):
            raise InputError(f"{path} is missing; {_MEND}")
        return None

    def documents(self, *names: str) -> dict[str, list[Any]]:
        """Columns of the texts' documents, in their order; None where a run does not say.

        They stand in `tables/documents.parquet`, in older runs in `run.json`.
        """
        table = self.table("documents")
        if table is not None:
            missing = [None] * table.num_rows
            return {name: table[name].to_pylist() if name in table.column_names else missing for name in names}
        found = self.content.get("text", {}).get("documents", [])
        if not isinstance(found, list):  # their number: they stand in the table
            raise InputError(f"{self.folder / 'tables' / 'documents.parquet'} is missing; {_MEND}")
        return {name: [entry.get(name) for entry in found] for name in names}

    def _table(self, path: Path, columns: list[str] | None = None) -> pa.Table:
        with reading(path, mend=_MEND):
            table = read_table(path, columns)
            table.validate(full=True)
            return table

    @property
    def report(self) -> Path | None:
        path = self.folder / "report.html"
        return path if path.exists() else None


@functools.lru_cache(maxsize=256)
def _known_sha256(path: Path, changed: int, size: int) -> str:
    """A run is read several times for one report."""
    return sha256_of(path)
