"""What is said of a model whose algorithm is known; and that each number is what it is said to be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from snellen.errors import InputError, Refused
from snellen.measures.mesa import construction, predictors
from snellen.measures.mesa.comparison import Comparing, compare
from snellen.measures.mesa.estimates import Over, over_seeds
from snellen.measures.mesa.examination import Place, examine, of_model, of_rival, predicting
from snellen.measures.mesa.positions import by_position
from snellen.measures.mesa.rivals import (
    FAMILIES,
    OPTIMISERS,
    RIDGE,
    gradient_descent,
    interleaved,
    preconditioned,
)
from snellen.organisms.regression import LinearRegression
from snellen.organisms.systems import LinearSystem

TASK = LinearRegression(dim=4, context=8)
SYSTEM = LinearSystem(dim=3, length=15)
FEW = Comparing(tasks=400, fitting=256, resamples=200)


def test_rivals_find_themselves():
    """Each optimiser's own predictions give back its settings, and an error of nothing."""
    x, y = (part.double() for part in TASK.pairs(TASK.draw(300, seed=0)))
    for family in (gradient_descent(1), gradient_descent(4), RIDGE):
        ((name, _),) = family.ranges.items()
        aim = family.predictor(x, y, at=8, **{name: 0.123})[:, 0]
        rival, error = family.fitted(x, y, aim, at=8)
        assert rival.settings[name] == pytest.approx(0.123, rel=1e-4)
        assert error < 1e-8


def test_fit_in_two_dimensions():
    x, y = (part.double() for part in TASK.pairs(TASK.draw(300, seed=0)))
    aim = predictors.interleaved(x, y, rate=0.3, curvature=0.1, layers=1, at=8)[:, 0]
    rival, error = interleaved(1).fitted(x, y, aim, at=8)
    assert rival.settings == pytest.approx({"rate": 0.3, "curvature": 0.1}, rel=1e-2)
    assert error < 1e-6


def test_best_rate_is_that_of_least_squares():
    """One step is linear in its rate, so the best is known in closed form."""
    data = TASK.draw(500, seed=0)
    x, y = (part.double() for part in TASK.pairs(data))
    unit = predictors.gradient_descent(x, y, rate=1.0, at=8)[:, 0]
    rival, _ = gradient_descent(1).fitted(x, y, y[:, 8], at=8)
    assert rival.settings["rate"] == pytest.approx(float((unit * y[:, 8]).sum() / unit.square().sum()), rel=1e-5)


@pytest.mark.parametrize("family", OPTIMISERS, ids=lambda family: family.name)
def test_fewer_pairs_with_the_same_moments(family):
    """The context of a fit may be compressed for those families that say so."""
    torch.manual_seed(0)
    x, y = torch.randn(5, 12, 3, dtype=torch.float64), torch.randn(5, 12, 2, dtype=torch.float64)
    few_x, few_y = predictors.compressed(x, y, 11)
    assert few_x.shape == (5, 4, 3)
    settings = {name: {-1: 0.03, 0: 0.3, 1: 4.0}[power] for name, (_, _, power) in family.ranges.items()}
    settings |= {"bound": 40.0} if "bound" in settings else {}
    whole = family.predictor(x, y, at=11, **settings)
    if family.moments:
        torch.testing.assert_close(family.predictor(few_x, few_y, at=3, **settings), whole, atol=1e-8, rtol=1e-6)
    else:
        assert (family.predictor(few_x, few_y, at=3, **settings) - whole).abs().max() > 1e-3


