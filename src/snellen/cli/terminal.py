"""What others wrote (names, texts, tokens, errors) on the way to the terminal: it is shown and cannot act.

Control characters, escape sequences and marks that turn the direction of writing become signs that can be seen;
nothing is read as rich's markup. What goes into a pipe or a file for a program to read stays as it is.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.text import Text

# Beyond JSON's own rule: all that `visible` makes visible, and half characters, which no stream takes.
_UNSAFE = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def forgiving() -> None:
    """No character that a stream cannot encode ends a command: it is written as its escape (a terminal of ASCII)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(ValueError, OSError):
                stream.reconfigure(errors="backslashreplace")


def shown(text: object) -> str:
    """On one or more lines, harmless on every terminal."""
    from snellen.report.text import visible

    return visible(str(text))


def one_line(text: object) -> str:
    """As `shown`, on one line: what a name holds cannot pass for a line of ours."""
    return shown(text).replace("\n", "\u27e8LF\u27e9")


def written(text: str, stream: IO[str] | None = None) -> str:
    """As it is for a pipe or a file, as `shown` for a terminal."""
    return shown(text) if (stream or sys.stdout).isatty() else text


def say(line: object, *, error: bool = False) -> None:
    """A line on standard output, or on standard error."""
    print(one_line(line), file=sys.stderr if error else sys.stdout, flush=error)


def rich_text(text: object, style: str = "") -> Text:
    """For rich's tables and consoles: as `one_line`, and never markup."""
    from rich.text import Text

    return Text(one_line(text), style=style)


def put_json(content: Any, *, indent: int) -> None:
    """JSON on standard output: the same content for every encoding, and harmless on a terminal."""
    text = json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False)
    text = _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except (UnicodeEncodeError, LookupError):
        text = json.dumps(content, indent=indent, allow_nan=False)
    sys.stdout.write(text + "\n")
