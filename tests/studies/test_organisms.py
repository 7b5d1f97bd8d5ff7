import math
from dataclasses import replace

import numpy as np
import pytest

from snellen.errors import Refused
from snellen.measures.lookahead_gain import LookaheadGain
from snellen.organisms import cache
from snellen.organisms.markov import Markov
from snellen.organisms.tables import exact, tempered
from snellen.studies import organisms
from snellen.studies.decisions import score_decisions
from snellen.studies.examinations import EXAMINATIONS, TABLE, Examination, examination
from snellen.studies.organisms import Estimate, Point, SeedResult, examine, judge, pooled


def estimate(value, reach=0.005):
    return Estimate(value=value, low=value - reach, high=value + reach)


def result(seed=0, gains=(0.0, 0.8), placebos=(0.0, 0.0), width=32, reach=0.005):
    points = [
        Point(width=w, horizon=2 + i, gain=estimate(g, reach), placebo=estimate(p))
        for w in (3, width)
        for i, (g, p) in enumerate(zip(gains, placebos, strict=True))
    ]
    return SeedResult(examination="x", seed=seed, points=points, losses={}, training={}, seconds=1.0)


PLANTED = Examination(name="x", says="", organism="planless", expects="gain", widths=(3, 32), horizon=3)
ABSENT = replace(PLANTED, expects="nothing")


def test_pooling_is_the_mean_with_the_interval_of_a_mean_of_independent_numbers():
    rng = np.random.default_rng(0)
    sigma = np.array([0.1, 0.2, 0.4])
    found = pooled(
        [Estimate(value=v, low=v - 1.96 * s, high=v + 1.96 * s) for v, s in zip((1, 2, 6), sigma, strict=True)]
    )
    drawn = rng.normal([1, 2, 6], sigma, size=(200_000, 3)).mean(axis=1)
    assert found.value == pytest.approx(3)
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * drawn.std(), rel=0.01)
    one = Estimate(value=1.0, low=0.5, high=3.0)
    assert pooled([one]) == one


def test_what_is_expected_passes():
    assert judge(PLANTED, [result(s) for s in range(3)]).passed
    assert judge(ABSENT, [result(s, gains=(0.0, 0.002)) for s in range(3)]).passed
    row = judge(PLANTED, [result(0), result(1, gains=(0.0, 0.6))])
    assert row.found.gain.value == pytest.approx(0.7)
    assert row.found.gain.high - row.found.gain.value == pytest.approx(0.005 / math.sqrt(2))


@pytest.mark.parametrize(
    ("one", "bad", "said"),
    [
        (PLANTED, {"gains": (0.0, 0.29)}, "horizon 3: the gain's interval [+0.28"),
        (PLANTED, {"gains": (0.05, 0.8)}, "horizon 2: the gain's interval [+0.04"),
        (PLANTED, {"gains": (-0.05, 0.8)}, "horizon 2: the gain's interval [-0.05"),
        (PLANTED, {"placebos": (0.0, -0.08)}, "horizon 3: the placebo's interval [-0.08"),
        (PLANTED, {"placebos": (0.08, 0.0)}, "horizon 2: the placebo's interval"),
        (PLANTED, {"reach": 0.9}, "the gain's interval reaches 0"),
        (ABSENT, {"gains": (0.0, 0.8)}, "not within ±0.03"),
        (ABSENT, {"gains": (0.0, -0.04)}, "not within ±0.03"),
        (ABSENT, {"gains": (0.0, 0.02), "reach": 0.03}, "not within ±0.03"),
    ],
)
def test_what_is_not_expected_is_objected_to(one, bad, said):
    row = judge(one, [result(s, **bad) for s in range(3)])
    assert not row.passed
    assert any(said in line for line in row.objections), row.objections
    assert judge(replace(one, expects="shown"), [result(s, **bad) for s in range(3)]).passed


def test_one_seed_that_contradicts_is_enough():
    seeds = [result(0, gains=(0.0, 0.0)), result(1, gains=(0.0, 0.0)), result(2, gains=(0.0, 0.04))]
    assert judge(ABSENT, seeds).objections == ["seed 2, horizon 3: the gain is +0.040"]


def test_a_model_that_could_not_be_raised_is_no_pass():
    refused = replace(result(1), points=(), refused="not reached")
    row = judge(PLANTED, [result(0), refused])
    assert row.objections == ["seed 1: no number (not reached)"]
    assert row.found is not None
    nothing = judge(PLANTED, [refused])
    assert (nothing.found, nothing.passed) == (None, False)


def test_a_refusal_is_a_result(monkeypatch):
    def refuse(*_):
        raise Refused("no model in the wanted state")

    monkeypatch.setattr(cache, "raised", refuse)
    assert examine(PLANTED, 4).refused == "no model in the wanted state"
    assert examine(PLANTED, 4).seed == 4


SMALL = Examination(
    name="small table", says="", organism=TABLE, expects="nothing", widths=(4,), horizon=2, sequences=40,
    judged_on={"size": 22},
)  # fmt: skip


def test_an_exact_table_gains_nothing(monkeypatch):
    monkeypatch.setattr(organisms, "LookaheadGain", lambda: LookaheadGain())
    found = examine(SMALL, 1)
    assert found.refused is None
    row = judge(SMALL, [found])
    assert row.passed, row.objections
    assert found.losses["naive"] == pytest.approx(found.losses["author"], abs=1e-5)
    again = examine(SMALL, 1)
    assert again.points == found.points


def test_a_wrong_control_would_be_caught():
    """Without a base of fitted temperature no control repairs a model that is too sharp as the mixes would have to."""
    language = Markov(size=42, rules=1)
    text = language.sample(40, seed=2)
    model = tempered(exact(language), 2.0)
    scored = score_decisions(model, language, text, widths=(4,), horizon=2, units=40)
    right, wrong = (LookaheadGain(base=base).measure(scored, seed=0).finding for base in ("tempered", "naive"))
    assert abs(right.value) < 0.01
    assert right.low > -0.03
    assert right.high < 0.03
    assert wrong.high < -0.03


def test_every_examination_is_judged_where_its_answer_lies():
    for one in EXAMINATIONS:
        text = one.text(0)
        reach = getattr(text, "reach", None)
        assert one.horizon == reach or one.organism in ("markov", TABLE)
        assert list(one.widths) == sorted(one.widths)
        assert one.sequences % one.units == 0
        plans = getattr(text, "planning", False) or getattr(text, "rhyming", False)
        assert (one.room is not None) == (plans or one.expects == "dose")
        if one.expects == "gain":
            assert one.room > 2 * organisms.LEAST_GAIN
            assert len(one.widths) > 1
    assert len({one.name for one in EXAMINATIONS}) == len(EXAMINATIONS)


@pytest.mark.slow
def test_the_pair(tmp_path, monkeypatch):
    """Same model, only the author differs: lookahead helps on the text that plans, and on its own it does not."""
    monkeypatch.setenv("SNELLEN_CACHE", str(tmp_path))
    planning, own = (
        judge(one, [examine(one, 0)]) for one in map(examination, ("pair, planning text", "pair, own text"))
    )
    assert planning.passed, planning.objections
    assert own.passed, own.objections
    assert 0.6 < planning.found.gain.value < 0.95  # what there is to gain is 0.80
    by_width = {p.width: p.gain.value for p in planning.points if p.horizon == 4}
    assert by_width[3] < by_width[8] < by_width[96]
