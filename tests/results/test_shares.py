"""Intervals of shares: exact for one observation a unit, never told less by seeing more, and wide enough."""

import itertools

import numpy as np
import pytest
from scipy import stats

from snellen.results.samples import Sample
from snellen.results.shares import difference_interval, effective_units, share_interval


def sample(unit: np.ndarray) -> Sample:
    """Rows of 20 units or more; nothing of a share depends on the resamples."""
    return Sample.of_texts(unit, "prompts", number=100, level=0.95, seed=0)


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95])
@pytest.mark.parametrize("n", [8, 23, 40])
def test_one_observation_a_unit_is_clopper_and_pearson(n: int, level: float) -> None:
    for hits in range(n + 1):
        expected = stats.binomtest(hits, n).proportion_ci(level, method="exact")
        assert share_interval(hits / n, n, level) == pytest.approx((expected.low, expected.high))


def test_effective_units_are_the_variance_of_units_that_say_one_thing_each() -> None:
    size = np.array([1, 2, 3, 5, 1, 1])
    rng = np.random.default_rng(0)
    said = rng.random((200_000, len(size))) < 0.3
    spread = (said @ size / size.sum()).var()
    assert effective_units(size) == pytest.approx(0.3 * 0.7 / spread, rel=0.02)
    assert effective_units(np.full(7, 4)) == pytest.approx(7)


@pytest.mark.parametrize("each", ["prompts are units", "two a document", "uneven documents"])
def test_what_is_seen_never_lowers_an_end(each: str) -> None:
    rng = np.random.default_rng(1)
    unit = {
        "prompts are units": np.arange(30),
        "two a document": np.repeat(np.arange(25), 2),
        "uneven documents": np.repeat(np.arange(22), [9, 5, 3, 2, 2, *[1] * 17]),
    }[each]
    found = sample(unit)
    for order in (np.arange(len(unit)), np.arange(len(unit))[::-1], rng.permutation(len(unit))):
        hits = np.zeros(len(unit), dtype=bool)
        all_of_them = [found.share(hits)]
        for row in order:
            hits[row] = True
            all_of_them.append(found.share(hits))
        for before, after in itertools.pairwise(all_of_them):
            assert before.low <= after.low
            assert before.high <= after.high
            assert 0 <= after.low <= after.value <= after.high <= 1


def test_one_loop_in_thirty_two_bounds_no_less_than_none() -> None:
    """23 documents of one or two prompts: none seen is at most 14.8 %, and one seen is more than that."""
    unit = np.repeat(np.arange(23), [2] * 9 + [1] * 14)
    one = np.zeros(32, dtype=bool)
    none = sample(unit).share(one)
    one[0] = True
    assert none.high == pytest.approx(1 - 0.025 ** (1 / 23))
    assert sample(unit).share(one).high > 0.19


def test_none_and_all_count_each_unit_in_full() -> None:
    found = sample(np.repeat(np.arange(20), [8, *[1] * 19]))
    none, every = found.share(np.zeros(27)), found.share(np.ones(27))
    assert (none.low, none.high) == pytest.approx((0, 1 - 0.025 ** (1 / 20)))
    assert (every.low, every.high) == pytest.approx((0.025 ** (1 / 20), 1))


@pytest.mark.parametrize("share", [0.0, 1e-9, 0.003, 0.02, 0.5, 0.98, 1 - 1e-9, 1.0])
@pytest.mark.parametrize("units", [1.5, 8, 23.7, 900])
def test_an_interval_holds_its_share_and_nothing_impossible(share: float, units: float) -> None:
    low, high = share_interval(share, units, 0.95)
    assert 0 <= low <= share <= high <= 1
    assert share_interval(1 - share, units, 0.95) == pytest.approx((1 - high, 1 - low), abs=1e-6)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        share_interval(1.01, units, 0.95)


@pytest.mark.parametrize("truth", [0.01, 0.05, 0.3, 0.6])
@pytest.mark.parametrize("alike", [0.0, 0.5, 1.0])
def test_the_truth_is_held_where_documents_have_an_opinion(truth: float, alike: float) -> None:
    """Documents of 1 to 4 prompts, whose rates are spread about the truth by a beta law: from prompts that are
    independent to documents of which each says one thing."""
    rng = np.random.default_rng(int(1000 * truth) + int(10 * alike))
    size = rng.integers(1, 5, 24)
    unit = np.repeat(np.arange(24), size)
    within = sample(unit)
    trials, held = 1500, 0
    if alike in (0.0, 1.0):
        rate = np.full((trials, 24), truth) if alike == 0 else (rng.random((trials, 24)) < truth).astype(float)
    else:
        spread = (1 - alike) / alike  # intra-class correlation 1 / (a + b + 1)
        rate = rng.beta(truth * spread, (1 - truth) * spread, (trials, 24))
    for hits in rng.random((trials, len(unit))) < rate[:, unit]:
        found = within.share(hits)
        held += found.low <= truth <= found.high
    assert held / trials >= 0.94


def test_fractions_of_a_unit_are_held_too() -> None:
    """Pairs of answers, 0, ½ or 1 of them right."""
    rng = np.random.default_rng(3)
    found = Sample.of_rows(30, "pairs", number=100, level=0.95, seed=0)
    for truth in (0.02, 0.2, 0.5, 0.9):
        held = 0
        for _ in range(800):
            one = found.share((rng.random((30, 2)) < truth).mean(axis=1))
            held += one.low <= truth <= one.high
        assert held / 800 >= 0.94


def test_a_difference_of_shares_is_never_certain() -> None:
    found = sample(np.arange(32))
    none, some = np.zeros(32, dtype=bool), np.arange(32) < 3
    nothing = found.share_difference(none, none)
    assert nothing.value == 0
    assert nothing.high == pytest.approx(-nothing.low)
    assert nothing.high == pytest.approx(found.share(none).high)
    apart = found.share_difference(some, none)
    assert apart.value == pytest.approx(3 / 32)
    assert nothing.low < apart.low < 0 < apart.value < apart.high <= 1
    assert nothing.high < apart.high
    other = found.share_difference(none, some)
    assert (other.low, other.high) == pytest.approx((-apart.high, -apart.low))
    assert found.share_difference(~none, none).high == pytest.approx(1)


def test_a_difference_of_shares_holds_the_truth() -> None:
    rng = np.random.default_rng(5)
    for first, second, both in ((0.02, 0.02, 0.0), (0.05, 0.3, 0.02), (0.5, 0.6, 0.4)):
        chances = [both, first - both, second - both, 1 - first - second + both]
        found, held = sample(np.arange(32)), 0
        for drawn in rng.choice(4, size=(800, 32), p=chances):
            one = found.share_difference(drawn % 2 == 0, drawn < 2)
            held += one.low <= (both + second - both) - first <= one.high
        assert held / 800 >= 0.94


def test_difference_interval_is_newcombes() -> None:
    """His hybrid of two intervals, from the ends as they are."""
    low, high = difference_interval((0.2, 0.1, 0.4), (0.5, 0.3, 0.7))
    assert (low, high) == pytest.approx((0.3 - (0.2**2 + 0.2**2) ** 0.5, 0.3 + (0.2**2 + 0.1**2) ** 0.5))
