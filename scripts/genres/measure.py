"""Runs → `genres.csv`: every gain with its interval, control and placebo, from the stored predictions alone.

    OMP_NUM_THREADS=1 python scripts/genres/measure.py RUNS OUT.csv [--only NAME …]

No model is needed, so the published numbers can always be made again with the measure as it is now. A run whose
`about` has roles (line ends) is measured once for each role. With --only the other rows of OUT.csv stay.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from snellen.measures.lookahead_gain import LookaheadGain
from snellen.runner import scoring

MEASURE = LookaheadGain(alphas=(0.0, 1.0, 2.0, 4.0))
SEED = 0
HORIZONS = (2, 4, 8)
CONTROLS = ("naive", "temperature", "horizon 1", "same candidates")
_BESIDE = ("placebo", "placebo_low", "placebo_high", "detectable")
ROLES = ("first line", "second line")
FIELDS = (
    "run", "model", "text", "tokens", "units", "unit_kind", "interval", "naive", "memorised", "width", "horizon",
    "alpha", "gain", "low", "high", "placebo", "placebo_low", "placebo_high", "detectable",
    "best_control", "control_over_naive",
    "fitted_alpha", "fitted_kind", "fitted_weight", "without_memorised", "without_memorised_low",
    "without_memorised_high",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Run:
    name: str
    text: str
    model: str
    about: dict[str, Any]
    table: pa.Table
    starts_word: np.ndarray[Any, Any]


def read(folder: Path) -> Iterator[Run]:
    """The run, or one for each role of its spans."""
    about = json.loads((folder / "run.json").read_text())
    table = pq.read_table(folder / "tokens.parquet")
    words = np.load(folder / "starts_word.npy")
    genre, model = about["about"]["genre"], Path(about["about"]["model"]).name
    roles = about["about"].get("roles")
    if roles is None:
        yield Run(name=folder.name, text=genre, model=model, about=about, table=table, starts_word=words)
        return
    of_row = np.repeat(roles, [span["last"] - span["first"] for span in about["spans"]])
    for number, role in enumerate(ROLES):
        rows = np.flatnonzero(of_row == number)
        yield Run(
            name=f"{folder.name} {role}",
            text=f"{genre}: {role}",
            model=model,
            about=about,
            table=table.take(rows),
            starts_word=words,
        )


def rows(run: Run) -> list[dict[str, Any]]:
    """One row for each width, horizon and α (empty: fitted)."""
    scored = scoring.scored(
        run.table,
        widths=run.about["widths"],
        horizon=run.about["horizon"],
        starts_word=run.starts_word,
        documents=run.about["documents"],
    )
    measured = MEASURE.measure(scored, seed=SEED)
    finding = measured.finding
    without = finding.details["memorised"]
    has_runs = "memorised_run" in run.table.column_names
    share = float(np.mean(run.table["memorised_run"].to_numpy(zero_copy_only=False))) if has_runs else None
    whole = {
        "run": run.name,
        "model": run.model,
        "text": run.text,
        "tokens": finding.n["tokens"],
        "units": finding.n["units"],
        "unit_kind": finding.details["units"]["kind"],
        "interval": finding.details["units"]["interval"],
        "naive": finding.control["arms"]["naive"],
        "memorised": share,
    }
    arms = {(arm["width"], arm["horizon"], arm["arm"]): arm for arm in _beams(measured.tables["arms"])}
    out = []
    for gain in _beams(measured.tables["gains"]):
        width, horizon = gain["width"], gain["horizon"]
        if horizon not in HORIZONS or horizon > run.about["horizon"]:
            continue
        over = {name: arms[width, horizon, name]["gain_over_naive"] for name in CONTROLS}
        best = max(CONTROLS, key=over.__getitem__)
        row = whole | {"width": width, "horizon": horizon, "alpha": gain["alpha"]}
        row |= {"gain": gain["value"], "low": gain["low"], "high": gain["high"]}
        row |= {"best_control": best, "control_over_naive": over[best]}
        if gain["alpha"] is None:
            fitted = arms[width, horizon, "lookahead"]
            row |= {name: gain[name] for name in _BESIDE}
            row |= {f"fitted_{name}": fitted[name] for name in ("alpha", "kind", "weight")}
            if width == max(run.about["widths"]) and horizon == run.about["horizon"]:
                row |= {"without_memorised": without["value"]}
                row |= {f"without_memorised_{end}": without[end] for end in ("low", "high")}
        out.append(row)
    return out


def _beams(table: pa.Table) -> list[dict[str, Any]]:
    return [row for row in table.to_pylist() if row.get("search", "beam") == "beam"]


def written(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return "inf" if math.isinf(value) else f"{value:.6f}"
    return str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="+", help="folders below RUNS (default: all that are complete)")
    settings = parser.parse_args()
    folders = sorted(path.parent for path in settings.runs.glob("*/tokens.parquet"))
    if settings.only:
        folders = [folder for folder in folders if folder.name in settings.only]
    found: dict[str, list[dict[str, str]]] = {}
    if settings.only and settings.out.exists():
        for row in csv.DictReader(settings.out.open(encoding="utf-8")):
            found.setdefault(row["run"], []).append(row)
    for folder in folders:
        for run in read(folder):
            measured = [{name: written(row.get(name)) for name in FIELDS} for row in rows(run)]
            found[run.name] = measured
            print(run.name, *(measured[-1][name] for name in ("tokens", "units", "memorised")), flush=True)
    with settings.out.open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, FIELDS, lineterminator="\n")
        writer.writeheader()
        for name in sorted(found):
            writer.writerows(found[name])


if __name__ == "__main__":
    main()
