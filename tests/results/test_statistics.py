"""Units, folds, resamples."""

import numpy as np
import pytest
from scipy import stats

from snellen.errors import Refused
from snellen.results import statistics
from snellen.results.estimates import Estimate


@pytest.mark.parametrize("count", [8, 9, 20])
def test_documents_are_the_units_from_eight_on(count):
    document = np.repeat(np.arange(3, 3 + count), np.arange(11, 11 + count))
    got = statistics.units(document)
    assert (got.kind, got.count, got.limited) == ("documents", count, False)
    assert (got.of_row == document - 3).all()


def test_documents_of_which_one_is_nearly_all_are_no_units():
    document = np.repeat(np.arange(12), [5000, *[20] * 11])
    assert statistics.effective(np.bincount(document)) < 1.2
    got = statistics.units(document)
    assert (got.kind, got.limited) == ("blocks", True)


def test_a_mean_of_equal_units_has_the_t_interval():
    x = np.random.default_rng(1).normal(size=(3, 12))
    found = statistics.mean(100 * x, np.full(12, 100.0))
    for row, low, high in zip(x, found.low(0.9), found.high(0.9), strict=True):
        assert (low, high) == pytest.approx(stats.t.interval(0.9, 11, loc=row.mean(), scale=stats.sem(row)))


def test_the_error_of_a_ratio_is_that_of_leaving_out():
    rng = np.random.default_rng(2)
    top, bottom = rng.normal(size=15), rng.uniform(1, 30, size=15)
    found = statistics.mean(top, bottom)
    value = top.sum() / bottom.sum()
    left = np.array([np.delete(top, u).sum() / np.delete(bottom, u).sum() for u in range(15)])
    assert found.value == pytest.approx(value)
    assert found.error == pytest.approx(np.sqrt(14 / 15 * ((left - value) ** 2).sum()))
    assert found.freedom == pytest.approx(bottom.sum() ** 2 / (bottom**2).sum() - 1)
    # a unit that holds nothing does not count
    again = statistics.mean(np.r_[top, 0.0], np.r_[bottom, 0.0])
    assert (again.error, again.freedom) == (found.error, found.freedom)
    assert statistics.mean(np.ones(1), np.ones(1)).error == np.inf


@pytest.mark.parametrize("count", [8, 20])
def test_ratios_hold_the_truth_whatever_the_sizes(count):
    held = 0
    for seed in range(400):
        rng = np.random.default_rng([seed, count])
        bottom = rng.gamma(1.0, 100, size=count) + 5
        top = bottom * rng.normal(0.05, 0.1, size=count)
        found = statistics.mean(top, bottom)
        held += found.low(0.95) <= 0.05 <= found.high(0.95)
    assert held / 400 > 0.9


@pytest.mark.parametrize(
    ("lengths", "count"),
    [([8000], 40), ([30_000], 50), ([1000], 20), ([999], 19), ([400], 8), ([2500, 2500], 26), ([120] * 7, 14)],
)
def test_few_documents_are_cut_into_blocks(lengths, count):
    document = np.repeat(np.arange(len(lengths)), lengths)
    got = statistics.units(document)
    sizes = np.bincount(got.of_row)
    assert got.kind == "blocks"
    assert got.count == len(sizes)
    assert abs(got.count - count) <= 1
    assert sizes.min() >= statistics.BLOCK
    assert (np.diff(got.of_row) >= 0).all()


def test_a_block_holds_whole_documents_or_part_of_one():
    lengths = [20, 20, 400, 10, 70, 333, 5]
    document = np.repeat(np.arange(7), lengths)
    got = statistics.units(document)
    for unit in range(got.count):
        inside = np.unique(document[got.of_row == unit])
        if len(inside) > 1:
            assert sum(lengths[d] >= statistics.BLOCK for d in inside) <= 1


def test_too_little_is_refused():
    with pytest.raises(Refused, match=r"at least 8"):
        statistics.units(np.zeros(399, dtype=int))
    with pytest.raises(Refused, match=r"give more text"):
        statistics.units(np.zeros(0, dtype=int))
    with pytest.raises(Refused, match=r"at least 8"):
        statistics.resamples(7, number=100, level=0.95, seed=0)
    with pytest.raises(ValueError, match="together"):
        statistics.units(np.array([0, 1, 0]))


