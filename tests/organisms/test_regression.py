"""Linear regression in context: the tokens, the two ranges of von Oswald et al. 2022, and the posterior mean."""

import dataclasses
import math

import pytest
import torch

from snellen.organisms.posterior import posterior_means
from snellen.organisms.regression import LinearRegression


def within(values: torch.Tensor, expected: float, *, sigmas: float = 5.0) -> None:
    values = values.double().flatten()
    error = float(values.std()) / math.sqrt(len(values))
    assert error > 0
    assert abs(float(values.mean()) - expected) < sigmas * error, (float(values.mean()), expected, error)


def by_definition(x: torch.Tensor, y: torch.Tensor, ridge: float) -> torch.Tensor:
    """The slow twin: at each position, of each sequence, the mean of a Gaussian given the pairs before."""
    x, y = x.double(), y.double()
    out = torch.zeros_like(y)
    for n in range(len(x)):
        for t in range(1, x.shape[1]):
            seen, query = x[n, :t], x[n, t]
            covariance = seen @ seen.mT + ridge * torch.eye(t, dtype=torch.float64)
            out[n, t] = query @ seen.mT @ torch.linalg.pinv(covariance, rtol=1e-13) @ y[n, :t]
    return out


def test_tokens_are_pairs_and_then_a_query_alone():
    one = LinearRegression(dim=3, context=4)
    drawn = one.draw(6, seed=0)
    x, y = one.pairs(drawn)
    assert drawn.inputs.shape == (6, 5, 4)
    assert torch.equal(drawn.inputs[..., :3], x)
    assert torch.equal(drawn.inputs[:, :-1, 3:], y[:, :-1])
    assert (drawn.inputs[:, -1, 3] == 0).all()
    assert drawn.weights.tolist() == [[0, 0, 0, 0, 1]] * 6
    torch.testing.assert_close(y, x @ drawn.hidden.mT)
    assert (y[:, -1] != 0).all()


@pytest.mark.parametrize(("which", "bound"), [("text", 1.0), ("code", 0.5)])
def test_the_text_and_the_code_of_the_source_draw_from_different_ranges(which: str, bound: float):
    one = LinearRegression(text_or_code=which)
    drawn = one.draw(3000, seed=0)
    x, _ = one.pairs(drawn)
    assert one.bound == bound
    assert 0.999 * bound < x.abs().max() < bound
    within(x, 0.0)
    within(x.square(), bound**2 / 3)
    within(x[..., 1:] * x[..., :-1], 0.0)
    within(drawn.hidden, 0.0)
    within(drawn.hidden.square(), 1.0)
    within(drawn.targets[:, -1].square(), 10 * bound**2 / 3)


def test_noise_and_scale_have_the_size_that_is_asked_for():
    one = LinearRegression(noise=0.3, scale=2.0)
    drawn = one.draw(3000, seed=0)
    x, y = one.pairs(drawn)
    within((y - x @ drawn.hidden.mT).square(), 0.09)
    within(drawn.hidden.square(), 4.0)
    within((y - one.known(drawn)).square(), 0.09)


@pytest.mark.parametrize("ridge", [0.0, 1e-4, 0.3])
@pytest.mark.parametrize(("dim", "length", "outputs"), [(3, 8, 1), (10, 11, 1), (4, 3, 2)])
def test_posterior_means_are_those_of_the_definition(ridge: float, dim: int, length: int, outputs: int):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(12, length, dim, dtype=torch.float64, generator=generator) - 0.5
    w = torch.randn(12, dim, outputs, dtype=torch.float64, generator=generator)
    y = x @ w + ridge**0.5 * torch.randn(12, length, outputs, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(posterior_means(x, y, ridge=ridge), by_definition(x, y, ridge), rtol=1e-5, atol=1e-6)


def test_an_input_that_comes_again_teaches_nothing_new():
    x = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 0.0], [2.0, 1.0], [3.0, 5.0], [1.0, 1.0]]], dtype=torch.float64)
    y = x @ torch.tensor([[3.0], [-2.0]], dtype=torch.float64)
    assert posterior_means(x, y, ridge=0)[0, :, 0].tolist() == pytest.approx([0, 3, 0, 6, -1, 1])


def test_little_noise_is_the_limit_of_no_noise():
    one = LinearRegression(dim=6, context=9)
    x, y = one.pairs(one.draw(20, seed=0))
    torch.testing.assert_close(posterior_means(x, y, ridge=1e-9), posterior_means(x, y, ridge=0), rtol=1e-3, atol=1e-4)


def test_without_noise_as_many_pairs_as_dimensions_tell_all():
    one = LinearRegression()
    drawn = one.draw(500, seed=0)
    error = (one.best(drawn) - drawn.targets)[..., 0].abs()
    assert error[:, -1].median() < 1e-5
    assert error[:, -2].median() > 0.05
    within(one.best(drawn)[:, 5] * (one.best(drawn) - drawn.targets)[:, 5], 0.0)  # a posterior mean's error is blind


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_the_posterior_mean_beats_every_perturbed_predictor(noise: float):
    """Paired: the same sequences, at a position at which the context does not tell all."""
    one = LinearRegression(noise=noise, context=7)
    drawn = one.draw(4000, seed=0)
    x, y = one.pairs(drawn)
    ridge = (noise / one.scale) ** 2
    rivals = {
        "smaller": 0.8 * posterior_means(x, y, ridge=ridge),
        "larger": 1.2 * posterior_means(x, y, ridge=ridge),
        "too stiff": posterior_means(x, y, ridge=ridge + 0.3),
        "zero": torch.zeros_like(y),
    } | ({"too loose": posterior_means(x, y, ridge=ridge / 4)} if noise else {})
    best = (one.best(drawn) - y)[:, -1].square()
    for name, rival in rivals.items():
        more = (rival - y)[:, -1].square() - best
        assert more.mean() > 4 * more.std() / len(more) ** 0.5, name


def test_the_best_of_a_fixed_task_is_its_own_rule():
    control = LinearRegression(noise=0.2).fixed()
    drawn = control.draw(5, seed=0)
    assert torch.equal(control.best(drawn), control.known(drawn))
    other = dataclasses.replace(drawn, hidden=drawn.hidden * 0)
    assert torch.equal(control.best(other), control.known(drawn))


def test_a_swap_keeps_every_x_and_changes_every_y():
    one = LinearRegression()
    drawn = one.draw(5, seed=0)
    swapped = one.swapped(drawn, seed=0)
    (x, y), (same, other) = one.pairs(drawn), one.pairs(swapped)
    assert torch.equal(x, same)
    assert not (y == other).any()
    torch.testing.assert_close(other, x @ swapped.hidden.mT)
    torch.testing.assert_close(one.best(swapped)[:, -1], other[:, -1], rtol=1e-3, atol=1e-3)
