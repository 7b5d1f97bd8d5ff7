"""Noise looks like noise: the specifications of the charts (Vega-Lite) of a run without an effect and of one with."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from tests.report.synthetic_run import make_run
from tests.report.test_degeneration_figures import _tables

from snellen.report import charts, data, degeneration, figures, in_context, palette, scale

NOTHING = 0.0003  # as large as what a null run shows
INTERVAL = 0.004


def gains(folder: Path, value: float) -> data.Evidence:
    """A run in which every gain, at every width, horizon and exponent, is ± `value` with the same interval."""
    make_run(folder, tokens=300)
    for name in ("gains", "arms", "splits"):
        path = folder / "tables" / f"{name}.parquet"
        rows = pq.read_table(path).to_pylist()
        at = "gain_over_naive" if name == "arms" else "value"
        for row, sign in zip(rows, itertools.cycle((1, -1))):
            row |= {at: sign * value, "low": sign * value - INTERVAL, "high": sign * value + INTERVAL}
            row |= {key: 0.0 for key in ("placebo", "placebo_low", "placebo_high") if row.get(key) is not None}
        pq.write_table(pq.read_table(path).from_pylist(rows), path)
    return data.read(folder)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The specification of each chart, in the order in which they are drawn."""
    found: list[dict[str, Any]] = []
    draw = charts.svg

    def kept(chart: Any, label: str) -> Any:
        found.append(chart.to_dict())
        return draw(chart, label)

    monkeypatch.setattr(charts, "svg", kept)
    return found


def inside(spec: Any, name: str) -> Iterator[Any]:
    """All values under a key, at any depth."""
    if isinstance(spec, dict):
        for key, value in spec.items():
            if key == name:
                yield value
            yield from inside(value, name)
    elif isinstance(spec, list):
        for value in spec:
            yield from inside(value, name)


def domains(spec: dict[str, Any]) -> list[tuple[float, float]]:
    """The numeric domains of a chart; each forbids the drawing library to widen it."""
    scales = [one for one in inside(spec, "scale") if isinstance(one, dict) and "domain" in one]
    numeric = [one for one in scales if all(type(end) in (int, float) for end in one["domain"])]
    assert all(one["nice"] is False for one in numeric)
    return [tuple(one["domain"]) for one in numeric]


def cells(specs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for spec in specs for values in inside(spec, "values") if isinstance(values, list)
            for row in values if isinstance(row, dict) and "sure" in row]  # fmt: skip


def all_of(evidence: data.Evidence) -> list[figures.Figure]:
    made = [figures.headline(evidence), figures.arms(evidence)]
    return [one for one in [*made, *figures.landscape(evidence), *figures.splits(evidence)] if one is not None]


def test_of_a_null_run_no_cell_is_coloured_and_no_axis_zooms_in(tmp_path: Path, drawn: list[dict[str, Any]]) -> None:
    made = all_of(gains(tmp_path / "run", NOTHING))
    maps = cells(drawn)
    assert maps
    assert {cell["colour"] for cell in maps} == {palette.NEUTRAL}
    assert not any(cell["sure"] for cell in maps)
    axes = [domain for spec in drawn for domain in domains(spec)]
    assert len(axes) >= 1 + 1 + 2 + 4
    # What was found takes less than a fiftieth of its axis.
    assert all(low <= -scale.MEAN and high >= scale.MEAN for low, high in axes)
    assert all((high - low) / 50 > 2 * NOTHING for low, high in axes)
    said = [figure.caption for figure in made if "axis reaches at least \u00b10.02 nats" in figure.caption]
    assert len(said) == 1 + 1 + 2  # the groups of tokens share their axis, and the sentence above them says so
    assert sum("full colour from \u00b10.02 nats" in figure.caption for figure in made) == 2


def test_of_an_effect_cells_have_the_colours_of_their_sign(tmp_path: Path, drawn: list[dict[str, Any]]) -> None:
    all_of(gains(tmp_path / "run", 0.3))
    maps = cells(drawn)
    assert all(cell["sure"] for cell in maps)
    assert {cell["colour"] for cell in maps} == {palette.GAIN_STEPS[2], palette.LOSS_STEPS[1]}  # 0.3 of up to 0.5
    for low, high in (domain for spec in drawn for domain in domains(spec)):
        assert max(-low, high) > 0.304
        assert high - low < 0.7


