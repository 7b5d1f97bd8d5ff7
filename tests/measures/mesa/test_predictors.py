"""Predictors in context against their slow twins, and against one another where they must agree."""

from __future__ import annotations

import pytest
import torch

from snellen.errors import InputError
from snellen.measures.mesa import codebooks, online, others, predictors, reference

SHAPES = [(3, 9, 5, 2), (1, 2, 1, 1), (4, 7, 3, 3)]
SETTINGS = {
    "gradient_descent": [{"rate": 0.1}, {"rate": 0.05, "steps": 4}],
    "preconditioned": [
        {"kind": kind, "order": order, "ridge": 0.3, "bound": 12.0} for kind in predictors.KINDS for order in (0, 1, 5)
    ],
    "ridge": [{"ridge": 0.3}],
    "interleaved": [{"rate": 0.2, "curvature": 0.05, "layers": layers} for layers in (0, 1, 3)],
    "momentum": [{"rate": 0.05, "momentum": 0.6, "steps": steps} for steps in (1, 4)],
    "conjugate": [{"ridge": 0.3, "steps": steps} for steps in (1, 2, 3)],
    "delta_rule": [
        {"rate": rate, "forget": forget, "normalised": normalised}
        for rate, forget, normalised in ((0.1, 0.0, False), (0.1, 0.2, False), (0.7, 0.0, True), (0.7, 0.2, True))
    ],
    "decaying_step": [{"rate": 0.2, "forget": 0.3}],
    "forgetting_ridge": [{"ridge": 0.3, "forget": 0.2}],
    "kernel_average": [{"bandwidth": 0.7, "scale": 1.3}],
}
CASES = [(name, settings) for name, several in SETTINGS.items() for settings in several]


def _pairs(shape: tuple[int, int, int, int], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    n, pos, dx, dy = shape
    torch.manual_seed(seed)
    return (torch.randn(n, pos, size, dtype=torch.float64).requires_grad_() for size in (dx, dy))


def _fast(name: str):
    return next(getattr(module, name) for module in (predictors, online, others) if hasattr(module, name))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("name", "settings"), CASES)