def test_folds_are_even_and_seeded():
    fold = statistics.folds(23, parts=5, seed=4)
    assert sorted(np.bincount(fold).tolist()) == [4, 4, 5, 5, 5]
    assert (fold == statistics.folds(23, parts=5, seed=4)).all()
    assert (fold != statistics.folds(23, parts=5, seed=5)).any()
    with pytest.raises(ValueError, match="folds"):
        statistics.folds(3, parts=5, seed=0)


def test_the_percentile_interval_is_that_of_scipy():
    rng = np.random.default_rng(0)
    top, bottom = rng.normal(size=25), rng.uniform(1, 2, size=25)
    drawn = statistics.resamples(25, number=400, level=0.9, seed=7)
    assert (drawn.counts.sum(axis=0) == 25).all()
    replicates = statistics.ratios(top[:, None], bottom[:, None], drawn.counts)[0]
    expected = stats.bootstrap(
        (top, bottom), lambda a, b, axis: a.sum(axis) / b.sum(axis), paired=True, n_resamples=400, method="percentile",
        confidence_level=0.9, vectorized=True, rng=np.random.default_rng([7, 2]),
    )  # fmt: skip
    low, high = drawn.interval(top.sum() / bottom.sum(), replicates)
    assert low == pytest.approx(expected.confidence_interval.low)
    assert high == pytest.approx(expected.confidence_interval.high)


def test_the_jackknife_interval_of_a_mean_is_the_t_interval():
    x = np.random.default_rng(1).normal(size=12)
    drawn = statistics.resamples(12, number=400, level=0.95, seed=0)
    means = (x @ drawn.counts) / drawn.counts.sum(axis=0)
    expected = stats.t.interval(0.95, 11, loc=x.mean(), scale=x.std(ddof=1) / np.sqrt(12))
    assert drawn.interval(x.mean(), means) == pytest.approx(expected)


def test_undefined_replicates():
    drawn = statistics.resamples(20, number=100, level=0.95, seed=0)
    values = np.linspace(0, 1, 100)
    values[:5] = np.nan
    assert drawn.interval(0.5, values)[0] is not None
    values[:6] = np.nan
    assert drawn.interval(0.5, values) == (None, None)
    assert drawn.interval(np.nan, np.ones(100)) == (None, None)


def test_standard_error_of_a_sum():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(3, 30))
    got = statistics.standard_error(x, np.ones(30), np.ones(30))
    np.testing.assert_allclose(got, x.std(axis=1, ddof=1) * np.sqrt(30))
    # a unit drawn twice counts as two
    twice = statistics.standard_error(x[0], np.ones(30), np.r_[2.0, np.ones(29)])
    assert twice == pytest.approx(np.r_[x[0], x[0, 0]].std(ddof=1) * np.sqrt(31))
    assert statistics.standard_error(x[0], np.ones(30), np.r_[1.0, np.zeros(29)]) == np.inf


def test_coverage_on_units_that_differ():
    """Nine intervals in ten or more hold the truth, at 20 units (bootstrap) and at 10 (jackknife)."""
    for count in (20, 10):
        inside = 0
        for seed in range(200):
            rng = np.random.default_rng(seed)
            size = rng.integers(50, 150, count)
            total = size * rng.normal(0.05, 0.1, count)
            drawn = statistics.resamples(count, number=200, level=0.95, seed=seed)
            means = statistics.ratios(total[:, None], size[:, None].astype(float), drawn.counts)[0]
            low, high = drawn.interval(total.sum() / size.sum(), means)
            inside += low <= 0.05 <= high
        assert inside / 200 > 0.88


def test_an_interval_holds_its_own_value():
    """Percentiles of the best of several numbers lie above it: resampling makes the best look better."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(30, 40))
    drawn = statistics.resamples(30, number=200, level=0.5, seed=0)
    best = (values.T @ drawn.counts / 30).max(axis=0)
    point = values.mean(axis=0).max()
    assert np.quantile(best, 0.25) > point
    low, high = drawn.interval(point, best)
    assert low == point
    assert high == pytest.approx(np.quantile(best, 0.75))


def test_an_estimate_ends_where_its_number_must():
    found = Estimate(value=0.9, low=0.7, high=1.1).within(0, 1)
    assert (found.value, found.low, found.high) == (0.9, 0.7, 1)
    assert Estimate.undefined("why").within(0, 1) == Estimate.undefined("why")
