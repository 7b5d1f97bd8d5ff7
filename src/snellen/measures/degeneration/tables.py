"""Results into rows, and into words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from snellen.measures.degeneration.estimates import of_corpus
from snellen.measures.degeneration.quantities import LOOP, OF_CORPUS, UNITS, of_texts
from snellen.measures.degeneration.repetition import final_loop, seq_rep
from snellen.measures.generations import Continuations, Generations
from snellen.results.estimates import Estimate
from snellen.results.samples import Sample

HUMAN = "human"
PLACES = 16  # stretches that a trace is averaged over


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One decoding's numbers by name, and how far each is from that of the human continuations of the same prompts."""

    values: Mapping[str, Estimate]
    differences: Mapping[str, Estimate]

    @classmethod
    def of(cls, human: Continuations, own: Continuations | None, sample: Sample) -> Comparison:
        """`own` None: of the human text itself, which differs from nothing."""
        theirs, mine = of_texts(human), of_texts(own or human)
        names = list(mine)
        values = dict(zip(names, sample.means(np.stack(list(mine.values()), axis=1)), strict=True))
        values[LOOP] = sample.share(mine[LOOP] > 0)
        apart = np.stack([mine[name] - theirs[name] for name in names], axis=1)
        differences = dict(zip(names, sample.means(apart), strict=True)) if own is not None else {}
        if own is not None:
            differences[LOOP] = sample.share_difference(mine[LOOP] > 0, theirs[LOOP] > 0)
        for name, statistic in OF_CORPUS.items():
            found = statistic((own or human).tokens, sample.unit)
            values[name] = of_corpus(found, sample.resamples.level)
            if own is not None:
                other = statistic(human.tokens, sample.unit)
                differences[name] = of_corpus(found, sample.resamples.level, other)
        return cls(values=_possible(values, 0, 1), differences=_possible(differences, -1, 1))


def _possible(found: Mapping[str, Estimate], low: float, high: float) -> dict[str, Estimate]:
    """The interval of a share, or of a difference of shares, holds nothing that none can be."""
    return {name: one.within(low, high) if UNITS[name].startswith("share") else one for name, one in found.items()}


def metrics(compared: Mapping[str, Comparison], human: Comparison, prompts: int) -> pa.Table:
    rows = []
    for name, own in {HUMAN: human, **compared}.items():
        for metric, unit in UNITS.items():
            value, apart = own.values[metric], own.differences.get(metric)
            row = {"decoding": name, "metric": metric, "unit": unit, **_three(value, ("value", "low", "high"))}
            row |= {"human": human.values[metric].value, "n": prompts}
            row |= _three(apart, ("difference", "difference_low", "difference_high"))
            rows.append(row | {"reason": value.reason or (apart.reason if apart is not None else None)})
    text, number = pa.string(), pa.float64()
    names = ("value", "low", "high", "human", "difference", "difference_low", "difference_high")
    schema = [("decoding", text), ("metric", text), ("unit", text), *((name, number) for name in names)]
    return pa.Table.from_pylist(rows, pa.schema([*schema, ("n", pa.int64()), ("reason", text)]))


def traces(found: Generations, sample: Sample) -> pa.Table:
    """Mean log-probability and entropy by stretch of the continuation, positions [first, last)."""
    length = found.human.tokens.shape[1]
    edges = np.unique(np.linspace(0, length, min(PLACES, length) + 1).round().astype(int))
    rows = []
    for name, own in {HUMAN: found.human, **found.written}.items():
        parts = {}
        for what in ("log_prob", "entropy"):
            trace = np.add.reduceat(getattr(own, what).astype(np.float64), edges[:-1], axis=1) / np.diff(edges)
            parts[what] = sample.means(trace)
        for k, (first, last) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)):
            row: dict[str, object] = {"decoding": name, "first": first, "last": last}
            for what, estimates in parts.items():
                row |= _three(estimates[k], (what, f"{what}_low", f"{what}_high"))
            rows.append(row)
    return pa.Table.from_pylist(rows)


def texts(found: Generations) -> pa.Table:
    """Everything that was written, with its trace: one row a prompt and decoding."""
    parts = []
    for name, own in {HUMAN: found.human, **found.written}.items():
        parts.append(
            pa.table({
                "decoding": pa.array([name] * len(found)), "prompt": np.arange(len(found), dtype=np.int32),
                "document": found.document, "start": found.start, "before": pa.array(found.prompt, pa.string()),
                "text": pa.array(own.text, pa.string()), "final_loop": final_loop(own.tokens).astype(np.int32),
                "seq_rep_4": seq_rep(own.tokens, 4), "tokens": _lists(own.tokens),
                "log_prob": _lists(own.log_prob), "entropy": _lists(own.entropy),
            })
        )  # fmt: skip
    return pa.concat_tables(parts).combine_chunks()


def verdict(headline: str, metric: str, compared: Mapping[str, Comparison], human: Comparison) -> tuple[str, str]:
    """The answer in a sentence, and how to read the number, beside what it must be compared with."""
    first = compared[headline].differences[metric]
    if first.value is None or first.low is None or first.high is None:
        said = "No answer: the interval is not defined."
    elif first.low > 0:
        said = f"Sampling {headline} repeats itself more than the human text does."
    elif first.high < 0:
        said = f"Sampling {headline} repeats itself less than the human text does."
    else:
        said = f"No more repetition than in the human text was found in sampling {headline}."
    shown = ["pure", *(name for name in compared if name.startswith("amplified")), "greedy"]
    beside = ", ".join(f"{name} {_share(compared[name].values[metric])}" for name in shown)
    loops = ", ".join(
        f"{name} {_share(own.values[LOOP])}"
        for name, own in {HUMAN: human, "pure": compared["pure"], headline: compared[headline],
                          "greedy": compared["greedy"]}.items()
    )  # fmt: skip
    reading = (
        "Of the sequences of four tokens in a continuation, so many more have occurred in it before than in the human "
        f"continuation of the same prompt ({_share(human.values[metric])}). Beside it: {beside}. If pure sampling "
        "departs from the human text too, that is the model's own doing and not the search's. Texts that end in a "
        f"loop: {loops}."
    )
    drawn = compared["pure"].values["log-probability + entropy"]
    if drawn.low is not None and drawn.high is not None and not drawn.low <= 0 <= drawn.high:
        interval = f"{drawn.value:+.3f} [{drawn.low:+.3f}, {drawn.high:+.3f}]"
        reading += (
            f" Mind: log p + entropy of purely sampled tokens is {interval} and should hold 0. By chance one interval "
            "in twenty does not; otherwise sampling is not in order."
        )
    return said, reading


def _share(value: Estimate) -> str:
    return "undefined" if value.value is None else f"{value.value:.1%}"


def _three(value: Estimate | None, names: tuple[str, str, str]) -> dict[str, float | None]:
    found = (None,) * 3 if value is None else (value.value, value.low, value.high)
    return dict(zip(names, found, strict=True))


def _lists(values: np.ndarray) -> pa.Array:
    flat = np.ascontiguousarray(values)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), flat.shape[1])