def test_twins(name, settings, shape):
    """Values, and gradients with regard to queries and targets, agree with the reference."""
    x, y = _pairs(shape)
    fast, slow = _fast(name)(x, y, **settings), getattr(reference, name)(x, y, **settings)
    torch.testing.assert_close(fast, slow, atol=1e-10, rtol=1e-10)
    weights = torch.randn(fast.shape, dtype=torch.float64)
    for one, two in zip(
        torch.autograd.grad((fast * weights).sum(), (x, y)),
        torch.autograd.grad((slow * weights).sum(), (x, y)),
        strict=True,
    ):
        torch.testing.assert_close(one, two, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(
    ("name", "settings"), [*CASES, ("last_target", {"scale": 2.0}), ("mean_target", {"scale": 2.0})]
)
@pytest.mark.parametrize("at", [0, 1, 6])
def test_one_position_alone(name, settings, at):
    """`at` gives what the whole gives there, and nothing after it matters."""
    x, y = _pairs((4, 8, 3, 2))
    x, y = x.detach(), y.detach()
    whole = _fast(name)(x, y, **settings)
    torch.testing.assert_close(_fast(name)(x, y, at=at, **settings), whole[:, at : at + 1], atol=1e-11, rtol=1e-9)
    x[:, at + 1 :], y[:, at:] = 99.0, -99.0
    torch.testing.assert_close(_fast(name)(x, y, **settings)[:, at], whole[:, at], atol=1e-11, rtol=1e-9)


def test_one_step_is_linear_attention():
    x, y = _pairs(SHAPES[0])
    scores = torch.einsum("ntd,nsd->nts", x, x) * torch.ones(9, 9, dtype=torch.float64).tril(-1)
    torch.testing.assert_close(predictors.gradient_descent(x, y, rate=0.3), 0.3 * scores @ y)


def test_all_roads_lead_to_ridge_regression():
    """Many steps, high orders: Neumann slowly, Chebyshev fast, gradient descent with the eigenvalues' own rate."""
    x, y = (part.detach() for part in _pairs((5, 12, 4, 2)))
    exact = predictors.ridge(x, y, ridge=1.0)
    top = float(torch.linalg.eigvalsh(x.mT @ x).max()) + 1.0
    errors = {}
    for kind in predictors.KINDS:
        for order in (5, 20, 60):
            found = predictors.preconditioned(x, y, kind=kind, order=order, ridge=1.0, bound=top)
            errors[kind, order] = float((found - exact).abs().max())
    assert errors["chebyshev", 60] < 1e-6 < errors["neumann", 60] < errors["neumann", 5]
    assert all(errors["chebyshev", order] < errors["neumann", order] for order in (20, 60))
    least_squares = predictors.gradient_descent(x, y, rate=1 / top, steps=20_000)[:, -1]
    torch.testing.assert_close(least_squares, predictors.ridge(x, y, ridge=1e-7)[:, -1], atol=1e-4, rtol=1e-4)


def test_neumann_is_gradient_descent_with_weight_decay():
    x, y = (part.detach() for part in _pairs(SHAPES[0]))
    rate, ridge = 2 / 12.3, 0.3
    found = predictors.preconditioned(x, y, kind="neumann", order=3, ridge=ridge, bound=12.0)
    for t in range(9):
        A, B = x[:, :t].mT @ x[:, :t], y[:, :t].mT @ x[:, :t]
        W = torch.zeros_like(B)
        for _ in range(4):
            W = (1 - rate * ridge) * W + rate * (B - W @ A)
        torch.testing.assert_close((W @ x[:, t, :, None])[..., 0], found[:, t])


def test_kernel_average_ends():
    """Narrow: the nearest neighbour. Wide: the mean."""
    x, y = (part.detach() for part in _pairs((6, 9, 3, 2)))
    nearest = (x[:, :8] - x[:, 8:9]).norm(dim=-1).argmin(1)
    found = others.kernel_average(x, y, bandwidth=0.01, scale=1.0, at=8)[:, 0]
    torch.testing.assert_close(found, y[torch.arange(6), nearest])
    wide = others.kernel_average(x, y, bandwidth=1e5, scale=1.0)
    torch.testing.assert_close(wide, others.mean_target(x, y, scale=1.0))


@pytest.mark.parametrize("temperature", [0.05, 3.0])
def test_codebook_is_bayes_rule(temperature):
    x, y = _pairs((4, 8, 3, 2))
    entries = torch.randn(7, 2, 3, dtype=torch.float64)
    settings = {"entries": entries, "temperature": temperature}
    fast, slow = codebooks.codebook(x, y, **settings), reference.codebook(x, y, **settings)
    torch.testing.assert_close(fast, slow, atol=1e-10, rtol=1e-10)
    for one, two in zip(
        torch.autograd.grad(fast.square().sum(), (x, y)), torch.autograd.grad(slow.square().sum(), (x, y)), strict=True
    ):
        torch.testing.assert_close(one, two, atol=1e-9, rtol=1e-9)


def test_cold_codebook_picks_the_best_entry():
    x, y = (part.detach() for part in _pairs((5, 9, 3, 2)))
    entries = torch.randn(6, 2, 3, dtype=torch.float64)
    misfit = (y[:, None, :8] - torch.einsum("koi,nti->nkto", entries, x[:, :8])).square().sum((2, 3))
    picked = entries[misfit.argmin(1)]
    found = codebooks.codebook(x, y, entries=entries, temperature=1e-9, at=8)[:, 0]
    torch.testing.assert_close(found, (picked @ x[:, 8, :, None])[..., 0])


def test_maps_that_repeat_are_recalled():
    """All of them once each was seen, as they are, however many are asked for; and the mean where one is."""
    maps = torch.randn(50, 2, 3, dtype=torch.float64)
    answers = maps[torch.randperm(400) % 50]
    for size in (50, 300):
        found = codebooks.recalled(answers, size)
        assert len(found) == 50
        assert float(torch.cdist(maps.flatten(1), found.flatten(1)).amin(1).max()) < 1e-6
    torch.testing.assert_close(codebooks.recalled(answers, 1)[0], answers.mean(0))


def test_a_map_of_its_own_for_each_sequence():
    maps = torch.randn(4, 2, 3, dtype=torch.float64)
    x = torch.randn(4, 6, 3, dtype=torch.float64)
    torch.testing.assert_close(codebooks.least_squares(x, x @ maps.mT), maps)


def test_float32_input_stays():
    x, y = (part.detach().float() for part in _pairs((4, 8, 3, 2)))
    for name, settings in CASES:
        assert _fast(name)(x, y, **settings).dtype == torch.float32, name


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda x, y: predictors.gradient_descent(x, y, rate=0.1, steps=0), "steps = 0"),
        (lambda x, y: predictors.ridge(x, y, ridge=0.0), "ridge = 0.0"),
        (lambda x, y: predictors.ridge(x, y[:, 1:], ridge=1.0), "y"),
        (lambda x, y: predictors.gradient_descent(x, y, rate=0.1, at=9), "at = 9"),
        (lambda x, y: predictors.preconditioned(x, y, kind="newton", order=1, ridge=1.0, bound=2.0), "kind"),
        (lambda x, y: predictors.preconditioned(x, y, kind="neumann", order=-1, ridge=1.0, bound=2.0), "order = -1"),
        (lambda x, y: predictors.preconditioned(x, y, kind="neumann", order=1, ridge=1.0, bound=1.0), "bound = 1.0"),
        (lambda x, y: predictors.interleaved(x, y, rate=0.1, curvature=0.1, layers=-1), "layers = -1"),
    ],
)
def test_wrong_settings_are_named(call, named):
    x, y = _pairs(SHAPES[0])
    with pytest.raises(InputError, match=named):
        call(x, y)
