"""Does the interval of the lookahead gain hold what it says? On texts whose gain is known: nulls, doses, few documents.

    OMP_NUM_THREADS=1 python scripts/coverage/study.py docs/coverage.csv [--texts 1.0] [--processes 2] [--only NAME …]

Every cell draws planless models (`Markov` tables), an author for each, and texts of his; `studies.expected` gives the
gain that is there in expectation. One row a cell; `scripts/remake.py lookahead-gain` makes the table of
docs/lookahead-gain.md from it. With --texts 1 it takes about half an hour on two cores.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

import texts
from snellen.measures.lookahead_gain import LookaheadGain
from snellen.measures.lookahead_gain.arms import Survivors
from snellen.measures.lookahead_gain.curves import point, shared
from snellen.measures.lookahead_gain.detectable import Authors
from snellen.results import statistics
from snellen.studies.expected import expected

MEASURE = LookaheadGain()
RULES = 10  # models of a cell
ALPHA = MEASURE.alphas.index(1.0)

Tables = tuple[texts.Floats, texts.Floats]  # the model, the author


def follows(weight: float) -> Callable[[int], Tables]:
    def of(rules: int) -> Tables:
        model = texts.model(rules)
        return model, texts.follower(model, weight)

    return of


def miscalibrated(exponent: float = 1.0, smooth: float = 0.0) -> Callable[[int], Tables]:
    def of(rules: int) -> Tables:
        author = texts.model(rules)
        return texts.smoothed(texts.tilted(author, exponent), smooth), author

    return of


def sharpens(rules: int) -> Tables:
    model = texts.model(rules)
    return model, texts.follower(model, 0.3, 2.0, factor=False)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """weight: with which the author follows the lookahead; the power of finding that is predicted, too."""

    name: str
    says: str
    number: int
    tables: Callable[[int], Tables] | None = None  # None: authors of two kinds, who are the model together
    documents: int = 20
    size: int = 120
    weight: float | None = None


def dose(weight: float, number: int, documents: int = 20) -> Cell:
    return Cell(
        name=f"dose {weight} in {documents}", says=f"the author follows the lookahead with weight {weight}",
        number=number, tables=follows(weight), documents=documents, weight=weight,
    )  # fmt: skip


CELLS = (
    Cell(name="null exact", says="the model is the author", number=160, tables=miscalibrated()),
    Cell(name="null flat", says="the model is the author's p^0.6", number=80, tables=miscalibrated(0.6)),
    Cell(name="null sharp", says="the model is the author's p^1.5", number=80, tables=miscalibrated(1.5)),
    Cell(name="null few", says="the model is the author", number=80, tables=miscalibrated(), documents=8),
    Cell(name="null long", says="the model is the author", number=60, tables=miscalibrated(), documents=60),
    Cell(name="sharpens", says="the author sharpens among the survivors", number=120, tables=sharpens),
    Cell(name="two kinds, 20", says="authors of two kinds, the model their mean", number=120),
    Cell(name="two kinds, 8", says="the same", number=120, documents=8, size=300),
    Cell(name="two kinds, 2", says="the same; blocks", number=120, documents=2, size=1200),
    Cell(name="smoothed", says="the author's, smoothed by .05", number=80, tables=miscalibrated(1.0, 0.05)),
    Cell(
        name="smoothed, flat", says="smoothed by .05 and p^0.6", number=80, tables=miscalibrated(0.6, 0.05)
    ),
    dose(0.15, 100), dose(0.2, 100), dose(0.25, 100), dose(0.3, 100), dose(0.4, 100),
    dose(0.3, 80, 8), dose(0.5, 80, 8), dose(0.15, 80, 60), dose(0.2, 80, 60),
)  # fmt: skip


@cache
def known(name: str, rules: int) -> tuple[texts.Floats, tuple[texts.Floats, ...], float]:
    """The model, the authors, and the gain that is there."""
    cell = next(one for one in CELLS if one.name == name)
    if cell.tables is None:
        model = texts.model(rules)
        return model, texts.leaning(model, 0.9), 0.0
    model, author = cell.tables(rules)
    # The model itself on its own text: nothing can be gained, whatever the grid.
    gain = (
        0.0
        if np.array_equal(model, author)
        else expected(
            model,
            author,
            cell.size,
            width=texts.WIDTH,
            horizon=texts.HORIZON,
            alphas=MEASURE.alphas,
            weights=MEASURE.weights,
        ).gain
    )
    return model, (author,), gain


def one_text(job: tuple[str, int]) -> dict[str, Any]:
    name, number = job
    cell = next(one for one in CELLS if one.name == name)
    model, authors, gain = known(name, number % RULES)
    rng = np.random.default_rng([number, CELLS.index(cell)])
    documents = [
        texts.sample(authors[int(rng.integers(len(authors)))], 1, cell.size, rng)[0] for _ in range(cell.documents)
    ]
    scored = texts.score(model, documents)
    problem, units = MEASURE._problem(scored, seed=number)
    problem, common = shared(problem)
    survivors = Survivors.of(scored.beams[texts.WIDTH], scored)
    found = point(problem, common, survivors, texts.WIDTH, texts.HORIZON, each_alpha=False)
    sure = None
    if cell.weight is not None:
        supposed = Authors(problem, survivors.lookahead(texts.HORIZON, MEASURE.alphas), ALPHA)
        sure = predicted(supposed, gain)
    assert found.placebo is not None
    assert found.detectable is not None
    return asdict(found.gain) | {
        "cell": name, "truth": gain, "placebo_low": found.placebo.low, "kind": units.kind, "units": units.count,
        "detectable": found.detectable.value, "predicted": sure,
    }  # fmt: skip


def predicted(supposed: Authors, gain: float) -> float:
    """The power that is predicted on this text of an author who gains as much."""
    low, high = 0.001, 0.95
    while high / low > 1.01:
        middle = float(np.sqrt(low * high))
        low, high = (low, middle) if supposed.at(middle, MEASURE.level).gain >= gain else (middle, high)
    return supposed.at(high, MEASURE.level).sure


def row(cell: Cell, found: list[dict[str, Any]]) -> dict[str, Any]:
    """Shares of the texts of a cell."""

    def share(test: Callable[[dict[str, Any]], bool]) -> float:
        return float(np.mean([test(one) for one in found]))

    def mean(name: str) -> float | str:
        values = [one[name] for one in found if one[name] is not None]
        return float(np.mean(values)) if values else ""

    return {
        "cell": cell.name, "says": cell.says, "documents": cell.documents, "tokens": cell.documents * cell.size,
        "texts": len(found), "units": found[0]["kind"], "truth": mean("truth"), "value": mean("value"),
        "low": mean("low"), "high": mean("high"), "found": share(lambda one: one["low"] > 0),
        "low_above": share(lambda one: one["low"] > one["truth"] + 1e-12),
        "high_below": share(lambda one: one["high"] < one["truth"]),
        "outside": share(lambda one: not one["low"] <= one["value"] <= one["high"]),
        "placebo_found": share(lambda one: one["placebo_low"] > 0),
        "predicted": mean("predicted"), "detectable": mean("detectable"),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--texts", type=float, default=1.0, help="share of the texts of each cell")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=[cell.name for cell in CELLS])
    settings = parser.parse_args()
    cells = [cell for cell in CELLS if settings.only is None or cell.name in settings.only]
    rows = []
    with ProcessPoolExecutor(settings.processes, mp_context=get_context("spawn")) as pool:
        for cell in cells:
            number = max(statistics.REFUSED_BELOW, round(cell.number * settings.texts))
            # jobs of one model stand together, so that a process works out its truth once
            jobs = sorted(((cell.name, i) for i in range(number)), key=lambda job: job[1] % RULES)
            found = list(pool.map(one_text, jobs, chunksize=max(1, number // (2 * RULES))))
            rows.append(row(cell, found))
            print({name: round(v, 4) if isinstance(v, float) else v for name, v in rows[-1].items()}, flush=True)
    with settings.out.open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        for one in rows:
            writer.writerow({name: f"{v:.6f}" if isinstance(v, float) else v for name, v in one.items()})


if __name__ == "__main__":
    main()
