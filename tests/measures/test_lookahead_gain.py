"""The lookahead gain on models whose answer is known by construction."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from snellen.errors import InputError, Refused
from snellen.measures.lookahead_gain import LookaheadGain
from snellen.measures.lookahead_gain.detectable import Detectable
from snellen.measures.lookahead_gain.rows import take
from snellen.measures.lookahead_gain.tables import FOUND, FOUND_HERE, NONE, UNTRUSTWORTHY, verdict
from snellen.results import findings
from snellen.results.estimates import Estimate
from tests.measures import exact

QUICK = {"alphas": (0.0, 1.0, 2.0, math.inf), "weights": (0.05, 0.2, 0.45, 0.8)}


def gain_of(scored, **settings):
    return LookaheadGain(**(QUICK | settings)).measure(scored, seed=0)


def holds_zero(row):
    return row["low"] <= 0 <= row["high"]


@pytest.mark.parametrize("seed", range(3))
def test_an_exact_markov_model_has_nothing_to_gain(seed):
    model = exact.markov(8, seed)
    scored = exact.score(model, exact.sample(model, [120] * 25, seed), memory=2, horizon=3)
    finding = gain_of(scored).finding
    assert abs(finding.value) < 0.01
    assert holds_zero({"low": finding.low, "high": finding.high})
    assert finding.verdict == NONE
    for row in finding.details["by_horizon"]:
        assert abs(row["value"]) < 0.01
        assert "placebo" not in row or abs(row["placebo"]["value"]) < 0.01
    assert abs(finding.details["words"]["value"]) < 0.01


@pytest.mark.parametrize("tau", [0.5, 2.0])
def test_a_miscalibrated_model_is_repaired_by_temperature_alone(tau):
    author = exact.markov(8, 5)
    scored = exact.score(exact.sharpened(author, tau), exact.sample(author, [120] * 25, 1), memory=2, horizon=3)
    finding = gain_of(scored).finding
    arms = finding.control["arms"]
    assert arms["temperature"] - arms["naive"] > 0.1
    for row in finding.details["by_horizon"]:
        assert abs(row["value"]) < 0.02
    assert holds_zero({"low": finding.low, "high": finding.high})
    assert finding.settings["fit"]["temperature"] == pytest.approx(tau)


def test_the_letter_of_the_definition_hides_a_gain_behind_temperature():
    """Mixed with p as it is, lookahead cannot undo a wrong temperature, which its control can."""
    author = exact.markov(8, 5)
    scored = exact.score(exact.sharpened(author, 2.0), exact.sample(author, [120] * 25, 1), memory=2, horizon=3)
    letter = gain_of(scored, base="naive").finding
    assert letter.high < -0.05
    assert letter.settings["base"] == "naive"
    assert abs(gain_of(scored).finding.value) < 0.01


@pytest.fixture(scope="module")
def decided():
    """The same planless model on the planning author's text, and on its own."""
    planless = exact.deciding(None, steps=1)
    return {
        name: exact.score(
            planless,
            exact.sample(exact.deciding(author, steps=1), [120] * 25, 1),
            memory=4,
            widths=(8,),
            horizon=3,
            top=16,
        )
        for name, author in (("planning", 0.85), ("planless", None))
    }


def test_a_planning_author_gains_where_the_horizon_reaches_the_verdict(decided):
    result = gain_of(decided["planning"])
    per_decision = 4
    for row in result.finding.details["by_horizon"]:
        if row["horizon"] == 3:
            assert per_decision * row["low"] > 0.3
            assert row["low"] <= row["value"] <= row["high"]
            assert per_decision * row["over_same_candidates"]["low"] > 0.3
        elif row["horizon"] == 2:
            # cutting to the decisions is worth .09 nats here (`horizon 1`), and the mixes build on that
            assert row["best_control"] == "horizon 1"
            assert -0.03 < per_decision * row["low"] <= per_decision * row["high"] < 0.03
            assert abs(per_decision * row["over_same_candidates"]["value"]) < 0.03
        else:
            assert per_decision * row["low"] > 0.05
        if row["horizon"] > 1:
            assert per_decision * row["placebo"]["low"] > -0.03
            assert per_decision * row["placebo"]["high"] < 0.03
    assert result.finding.verdict == FOUND
    splits = {(r["split"], r["group"]): r for r in result.tables["splits"].to_pylist()}
    certain = splits["entropy", "below 0.5 nats"]
    unsure = splits["entropy", "1 to 2 nats"]
    assert abs(certain["value"]) < 0.01 < unsure["low"]
    fixed = {r["alpha"]: r for r in result.tables["gains"].to_pylist() if r["horizon"] == 3}
    assert fixed[None]["value"] == result.finding.value
    assert fixed[2.0]["low"] > 0.05


