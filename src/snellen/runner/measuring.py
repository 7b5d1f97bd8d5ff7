"""A run whose windows are all scored → its measures, tables and columns, and the finished folder."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa

from snellen.measures.base import Measure, Scored
from snellen.measures.generations import Generations
from snellen.measures.readings import Readings
from snellen.request import Request
from snellen.results.findings import Finding
from snellen.results.store import Writer
from snellen.runner import scoring
from snellen.runner.progress import Progress
from snellen.runner.work import Text, spell


def finish(
    request: Request,
    text: Text,
    chosen: Mapping[str, Measure],
    writer: Writer,
    tell: Progress,
    *,
    written: Mapping[str, Generations],
    read: Mapping[str, Readings],
    searched: bool,
) -> None:
    """Answer every question from what the pieces say, and complete the folder."""
    began = time.monotonic()
    table = writer.pieces()
    scored = scoring.scored(
        table,
        widths=request.all_widths if searched else (),
        horizon=request.horizon,
        starts_word=text.starts_word,
        documents=text.names,
    )
    findings, tables = list[Finding](), dict[str, pa.Table]()
    for name, measure in chosen.items():
        told = partial(_tell, tell, f"measuring {name}")
        told(0.0)
        own = replace(scored, generations=written.get(name), readings=read.get(name), tell=told)
        finding, columns, drawn = _measure(measure, own, request.seed)
        findings.append(replace(finding, excluded={**text.excluded, **finding.excluded}))
        for column, values in columns.items():
            if column in table.column_names:
                raise ValueError(f"measure {name!r} adds column {column!r}, which tokens.parquet has already")
            table = table.append_column(column, values)
        if drawn.keys() & tables.keys():
            raise ValueError(f"measure {name!r} writes table {sorted(drawn.keys() & tables.keys())} a second time")
        tables |= drawn
        told(1.0)
    fixed = {"documents": text.documents()}
    spelled = scoring.tokens_seen(table)
    fixed["vocabulary"] = pa.table(
        {"token": pa.array(spelled, pa.int32()), "text": pa.array(spell(text.tokenizer, spelled), pa.string())}
    )
    if taken := sorted(fixed.keys() & tables.keys()):
        raise ValueError(f"a measure writes table {taken}, which every run has")
    writer.spend("measuring", began)
    writer.finish(table, tables | fixed, findings)


def _tell(tell: Progress, stage: str, share: float) -> None:
    tell.stage(stage, share, "")


def _measure(
    measure: Measure, scored: Scored, seed: int
) -> tuple[Finding, dict[str, pa.Array], Mapping[str, pa.Table]]:
    measured = measure.measure(scored, seed=seed)
    columns = {}
    for column, values in measured.columns.items():
        values = np.asarray(values)
        if len(values) != len(scored):
            raise ValueError(f"column {column!r} of {measure.name!r} has {len(values)} rows, not {len(scored)}")
        is_text = values.dtype.kind in "OUS"
        columns[column] = (
            pa.array(values.tolist(), pa.string()).dictionary_encode() if is_text else scoring.lists(values)
        )
    return measured.finding, columns, measured.tables