def test_an_effect_is_not_drowned_by_what_is_only_noise(tmp_path: Path, drawn: list[dict[str, Any]]) -> None:
    """A wide interval about a large number must not make the colours of what is sure pale."""
    evidence = gains(tmp_path / "run", 0.015)
    rows = [dict(row) for row in evidence.gains]
    rows[0] |= {"value": 5.0, "low": -9.0, "high": 19.0}
    figures.landscape(data.Evidence(**{**vars(evidence), "gains": rows}))
    colours = {cell["text"]: cell["colour"] for cell in cells(drawn)}
    assert colours["+5.0000"] == palette.NEUTRAL
    assert colours["+0.0150"] == palette.GAIN_STEPS[2]


def test_a_gain_without_interval_is_no_finding(tmp_path: Path, drawn: list[dict[str, Any]]) -> None:
    evidence = gains(tmp_path / "run", 0.3)
    rows = [{**row, "low": None, "high": None} for row in evidence.gains]
    figures.landscape(data.Evidence(**{**vars(evidence), "gains": rows}))
    assert {cell["colour"] for cell in cells(drawn)} == {palette.NEUTRAL}


@pytest.mark.parametrize(
    ("values", "floor", "top"),
    [([0.0003, -0.0001], 0.02, 0.02), ([], 0.02, 0.02), ([np.nan, 0.0], 0.2, 0.2), ([0.03], 0.02, 0.05),
     ([0.9, -0.9], 0.2, 1.0), ([4.2], 0.2, 5.0), ([11.0], 0.2, 20.0), ([1.0], 0.2, 1.0)],
)  # fmt: skip
def test_colours_change_at_round_numbers_from_a_floor_on(values: list[float], floor: float, top: float) -> None:
    found = scale.edges(np.array(values), floor)
    assert found[-1] == pytest.approx(top)
    assert found == sorted(found)
    assert len(found) == 4


def test_axes_hold_everything_and_their_floor() -> None:
    low, high = scale.around_zero([0.001, -0.3], 0.02)
    assert low < -0.3
    assert 0.02 <= high < 0.05
    low, high = scale.spanning([3.500, 3.502], 0.2)
    assert high - low == pytest.approx(0.2)
    assert (low + high) / 2 == pytest.approx(3.501)
    low, high = scale.spanning([3.0, 5.0], 0.2)
    assert low < 3 < 5 < high < 5.2
    low, high = scale.holding([-0.004, 0.006], 0, 1)
    assert low < -0.004
    assert high > 1


def test_what_is_written_like_people_write_looks_like_it(tmp_path: Path, drawn: list[dict[str, Any]]) -> None:
    """Differences of a thousandth from the human text, and traces that are flat."""
    tables = _tables()
    for name, keys in (("degeneration_metrics", ("difference", "difference_low", "difference_high")),
                       ("degeneration_traces", ("log_prob", "log_prob_low", "log_prob_high"))):  # fmt: skip
        rows = tables[name].to_pylist()
        for row in rows:
            for place, key in enumerate(keys):
                row[key] = None if row[key] is None else -4 * ("traces" in name) + 0.001 * (0, -1, 1)[place]
        tables[name] = tables[name].from_pylist(rows)
    folder = make_run(tmp_path / "run", tokens=80)
    for name, table in tables.items():
        pq.write_table(table, folder / "tables" / f"{name}.parquet")
    degeneration.figures(data.read(folder))
    spans = [high - low for spec in drawn[1:] for low, high in domains(spec)]
    assert min(spans) >= 2 * scale.SHARE
    assert any(low < -4 < high and high - low == pytest.approx(scale.LOSS) for low, high in domains(drawn[1]))


def test_lines_in_context_that_say_nothing_are_flat(drawn: list[dict[str, Any]]) -> None:
    small = {"value": 0.001, "low": -0.001, "high": 0.002}
    weights = [{"examples": None, "prompts": "in order", "rule": rule, **small} for rule in ("least squares", "last")]
    probes = [{"target": "slope", "prompts": "in order", "layer": layer, **small} for layer in range(3)]
    losses = [
        {"first": 2**k, "last": 2 ** (k + 1), "loss": 3.5, "loss_low": 3.499, "loss_high": 3.501} for k in range(4)
    ]
    contexts = [{"source": "own", "context": k, "gain": 1e-4, "gain_low": -1e-4, "gain_high": 2e-4} for k in (15, 63)]
    made = [in_context._weights(weights), in_context._probes(probes), in_context._positions(losses)]
    made.append(in_context._contexts(contexts))
    for spec, least in zip(drawn, (1, 1, scale.LOSS, 2 * scale.MEAN), strict=True):
        assert domains(spec)
        assert all(high - low >= 0.999 * least for low, high in domains(spec))
    words = " ".join(figure.caption + str(figure.legend) for figure in made if figure is not None)
    for absent in ("huffled", "Dashed", "beyond the other rules", "another document", "Hollow"):
        assert absent not in words
