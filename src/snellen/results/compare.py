"""Two runs side by side: their findings and how well each model predicts, with intervals of the differences.

The difference of two findings has its interval from theirs. That of two log-likelihoods is *paired* where both runs
scored the same stretches of the same text. Tokens of different tokenizers are not comparable: log-likelihoods are given
a character and a byte too, on the characters that both runs scored, and the gain a byte where those are all
(`comparable`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snellen.kinds import checked
from snellen.results.comparable import OTHER_TOKENS, PER_TOKEN, Common, counts_tokens
from snellen.results.coverage import Tokens, common_sums, sums
from snellen.results.differences import Value, from_intervals, interval
from snellen.results.findings import Finding
from snellen.results.store import MADE_BY, Run

Floats = NDArray[np.float64]
_CONVERTED = "lookahead-gain"  # the measure whose number can be had a byte


@dataclass(frozen=True, kw_only=True)
class Row:
    """One quantity: of the first run, of the second, and second minus first."""

    name: str
    unit: str
    first: Value
    second: Value
    difference: Value
    level: float
    method: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What `compare` found. `settings` holds what differs: name → (first, second)."""

    runs: tuple[Mapping[str, Any], Mapping[str, Any]]
    settings: Mapping[str, tuple[Any, Any]]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        return {"schema": 1, **asdict(self)}


@checked
def compare_runs(first: str | os.PathLike[str], second: str | os.PathLike[str]) -> Comparison:
    """Compare two finished runs; raises InputError for a folder that is no finished run, or damaged."""
    runs = (Run.read(first), Run.read(second))
    with runs[0].understood(), runs[1].understood():
        return _compared(runs)


def _compared(runs: tuple[Run, Run]) -> Comparison:
    tokens = (Tokens.read(runs[0]), Tokens.read(runs[1]))
    texts = [run.documents("sha256")["sha256"] for run in runs]
    same_text = texts[0] == texts[1] and None not in texts[0] and bool(texts[0])
    keys = [run.content.get("key", {}) for run in runs]
    differing = {
        name: (keys[0].get(name), keys[1].get(name))
        for name in dict.fromkeys([*keys[0], *keys[1]])
        if name != MADE_BY and keys[0].get(name) != keys[1].get(name)
    }
    made = [key.get(MADE_BY, {}) for key in keys]
    differing |= {
        name: (made[0].get(name), made[1].get(name))
        for name in dict.fromkeys([*made[0], *made[1]])
        if made[0].get(name) != made[1].get(name)
    }
    findings = [{finding.measure: finding for finding in run.findings} for run in runs]
    common = Common(runs=runs, tokens=tokens, same_text=same_text)
    rows = [
        row
        for name in findings[0]
        if name in findings[1]
        for row in _finding_rows(name, (findings[0][name], findings[1][name]), common)
    ]
    level = max([row.level for row in rows], default=0.95)
    rows += _likelihood_rows(tokens, same_text, common.same_tokenizer, level)
    return Comparison(
        runs=(_describe(runs[0], tokens[0], findings[0]), _describe(runs[1], tokens[1], findings[1])),
        settings=differing,
        rows=tuple(rows),
        notes=tuple(_notes(findings, differing, common)),
    )


def _describe(run: Run, tokens: Tokens, findings: Mapping[str, Finding]) -> dict[str, Any]:
    identity = run.content.get("identity", {})
    known = run.documents("name", "scored")
    documents = [name for name, scored in zip(known["name"], known["scored"], strict=True) if scored != 0]
    return {
        "folder": str(run.folder),
        "model": identity.get("name") or identity.get("source"),
        "documents": documents,
        "tokens": len(tokens.token),
        "verdicts": {name: finding.verdict for name, finding in findings.items()},
    }


def _notes(findings: list[dict[str, Finding]], differing: Mapping[str, Any], common: Common) -> list[str]:
    notes = []
    if not common.same_text:
        notes.append("the texts differ: a difference is between model and text together, drawn independently")
    if not common.same_tokenizer:
        notes.append("the tokenizers differ: nats a token are not comparable, nor what else counts in tokens")
    elif (mend := common.mend()) is not None:
        notes.append(f"other parts of the text were scored (--limit); the same parts: {mend}")
    notes += [
        f"{name} was measured with other settings: its values answer different questions"
        for name in findings[0]
        if name in findings[1] and _asked(findings[0][name]) != _asked(findings[1][name])
    ]
    notes += [
        f"{name} differs ({differing[name][0]} and {differing[name][1]})"
        for name in ("width", "horizon", "widths")
        if name in differing
    ]
    notes += [
        f"{name} was measured in one of the runs only" for name in sorted(findings[0].keys() ^ findings[1].keys())
    ]
    return notes


def _asked(finding: Finding) -> dict[str, Any]:
    return {name: value for name, value in finding.settings.items() if name != "seed"}


def _finding_rows(name: str, pair: tuple[Finding, Finding], common: Common) -> list[Row]:
    """One; two where the number is comparable in another unit only."""
    if common.same_tokenizer or not any(counts_tokens(finding.unit) for finding in pair):
        return [_finding_row(name, pair)]
    if name != _CONVERTED or not all(PER_TOKEN.search(finding.unit) for finding in pair):
        return [_finding_row(name, pair, incomparable=OTHER_TOKENS)]
    found = common.per_byte(pair)
    if isinstance(found, str):
        return [_finding_row(name, pair, incomparable=found)]
    converted, _ = found
    return [
        _finding_row(name, pair, incomparable=f"{OTHER_TOKENS}; see a byte"),
        _finding_row(name, converted, label=f"{name} a byte"),
    ]


def _finding_row(
    name: str,
    pair: tuple[Finding, Finding],
    *,
    label: str | None = None,
    incomparable: str | None = None,
) -> Row:
    first, second = pair
    values = [Value(value=f.value, low=f.low, high=f.high, reason=f.reason) for f in pair]
    level = max(first.level, second.level)
    method = "from the two intervals"
    if incomparable is not None:
        difference, method = Value(value=None, reason=incomparable), "none"
    elif first.value is None or second.value is None or first.unit != second.unit:
        reason = "undefined in one of the runs" if first.unit == second.unit else "the units differ"
        difference = Value(value=None, reason=reason)
    else:
        difference = from_intervals(second.value - first.value, pair, level)
    return Row(
        name=label or name,
        unit=first.unit,
        first=values[0],
        second=values[1],
        difference=difference,
        level=level,
        method=method,
    )


def _likelihood_rows(tokens: tuple[Tokens, Tokens], same_text: bool, same_tokenizer: bool, level: float) -> list[Row]:
    # On the same text both are summed over the same characters, in the first run's units: paired.
    first, second = common_sums(*tokens) if same_text else (sums(tokens[0]), sums(tokens[1]))
    rows = []
    for name, count in (("token", "tokens"), ("character", "characters"), ("byte", "bytes")):
        pair = (interval([first], count, level, paired=True), interval([second], count, level, paired=True))
        if count == "tokens" and not same_tokenizer:
            difference, method = Value(value=None, reason=f"{OTHER_TOKENS}; see a byte"), "none"
        else:
            method = "paired over units" if same_text else "independent, over units"
            difference = interval([first, second], count, level, paired=same_text)
        rows.append(
            Row(
                name=f"naive log-likelihood a {name}",
                unit=f"nats/{name}",
                first=pair[0],
                second=pair[1],
                difference=difference,
                level=level,
                method=method,
            )
        )
    return rows
