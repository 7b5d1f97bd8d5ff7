"""How near is each softmax layer to a linear attention layer?

Von Oswald et al. 2023 (arXiv 2309.05858) replace softmax layers of trained transformers by linear attention that was
fitted to reproduce them, and find that little is lost behind the first layer: so that what is known of linear
attention, that it can take gradient steps, carries over. Here each softmax layer's output on one part of the sequences
is fitted by linear attention (`linear_fit`), and judged on the other part: by the share of the output's variance that
it explains, and by the model's loss with the fit in place of the layer. Beside it stand the best position-wise linear
map, which attends to nothing, and the same for layers of untrained models, whose small logits make them nearly linear
by themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor, nn

from snellen.errors import InputError
from snellen.measures.mesa import states
from snellen.measures.mesa.estimates import Over
from snellen.measures.mesa.linear_fit import LinearAttention, Normaliser, fit_linear, position_wise
from snellen.results.estimates import Estimate
from snellen.results.findings import Finding

FLAT = "the layer gives the same to all sequences"
NO_WEIGHT = "the loss counts at no position"
Replacement = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Linearising:
    """normaliser: 1/t before the sums of linear attention ("count"), as a softmax's weights sum to one; or "none"
    steps:      of L-BFGS, at most; 0: only the output projection is fitted
    held:       share of the sequences that judges
    near:       from this share of variance on, a layer is called near to linear
    untrained:  models of the same configuration with fresh weights, for comparison
    resamples, level: of the intervals
    """

    normaliser: Normaliser = "count"
    steps: int = 100
    held: float = 0.5
    near: float = 0.9
    untrained: int = 2
    resamples: int = 1000
    level: float = 0.95

    def __post_init__(self) -> None:
        if self.normaliser not in ("count", "none"):
            raise InputError(f"normaliser = {self.normaliser!r}: there is 'count' and 'none'")
        if self.steps < 0 or self.untrained < 0:
            raise InputError(f"steps = {self.steps}, untrained = {self.untrained}: neither can be below 0")
        if not 0 < self.held < 1:
            raise InputError(f"held = {self.held}: some sequences must fit and some judge; give e.g. 0.5")
        if not 0 < self.near < 1:
            raise InputError(f"near = {self.near}: must lie between 0 and 1")
        if self.resamples < 100:
            raise InputError(f"resamples = {self.resamples}: a percentile needs at least 100")
        if not 0.5 <= self.level < 1:
            raise InputError(f"level = {self.level}: must lie in [0.5, 1)")


@dataclass(frozen=True, kw_only=True)
class LinearisedLayer:
    """One softmax layer. Shares are of its output's variance about the mean at each position, on held-out sequences."""

    layer: int
    linear: Estimate
    position_wise: Estimate
    untrained: tuple[float, ...]
    loss_linear: Estimate  # the model's loss with the layer replaced, less that of the model as it is
    loss_position_wise: Estimate
    loss_mean: Estimate  # replaced by its mean output at each position: what there is to lose
    finding: Finding


@dataclass(frozen=True, kw_only=True)
class Linearised:
    """All softmax layers of a model. `together`: by name, the rise in loss with several of them replaced at once."""

    layers: tuple[LinearisedLayer, ...]
    loss: Estimate
    together: dict[str, Estimate]

    @property
    def findings(self) -> list[Finding]:
        return [one.finding for one in self.layers]


def linearise(
    model: nn.Module,
    inputs: Float[Tensor, "n pos in"],
    targets: Float[Tensor, "n pos out"],
    weights: Float[Tensor, "n pos"],
    *,
    settings: Linearising | None = None,
    seed: int = 0,
) -> Linearised:
    """Fit linear attention to every softmax layer of a model, and put it in its place.

    Layers are fitted on what they receive in the model as it is, also where several are then replaced at once.

    Raises
    ------
    InputError
        A model without softmax layers, or too few sequences to fit anything.
    Refused
        Fewer than 8 sequences to judge on.
    """
    settings = settings or Linearising()
    kinds = [layer.mixer.kind for layer in states.layers(model)]
    softmax = [i for i, kind in enumerate(kinds) if kind == "softmax"]
    if not softmax:
        raise InputError(f"model: its layers are {', '.join(kinds)}; there is no softmax layer to compare")
    fit, held = _split(len(inputs), settings.held, seed)
    over = Over.of(len(held), number=settings.resamples, level=settings.level, seed=seed)
    judge = _Judge(model, inputs[held], targets[held], weights[held], over)
    fresh = states.untrained(model, settings.untrained, seed=seed)
    fits = {i: _Fits.of(model, inputs[fit], i, settings) for i in softmax}
    layers = []
    for i, one in fits.items():
        others = [_Fits.of(other, inputs[fit], i, settings) for other in fresh]
        shares = [
            float(_explained(o.linear, other, inputs[held], i, o.mean)[2])
            for o, other in zip(others, fresh, strict=True)
        ]
        layers.append(_layer(model, one, inputs[held], judge, tuple(shares), settings, (len(fit), seed)))
    together = {"all": softmax}
    if len(softmax) > 1:
        together["all but the first"] = softmax[1:]
    return Linearised(
        layers=tuple(layers),
        loss=judge.loss,
        together={name: judge.rise({i: fits[i].linear for i in some}) for name, some in together.items()},
    )


