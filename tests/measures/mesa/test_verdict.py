"""The verdict on models whose answer is known: planted optimisers, planted others, and what training gives."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace

import pytest
import torch

from snellen.errors import InputError, Refused
from snellen.measures.mesa import construction, interpolation, others, predictors
from snellen.measures.mesa.comparison import Comparing, compare
from snellen.measures.mesa.examination import predicting
from snellen.measures.mesa.rivals import (
    AVERAGES,
    FAMILIES,
    OTHERS,
    RIDGE,
    codebook,
    gradient_descent,
    interleaved,
    preconditioned,
)
from snellen.measures.mesa.verdict import Thresholds, judged, optimiser_finding
from snellen.organisms.regression import LinearRegression
from snellen.organisms.sequences import Sequences
from snellen.organisms.systems import LinearSystem
from snellen.results import findings
from tests.measures.mesa import planted, table
from tests.measures.mesa.acceptance import RATE, REGRESSION, trained
from tests.measures.mesa.training import one_layer, train

TASK = LinearRegression(dim=4, context=8)
SYSTEM = LinearSystem(dim=3, length=15)
FEW = Comparing(tasks=600, fitting=128, recalled=1024, resamples=200)
QUICK = (
    gradient_descent(1),
    gradient_descent(3),
    preconditioned("chebyshev", 3),
    interleaved(1),
    RIDGE,
    *AVERAGES,
    codebook(100),
)


def _on_pairs(predictor, **settings):
    """An algorithm as a model of regression tokens."""
    return lambda inputs: predictor(inputs[..., :4], inputs[..., 4:], **settings)


def _found(predict, task=TASK, **how):
    return optimiser_finding(predict, task, seed=21, comparing=FEW, **({"families": QUICK} | how))


OPTIMISERS = {
    "a constructed step": predicting(construction.gradient_step(dim=4, rate=0.2)),
    "a constructed mesa-layer": predicting(construction.ridge_layer(dim=4, ridge=0.5)),
    "three steps": _on_pairs(predictors.gradient_descent, rate=0.2, steps=3),
    "Chebyshev": _on_pairs(predictors.preconditioned, kind="chebyshev", order=3, ridge=0.3, bound=8.0),
}


@pytest.mark.parametrize("name", OPTIMISERS)
def test_planted_optimisers(name):
    found = _found(OPTIMISERS[name])
    assert found.verdict == "yes", found.reading
    assert {row["name"] for row in found.details["rivals"]} == {family.name for family in QUICK}
    assert found.low > 0.95
    assert found.control["the optimiser with another context"]["explained"]["high"] < 0
    assert set(found.details["criteria"].values()) == {True}


@pytest.mark.parametrize("kind", ["step", "ridge"])
def test_planted_optimisers_in_systems(kind):
    model = {
        "step": lambda: construction.gradient_step(dim=3, rate=0.05, tokens="states"),
        "ridge": lambda: construction.ridge_layer(dim=3, ridge=0.5, tokens="states"),
    }[kind]()
    found = _found(predicting(model), SYSTEM)
    assert found.verdict == "yes", found.reading


# What is said of the rest is in docs/mesa.md, and held to by the slow test: each costs seconds.
QUICKLY = [
    ("delta rule", 10), ("normalised delta rule", 5), ("ridge regression", 2), ("ridge regression that forgets", 5),
    ("2 steps of conjugate gradients", 2), ("codebook of 100", 2), ("codebook of 10000", 2), ("codebook of 100", 10),
]  # fmt: skip


def _wanted(name: str, dim: int) -> set[str]:
    """More entries than answers show, of few numbers each: those may pass for untold, never for an optimiser."""
    if name in planted.optimisers(dim):
        return {"yes"}
    return {"no", "undecided"} if dim < 10 and name in table.MANY else {"no"}


@pytest.mark.parametrize(("name", "dim"), QUICKLY)
def test_planted_by_size(name, dim):
    found = table.found((planted.optimisers(dim) | planted.others(dim))[name], dim)
    assert found.verdict in _wanted(name, dim), found.reading
    if name == "codebook of 100":
        assert found.details["criteria"]["beyond"] is False
        assert found.control["the nearest that does not optimise"]["explained"]["low"] > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("dim", planted.DIMS)
def test_planted_all(dim):
    for name, ending in (planted.optimisers(dim) | planted.others(dim) | planted.strangers(dim)).items():
        found = table.found(ending, dim)
        assert found.verdict in _wanted(name, dim), (name, found.reading)


def test_in_few_dimensions_near_is_not_near_enough():
    """As near to ridge regression as a codebook is: not told. Nearer than any of 1000 entries: told."""
    close, off = (table.found(ending, 2) for ending in planted.between(2).values())
    assert (close.verdict, off.verdict) == ("yes", "undecided")
    assert off.details["criteria"]["apart"] is None
    assert "cannot be told here" in off.reading
    assert "codebook of 1000" in off.reading
    mimic = off.control["what does not optimise, beside the optimiser"]
    assert mimic["explained"]["value"] > off.details["optimiser"]["explained"]["value"] > 0.9
    assert set(off.details["mimics"]) == {family.name for family in OTHERS}


def test_codebooks_grow_into_the_optimiser():
    """What the rivals say of one another: with more entries nearer, with more dimensions farther."""
    sizes = ["codebook of 1", "codebook of 10", "codebook of 100", "codebook of 1000"]
    by_dim = []
    for dim in (2, 10):
        mimics = table.found(planted.optimisers(dim)["ridge regression"], dim).details["mimics"]
        by_dim.append([mimics[name]["value"] for name in sizes])
        assert by_dim[-1] == sorted(by_dim[-1])
    assert by_dim[0][2] > 0.97
    assert by_dim[1][2] < 0.7


W = torch.randn(4, 1, generator=torch.Generator().manual_seed(0))

NOT = {
    "weights of its own": lambda inputs: inputs[..., :4] @ W,
    "weights of its own, bent": lambda inputs: torch.tanh(3 * inputs[..., :4] @ W),
    "always the same": lambda inputs: torch.ones_like(inputs[..., :1]),
    "the last target": _on_pairs(others.last_target, scale=1.0),
    "the mean target": _on_pairs(others.mean_target, scale=1.0),
    "an average by likeness": _on_pairs(others.kernel_average, bandwidth=0.7, scale=1.0),
    "a wide average by likeness": _on_pairs(others.kernel_average, bandwidth=1.5, scale=2.0),
    "the nearest neighbour": _on_pairs(others.kernel_average, bandwidth=0.02, scale=1.0),
    "steps uphill": _on_pairs(predictors.gradient_descent, rate=-0.2),
    "half from weights": lambda inputs: (
        inputs[..., :4] @ W + 0.5 * predictors.gradient_descent(inputs[..., :4], inputs[..., 4:], rate=0.2)
    ),
    "another's context": lambda inputs: predictors.gradient_descent(
        inputs[..., :4], inputs[..., 4:].roll(1, dims=0), rate=0.2
    ),
    "untrained": predicting(one_layer(TASK)),
    "untrained, softmax": predicting(
        one_layer(TASK, "softmax", num_hidden_layers=2, layer_types=["softmax"] * 2, norm="rms", intermediate_size=16)
    ),
}


@pytest.mark.parametrize("name", NOT)
def test_planted_others(name):
    found = _found(NOT[name])
    assert found.verdict == "no", found.reading
    assert False in found.details["criteria"].values()
    assert "not met: " in found.reading
    json.loads(findings.dumps([found]))


def test_one_rule_for_all_is_no_optimiser_though_its_predictions_coincide():
    """On data of its own W nothing tells it from ridge regression; the verdict is by contexts of other W."""
    fixed = TASK.fixed(5)
    own = fixed.draw(1, seed=0).hidden[0]

    def model(inputs: torch.Tensor) -> torch.Tensor:
        return inputs[..., :4] @ own.T

    same = compare(model, fixed, seed=2, comparing=FEW, families=(RIDGE,)).of("data")[0]
    assert same.cosine.low > 0.999
    assert same.difference.high < 0.02
    for task in (fixed, TASK):
        found = _found(model, task)
        assert found.verdict == "no"
        assert found.details["criteria"]["context"] is False
        assert abs(found.value) < 1e-6
        assert found.settings["task"] == task.name
    assert found.details["optimiser"]["explained"]["value"] is None


def test_an_optimiser_is_one_on_the_fixed_task_too():
    """What it was trained on does not matter: it is asked about other W."""
    assert _found(OPTIMISERS["a constructed mesa-layer"], TASK.fixed(), families=FAMILIES).verdict == "yes"


def test_undecided():
    """A model with noise, just at a threshold: the interval lies across it."""
    torch.manual_seed(0)
    plain = _on_pairs(predictors.gradient_descent, rate=0.2)
    loud = 0.3 * torch.randn(1024, 1, 1)
    families = (gradient_descent(1), RIDGE, *AVERAGES)  # a codebook is as near as noise leaves it: undecided at any bar
    compared = compare(
        lambda inputs: plain(inputs) + loud[: len(inputs)], TASK, seed=21, comparing=FEW, families=families
    )
    value = compared.nearest("optimiser").explained.value
    assert 0.3 < value < 0.99
    for bar, said in ((value, "undecided"), (value - 0.2, "yes"), (1.0, "no")):
        bars = Thresholds(explained=bar, follows=0.1, sensitivity=0.1)
        found = judged(compared, thresholds=bars, comparing=FEW, trained_on="regression")
        assert found.verdict == said
        assert ("explained" in found.reading.split(". ")[0]) == (said != "yes")


@dataclass(frozen=True, kw_only=True)
class Same(LinearRegression):
    """Whose other contexts are no others."""

    def swapped(self, sequences: Sequences, *, seed: int) -> Sequences:
        return sequences


def test_where_nothing_can_be_told_it_is_refused():
    task = Same(dim=4, context=8)
    with pytest.raises(Refused, match="rule for each"):
        _found(OPTIMISERS["a constructed step"], task)
    with pytest.raises(Refused, match="not finite"):
        _found(lambda inputs: inputs[..., :1] / 0)
    with pytest.raises(InputError, match="follows"):
        Thresholds(follows=0.0)


def test_acceptance_trained_linear_attention_is_one_step_of_gradient_descent():
    """As in von Oswald et al. 2022, from random weights: sensitivities, predictions, loss, and weights."""
    begun = time.process_time()
    model = trained()
    found = compare(
        predicting(model),
        REGRESSION,
        seed=77,
        comparing=Comparing(resamples=300),
        families=(gradient_descent(1), RIDGE),
    )
    took = time.process_time() - begun
    best, ridge = found.of("data")  # the best rate for the data: nothing is fitted to the model here
    assert best.cosine.low >= 0.999
    assert best.explained.low >= 0.995
    assert best.difference.high < 0.05
    assert best.loss.value == pytest.approx(found.loss.value, rel=0.01)
    assert best.cosine.low > ridge.cosine.high
    assert took < 120
    step = construction.gradient_step(dim=10, rate=best.settings["rate"])
    between = interpolation.interpolate(model, step, REGRESSION.draw(4096, seed=78))
    assert between.losses[0.5] == pytest.approx(between.losses[1.0], rel=0.02)
    verdict = optimiser_finding(predicting(model), REGRESSION, seed=77, comparing=FEW)
    assert verdict.verdict == "yes", verdict.reading
    assert verdict.details["optimiser"]["name"] == "1 step of gradient descent"


def test_acceptance_negative_control():
    """The same model trained the same way on one W for all finds nothing in context, and is told so."""
    task = replace(REGRESSION, system=0)
    model = one_layer(task)
    losses = train(model, task, steps=300, batch=512, rate=RATE)
    assert losses[-1] < 0.2 * losses[0]  # it has learnt
    for asked in (task, REGRESSION):
        found = _found(predicting(model), asked)
        assert found.verdict == "no", found.reading
