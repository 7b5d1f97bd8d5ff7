import json

import pytest

from snellen.organisms import chart
from snellen.results import provenance
from tests.touched import touched


def row(**changes):
    def point(width, horizon, value, placebo=0.0):
        low, high = value - 0.01, value + 0.01
        gain = {"value": value, "low": low, "high": high}
        return {"width": width, "horizon": horizon, "gain": gain, "placebo": {"value": placebo, "low": 0, "high": 0}}

    plain = {
        "name": "pair", "expects": "gain", "passed": True, "objections": [], "width": 8, "horizon": 3,
        "points": [point(2, 2, 0.0), point(2, 3, 0.2, -0.5), point(8, 2, 0.001, -0.004), point(8, 3, 0.7)],
    }  # fmt: skip
    return {**plain, **changes}


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("SNELLEN_CACHE", str(tmp_path))


def keep(**changes):
    return chart.keep({"when": "2026-01-01T00:00:00+00:00", "passed": True, "seeds": 3, "rows": [row()], **changes})


def test_what_was_found_with_this_code_is_recorded():
    keep()
    found = chart.recorded()
    assert (found["examined"], found["passed"], found["seeds"], found["code"]) == (True, True, 3, chart.code_hash())
    (brief,) = found["organisms"]
    assert (brief["value"], brief["low"], brief["high"]) == (0.7, pytest.approx(0.69), pytest.approx(0.71))
    assert brief["by_width"] == {"2": 0.2, "8": 0.7}
    assert brief["by_horizon"] == {"2": 0.001, "3": 0.7}
    assert brief["placebo"] == 0.004  # of the width that is judged
    json.dumps(found, allow_nan=False)


def test_what_was_found_with_other_code_is_not(monkeypatch):
    keep()
    monkeypatch.setattr(chart, "code_hash", lambda: "f" * 64)
    found = chart.recorded()
    assert found["examined"] is False
    assert found["reason"] == "the organisms were not examined with this code; run `snellen organisms`"


@pytest.mark.parametrize("content", ["", "[]", "{", '{"schema": 1}', '{"schema": 2, "code": ""}', "\udcff"])
def test_a_record_that_cannot_be_read_is_no_record(content):
    path = keep()
    path.write_bytes(content.encode(errors="surrogateescape"))
    found = chart.recorded()
    assert found["examined"] is False
    assert "cannot be read" in found["reason"]


def test_no_number_is_no_number():
    keep(rows=[row(points=[], passed=False, objections=["seed 0: no number"])], passed=False)
    (brief,) = chart.recorded()["organisms"]
    assert "value" not in brief
    assert brief["placebo"] is None
    assert brief["objections"] == ["seed 0: no number"]


def test_the_hash_is_of_what_the_self_test_runs_and_of_what_it_runs_on(monkeypatch):
    before = chart.code_hash()
    assert before == chart.code_hash()
    with monkeypatch.context() as patch:
        patch.setattr(provenance, "versions", lambda: {"torch": "another"})
        assert chart.code_hash() != before
    moved = []
    for name in ("snellen.runner.scoring", "snellen.studies.decisions", "snellen.report.html"):
        with touched(name):
            moved.append(chart.code_hash() != before)
    assert moved == [True, True, False]
