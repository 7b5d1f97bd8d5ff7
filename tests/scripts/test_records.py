"""What tables of the results pages are computed by: intervals against scipy's, prompts that not all methods have."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def scripts() -> Iterator[SimpleNamespace]:
    before = list(sys.path)
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        from pages.page import script

        yield SimpleNamespace(
            dead_ends=script("scripts/degeneration/dead_ends.py"),
            evolution=script("benchmarks/evolution.py"),
            bound=script("benchmarks/mesa_bound.py"),
        )
    finally:
        sys.path[:] = before


def test_models_that_differ_are_the_unit_of_dead_ends(scripts: SimpleNamespace) -> None:
    rates = [0.727, 0.793, 0.883]
    low, high = stats.ttest_1samp(rates, 0).confidence_interval(0.95)
    assert scripts.dead_ends.about_models(rates, 300) == pytest.approx((low, high))
    assert high - low > 6 * (0.827 - 0.774)  # of 900 prompts taken for independent ones: [.774, .827]


def test_models_that_agree_are_no_certainty(scripts: SimpleNamespace) -> None:
    exact = stats.binomtest(0, 900).proportion_ci(0.95, "exact")
    assert scripts.dead_ends.about_models([0, 0, 0], 300) == pytest.approx((exact.low, exact.high))
    exact = stats.binomtest(450, 900).proportion_ci(0.95, "exact")
    assert scripts.dead_ends.about_models([0.5, 0.5, 0.5], 300) == pytest.approx((exact.low, exact.high))


def test_a_rate_is_no_less_than_none_and_no_more_than_all(scripts: SimpleNamespace) -> None:
    found = scripts.dead_ends.rate(np.array([[False, True], [True, True], [True, True]]))
    assert (found["value"], found["n"], found["by_seed"], found["high"]) == (5 / 6, 6, [0.5, 1, 1], 1)
    assert 0 <= found["low"] < 0.5


def test_a_mean_of_prompts_has_students_interval(scripts: SimpleNamespace) -> None:
    values = np.array([0.01, 0.05, 0.0, 0.02, 0.0])
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert scripts.evolution.interval(values) == f"{values.mean():.3f} [{low:.3f}, {high:.3f}]"
    assert scripts.evolution.interval(values, share=True) == f"{values.mean():.3f} [0.000, {high:.3f}]"
    assert scripts.evolution.interval(np.array([24.0, 24.0])) == "24"
    assert scripts.evolution.interval(np.array([0.25])) == "0.25"


def test_a_prompt_that_was_only_begun_is_in_no_row(scripts: SimpleNamespace) -> None:
    records = [{"document": name, "method": method} for name in ("a", "b") for method in ("human", "genetic")]
    assert scripts.evolution.complete([*records, {"document": "c", "method": "human"}]) == records


def test_the_bound_is_the_worst_of_all_searches(scripts: SimpleNamespace) -> None:
    about = {"inputs": "any", "numbers": "float32", "form": "2023", "draws": "10"}
    errors = dict.fromkeys(scripts.bound.COLUMNS[6:], "1e-9")
    first = {**about, **errors, "refused": "1", "out": "3e-06", "gate": "2e-3"}
    second = {**about, **errors, "refused": "4", "out": "2e-07", "of all": "5e-5", "k": "1e-4"}
    assert scripts.bound.table([first, second]).splitlines()[2:] == [
        "| any | float32 | 2023 | 1e-09 | 3e-06 | 5e-05 | 2e-03, by gate | 25 % |"
    ]
