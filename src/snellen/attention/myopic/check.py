"""The preflight of myopic attention: what is promised is tried on the very model, before it is used."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from snellen.attention.myopic.discovery import embeddings_with_gradient
from snellen.attention.myopic.interface import hidden_of
from snellen.attention.myopic.sites import Site
from snellen.attention.myopic_reference import own_position_only
from snellen.errors import Refused
from snellen.models.body import device_of

LENGTH = 8
POSITION = 5  # of the loss that is looked at: later positions are there too

# Relative differences of gradients. Two orders of summation differ by some units of the number format; a wrong
# diagonal, or a projection that was forgotten, by a good part of the gradient itself.
_TOLERANCE = 1e-4
_UNITS = 16.0


def sample(model: PreTrainedModel) -> Tensor:
    """Random tokens [2, 8] to look at a model with."""
    vocabulary = model.get_input_embeddings().weight.shape[0]
    generator = torch.Generator().manual_seed(0)
    return torch.randint(vocabulary, (2, LENGTH), generator=generator).to(device_of(model))


class Promise:
    """What the model does with its ordinary attention, noted before it is made myopic; `check` compares."""

    def __init__(self, model: PreTrainedModel, sites: Sequence[Site], *, mode: str) -> None:
        self.model, self.mode = model, mode
        self.modules = [site.module for site in sites]
        self.parameters = [_weights(site) for site in sites]
        self.input_ids = sample(model)
        self.logits, ordinary, self.weights = self._look()
        if not (torch.isfinite(self.logits).all() and all(torch.isfinite(x).all() for x in ordinary + self.weights)):
            raise Refused(f"{self._name}: logits or gradients of {LENGTH} random tokens are not finite")
        if any(x[:, POSITION + 1 :].any() for x in ordinary):
            raise Refused(f"{self._name} is not causal: later positions have a part in its predictions")
        if not all(_beside(x).any() for x in ordinary):
            raise Refused(
                f"{self._name}: even its ordinary gradients do not reach other positions in all layers, so there is "
                "nothing to check (projections that start at zero? train it some steps before)"
            )
        with own_position_only(model, self.modules, POSITION, mode=mode):
            _, self.inputs, self.literal = self._look()

    @property
    def _name(self) -> str:
        return type(self.model).__name__

    def check(self) -> None:
        """With myopic attention (β = 1) in place.

        Raises
        ------
        Refused
            Logits are not bit for bit the ordinary ones; a loss reaches another position; gradients are not those of
            the definition, followed literally; mode "hidden": the last layer's weights have other than the ordinary
            gradients.
        """
        logits, inputs, weights = self._look()
        if not torch.equal(logits, self.logits):
            worst = float((logits - self.logits).abs().max())
            raise Refused(f"{self._name}: myopic attention changes its logits by up to {worst:.1g}")
        leak = max(float(_beside(x).abs().max()) for x in inputs)
        if leak > 0:
            raise Refused(
                f"{self._name}: with myopic attention a loss still reaches other positions (by {leak:.1g}), so it "
                "mixes positions outside its attention (recurrence, convolution) or attends in a way that is not known"
            )
        tolerance = max(_TOLERANCE, _UNITS * torch.finfo(logits.dtype).eps)
        off = _difference(inputs + weights, self.inputs + self.literal)
        if not off <= tolerance:
            raise Refused(
                f"{self._name}: gradients differ from the definition's by {off:.1g} (allowed {tolerance:.1g})"
            )
        if self.mode == "hidden":
            first = len(weights) - len(self.parameters[-1])
            off = _difference(weights[first:], self.weights[first:])
            if not off <= tolerance:
                raise Refused(f"{self._name}: the last layer's weights differ from ordinary by {off:.1g} in gradient")

    def _look(self) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Logits, and a loss's gradients by the layers' inputs (embeddings first) and by the projections' weights."""
        hidden: list[Tensor] = []
        handles = [
            module.register_forward_pre_hook(
                lambda _, args, kwargs: hidden.append(hidden_of(args, kwargs)), with_kwargs=True, prepend=True
            )
            for module in self.modules
        ]
        own = [weight for weights in self.parameters for weight in weights]
        try:
            with torch.enable_grad(), trainable(own), embeddings_with_gradient(self.model) as embedded:
                logits = self.model(input_ids=self.input_ids, use_cache=False).logits
                noise = torch.Generator().manual_seed(1)
                towards = torch.randn(logits[:, POSITION].shape, generator=noise).to(logits)
                loss = (logits[:, POSITION] * towards).sum()
                wanted = [*embedded, *hidden, *own]
                found = torch.autograd.grad(loss, wanted, allow_unused=True)
        finally:
            for handle in handles:
                handle.remove()
        grads = [torch.zeros_like(x) if g is None else g for x, g in zip(wanted, found, strict=True)]
        inputs = len(grads) - len(own)
        return logits.detach(), grads[:inputs], grads[inputs:]


@contextlib.contextmanager
def trainable(parameters: Sequence[Tensor]) -> Iterator[None]:
    """Within it all of `parameters` require a gradient."""
    before = [(x, x.requires_grad) for x in parameters]
    try:
        for x in parameters:
            x.requires_grad_()
        yield
    finally:
        for x, own in before:
            x.requires_grad_(own)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within it the model is in eval mode; afterwards each module is in the mode that it was in."""
    before = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, own in before:
            module.training = own


def _weights(site: Site) -> list[nn.Parameter]:
    """One weight of each of its projections; a quantised one has none."""
    found = (next((p for p in root.module.parameters() if p.is_floating_point()), None) for root in site.roots)
    return [p for p in found if p is not None]


def _beside(x: Tensor) -> Tensor:
    """All positions but that of the loss, [batch, pos − 1, model]."""
    return torch.cat([x[:, :POSITION], x[:, POSITION + 1 :]], dim=1)


def _difference(found: list[Tensor], expected: list[Tensor]) -> float:
    """Largest relative difference of two lists of gradients.

    A gradient that is zero but for rounding (a key's bias) is judged by the size of the others.
    """
    largest = max(float(x.norm()) for x in expected)
    least = max(1e-3 * largest, torch.finfo(torch.float32).tiny)
    pairs = zip(found, expected, strict=True)
    return max((float((a - b).norm()) / max(float(b.norm()), least) for a, b in pairs), default=0.0)
