"""Repetition, diversity and drift, on texts whose numbers are known, and against slow twins."""

import numpy as np
import pytest

from snellen.measures.degeneration.corpus import Diversity, distinct, exponent, without_each, zipf
from snellen.measures.degeneration.estimates import of_corpus, of_prompts
from snellen.measures.degeneration.quantities import drift
from snellen.measures.degeneration.repetition import final_loop, grams, seq_rep


def _ids(*texts: str) -> np.ndarray:
    return np.array([[ord(letter) for letter in text] for text in texts])


def test_repetition_of_known_texts() -> None:
    texts = _ids("abababab", "abcdefgh", "aaaaaaaa")
    assert seq_rep(texts, 1) == pytest.approx([1 - 2 / 8, 0, 1 - 1 / 8])
    assert seq_rep(texts, 2) == pytest.approx([1 - 2 / 7, 0, 1 - 1 / 7])
    assert seq_rep(texts, 4) == pytest.approx([1 - 2 / 5, 0, 1 - 1 / 5])


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_repetition_equals_sets_of_tuples(n: int) -> None:
    texts = np.random.default_rng(n).integers(0, 4, size=(30, 17)) * 100_003
    slow = []
    for row in texts.tolist():
        found = [tuple(row[i : i + n]) for i in range(len(row) - n + 1)]
        slow.append(1 - len(set(found)) / len(found))
    assert seq_rep(texts, n) == pytest.approx(slow)


def test_numbers_of_sequences_are_equal_exactly_where_the_sequences_are() -> None:
    texts = np.random.default_rng(0).integers(0, 3, size=(5, 12))
    found = grams(texts, 3)
    tuples = [tuple(texts[r, i : i + 3]) for r in range(5) for i in range(10)]
    for i, one in enumerate(found.ravel()):
        for j, other in enumerate(found.ravel()):
            assert (one == other) == (tuples[i] == tuples[j])


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("zyxababab", 6),  # a phrase of two, three times
        ("zabcabcabca", 10),  # the last repetition was cut off
        ("zyxwvabab", 0),  # twice is no loop
        ("abababzyx", 0),  # nor is one that was left again
        ("zyxwvuaaa", 0),  # nor one token, three times
        ("zyxaaaaaa", 6),  # but six times it is a phrase of two, three times
        ("abababab", 8),
        ("abcdefgh", 0),
    ],
)
def test_loops_of_known_texts(text: str, tokens: int) -> None:
    assert final_loop(_ids(text)).tolist() == [tokens]


