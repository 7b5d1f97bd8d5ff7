"""A training as a settings file (TOML): which model, which texts, which amplifier, and everything else by its name."""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from snellen.errors import InputError
from snellen.results.files import brief, read_bytes
from snellen.training.ranges import check_value

_TABLES = ("model", "data", "training", "amplifier", "monitor")
# What stands under [monitor] beside its kind and settings, and is a setting of the run.
_WATCHING = ("every", "tokens", "stop", "patience", "forced")

# What tomllib raises: its own error and that of no UTF-8 are ValueErrors, as is that of a number of too many digits.
_NO_TOML = (ValueError, RecursionError)


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """source: hub id, folder, GGUF file or "pocket"; from_scratch: its shape alone, with fresh weights.

    config: attributes of the model's own configuration to change before it is built (`attn_pdrop = 0.0`).
    """

    source: str = "pocket"
    from_scratch: bool = False
    tokenizer: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    config: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """train, held_out: files, folders, patterns, as `snellen exam` reads them; field: of .jsonl and .parquet files."""

    train: Sequence[str] = ()
    held_out: Sequence[str] = ()
    field: str = "text"


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """A settings file, read and checked; `config` are the arguments of `StuntingConfig`."""

    model: ModelSettings
    data: DataSettings
    config: Mapping[str, Any] = field(default_factory=dict)


def read_settings(path: Path, changes: Sequence[str] = ()) -> TrainingSettings:
    """The settings in a TOML file, with `changes` ("training.max_steps=10", "model.config.attn_pdrop=0") on top.

    Raises
    ------
    InputError
        No such file, no TOML, a table or a name that is not known, a value of the wrong kind.
    """
    tables = _parsed(path)
    for change in changes:
        _apply(tables, change)
    unknown = [name for name in tables if name not in _TABLES]
    if unknown:
        raise InputError(
            f"{path}: {unknown[0]!r} is unknown{_near(unknown[0], _TABLES)}; tables are {', '.join(_TABLES)}"
        )
    if isinstance(tables.get("model"), str):
        tables["model"] = {"source": tables["model"]}
    for name in _TABLES:
        if not isinstance(tables.get(name, {}), dict):
            raise InputError(f"{path}: {name} = {tables[name]!r}: must be a table, [{name}]")
    data = dict(tables.get("data", {}))
    for name in ("train", "held_out"):
        if isinstance(data.get(name), str):
            data[name] = [data[name]]
    return TrainingSettings(
        model=_built(ModelSettings, tables.get("model", {}), "model", path),
        data=_built(DataSettings, data, "data", path),
        config=_config(tables, path),
    )


def _config(tables: Mapping[str, Any], path: Path) -> dict[str, Any]:
    from snellen.training.amplifiers import KINDS
    from snellen.training.config import StuntingConfig

    config = dict(tables.get("training", {}))
    known = [f.name for f in dataclasses.fields(StuntingConfig) if f.init]
    for name, value in config.items():
        if name not in known or name in ("amplifier", "monitor"):
            raise InputError(f"{path}: training.{name} is unknown{_near(name, known)}")
        check_value(StuntingConfig, name, value, called=f"{path}: training.{name}")
    for name in ("amplifier", "monitor"):
        table = dict(tables.get(name, {}))
        if not table:
            continue
        if name == "monitor":
            watching = {key: table.pop(key) for key in _WATCHING if key in table}
            for key, value in watching.items():
                check_value(StuntingConfig, f"monitor_{key}", value, called=f"{path}: monitor.{key}")
            config |= {f"monitor_{key}": value for key, value in watching.items()}
        kind = table.pop("kind", None)
        if not isinstance(kind, str) or kind not in KINDS:
            raise InputError(f"{path}: {name}.kind = {kind!r}: must be one of {', '.join(KINDS)}")
        config[name] = _built(KINDS[kind], table, name, path)
    return config


def _parsed(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_bytes(path).decode("utf-8"))
    except InputError as error:  # a pipe, a device
        raise InputError(f"settings: {error}: name a TOML file") from error
    except OSError as error:
        raise InputError(f"settings {str(path)!r}: {error.strerror}: name a TOML file that can be read") from error
    except _NO_TOML as error:
        raise InputError(f"settings {str(path)!r}: no TOML: {brief(error)}") from error


def _apply(tables: dict[str, Any], change: str) -> None:
    name, equals, value = change.partition("=")
    *path, key = [part.strip() for part in name.split(".")]
    if not equals or not all([*path, key]) or not (path or key == "model"):
        raise InputError(f"set {change!r}: write TABLE.NAME=VALUE, for example training.max_steps=100")
    if path and isinstance(tables.get(path[0]), str):
        tables[path[0]] = {"source": tables[path[0]]}
    table: Any = tables
    for part in path:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise InputError(f"set {change!r}: {part} = {table!r} is a value, not a table: leave out what follows it")
    table[key] = _typed(value.strip(), table.get(key))


def _typed(text: str, standing: Any) -> Any:
    """A value as TOML has it, or a word without its quotation marks; like what stands there already."""
    try:
        parsed = tomllib.loads(f"x = {text}")["x"]
    except _NO_TOML:
        return text
    if isinstance(standing, str) and not isinstance(parsed, str):
        return text
    return float(parsed) if type(standing) is float and type(parsed) is int else parsed


def _built(kind: type[Any], values: Mapping[str, Any], table: str, path: Path) -> Any:
    known = [f.name for f in dataclasses.fields(kind)]
    for name, value in values.items():
        if name not in known:
            more = f"; what the model's own config has is set as model.config.{name}" if table == "model" else ""
            raise InputError(
                f"{path}: {table}.{name} is unknown{_near(name, known)}; known are {', '.join(known)}{more}"
            )
        check_value(kind, name, value, called=f"{path}: {table}.{name}")
    return kind(**values)


def _near(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f" (do you mean {near[0]}?)" if near else ""
