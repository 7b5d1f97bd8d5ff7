"""Token binding: does the first layer write the previous tokens into a position, as a regression on pairs needs?

Linear attention can only regress y_s on x_s where both stand in one token. A model that reads s_1, s_2, … has to put
them there itself, and von Oswald et al. 2023 (arXiv 2309.05858) find that first layers do: they copy s_{t−1} to t. Seen
here in three ways: the Jacobian of the residual stream after the layer with respect to each input, linear probes for
the inputs before, and where the softmax looks.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor, nn

from snellen.errors import InputError
from snellen.measures.mesa import probe_targets, states
from snellen.measures.mesa.estimates import Over
from snellen.measures.mesa.probe_estimates import fresh_bound
from snellen.measures.mesa.probe_findings import Probing
from snellen.measures.mesa.probes import Probed, probe_states
from snellen.results import statistics
from snellen.results.estimates import Estimate
from snellen.results.findings import Finding

NOTHING = "the layer hears nothing of earlier inputs at some position"


@dataclass(frozen=True, kw_only=True)
class BindingSettings:
    """layer:     whose output is looked at, from 0
    lags:      how far back shares, weights and probes are told apart; beyond that they are summed
    positions: how many positions, evenly spread from `lags` on to the last
    jacobians: of how many sequences, at most, the Jacobian is taken (it costs a backward pass for each of the model's
               dimensions and positions, of all these sequences at once)
    untrained: models of the same configuration with fresh weights, as a control: at least 2
    probing:   of the probes for earlier inputs
    """

    layer: int = 0
    lags: int = 4
    positions: int = 8
    jacobians: int = 64
    untrained: int = 4
    probing: Probing = field(default_factory=Probing)

    def __post_init__(self) -> None:
        if self.lags < 1:
            raise InputError(f"lags = {self.lags}: the previous token is 1 back; give at least 1")
        if self.positions < 1:
            raise InputError(f"positions = {self.positions}: give at least 1")
        if self.jacobians < statistics.REFUSED_BELOW:
            raise InputError(f"jacobians = {self.jacobians}: an interval needs at least {statistics.REFUSED_BELOW}")
        if self.untrained < 2:
            raise InputError(f"untrained = {self.untrained}: give at least 2, to say how they differ")


@dataclass(frozen=True, kw_only=True)
class Bound:
    """What the residual stream after a layer holds of the inputs 0, 1, … back.

    shares:    of the squared Jacobian ‖∂h_t/∂s_{t−k}‖², for k = 0 … lags, averaged over sequences and positions; the
               rest is further back
    norms:     the mean of ‖∂h_t/∂s_{t−k}‖ (Frobenius), in units of the residual stream over those of the input
    attention: mean weight of each head on what is k back; None where the layer is no softmax layer
    probes:    for the inputs k back, before the layer (row 0) and after it (row 1)
    """

    shares: list[Estimate]
    norms: list[Estimate]
    attention: Float[ndarray, "heads lags+1"] | None
    probes: Probed
    finding: Finding


def squared_jacobians(
    model: nn.Module, inputs: Float[Tensor, "n pos in"], *, layer: int, position: int
) -> Float[Tensor, "n position+1"]:
    """‖∂h_t/∂s_{t'}‖² (Frobenius) of each sequence, t = position, for t' = 0 … t; h_t stands behind layer `layer`.

    Exact, a backward pass for each of the model's dimensions, of all sequences at once. Raises `InputError` for a layer
    or position that there is not.
    """
    states.layer_at(model, layer)
    if not 0 <= position < inputs.shape[1]:
        raise InputError(f"position = {position}: there are {inputs.shape[1]} positions, counted from 0")
    with states.evaluating(model), torch.enable_grad():
        given = inputs[:, : position + 1].detach().clone().requires_grad_()
        stream: Tensor = model(inputs=given, output_hidden_states=True).hidden_states[layer + 1][:, position]
        total = given.new_zeros(given.shape[:2], dtype=torch.float64)
        for entry in stream.unbind(-1):
            (gradient,) = torch.autograd.grad(entry.sum(), given, retain_graph=True)
            total += gradient.double().square().sum(-1)
    return total.cpu()


def bind(
    model: nn.Module, inputs: Float[Tensor, "n pos in"], *, settings: BindingSettings | None = None, seed: int = 0
) -> Bound:
    """Look for copies of earlier inputs behind a layer.

    The finding is the share of the *past's* squared Jacobian that the previous input has: the position's own input
    comes along the residual stream whatever the layer does, so that its share says nothing of copying.

    Raises
    ------
    InputError
        Fewer positions than lags, no such layer.
    Refused
        Fewer than 8 sequences, or not more than features of a probe.
    """
    settings = settings or BindingSettings()
    length, lags = inputs.shape[1], settings.lags
    if length < lags + 2:
        raise InputError(f"lags = {lags}: with {length} positions at most {length - 2} can be told from the rest")
    few = inputs[: settings.jacobians]
    places = np.unique(np.linspace(lags + 1, length - 1, settings.positions).astype(int))
    fresh = states.untrained(model, settings.untrained, seed=seed)
    over = Over.of(len(few), number=settings.probing.resamples, level=settings.probing.level, seed=seed)
    own = _Jacobians.of(model, few, settings, places)
    rivals = [_Jacobians.of(one, few, settings, places) for one in fresh]
    at = [settings.layer, settings.layer + 1]
    streams = [[states.residual_stream(one, inputs)[i] for i in at] for one in [model, *fresh]]
    kind = states.layer_at(model, settings.layer).mixer.kind
    weights = _by_lag(states.attention_weights(model, few, settings.layer), places, lags) if kind == "softmax" else None
    return Bound(
        shares=[_mean(own.shares[:, k], over) for k in range(lags + 1)],
        norms=[_mean(own.norms[:, k], over) for k in range(lags + 1)],
        attention=weights,
        probes=probe_states(
            streams[0],
            inputs,
            probe_targets.copies(inputs, lags),
            settings=settings.probing,
            untrained=streams[1:],
            seed=seed,
        ),
        finding=_finding(own, rivals, weights, over, settings, places, seed),
    )


@dataclass(frozen=True, kw_only=True)
class _Jacobians:
    """Of each sequence, averaged over positions; columns are lags."""

    shares: Float[ndarray, "n lags+1"]
    norms: Float[ndarray, "n lags+1"]
    of_past: Float[ndarray, "n"]  # the previous input's share of all that came before; NaN where nothing did

    @classmethod
    def of(cls, model: nn.Module, inputs: Tensor, settings: BindingSettings, places: ndarray) -> _Jacobians:
        squares = [
            squared_jacobians(model, inputs, layer=settings.layer, position=int(t)).flip(-1).numpy() for t in places
        ]
        lags = settings.lags + 1
        with np.errstate(divide="ignore", invalid="ignore"):
            return cls(
                shares=np.mean([one[:, :lags] / one.sum(axis=1, keepdims=True) for one in squares], axis=0),
                norms=np.mean([np.sqrt(one[:, :lags]) for one in squares], axis=0),
                of_past=np.mean([one[:, 1] / one[:, 1:].sum(axis=1) for one in squares], axis=0),
            )


def _by_lag(weights: Float[Tensor, "n heads pos pos"], places: ndarray, lags: int) -> Float[ndarray, "heads lags+1"]:
    mean = weights.double().mean(dim=0).cpu().numpy()
    found: Float[ndarray, "heads lags+1"] = np.stack(
        [mean[:, places, places - k].mean(axis=1) for k in range(lags + 1)], axis=1
    )
    return found


def _mean(values: Float[ndarray, "n"], over: Over) -> Estimate:
    if not np.isfinite(values).all():
        return Estimate(value=None, reason=NOTHING)
    return over.mean(values)


def _finding(
    own: _Jacobians, rivals: list[_Jacobians], weights: ndarray | None, over: Over,
    settings: BindingSettings, places: ndarray, seed: int,
) -> Finding:  # fmt: skip
    level = settings.probing.level
    share = _mean(own.of_past, over).within(0, 1)
    fresh = np.array([one.of_past.mean() for one in rivals])
    bound = float(fresh_bound(fresh, level))
    near = _mean(own.shares[:, :2].sum(axis=1), over).within(0, 1)
    fresh_near = np.array([one.shares[:, :2].sum(axis=1).mean() for one in rivals])
    uniform = float(np.mean(1.0 / places))  # places counts what came before
    control = {
        "untrained": _number(fresh.mean()),
        "untrained, upper bound": _number(bound),
        "even over the past": uniform,
    }
    highest = max((x for x in control.values() if x is not None), default=uniform)
    plain = asdict(settings)
    plain["probing"] |= {name: list(value) for name, value in plain["probing"].items() if isinstance(value, tuple)}
    return Finding(
        measure="mesa: token binding",
        question=f"Does layer {settings.layer} copy the previous input to each position?",
        value=share.value,
        unit="share of the past's squared Jacobian",
        low=share.low,
        high=share.high,
        level=level,
        n={"sequences": len(own.of_past), "positions": len(places), "untrained models": len(rivals)},
        excluded={},
        control=control,
        verdict=_verdict(share, highest),
        reading=(
            "1: all that the residual stream behind this layer holds of earlier inputs, to first order, is of the "
            "previous one; compare with untrained models, whose softmax looks everywhere alike"
        ),
        settings=plain | {"seed": seed},
        reason=share.reason,
        details={
            "share of offsets 0 and 1": near.as_dict() | {"untrained": _number(fresh_near.mean())},
            "shares": [_mean(column, over).within(0, 1).as_dict() for column in own.shares.T],
            "norms": [_mean(column, over).as_dict() for column in own.norms.T],
            "attention": None if weights is None else weights.tolist(),
            "positions": places.tolist(),
        },
    )


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _verdict(share: Estimate, highest: float) -> str:
    if share.low is None or share.high is None:
        return "not defined"
    if share.low > highest:
        return "copies the previous input"
    return "does not copy the previous input beyond the controls"
