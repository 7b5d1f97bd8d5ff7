"""What docs/results/degeneration.md is made of, from a finished run of the measure.

python scripts/degeneration/publish.py runs/degeneration docs/results/degeneration.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from snellen.results.store import Run

_SIX = ("value", "low", "high", "difference", "difference_low", "difference_high")


def record(folder: Path) -> dict[str, Any]:
    """Every number of every decoding, the differences from the twins that do not look ahead, and what made them."""
    run = Run.read(folder)
    finding = next(one for one in run.findings if one.measure == "degeneration")
    table = run.table("degeneration_metrics")
    assert table is not None
    numbers: dict[str, dict[str, list[float | None]]] = {}
    for row in table.to_pylist():
        numbers.setdefault(row["decoding"], {})[row["metric"]] = [short(row[name]) for name in _SIX]
    beyond = {
        name: {metric: [short(one[end]) for end in ("value", "low", "high")] for metric, one in found.items()}
        for name, found in finding.details["beyond horizon 1"].items()
    }
    return {
        "settings": finding.settings, "n": finding.n, "environment": run.content["environment"],
        "columns": _SIX, "numbers": numbers, "beyond horizon 1": beyond,
    }  # fmt: skip


def short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")


if __name__ == "__main__":
    source, out = map(Path, sys.argv[1:])
    content = record(source)
    rows = {name: json.dumps(found, ensure_ascii=False) for name, found in content["numbers"].items()}
    text = json.dumps({**content, "numbers": None}, indent=1, ensure_ascii=False)
    lines = ",\n".join(f"  {json.dumps(name, ensure_ascii=False)}: {row}" for name, row in rows.items())
    out.write_text(text.replace('"numbers": null', f'"numbers": {{\n{lines}\n }}') + "\n", encoding="utf-8")
