"""The last handler: what no command foresaw, as what it is: the machine's limits, or a fault of ours."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import select
import sys
import tempfile
import traceback

from snellen.errors import out_of_memory

SHOW = "SNELLEN_TRACEBACK"


def not_ours(error: BaseException) -> str | None:
    """The line for an error of the file system or of memory, told by its number or kind; None for any other."""
    if out_of_memory(error):
        return "out of memory: ask for less at a time (--memory, --width, --window), or take a smaller model or dtype"
    told = _told_by_number(error)
    if told is not None:
        return told
    if not isinstance(error, OSError) or (type(error).__module__ or "").split(".")[0] in _NETWORK:
        return None
    from snellen.results.files import refusal

    found = refusal(error)
    if found is None:
        return None
    place = "" if error.filename is None else f"{_name(error.filename)}: "
    return f"{place}{found[0]}; {found[1]}"


def _told_by_number(error: BaseException) -> str | None:
    """Of code in other languages (safetensors, tokenizers), which tells the system's error in words alone."""
    from snellen.results.files import refusal

    number = re.search(r"\(os error (\d+)\)", str(error))
    if number is None or isinstance(error, OSError):
        return None
    said = refusal(OSError(int(number[1]), str(error)))
    return None if said is None else f"{said[0]}; {said[1]}"


# Whose errors are OSErrors too.
_NETWORK = ("requests", "httpx", "httpx2", "httpcore", "httpcore2", "huggingface_hub", "urllib3", "urllib")


def ours(error: BaseException) -> str:
    """The line for a fault of ours; the traceback goes where the line says."""
    text = "".join(traceback.format_exception(error))
    what = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}".rstrip(": ")
    if os.environ.get(SHOW) == "1":
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(text)
        where = "the traceback above"
    else:
        where = _kept(text)
    return f"this is a fault of Snellen, not of yours ({what}). Please report it, with {where}"


def readers_stay() -> bool:
    """Whether everybody who reads our output is still there: a broken pipe is then one of our own."""
    if not hasattr(select, "poll"):
        return False
    watch, streams = select.poll(), 0
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            watch.register(stream.fileno(), 0)
            streams += 1
    return streams > 0 and not any(event & (select.POLLERR | select.POLLHUP) for _, event in watch.poll(0))


def silence() -> None:
    """What still waits to be written goes nowhere: nobody reads it, and Python would fail at its end."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _kept(text: str) -> str:
    import snellen

    head = f"snellen {snellen.__version__}, Python {platform.python_version()}, {platform.platform()}\n"
    head += f"{' '.join(map(repr, sys.argv))}\n\n"
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="snellen-", suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as file:
            file.write(head + text)
    except OSError:
        return f"what {SHOW}=1 prints"
    return f"the traceback in {file.name} ({SHOW}=1 prints it instead)"


def _name(filename: object) -> str:
    return os.fsdecode(filename) if isinstance(filename, str | bytes | os.PathLike) else str(filename)
