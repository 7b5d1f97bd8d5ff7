from dataclasses import replace

import pytest

from snellen.errors import InputError
from snellen.studies.examinations import EXAMINATIONS
from snellen.studies.organisms import Estimate, Point, SeedResult, judge
from snellen.studies.picture import draw, points

MOMENTS = [one for one in EXAMINATIONS if one.organism == "internalised"]


def rows(values=(0.9, 0.5, 0.1, 0.0)):
    out = []
    for one, value in zip(MOMENTS, values, strict=True):
        estimate = Estimate(value=value, low=value - 0.02, high=value + 0.02)
        at = Point(width=one.widths[-1], horizon=one.horizon, gain=estimate, placebo=estimate)
        result = SeedResult(
            examination=one.name, seed=0, points=[at], losses={"naive": 0.6 + value, "author": 0.6},
            training={"step": 100}, seconds=1.0,
        )  # fmt: skip
        out.append(judge(one, [result, replace(result, seed=1, refused="not reached", points=[])]))
    return out


def test_the_picture_holds_every_moment(tmp_path):
    found = points(rows())
    assert len(found) == len(MOMENTS)
    assert sorted(p["lacks"] for p in found) == pytest.approx([0.0, 0.1, 0.5, 0.9])
    draw(rows(), tmp_path / "a.svg")
    first = (tmp_path / "a.svg").read_text()
    assert first.startswith("<svg")
    assert "what lookahead adds" in first
    draw(rows((0.9, 0.9, 0.9, 0.9)), tmp_path / "b.svg")
    assert first != (tmp_path / "b.svg").read_text()


def test_without_the_learner_there_is_no_picture(tmp_path):
    with pytest.raises(InputError, match="'internalised' was not examined"):
        draw([], tmp_path / "a.svg")
    assert not list(tmp_path.iterdir())