@dataclass(frozen=True, kw_only=True)
class _Fits:
    """What was fitted to one layer's output."""

    layer: int
    linear: Replacement
    position_wise: Replacement
    mean: Float[Tensor, "pos hidden"]

    @classmethod
    def of(cls, model: nn.Module, inputs: Tensor, layer: int, settings: Linearising) -> _Fits:
        seen = states.mixer_states(model, inputs, layer)
        start = LinearAttention(states.layer_at(model, layer).mixer, normaliser=settings.normaliser, rotary=seen.rotary)
        return cls(
            layer=layer,
            linear=fit_linear(start, seen.taken, seen.given, steps=settings.steps),
            position_wise=position_wise(seen.taken, seen.given),
            mean=seen.given.mean(dim=0),
        )

    def ablated(self, x: Tensor) -> Tensor:
        return self.mean.expand(len(x), -1, -1)


def ratio(top: Float[ndarray, "n"], bottom: Float[ndarray, "n"], over: Over, undefined: str) -> Estimate:
    """Σ top / Σ bottom over sequences."""
    return over.statistic([top, bottom], lambda a, b: a / b, undefined)


class _Judge:
    """The model's loss on the held-out sequences."""

    def __init__(self, model: nn.Module, inputs: Tensor, targets: Tensor, weights: Tensor, over: Over) -> None:
        self.model, self.given, self.over = model, (inputs, targets, weights), over
        loss, weight = states.sequence_losses(model, *self.given)
        self._own, self._weight = loss.cpu().numpy(), weight.cpu().numpy()
        self.loss = ratio(self._own, self._weight, over, NO_WEIGHT)

    def rise(self, mixers: Mapping[int, Replacement]) -> Estimate:
        """Loss with these mixers in place less the loss as it is, of the same sequences."""
        with states.replaced(self.model, mixers):
            loss, _ = states.sequence_losses(self.model, *self.given)
        return ratio(loss.cpu().numpy() - self._own, self._weight, self.over, NO_WEIGHT)


def _split(n: int, held: float, seed: int) -> tuple[Int[Tensor, "fit"], Int[Tensor, "held"]]:
    order = torch.from_numpy(np.random.default_rng([seed, 4]).permutation(n))
    many = round(n * held)
    return order[many:], order[:many]


@torch.no_grad()
def _explained(
    replacement: Replacement, model: nn.Module, inputs: Tensor, layer: int, mean: Float[Tensor, "pos hidden"]
) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"], Float[Tensor, ""]]:
    """Of each sequence, explained and whole square of the output about its mean; and the share of all together."""
    seen = states.mixer_states(model, inputs, layer)
    whole = (seen.given - mean).double().square().sum(dim=(1, 2)).cpu()
    left = (seen.given - replacement(seen.taken)).double().square().sum(dim=(1, 2)).cpu()
    return whole - left, whole, 1.0 - left.sum() / whole.sum()


def _layer(
    model: nn.Module, fits: _Fits, inputs: Tensor, judge: _Judge, untrained: tuple[float, ...],
    settings: Linearising, drawn: tuple[int, int],
) -> LinearisedLayer:  # fmt: skip
    shares, rises = {}, {}
    for name, replacement in (("linear", fits.linear), ("position-wise", fits.position_wise)):
        explained, whole, _ = _explained(replacement, model, inputs, fits.layer, fits.mean)
        shares[name] = ratio(explained.numpy(), whole.numpy(), judge.over, FLAT).within(-np.inf, 1)
        rises[name] = judge.rise({fits.layer: replacement})
    rises["mean"] = judge.rise({fits.layer: fits.ablated})
    linear = shares["linear"]
    finding = Finding(
        measure="mesa: linearisation",
        question=f"Is the softmax layer {fits.layer} near to a linear attention layer?",
        value=linear.value,
        unit="share of the output's variance",
        low=linear.low,
        high=linear.high,
        level=settings.level,
        n={"sequences": len(inputs), "fitted on": drawn[0], "positions": inputs.shape[1]},
        excluded={},
        control={
            "position-wise": shares["position-wise"].as_dict(),
            "untrained": [share if np.isfinite(share) else None for share in untrained],
        },
        verdict=_verdict(linear, shares["position-wise"], settings.near),
        reading=(
            "of what the layer adds to the residual stream, held-out: a lower bound, for the fit is a local one; "
            "layers of untrained models may be as near, since small logits make any softmax linear"
        ),
        settings=asdict(settings) | {"layer": fits.layer, "seed": drawn[1]},
        reason=linear.reason,
        details={
            "loss": judge.loss.as_dict(),
            "rise in loss": {name: rise.as_dict() for name, rise in rises.items()},
        },
    )
    return LinearisedLayer(
        layer=fits.layer,
        linear=linear,
        position_wise=shares["position-wise"],
        untrained=untrained,
        loss_linear=rises["linear"],
        loss_position_wise=rises["position-wise"],
        loss_mean=rises["mean"],
        finding=finding,
    )


def _verdict(linear: Estimate, alone: Estimate, near: float) -> str:
    if linear.low is None or linear.high is None:
        return "not defined"
    if alone.low is not None and alone.low >= near:
        return "near to a position-wise linear map: it hardly attends"
    if linear.low >= near:
        return "near to linear attention"
    return "not near to linear attention" if linear.high < near else "undecided"
