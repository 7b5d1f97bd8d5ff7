"""Bring every source into one shape: LF, ASCII quotes, one line a prose paragraph, one line a line of verse."""

from __future__ import annotations

import re

_TYPOGRAPHY = str.maketrans(
    {"“": '"', "”": '"', "‘": "'", "’": "'", "—": "--", "–": "-", "…": "...", "\xa0": " ", "\ufeff": None}
)
_RUN = re.compile(r"[ \t]+")


def plain(raw: bytes) -> str:
    """UTF-8 where it is, Latin-1 otherwise (one file of 1990s Shakespeare); LF line ends; typewriter quotes."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    text = text.replace("\r\n", "\n").replace("\r", "\n").translate(_TYPOGRAPHY)
    return re.sub(r"[ \t]+\n", "\n", text)


def paragraphs(text: str) -> list[str]:
    return [block.strip("\n") for block in re.split(r"\n[ \t]*\n", text) if block.strip()]


def is_wrapped_prose(block: str) -> bool:
    """Hard-wrapped prose: all lines but the last nearly full, none indented after the first."""
    lines = block.split("\n")
    full = [line for line in lines[:-1] if len(line) >= 48]
    indented = [line for line in lines[1:] if line.startswith("  ")]
    return len(full) >= 0.8 * (len(lines) - 1) and not indented


def prose(text: str) -> str:
    """A line break of a hard wrap says nothing about the language, so prose is unwrapped; verse keeps its lines."""
    out = []
    for block in paragraphs(text):
        if is_wrapped_prose(block):
            out.append(_RUN.sub(" ", block.replace("\n", " ")).strip())
        else:
            out.append(block)
    return "\n\n".join(out) + "\n"


def verse(text: str) -> str:
    """Lines and stanzas as they are, without the margin that the whole file shares."""
    return "\n\n".join("\n".join(line.rstrip() for line in b.split("\n")) for b in paragraphs(text)) + "\n"


def scripture(text: str) -> str:
    """One verse a line, without its number; a blank line where a chapter begins."""
    out: list[str] = []
    for block in paragraphs(text):
        flat = _RUN.sub(" ", block.replace("\n", " ")).strip()
        parts = re.split(r"(\d+:\d+) ", flat)
        if parts[0].strip():
            out.append(f"\n{parts[0].strip()}\n")
        for number, words in zip(parts[1::2], parts[2::2], strict=True):
            if number.endswith(":1") and out and out[-1] and not out[-1].endswith("\n"):
                out.append("")
            out.append(words.strip())
    return re.sub(r"\n{3,}", "\n\n", "\n".join(out)).strip() + "\n"


def play(text: str) -> str:
    """Markdown off: the speaker alone on a line, stage directions in brackets."""
    text = re.sub(r"^#+ *", "", text, flags=re.M)
    text = re.sub(r"\*\*(.+?)\*\*", r"\1", text)
    text = re.sub(r"(?<!\w)_(.+?)_(?!\w)", r"[\1]", text, flags=re.S)
    return verse(text)


def jargon(text: str) -> str:
    """From the first entry on: the tables of contents before it are lists of bare words."""
    body = text[text.index("\n   :", text.index("Part II. The Jargon Lexicon")) :]
    body = body[: body.rindex("Part III. Appendices")]
    return prose(re.sub(r"^   ", "", body, flags=re.M))


def boilerplate_off(text: str) -> str:
    """One book kept its Project Gutenberg tail."""
    return re.split(r"\nEnd of (?:The )?Project Gutenberg", text)[0]


_COMMON = frozenset(
    re.findall(r"\w+", "the and of to a in that is it for with his he as my i not but all was be her on thy")
)


def is_english(text: str) -> bool:
    words = re.findall(r"[a-z]+", text.lower())
    return bool(words) and sum(word in _COMMON for word in words) > 0.15 * len(words)
