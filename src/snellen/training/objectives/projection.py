"""Taking one direction out of a step of the parameters, in the optimiser's own metric (the gradient form of balance).

With u the gradient of a scalar S (`Objective.direction`), g that of the loss and P the optimiser's preconditioner,

    g′ = g − (⟨u, Pg⟩ / ⟨u, Pu⟩) u        leaves S unchanged under the step −Pg′,            `projected`
    Δ′ = Δ − (⟨u, Δ⟩ / ⟨u, Pu⟩) Pu        leaves S unchanged under the step Δ, whatever made it,  `projected_step`

both to first order, and both the least change that does so: the first in the metric P of gradients, the second in
the metric P⁻¹ of steps.

What each holds. The gradients that Adam's momentum still carries were orthogonal to the directions of *their* steps, in
the preconditioner of those; the new direction is another, so the step that Adam makes of projected gradients does move
along it, as does one of weight decay. `projected_step` holds the step that was really made, decay and momentum
included; it wants a copy of the parameters from before. docs/stunting.md has the leak of both. Neither holds
anything of second order: after a long step S has changed by its curvature.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from snellen.errors import Refused

Tensors = Sequence[Tensor | None]  # None: this parameter has no part in it

KNOWN: tuple[type[torch.optim.Optimizer], ...] = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)


def projected(gradients: Tensors, directions: Tensors, preconditioner: Sequence[Tensor]) -> list[Tensor | None]:
    """g′ of the module's docstring, one tensor a parameter; the gradients themselves where u vanishes."""
    size = _inner(directions, directions, preconditioner)
    share = _inner(directions, gradients, preconditioner) / size if size > 0 else 0.0
    return [_less(g, u, share) for g, u in zip(gradients, directions, strict=True)]


def projected_step(steps: Tensors, directions: Tensors, preconditioner: Sequence[Tensor]) -> list[Tensor | None]:
    """Δ′ of the module's docstring, from Δ = parameters after less before; Δ itself where u vanishes."""
    size = _inner(directions, directions, preconditioner)
    ones = [torch.ones((), device=p.device) for p in preconditioner]
    share = _inner(directions, steps, ones) / size if size > 0 else 0.0
    moved = [None if u is None else p * u for p, u in zip(preconditioner, directions, strict=True)]
    return [_less(step, one, share) for step, one in zip(steps, moved, strict=True)]


def preconditioner_of(optimizer: Any, parameters: Sequence[Tensor], gradients: Tensors | None = None) -> list[Tensor]:
    """The optimiser's P for each parameter, of its shape or a scalar; the factors that all parameters share left out.

    optimizer: of torch, or a wrapper that has it in `.optimizer` (accelerate's).

    Adam, AdamW: learning rate / (√v̂ + ε). SGD: learning rate. With `gradients`, v̂ is what the coming step will make of
    it; without, that of the last one made.

    Raises
    ------
    Refused
        Another optimiser, a parameter that it does not have, or Adam before its first step with no gradients given.
    """
    optimizer = getattr(optimizer, "optimizer", optimizer)
    check_known(optimizer)
    groups = {id(one): group for group in optimizer.param_groups for one in group["params"]}
    found = []
    for place, parameter in enumerate(parameters):
        if id(parameter) not in groups:
            raise Refused(f"parameter {place}: the optimizer does not have it, so it has no step to project")
        group = groups[id(parameter)]
        rate = torch.as_tensor(group["lr"], dtype=torch.float32, device=parameter.device)
        adaptive = not isinstance(optimizer, torch.optim.SGD)
        gradient = None if gradients is None else gradients[place]
        found.append(rate / _adam_scale(optimizer.state[parameter], group, gradient) if adaptive else rate)
    return found


def check_known(optimizer: Any) -> None:
    """Refuse an optimiser whose preconditioner is not known here."""
    if type(optimizer) not in KNOWN:
        names = ", ".join(one.__name__ for one in KNOWN)
        raise Refused(f"optimizer {type(optimizer).__name__}: its preconditioner is not known here; known are {names}")


def _adam_scale(state: dict[str, Any], group: dict[str, Any], gradient: Tensor | None) -> Tensor:
    """√v̂ + ε (Kingma & Ba 2015, algorithm 1), of the last step or, given its gradient, of the coming one."""
    if gradient is None and not state:
        raise Refused("optimizer: has made no step yet, and so has no preconditioner; give the gradients of the first")
    decay = float(group["betas"][1])
    steps, square = (float(state["step"]), state["exp_avg_sq"]) if state else (0.0, torch.zeros(()))
    if gradient is not None:
        steps, square = steps + 1, square.to(gradient.device) * decay + (1 - decay) * gradient.square()
    largest = state.get("max_exp_avg_sq") if group["amsgrad"] else None
    square = square if largest is None else torch.maximum(square, largest)
    scale: Tensor = square.sqrt() / (1 - decay**steps) ** 0.5 + group["eps"]
    return scale


def _inner(left: Tensors, right: Tensors, preconditioner: Sequence[Tensor]) -> float:
    """Σ ⟨left, P right⟩ over the parameters."""
    parts = [
        (a.double() * p * b).sum()
        for a, b, p in zip(left, right, preconditioner, strict=True)
        if a is not None and b is not None
    ]
    return float(torch.stack(parts).sum()) if parts else 0.0


def _less(one: Tensor | None, other: Tensor | None, share: float) -> Tensor | None:
    if other is None or share == 0:
        return one
    return -share * other if one is None else one - share * other
