"""docs/results/evolution.md, from the records of `benchmarks/evolution.py`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from pages.page import RESULTS, Page, script, short

_RECORDS = RESULTS / "evolution-records.jsonl"


def _benchmark() -> Any:
    return script("benchmarks/evolution.py")


def _records() -> list[dict[str, Any]]:
    return _benchmark().complete(_benchmark().read(_RECORDS))


def said() -> Iterator[str]:
    records, benchmark = _records(), _benchmark()
    by = {method: [r for r in records if r["method"] == method] for method in benchmark.in_order(records)}
    base = {record["document"]: record for record in by["pocket, sampling"]}

    def mean(method: str, measure: str) -> float:
        return float(np.mean([record[measure] for record in by[method]]))

    def less(method: str, measure: str, *, digits: int = 2) -> str:
        text = benchmark.interval(np.array(benchmark.difference(by[method], base, measure)))
        return " ".join(short(float(x.strip("[],")), digits) for x in text.split())

    def bracketed(method: str, measure: str) -> str:
        value, low, high = less(method, measure).split()
        return f"{value} [{low}, {high}]"

    prompts = len(by["human"])
    yield f"Of the 23 prompts {prompts} were run"
    assert all(len(mine) == prompts for mine in by.values())
    yield f"Its texts are {bracketed('genetic', 'masked')} nats a token above sampled ones"
    yield f"about {mean('genetic', 'masked') - mean('human', 'masked'):.0f} above the real text"
    yield f"`pocket`'s own samples (+{bracketed('genetic', 'causal')})"
    yield (
        f"in random order, is {-mean('masked, written once', 'causal') + mean('pocket, sampling', 'causal'):.1f} below"
    )
    generations = [record["note"]["generations"] for record in by["genetic"]]
    yield f"{min(generations)} or {max(generations)} generations did that"
    far, near = mean("pocket, sampling", "distance"), mean("genetic", "distance")
    yield f"(distance {short(near, 2)} against {short(far, 2)}"
    few, many = mean("genetic", "distinct_2"), mean("pocket, sampling", "distinct_2")
    yield f"distinct pairs {100 * few:.0f} % against {100 * many:.0f} %"
    tokens = mean("genetic", "token_passes") / mean("pocket, sampling", "token_passes")
    seconds = mean("genetic", "seconds") / mean("pocket, sampling", "seconds")
    yield f"costs {round(tokens, -2):.0f} times the tokens and {round(seconds, -1):.0f} times the processor time"
    greedy = mean("pocket, greedy", "masked"), mean("genetic", "masked")
    yield f"(−{-greedy[0]:.2f} against −{-greedy[1]:.2f})"
    yield f"{mean('pocket, greedy', 'causal') - mean('genetic', 'causal'):.1f} nats more for `pocket`"
    chains = [record["note"] for record in by["metropolis, T = 1"]]
    steps, accepted = [note["steps"] for note in chains], [note["acceptance"] for note in chains]
    yield f"{benchmark.PASSES:,} rows are {min(steps)} to {max(steps)} steps of {benchmark.TEXTS} chains"
    assert {note["r_hat"] for note in chains} == {None}
    yield f"accepted at {short(min(accepted), 2)} to {short(max(accepted), 2)}"
    yield (
        f"{mean('pocket, sampling', 'causal') - mean('metropolis, T = 1', 'causal'):.1f} nats below sampling under "
        "`pocket`"
    )
    yield f"(−{-mean('metropolis, T = 1', 'masked'):.2f} against −{-mean('human', 'masked'):.2f})"
    without = {record["document"]: record for record in by["genetic, no repetition term"]}
    for measure in ("causal", "masked"):
        text = benchmark.interval(np.array(benchmark.difference(by["genetic"], without, measure)))
        value, low, high = (float(x.strip("[],")) for x in text.split())
        assert low <= 0 <= high
        yield f"{short(value, 2, signed=True)} [{short(low, 2)}, {short(high, 2, signed=True)}]"


PAGE = Page(
    path="docs/results/evolution.md",
    blocks={
        "means": lambda: _benchmark().means(_records()),
        "differences": lambda: _benchmark().differences(_records()),
    },
    said=said,
)
