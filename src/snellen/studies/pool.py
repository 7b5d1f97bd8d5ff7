"""Jobs in processes of one thread each: sums are then the same however many work at once."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TypeVar

from snellen.errors import InputError

MOST_PROCESSES = 4
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

Job = TypeVar("Job")
Result = TypeVar("Result")


def check_seeds(seeds: int, *, most: int | None = None) -> None:
    """Raises InputError unless there is one at least, and no more than `most`."""
    if isinstance(seeds, bool) or not isinstance(seeds, int) or seeds < 1 or (most is not None and seeds > most):
        wanted = "of at least 1" if most is None else f"from 1 to {most}"
        raise InputError(f"seeds = {seeds!r}: must be a whole number {wanted}")


def at_once(processes: int | None, jobs: int) -> int:
    """How many processes: as asked, else one a core, `MOST_PROCESSES` at most; never more than jobs.

    Raises
    ------
    InputError
        Less than one was asked for.
    """
    if processes is not None and (isinstance(processes, bool) or not isinstance(processes, int) or processes < 1):
        raise InputError(f"processes = {processes!r}: must be a whole number of at least 1")
    return max(1, min(processes or min(_cores(), MOST_PROCESSES), jobs))


def run(work: Callable[[Job], Result], jobs: Sequence[Job], processes: int) -> Iterator[Result]:
    """The results of `work`, a function of a module, in the order in which they come. An exception ends all."""
    if processes == 1:
        with one_thread():
            yield from map(work, jobs)
        return
    with one_thread():  # processes inherit it before they import torch
        pool = ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn"), initializer=_begin)
        before = set(multiprocessing.active_children())
        try:
            waiting = [pool.submit(work, job) for job in jobs]
            for future in as_completed(waiting):
                yield future.result()
        except BaseException:
            # Nobody waits for the rest: what they were raising is raised again by the next command.
            pool.shutdown(wait=False, cancel_futures=True)
            for process in set(multiprocessing.active_children()) - before:
                process.terminate()
            raise
        pool.shutdown()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _begin() -> None:
    """In each process: an interrupt, or the end of who started it, ends it at once, without a traceback of its own."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_DFL)
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One thread here and in processes started here: sums are then the same however many work beside."""
    import torch

    before, threads = {name: os.environ.get(name) for name in _THREADS}, torch.get_num_threads()
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
