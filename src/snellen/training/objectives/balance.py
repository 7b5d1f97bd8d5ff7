"""Balance: as much movement away from lookahead as towards it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from snellen.errors import InputError
from snellen.training.objectives.base import Objective, Places
from snellen.training.objectives.movement import away, check_control, finite, movement

FORMS = ("tokens", "gradient")


@dataclass(frozen=True, kw_only=True)
class Balance(Objective):
    """v3: movement towards and away from lookahead sums to zero over each step.

    form="tokens". Held at zero: Σ weight · m over the step's places, m = ⟨q_D − q_1, 1_x − p⟩, first in number (of the
    places with m > 0 and those with m < 0 the larger group is thinned at random to the size of the smaller) and then in
    magnitude (the group whose total is larger is scaled down). Places with m = 0 keep their weight of 1. Approximation:
    first order in the step, and each place's logits as if they were parameters of their own: that learning at one place
    moves the logits of others is neglected, as are the optimiser's preconditioner and momentum. In a real model under
    Adam that is most of the movement: what a step moved was measured to be hardly less (docs/stunting.md).

    form="gradient". All weights are 1, and the step is projected (`projection`). Held at zero: Σ ⟨q_D − q_1, Δlogits⟩
    over the step's places to first order in the step, what the places teach one another included; by
    `projected_step` for the step as it was made, by `projected` but for momentum and decay. The weights of tokens stay
    as they are, but one direction of the parameters a step is taken from the update.

    Where the model predicts the truth, the expected movement is ⟨q_D − q_1, p − p⟩ = 0, so that it is balanced already
    but for sampling, and little is lost where there is nothing to plan (docs/stunting.md). Nothing is held at zero by
    class of token, by context or over time: only the sum.

    against: "horizon 1", or "naive" for q_D − p, which balances sharpening away as well.
    """

    method: ClassVar[str] = "balance"
    form: str = "tokens"
    against: str = "horizon 1"

    def __post_init__(self) -> None:
        check_control(self.against)
        if self.form not in FORMS:
            raise InputError(f"form = {self.form!r}: must be one of {', '.join(map(repr, FORMS))}")

    @property
    def pooled(self) -> bool:
        return self.form == "tokens"

    def signal(self, places: Places) -> Float[Tensor, "places"]:
        """m, above 0 where learning the real token moves towards lookahead."""
        return movement(places, self.against)

    def weights(self, signal: Float[Tensor, "all"], keys: Int[Tensor, "all"]) -> Float[Tensor, "all"]:
        return balanced(signal, keys) if self.form == "tokens" else torch.ones_like(finite(signal))

    def direction(self, places: Places) -> Float[Tensor, ""] | None:
        return away(places, self.against) if self.form == "gradient" else None

    def figures(self, signal: Float[Tensor, "all"], weights: Float[Tensor, "all"]) -> Mapping[str, float]:
        return {
            "share of tokens trained on": float(weights.mean()),
            "share of tokens that move towards lookahead": float((signal > 0).to(signal.dtype).mean()),
            "movement towards lookahead, mean": float(signal.mean()),
            "movement left after balancing, mean": float((weights * signal).mean()),
        }


def balanced(movements: Float[Tensor, "all"], keys: Int[Tensor, "all"]) -> Float[Tensor, "all"]:
    """Weights in [0, 1] with Σ weight · movement = 0, the same whatever the order of the places.

    The larger of the groups {m > 0} and {m < 0} keeps the places of lowest key, as many as the smaller has. Places of
    equal key have equal contexts; where the cut goes through such a set, all of it share what is left, rather than
    one of them being chosen by where in the batch it stands. An empty group leaves the other one no weight.

    Raises
    ------
    Refused
        A movement is not a finite number.
    """
    m = finite(movements).double()
    towards, back = m > 0, m < 0
    number = min(int(towards.sum()), int(back.sum()))
    weights = torch.ones_like(m)
    for group in (towards, back):
        weights[group] = thinned(keys[group], number)
    up, down = (weights * m)[towards].sum(), -(weights * m)[back].sum()
    if number:
        weights[towards] *= (down / up).clamp_max(1.0)
        weights[back] *= (up / down).clamp_max(1.0)
    return weights.to(movements.dtype)


def thinned(keys: Int[Tensor, "group"], number: int) -> Float[Tensor, "group"]:
    """Weights that sum to `number`: 1 for the lowest keys, 0 for the others, equal shares for those at the cut."""
    if number == 0 or number >= len(keys):
        return torch.full(keys.shape, float(number > 0), dtype=torch.float64, device=keys.device)
    cut = keys.sort().values[number - 1]
    below, at = keys < cut, keys == cut
    return below.double() + at * ((number - below.sum()).double() / at.sum())