def test_its_own_author_gains_nothing(decided):
    finding = gain_of(decided["planless"]).finding
    for row in finding.details["by_horizon"]:
        assert abs(4 * row["value"]) < 0.03
    assert finding.verdict == NONE


def test_the_record_is_complete(decided):
    scored = decided["planning"]
    result = gain_of(scored)
    finding = result.finding
    json.loads(findings.dumps([finding]))
    assert finding.n == {"tokens": len(scored), "units": 25, "documents": 25}
    assert set(finding.control["arms"]) == {
        "naive", "temperature", "horizon 1", "same candidates", "lookahead", "placebo",
    }  # fmt: skip
    best = finding.control["arms"][finding.control["best"]]
    assert finding.control["arms"]["lookahead"] - best == pytest.approx(finding.value)
    assert finding.control["arms"]["naive"] == pytest.approx(scored.log_prob.mean(dtype=np.float64))
    assert set(finding.settings) >= {"alphas", "weights", "folds", "level", "base", "fit", "seed"}

    arms = result.tables["arms"].to_pylist()
    assert {(r["horizon"], r["arm"]) for r in arms} == {
        *((d, a) for d in (1, 2, 3) for a in ("naive", "temperature", "horizon 1")),
        *((d, a) for d in (2, 3) for a in ("same candidates", "lookahead", "placebo")),
    }
    assert all(r["low"] <= r["gain_over_naive"] <= r["high"] for r in arms)
    for name, one in result.columns.items():
        assert len(one) == len(scored), name
    gained = (result.columns["lookahead_log_prob"] - result.columns["control_log_prob"]).mean(dtype=np.float64)
    assert gained == pytest.approx(finding.value, abs=1e-5)
    assert result.columns["mix_tokens"].shape == (len(scored), 10)
    assert (result.columns["mix_probs"].sum(axis=1) < 1 + 1e-5).all()
    assert result.columns["unit"].dtype == np.int32
    assert result.columns["fold"].dtype == np.int8
    assert result.columns["lookahead_log_prob"].dtype == np.float32
    splits = result.tables["splits"].to_pylist()
    for name in ("class", "entropy", "line position", "memorised"):
        mine = [r for r in splits if r["split"] == name]
        assert sum(r["n"] for r in mine) == len(scored)
        assert sum(r["share"] * r["value"] for r in mine) == pytest.approx(finding.value, abs=1e-6)
    seen = finding.detectable
    assert 0 < seen["value"] < finding.value
    assert (seen["power"], seen["alpha"]) == (0.8, 1.0)
    full = [r for r in result.tables["gains"].to_pylist() if r["horizon"] == 3 and r["alpha"] is None]
    assert full[0]["detectable"] == seen["value"]


def test_particles_that_cover_everything_are_the_widest_beam(decided):
    """Sampled completions of weight 1 are the beam itself; the headline stays that of the beams."""
    scored = decided["planning"]
    widest = scored.beams[8]
    weights = np.where(widest.tokens >= 0, 0.0, -np.inf).astype(np.float32)
    beside = replace(scored, particles=replace(widest, log_weights=weights))
    plain, result = gain_of(scored), gain_of(beside)
    assert result.finding.value == plain.finding.value
    beam, sampled = result.finding.details["by_width"]
    assert (beam["search"], beam["width"], sampled["search"], sampled["particles"]) == ("beam", 8, "particles", 8)
    assert sampled["value"] == beam["value"]
    assert (sampled["low"], sampled["high"]) == (beam["low"], beam["high"])
    rows = result.tables["gains"].to_pylist()
    assert {(r["width"], r["horizon"]) for r in rows if r["search"] == "particles"} == {(8, 2), (8, 3)}
    for name, values in plain.columns.items():
        np.testing.assert_array_equal(result.columns[name], values)


def test_particles_that_are_no_sample_are_refused(decided):
    scored = decided["planning"]
    weights = np.full(scored.beams[8].tokens.shape, -1.0, dtype=np.float32)
    with pytest.raises(Refused, match="particles are damaged"):
        gain_of(replace(scored, particles=replace(scored.beams[8], log_weights=weights)))


def test_neither_the_order_of_rows_nor_chance_changes_it(decided):
    scored = decided["planning"]
    first = gain_of(scored)
    again = gain_of(scored)
    assert findings.dumps([first.finding]) == findings.dumps([again.finding])
    order = np.random.default_rng(0).permutation(len(scored))
    shuffled = gain_of(take(scored, order))
    assert findings.dumps([first.finding]) == findings.dumps([shuffled.finding])
    for name, values in first.columns.items():
        np.testing.assert_array_equal(shuffled.columns[name], values[order])