@pytest.mark.parametrize("lags", [1, 2])
def test_fewer_pairs_leave_the_sensitivities(lags):
    """Compressed contexts give the predictions and derivatives of whole ones, where the token is a target as well."""
    data = SYSTEM.draw(6, seed=0)
    place = Place.of(SYSTEM, data, lags=lags)

    def ridge(x, y, *, at):
        return predictors.ridge(x, y, ridge=0.5, at=at)

    one, two = (examine(of_rival(ridge, SYSTEM, place, moments=fewer), data, place) for fewer in (False, True))
    torch.testing.assert_close(one.predictions, two.predictions, atol=1e-9, rtol=1e-7)
    torch.testing.assert_close(one.jacobian, two.jacobian, atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize("task", [TASK, SYSTEM], ids=["regression", "system"])
def test_sensitivities_are_finite_differences(task):
    """∂ŷ/∂x of a rival; in a system the token is also the last pair's target, and moves there as well."""
    data = task.draw(6, seed=0)
    place = Place.of(task, data, lags=1)
    assert place.wired == (task is SYSTEM)
    rival = of_rival(lambda x, y, *, at: predictors.ridge(x, y, ridge=0.5, at=at), task, place)
    said = examine(rival, data, place)
    doubled = replace(data, inputs=data.inputs.double(), targets=data.targets.double())
    for entry in range(place.query):
        step = torch.zeros_like(doubled.inputs)
        step[:, place.position, entry] = 1e-5
        sides = []
        for sign in (1, -1):
            inputs, targets = doubled.inputs + sign * step, doubled.targets
            if place.wired:
                targets = torch.cat([inputs[:, 1:], targets[:, -1:]], dim=1)
            sides.append(rival(replace(doubled, inputs=inputs, targets=targets))[:, 0])
        torch.testing.assert_close((sides[0] - sides[1]) / 2e-5, said.jacobian[..., entry], atol=1e-5, rtol=1e-5)


def test_construction_is_what_it_was_made_as():
    """A step of gradient descent, of rate 0.21, in weights: told by every number."""
    model = predicting(construction.gradient_step(dim=4, rate=0.21))
    found = compare(model, TASK, seed=11, comparing=FEW)
    best = found.nearest("optimiser")
    assert best.name == "1 step of gradient descent"
    assert best.settings["rate"] == pytest.approx(0.21, rel=1e-4)
    assert min(best.cosine.low, best.explained.low, best.follows.low) > 1 - 1e-6
    assert max(best.difference.high, best.slope.high) < 1e-4
    assert best.loss.value == pytest.approx(found.loss.value, rel=1e-5)
    assert abs(best.shuffled_cosine.value) < 0.2
    assert best.shuffled_explained.high < 0
    fitted = {rival.name: rival for rival in found.of("data")}
    assert fitted[best.name].settings["rate"] != pytest.approx(0.21, rel=0.01)  # its best rate is another
    averages = [r.fit for r in found.of("data", "other") if "codebook" not in r.name]
    assert fitted[best.name].fit <= min(averages)  # but a hundred maps of four numbers do better than one step
    assert len(found.rows()) == 2 * len(FAMILIES)
    assert {"cosine", "cosine_low", "name", "settings"} <= set(found.rows()[0])


def test_of_equals_the_simplest_is_named():
    """One step is also layers that transform nothing, and Chebyshev's polynomial with a large bound."""
    families = (RIDGE, gradient_descent(1), preconditioned("chebyshev", 2), interleaved(1))
    found = compare(
        predicting(construction.gradient_step(dim=4, rate=0.21)), TASK, seed=11, comparing=FEW, families=families
    )
    nested = {rival.name: rival.fit / found.variance["model"] for rival in found.of("model")}
    assert nested["1 transforming layer, then a step"] < 1e-3
    assert nested["ridge regression"] > 0.01
    assert found.nearest("optimiser").name == "1 step of gradient descent"


def test_ridge_layer_on_a_system():
    model = predicting(construction.ridge_layer(dim=3, ridge=0.6, tokens="states"))
    found = compare(model, SYSTEM, seed=11, comparing=FEW, families=(gradient_descent(1), RIDGE))
    best = found.nearest("optimiser")
    assert (best.name, best.settings["ridge"]) == ("ridge regression", pytest.approx(0.6, rel=1e-3))
    assert min(best.cosine.low, best.explained.low, best.follows.low) > 1 - 1e-5
    one, _ = found.of("model")
    assert one.explained.high < 0.95


def test_the_numbers_are_their_definitions():
    """By hand, for a model that is a step of gradient descent and noise that depends on the context."""

    def predict(inputs):
        x, y = inputs[..., :4], inputs[..., 4:]
        step = predictors.gradient_descent(x, y, rate=0.2)
        return step + 0.1 * torch.sin(40 * x[..., :1] + 7 * y.roll(1, dims=1))

    found = compare(predict, TASK, seed=3, comparing=FEW, families=(RIDGE, gradient_descent(1)))
    rival = found.of("model")[1]
    every = TASK.draw(656, seed=3)
    judged = every[256:]
    swapped = TASK.swapped(judged, seed=3)

    def both(sequences):
        x, y = (part.double() for part in TASK.pairs(sequences))
        r = predictors.gradient_descent(x, y, rate=rival.settings["rate"])[:, -1]
        return predict(sequences.inputs)[:, -1].double(), r

    (f, r), (other_f, other_r) = both(judged), both(swapped)
    y = judged.targets[:, -1].double()
    assert rival.difference.value == pytest.approx(float((f - r).norm(dim=-1).mean()), rel=1e-6)
    assert rival.loss.value == pytest.approx(float(0.5 * (r - y).square().sum(-1).mean()), rel=1e-6)
    moved, rival_moved = f - other_f, r - other_r
    agreement = 2 * (moved * rival_moved).sum() / (moved.square().sum() + rival_moved.square().sum())
    assert rival.follows.value == pytest.approx(float(agreement), rel=1e-6)
    use = 0.5 * moved.square().sum() / (f - f.mean(0)).square().sum()
    assert found.context_use.value == pytest.approx(float(use), rel=1e-6)
    fitting = every[:256]
    with_one = [torch.nn.functional.pad(d.inputs[:, -1, :4].double(), (0, 1), value=1.0) for d in (fitting, judged)]
    free = with_one[1] @ (torch.linalg.pinv(with_one[0]) @ predict(fitting.inputs)[:, -1].double())
    explained = 1 - (f - r).square().sum() / (f - free).square().sum()
    assert rival.explained.value == pytest.approx(float(explained), rel=1e-6)
    assert rival.explained.low < rival.explained.value < rival.explained.high < 1


def test_a_model_without_context():
    """Says w·x whatever stands before: nothing is explained, nothing follows, and no number is made up."""
    w = torch.randn(4, 1, generator=torch.Generator().manual_seed(0))
    found = compare(lambda inputs: inputs[..., :4] @ w, TASK, seed=3, comparing=FEW, families=(RIDGE,))
    (rival,) = found.of("model")
    assert found.context_use.value == 0
    assert rival.explained.value is None
    assert "query alone" in rival.explained.reason
    assert abs(rival.follows.value) < 1e-6
    assert found.moved.low > 0.5


def test_a_model_that_ignores_the_query():
    found = compare(lambda inputs: inputs[..., 4:].roll(1, dims=1), TASK, seed=3, comparing=FEW, families=(RIDGE,))
    (rival,) = found.of("model")
    assert rival.cosine.value is None
    assert rival.no_cosine == FEW.tasks


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(Refused, match="not finite"):
        compare(lambda inputs: inputs[..., :1] / 0, TASK, seed=3, comparing=FEW)
    with pytest.raises(InputError, match="predict gives"):
        compare(lambda inputs: inputs, TASK, seed=3, comparing=FEW)
    with pytest.raises(InputError, match="RIDGE"):
        compare(lambda inputs: inputs[..., :1], TASK, seed=3, comparing=FEW, families=(gradient_descent(1),))
    for settings in ({"tasks": 7}, {"fitting": 1}, {"resamples": 10}, {"level": 1.0}, {"block": 0}, {"lags": 0}):
        with pytest.raises(InputError, match=next(iter(settings))):
            Comparing(**settings)


def test_blocks_change_nothing():
    data = TASK.draw(50, seed=0)
    place = Place.of(TASK, data, lags=1)
    model = of_model(predicting(construction.ridge_layer(dim=4, ridge=1.0)), place)
    one, two = (examine(model, data, place, block=block) for block in (50, 7))
    torch.testing.assert_close(one.predictions, two.predictions, atol=1e-5, rtol=1e-4)  # of a float32 model
    torch.testing.assert_close(one.jacobian, two.jacobian, atol=1e-5, rtol=1e-4)


def test_along_the_sequence():
    """A constructed step agrees with its algorithm at every position; ridge regression gets better with each pair."""
    x, y = SYSTEM.pairs(SYSTEM.draw(256, seed=0))
    rate = 0.11
    step = gradient_descent(1).fitted(x, y, predictors.gradient_descent(x, y, rate=rate, at=14)[:, 0], at=14)[0]
    ridge = RIDGE.fitted(x, y, y[:, 14], at=14)[0]
    model = predicting(construction.gradient_step(dim=3, rate=rate, tokens="states"))
    found = by_position(model, SYSTEM, rivals={"step": step, "ridge": ridge}, seed=5, tasks=256)
    assert found.positions == tuple(range(15))
    assert max(one.value for one in found.difference["step"]) < 1e-3
    assert found.loss["the model"][9].value == pytest.approx(found.loss["step"][9].value, rel=1e-3)
    losses = [one.value for one in found.loss["ridge"]]
    assert losses[0] > 3 * losses[3] > losses[14] > 0
    assert all(one.low < one.value < one.high for one in found.loss["ridge"])


def test_interval_covers():
    """Over tasks: 95 % intervals of a mean hold it in about 95 of 100 draws."""
    rng = np.random.default_rng(0)
    hits = 0
    for draw in range(100):
        found = Over.of(40, number=300, level=0.95, seed=draw).mean(rng.exponential(size=40))
        hits += found.low <= 1 <= found.high
    assert 85 <= hits <= 100


def test_over_seeds():
    found = over_seeds([1.0, 2.0, 3.0])
    assert found.value == pytest.approx(2.0)
    assert found.high - found.value == pytest.approx(4.302653 / 3**0.5, rel=1e-5)
    with pytest.raises(InputError, match="2 seeds"):
        over_seeds([1.0, 2.0])
    assert over_seeds([1.0, 2.0, float("nan")]).value is None


def test_queries_of_several_observations():
    """A partially observed system, predicted by ridge regression on two observations: found with lags=2, not with 1."""
    task = LinearSystem(dim=4, observed=2, length=20)

    def predict(inputs):
        seen = inputs.double()
        x = torch.cat([seen, torch.nn.functional.pad(seen, (0, 0, 1, 0))[:, :-1]], dim=-1)
        return predictors.ridge(x, seen.roll(-1, dims=1), ridge=0.5)  # what is rolled to the end is of no pair yet

    told = {}
    for lags in (1, 2):
        how = replace(FEW, lags=lags)
        told[lags] = compare(predict, task, seed=4, comparing=how, families=(RIDGE,)).of("model")[0]
    assert told[2].settings["ridge"] == pytest.approx(0.5, rel=1e-3)
    assert min(told[2].cosine.low, told[2].explained.low) > 1 - 1e-5
    assert told[1].explained.high < 0.9
