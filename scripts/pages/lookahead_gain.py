"""docs/lookahead-gain.md, from the records of `scripts/coverage/study.py`."""

from __future__ import annotations

import csv
from collections.abc import Iterator

from pages.page import ROOT, Page, by

_RECORDS = ROOT / "docs" / "coverage.csv"
_NULLS = ("null exact", "null flat", "null sharp", "null few", "null long", "smoothed", "smoothed, flat")


def _records() -> list[dict[str, str]]:
    with _RECORDS.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def coverage() -> str:
    lines = [
        "| author | documents | tokens | texts | true gain | mean interval | found | predicted | low end above it"
        " | high end below it |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in _records():
        predicted = f"{float(one['predicted']):.2f}" if one["predicted"] else ""
        found = f"{float(one['found']):.3f}" + (" in these documents only" if one["units"] == "blocks" else "")
        ends = " | ".join(f"{float(one[name]):.3f}" for name in ("low_above", "high_below"))
        interval = f"[{_thousandths(one['low'])}, {_thousandths(one['high'])}]"
        lines.append(
            f"| {one['says']} | {one['documents']} | {int(one['tokens']):,} | {one['texts']} | "
            f"{_thousandths(one['truth'])} | {interval} | {found} | {predicted} | {ends} |"
        )
    return "\n".join(lines)


def _thousandths(value: str) -> str:
    shown = f"{1000 * float(value):.1f}"
    return shown.removeprefix("-") if float(shown) == 0 else shown.replace("-", "−")


def said() -> Iterator[str]:
    found = by(_records(), "cell")
    nulls = [found[name] for name in _NULLS]
    number = sum(int(one["texts"]) for one in nulls)
    hits = sum(round(float(one["found"]) * int(one["texts"])) for one in nulls)
    yield f"{hits} of {number} nulls are found"
    doses = [one for one in found.values() if one["predicted"]]
    apart = [abs(float(one["predicted"]) - float(one["found"])) for one in doses]
    yield f"within {max(apart):.2f} of what was found in {len(doses)} of {len(doses)} rows"
    yield f"the low end lies above the true gain in at most {100 * max(float(one['low_above']) for one in doses):.0f} %"
    every = [one for one in found.values() if one["units"] == "documents"]
    assert max(float(one["high_below"]) for one in every) == 0
    assert max(float(one["outside"]) for one in found.values()) == 0
    assert max(float(one["placebo_found"]) for one in found.values()) <= 0.05
    few = found["two kinds, 2"]
    yield f"in {round(float(few['found']) * int(few['texts']))} of {few['texts']} texts of two documents"
    several = [found["two kinds, 20"], found["two kinds, 8"]]
    hits = sum(round(float(one["found"]) * int(one["texts"])) for one in several)
    yield f"in {hits} of {sum(int(one['texts']) for one in several)} of eight or twenty"


PAGE = Page(path="docs/lookahead-gain.md", blocks={"coverage": coverage}, said=said)
