"""What a reader finds in a report, for tests of what must and must not stand there."""

from __future__ import annotations

import re
from pathlib import Path

OF_LOOKAHEAD = (
    "beam",
    "tree",
    "naive",
    "lookahead",
    "placebo",
    "sharpening",
    "How far ahead",
    "Organisms",
    "the best control",
)


def said(folder: Path) -> str:
    """The words of the page, without its style, its data and the box of trees that only a run with beams shows."""
    words = re.sub(r"<(script|style)\b.*?</\1>", " ", (folder / "report.html").read_text(encoding="utf-8"), flags=re.S)
    words = re.sub(r'<div id="treebox" hidden>.*?</div></div>', " ", words, flags=re.S)
    return " ".join(re.sub(r"<[^>]*>", " ", words).split())
