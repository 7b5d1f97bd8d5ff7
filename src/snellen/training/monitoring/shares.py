"""One look by several processes: the windows are shared out, the first process judges, all learn the outcome."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import pyarrow as pa
from accelerate.utils import broadcast_object_list, gather_object
from transformers import PreTrainedModel

from snellen.training.amplifiers import Amplifier
from snellen.training.monitoring.gain import Watched, gathered, judge, score
from snellen.training.monitoring.held_out import HeldOut
from snellen.training.monitoring.untouched import streams_kept

T = TypeVar("T")


def look_together(
    model: PreTrainedModel,
    text: HeldOut,
    amplifier: Amplifier,
    *,
    process: int,
    processes: int,
    seed: int,
    memory: int | str = "1GB",
    engine: str = "auto",
) -> Watched:
    """`measure_gain` by all processes of a training; to be called by each of them, with the same weights.

    What a window gives depends on the window alone, so the number of processes changes no number. What goes wrong in
    one process is raised in all: none is left waiting for another.
    """
    began = time.monotonic()

    def own() -> list[pa.Table]:
        windows = text.windows[process::processes]
        return [score(model, text, windows, amplifier, seed=seed, memory=memory, engine=engine)] if windows else []

    def whole() -> Watched:
        return judge(gathered(pa.concat_tables(tables), text, amplifier), amplifier, seed=seed, began=began)

    with streams_kept():
        shares = gather_object([_tried(own)])
        tables = [table for share in shares for table in _granted(share)]
        return from_first(whole if process == 0 else None)


def from_first(work: Callable[[], T] | None) -> T:
    """The result of `work`, which the first process alone is given, in every process; so with what it raises."""
    found: list[Any] = [None if work is None else _tried(work)]
    broadcast_object_list(found)
    result: T = _granted(found[0])
    return result


def _tried(work: Callable[[], T]) -> T | Exception:
    try:
        return work()
    except Exception as error:  # handed on to all processes, and raised there
        return error


def _granted(result: Any) -> Any:
    if isinstance(result, Exception):
        raise result
    return result
