"""The ends of the interval, and what would have been found, against plain loops and texts whose gain is known."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from snellen.measures.lookahead_gain import LookaheadGain
from snellen.measures.lookahead_gain.arms import Survivors, without_factor
from snellen.measures.lookahead_gain.curves import Problem, point, shared
from snellen.measures.lookahead_gain.detectable import Authors, detectable
from snellen.measures.lookahead_gain.fit import build
from snellen.measures.lookahead_gain.interval import Judge, ceiling
from snellen.measures.lookahead_gain.rows import rows_of, take
from snellen.measures.lookahead_gain.selection import Setting
from snellen.organisms.tables import exact as table_model
from snellen.results import statistics
from snellen.studies.decisions import score_decisions
from snellen.studies.followers import Follower
from tests.measures import exact

ALPHAS, WEIGHTS, TAUS = (0.0, 1.0, np.inf), (0.1, 0.6), (0.5, 1.0, 1.6)


@pytest.fixture(scope="module")
def scored():
    planless, author = (exact.deciding(a, arms=3, steps=1, noise=4) for a in (None, 0.7))
    return exact.score(planless, exact.sample(author, [80] * 12, 3), memory=4, widths=(6,), horizon=3, taus=TAUS)


@pytest.fixture(scope="module")
def problem(scored):
    units = statistics.units(scored.document)
    rows = rows_of(scored, units, ALPHAS, WEIGHTS)
    fold = statistics.folds(units.count, parts=4, seed=0)
    return Problem.of(scored, rows, fold, level=0.9, tempered_base=True, seed=0)


def t_ends(rows, unit, level):
    """The t interval of a mean over units of equal size, the long way."""
    means = np.array([rows[unit == u].mean() for u in np.unique(unit)])
    return stats.t.interval(level, len(means) - 1, loc=means.mean(), scale=stats.sem(means))


def test_the_lower_end_is_the_surer_of_two_and_the_least_over_controls(problem):
    rng = np.random.default_rng(0)
    unit, n = problem.rows.unit, len(problem.rows.log_prob)
    mix, first, second, kept = (rng.normal(-2, 0.3, n) + 0.1 * (place == 0) for place in range(4))
    judge = Judge.of(unit, problem.rows.units, 0.9)

    def low(control):
        over = mix - control
        half = np.array([np.log(0.5 + 0.5 * np.exp(x)) for x in over])
        return max(t_ends(one, unit, 0.9)[0] for one in (over, half))

    found = judge.estimate(mix, [first, second], [kept], upper=1.0)
    assert found.value == pytest.approx(mix.mean() - max(first.mean(), second.mean()))
    assert found.low == pytest.approx(min(low(one) for one in (first, second, kept)))
    assert found.high == 1.0
    plain = judge.estimate(mix, [first], [], upper=-5.0, half=False)
    assert plain.low == pytest.approx(t_ends(mix - first, unit, 0.9)[0])
    assert plain.high == plain.value  # an interval holds its value


def test_the_upper_end_is_the_greatest_of_every_setting(scored, problem):
    arm = Survivors.of(scored.beams[6], scored).lookahead(3, ALPHAS)
    rows = problem.rows
    table, base = build(rows, arm), rows.base()
    against = np.random.default_rng(1).normal(size=rows.units)
    greatest = -np.inf
    for t in range(len(rows.tau)):
        for a in range(len(ALPHAS)):
            gated = np.zeros(rows.units)
            for gate in range(rows.gates):
                best = max(range(len(WEIGHTS)), key=lambda w: table.linear[t, a, w, gate].sum())
                if table.linear[t, a, best, gate].sum() > 0:
                    gated += table.linear[t, a, best, gate]
            tried = [gated]
            for w in range(len(WEIGHTS)):
                tried.append(table.linear[t, a, w].sum(axis=0))
                if np.isfinite(ALPHAS[a]):
                    tried.append(table.geometric[t, a, w])
            for own in tried:
                means = (base[t] + own - against) / rows.tokens.sum(axis=0)
                greatest = max(greatest, stats.t.interval(0.9, 11, loc=means.mean(), scale=stats.sem(means))[1])
    everything, taus = np.arange(len(ALPHAS)), np.arange(len(rows.tau))
    assert ceiling(rows, base, table, everything, against, 0.9, taus=taus) == pytest.approx(greatest)
    only = ceiling(rows, base, table, everything[1:2], against, 0.9, taus=taus)
    assert only <= greatest


def test_a_base_of_each_fold_is_tried_too(scored, problem):
    near = Setting(kind="linear", tau=0, alpha=1, weights=np.full(problem.rows.gates, 0.6), choice=1)
    problem = problem._with_sharpened([near, near, replace(near, choice=0), near])
    problem = replace(problem, fallback=np.array([3, 3, 4, 3]))
    assert len(problem.rows.tau) == 3
    arm = without_factor(Survivors.of(scored.beams[6], scored).lookahead(3, ALPHAS))
    table, base = build(problem.rows, arm), problem.rows.base()
    own, against = problem.base_of_units(), np.zeros(problem.rows.units)
    subset, taus = np.arange(len(ALPHAS)), np.zeros(0, dtype=int)
    found = ceiling(problem.rows, base, table, subset, against, 0.9, taus=taus, own=own)
    greatest = -np.inf
    for a in range(len(ALPHAS)):
        for w in range(len(WEIGHTS)):
            sums = np.array([base[b, u] + table.linear[b, a, w, :, u].sum() for u, b in enumerate(own)])
            means = sums / problem.rows.tokens.sum(axis=0)
            greatest = max(greatest, stats.t.interval(0.9, 11, loc=means.mean(), scale=stats.sem(means))[1])
    assert found >= greatest - 1e-12


def test_what_authors_are_expected_to_gain_is_that_of_the_whole_vocabulary(scored, problem):
    """The control without any fit; every token of the vocabulary has a slot, so that nothing is rounded off."""
    arm = Survivors.of(scored.beams[6], scored).lookahead(3, ALPHAS)
    authors = Authors(problem, arm, 1)
    assert authors.b.sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert authors.q.sum(axis=1) == pytest.approx(1)
    weight = 0.3
    author = 0.7 * authors.b + weight * authors.q
    with np.errstate(divide="ignore", invalid="ignore"):
        over_naive = np.nansum(author * np.log(author / authors.b), axis=1).mean()
    found = authors.at(weight, 0.9)
    assert 0 < found.gain <= over_naive + 1e-9
    assert authors.at(0.6, 0.9).sure >= found.sure


@pytest.mark.slow
def test_power_is_what_is_found_on_texts_of_that_author():
    """The smallest gain that is found four times in five, on twenty texts of an author who gains a little more."""
    author = Follower(tokens=8, size=120, follows=0.35, rules=1)
    measure, found, seen, model = LookaheadGain(), 0, [], table_model(author.plain)
    for seed in range(10):
        text = author.sample(20, seed=seed)
        scored = score_decisions(model, author, text, widths=(4,), horizon=3, units=20)
        problem, _ = measure._problem(scored, seed)
        problem, common = shared(problem)
        survivors = Survivors.of(scored.beams[4], scored)
        at = point(problem, common, survivors, 4, 3, each_alpha=False)
        found += at.gain.low > 0
        seen.append(at.detectable.value)
    assert 0.003 < np.mean(seen) < 0.006  # 1.15 (t + .84)² / 2400 = .0041
    assert found >= 6


def test_too_little_text_has_no_detectable_gain(scored):
    few = take(scored, np.flatnonzero(scored.index < 3))
    units = statistics.units(few.document)
    problem = Problem.of(
        few, rows_of(few, units, ALPHAS, WEIGHTS), statistics.folds(units.count, parts=4, seed=0), level=0.95,
        tempered_base=True, seed=0,
    )  # fmt: skip
    found = detectable(problem, Survivors.of(few.beams[6], few).lookahead(3, ALPHAS))
    assert found.value is None
    assert "too little text" in found.reason


def test_the_placebo_is_not_judged_by_halves(problem):
    """Half of the permutations of two candidates are the right one."""
    judge = problem.judge
    rng = np.random.default_rng(0)
    mix = problem.rows.log_prob + rng.normal(-0.05, 0.4, len(problem.rows.log_prob))
    with_half = judge.estimate(mix, [problem.rows.log_prob], [], upper=0.0)
    without = judge.estimate(mix, [problem.rows.log_prob], [], upper=0.0, half=False)
    assert without.low < with_half.low