def test_few_documents_are_cut_in_blocks_and_very_few_tokens_refused():
    model = exact.markov(6, 2)
    scored = exact.score(model, exact.sample(model, [300, 300], 0), memory=2, horizon=2, widths=(2,))
    finding = gain_of(scored).finding
    assert finding.details["units"] == {"kind": "blocks", "interval": "t"}
    assert finding.n["units"] == 12
    assert holds_zero({"low": finding.low, "high": finding.high})
    with pytest.raises(Refused, match="give more text"):
        gain_of(exact.score(model, exact.sample(model, [200], 0), memory=2, horizon=2, widths=(2,)))


def test_memorised_text_is_told_apart():
    """A run that the model knows by heart; beside it its own Markov text."""
    model = exact.markov(6, 2)
    texts = exact.sample(model, [100] * 25, 0)
    for text in texts[:12]:
        for i in range(40, 80):
            text[i] = int(np.argmax(model(tuple(text[:i]))))
    scored = exact.score(model, texts, memory=2, horizon=2, widths=(2,))
    result = gain_of(scored)
    found = result.finding.details["memorised"]
    assert 480 <= found["n"] <= 560
    assert result.columns["memorised"].sum() == found["n"]
    assert found["share"] == pytest.approx(found["n"] / len(scored))
    assert found["reason"] is None
    assert abs(found["value"]) < 0.01
    assert gain_of(scored, memorised_run=90).finding.details["memorised"]["value"] is None


def test_impossible_tokens_are_counted_and_left_out():
    model = exact.markov(6, 2)
    scored = exact.score(model, exact.sample(model, [100] * 20, 0), memory=2, horizon=2, widths=(2,))
    log_prob = scored.log_prob.copy()
    log_prob[[5, 700]] = -np.inf
    result = gain_of(replace(scored, log_prob=log_prob))
    assert result.finding.excluded == {"the naive probability is zero": 2}
    assert result.finding.n["tokens"] == 1998
    assert result.columns["unit"][5] == -1
    assert np.isneginf(result.columns["lookahead_log_prob"][[5, 700]]).all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"log_prob": np.nan}, "NaN"),
        ({"log_z": np.inf}, "log_z"),
        ({"entropy": np.nan}, "entropy"),
        ({"log_prob": 0.5}, "above 0"),
        ({"horizon": 1}, "horizon"),
        ({"temperatures": np.array([0.5, 0.7, 0.9, 1.1, 1.3, 1.5, 2.0])}, "temperatures"),
        ({"token": 0}, "disagree"),
    ],
)
def test_what_cannot_be_vouched_for_is_refused(change, said):
    model = exact.markov(6, 2)
    scored = exact.score(model, exact.sample(model, [60] * 20, 0), memory=2, horizon=2, widths=(4,))
    values = {}
    for name, value in change.items():
        if name in ("horizon", "temperatures"):
            values[name] = value
        elif name == "token":
            values[name] = np.roll(scored.token, 1)
        else:
            values[name] = getattr(scored, name).copy()
            values[name][3] = value
    with pytest.raises(Refused, match=said):
        gain_of(replace(scored, **values))


@pytest.mark.parametrize(
    "wrong",
    [
        {"base": "flat"}, {"alphas": ()}, {"alphas": (2.0, 1.0)}, {"alphas": (-1.0,)}, {"alphas": (math.nan,)},
        {"alphas": (math.inf,)}, {"weights": ()}, {"weights": (0.0,)}, {"weights": (1.0,)}, {"folds": 1},
        {"folds": 9}, {"level": 1.0}, {"memorised_run": 1},
    ],
)  # fmt: skip
def test_wrong_settings_are_named(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        LookaheadGain(**wrong)


def test_verdicts():
    def at(low, high):
        return Estimate(value=(low + high) / 2, low=low, high=high)

    nothing, seen = at(-0.01, 0.01), Detectable(value=0.004, power=0.8, alpha=1.0, weight=0.1)
    assert verdict(at(0.01, 0.02), nothing, seen, limited=False)[0] == "gain found"
    said, reading = verdict(at(0.01, 0.02), nothing, seen, limited=True)
    assert said == FOUND_HERE == "gain found in these documents only"
    assert "says nothing of other documents" in reading
    said, reading = verdict(nothing, nothing, seen, limited=False)
    assert said == "no gain found"
    assert "80% of the time is a gain of 0.0040 nats" in reading
    blind = Detectable(value=None, power=0.8, alpha=None, weight=None, reason="too little text")
    assert "Nothing can be concluded from that: too little text" in verdict(nothing, nothing, blind, limited=False)[1]
    assert verdict(at(-0.02, -0.01), nothing, seen, limited=False)[0] == "lookahead is worse than the control"
    for gain in (at(0.01, 0.02), nothing, at(-0.02, -0.01)):
        said, reading = verdict(gain, at(0.01, 0.02), seen, limited=False)
        assert said == UNTRUSTWORTHY
        assert "nothing to plan" in reading
