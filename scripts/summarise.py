"""Finished runs as a Markdown table: python scripts/summarise.py RUN [RUN …]

Nats a token of different tokenizers stand in no one unit: a line below the table says where that is so.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from snellen.results.store import Run

HEAD = ["run", "tokens", "units", "naive", "temperature", "horizon 1", "same candidates", "lookahead"]
HEAD += ["**gain** [95 %]", "placebo [95 %]", "gain in words", "memorised"]


def interval(entry: Mapping[str, Any]) -> str:
    if entry["low"] is None:
        return f"— ({entry['reason']})" if entry["value"] is None else f"{entry['value']:+.4f}"
    return f"{entry['value']:+.4f} [{entry['low']:+.4f}, {entry['high']:+.4f}]"


def row(folder: str) -> str:
    run = Run.read(Path(folder))
    finding = next(f for f in run.findings if f.measure == "lookahead-gain")
    arms = finding.control["arms"]
    over = [
        f"{arms[name] - arms['naive']:+.4f}" for name in ("temperature", "horizon 1", "same candidates", "lookahead")
    ]
    gain = {"value": finding.value, "low": finding.low, "high": finding.high, "reason": finding.reason}
    words, memorised = finding.details["words"], finding.details["memorised"]
    cells = [Path(folder).name, f"{finding.n['tokens']:,}", str(finding.n["units"]), f"{arms['naive']:.4f}", *over]
    cells += [
        interval(gain),
        interval(finding.control["placebo"]),
        interval(words),
        f"{100 * memorised['share']:.1f} %",
    ]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    print("| " + " | ".join(HEAD) + " |\n|" + " --- |" * len(HEAD))
    for argument in sys.argv[1:]:
        print(row(argument))
    identities = [Run.read(Path(argument)).content["identity"] for argument in sys.argv[1:]]
    if len({identity.get("tokenizer_sha256") for identity in identities}) > 1:
        print("\nThe tokenizers differ: numbers are a token of each run's own, and compare within a tokenizer only.")
