"""What a trained model turns out to do: the measures of `snellen.measures.mesa`, each with its own controls.

Every model on a task is asked whether it predicts as an optimiser in context does, and which one. Of models on the
task `full` with more than one layer: what their residual streams hold (probes), whether the first layer copies the
previous state (binding, where tokens are plain), and whether their softmax layers are nearly linear.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from snellen.errors import Refused
from snellen.measures.mesa.binding import BindingSettings, bind
from snellen.measures.mesa.comparison import Comparing
from snellen.measures.mesa.linearisation import Linearising, linearise
from snellen.measures.mesa.probe_findings import Probing
from snellen.measures.mesa.probes import probe_model
from snellen.measures.mesa.verdict import optimiser_finding
from snellen.results.findings import Finding
from snellen.studies.mesa.judging import as_predictor
from snellen.studies.mesa.tasks import Setup, stream
from snellen.studies.mesa.variants import Variant

INSIDE = "full"  # the task whose models are looked into
_COMPARED, _INSIDE = 7, 8  # streams of random numbers


@dataclass(frozen=True, kw_only=True)
class Looking:
    """How many sequences: `compared` with optimisers (as many more fit those), `inside` for what is looked into."""

    compared: int = 256
    inside: int = 384
    resamples: int = 200


def look_at(model: Any, setup: Setup, variant: Variant, *, seed: int, looking: Looking) -> Mapping[str, Any]:
    """Findings as JSON has them, by measure; a measure that refuses says why."""
    found: dict[str, Any] = {"optimiser": _optimiser(model, setup, variant, seed, looking)}
    if setup.name == INSIDE and len(variant.layers) > 1 and variant.patience == 1:
        found |= _inside(model, setup, variant, seed, looking)
    return found


def _optimiser(model: Any, setup: Setup, variant: Variant, seed: int, how: Looking) -> dict[str, Any]:
    """Judged at the last position, on sequences with a rule of their own each, also where it was trained with one."""
    comparing = Comparing(
        tasks=how.compared, fitting=how.compared, recalled=4 * how.compared, lags=setup.lags,
        resamples=how.resamples, to_data=False,
    )  # fmt: skip
    try:
        finding = optimiser_finding(
            as_predictor(model, setup, variant), setup.task, seed=stream(seed, _COMPARED), comparing=comparing
        )
    except Refused as refused:
        return {"verdict": None, "refused": str(refused)}
    details = {name: value for name, value in finding.details.items() if name != "rivals"}
    return _brief(finding) | {"details": details}


def _inside(model: Any, setup: Setup, variant: Variant, seed: int, how: Looking) -> dict[str, Any]:
    sequences = setup.task.draw(how.inside, seed=stream(seed, _INSIDE))
    inputs = setup.tokens(sequences.inputs, variant)
    x, y = setup.task.pairs(sequences, lags=setup.lags)
    probing = Probing(resamples=how.resamples, untrained=2, lags=1, orders=(2,))
    probed = probe_model(model, inputs, x, y, settings=probing, seed=seed)
    found: dict[str, Any] = {"probes": {name: _brief(one.finding) for name, one in probed.found.items()}}
    if variant.tokens == "plain":
        settings = BindingSettings(positions=3, jacobians=32, untrained=2, probing=probing)
        found["binding"] = _brief(bind(model, inputs, settings=settings, seed=seed).finding)
    softmax = [layer for layer, kind in enumerate(variant.layers) if kind == "softmax"]
    if softmax:
        linear = linearise(
            model, inputs, sequences.targets, sequences.weights, seed=seed,
            settings=Linearising(steps=50, untrained=0, resamples=how.resamples),
        )  # fmt: skip
        found["linear"] = {
            "layers": {str(one.layer): _brief(one.finding) for one in linear.layers},
            "rise in loss": {name: rise.as_dict() for name, rise in linear.together.items()},
        }
    return found


def _brief(finding: Finding) -> dict[str, Any]:
    """What tables need of a finding, and its evidence."""
    names = ("verdict", "value", "low", "high", "unit", "n", "control", "details", "reason")
    return {name: getattr(finding, name) for name in names}