def test_loops_equal_a_search_by_hand() -> None:
    texts = np.random.default_rng(3).integers(0, 2, size=(300, 13))

    def slow(row: list[int]) -> int:
        lengths = [0]
        for period in range(2, len(row) // 3 + 1):
            for length in range(3 * period, len(row) + 1):
                end = row[-length:]
                if all(end[i] == end[i + period] for i in range(length - period)):
                    lengths.append(length)
        return max(lengths)

    expected = [slow(row) for row in texts.tolist()]
    assert 0 < np.count_nonzero(expected) < 300
    assert final_loop(texts).tolist() == expected


def test_too_short_for_its_sequences() -> None:
    with pytest.raises(ValueError, match="texts of 3 tokens"):
        seq_rep(_ids("abc"), 4)


def test_distinct_of_a_known_corpus() -> None:
    found = distinct(_ids("abab", "cdcd", "abcd"), np.array([0, 1, 2]), 2)
    assert found.whole == pytest.approx(5 / 9)  # ab ba cd dc bc
    assert found.without == pytest.approx([4 / 6, 4 / 6, 4 / 6])


@pytest.mark.parametrize("n", [1, 2, 4])
def test_leaving_units_out_equals_smaller_corpora(n: int) -> None:
    rng = np.random.default_rng(n)
    texts, unit = (
        np.minimum(rng.geometric(0.2, size=(14, 30)), 60),
        np.array([0, 0, 0, 1, 2, 2, 3, 4, 5, 5, 5, 6, 7, 8]),
    )

    def ratio(left: np.ndarray) -> float:
        found = [tuple(row[i : i + n]) for row in left.tolist() for i in range(30 - n + 1)]
        return len(set(found)) / len(found)

    def law(left: np.ndarray) -> float:
        return exponent(np.unique(left, return_counts=True)[1])

    few = np.minimum(texts, 3)  # so that sequences of four come back
    for fast, slow in (
        (distinct(few, unit, n), without_each(ratio, few, unit)),
        (zipf(texts, unit), without_each(law, texts, unit)),
    ):
        assert fast.whole == pytest.approx(slow.whole)
        assert fast.without == pytest.approx(slow.without)
        assert len(set(fast.without.round(9))) > 2


@pytest.mark.parametrize("s", [0.7, 1.0, 1.6])
def test_exponent_of_counts_that_follow_the_law(s: float) -> None:
    counts = np.round(1e7 * np.arange(1, 200) ** -s).astype(int)
    assert exponent(np.random.default_rng(0).permutation(counts)) == pytest.approx(s, abs=2e-3)


def test_exponent_needs_tokens_that_occur_twice() -> None:
    assert np.isnan(exponent(np.ones(50, dtype=int)))
    assert np.isnan(exponent(np.full(9, 5)))
    assert exponent(np.full(10, 5)) == pytest.approx(0)


def test_drift_is_the_slope_per_hundred_tokens() -> None:
    place = np.arange(40)
    rising, noisy = -3 + 0.02 * place, np.random.default_rng(0).normal(size=40)
    found = drift(np.stack([rising, np.full(40, -2.5), noisy]))
    assert found == pytest.approx([2.0, 0.0, 100 * np.polyfit(place, noisy, 1)[0]], abs=1e-9)


def test_intervals_cover_and_say_where_there_is_none() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(100):
        sample = of_prompts(np.zeros(30, dtype=int), number=200, level=0.9, seed=trial)
        found = sample.mean(rng.normal(1.5, 2, size=30))
        assert found.low is not None
        assert found.high is not None
        hits += found.low < 1.5 < found.high
    assert 80 <= hits <= 97
    flat = sample.mean(np.full(30, 0.25))
    assert (flat.value, flat.low, flat.high) == (0.25, None, None)
    assert "same for every prompt" in (flat.reason or "")


def test_shares_are_exact_at_their_ends() -> None:
    sample = of_prompts(np.zeros(40, dtype=int), number=200, level=0.95, seed=0)
    none, every = sample.share(np.zeros(40, dtype=bool)), sample.share(np.ones(40, dtype=bool))
    assert (none.value, none.low) == (0.0, 0.0)
    assert none.high == pytest.approx(1 - 0.025 ** (1 / 40))
    assert (every.value, every.high) == (1.0, 1.0)
    assert every.low == pytest.approx(0.025 ** (1 / 40))


def test_documents_are_the_units_where_there_are_enough() -> None:
    many = of_prompts(np.repeat(np.arange(20), 2), number=200, level=0.95, seed=0)
    few = of_prompts(np.repeat(np.arange(7), 6), number=200, level=0.95, seed=0)
    assert (many.kind, many.units) == ("documents", 20)
    assert (few.kind, few.units, few.limited) == ("prompts", 42, True)
    # Prompts of one document say the same here: by document the mean is as unsure as that of 20 numbers.
    values = np.repeat(np.random.default_rng(0).normal(size=20), 2)
    found = many.mean(values)
    assert found.low is not None
    assert found.high is not None
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / np.sqrt(20), rel=0.15)


def test_an_undefined_number_has_a_reason() -> None:
    found = of_corpus(Diversity(whole=float("nan"), without=np.full(10, np.nan)), 0.95)
    assert (found.value, found.low, found.high) == (None, None, None)
    assert found.reason
