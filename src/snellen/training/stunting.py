"""One optimiser step of a stunted training: where it is looked ahead, what each token weighs, and the loss.

Weights that are *pooled* depend on all tokens of the step, whatever micro-batches and processes hold them. Where the
step is one micro-batch a process, the search shares the training forward. Where it is several, all are weighed before
the first is trained on, at the price of one more forward pass. With dropout the search has a forward pass of its own,
without dropout: what the model predicts is no matter of chance.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from snellen.attention.keeping import keeping
from snellen.lookahead.batch import dropout_of
from snellen.training.columns import IGNORED
from snellen.training.looking import look, place_keys
from snellen.training.objectives import objective_for
from snellen.training.objectives.adversarial import Adversarial
from snellen.training.objectives.base import Amplified, Places

if TYPE_CHECKING:
    from snellen.training.trainer import StuntingTrainer


@dataclass(frozen=True, kw_only=True)
class Weighed:
    """What is known of a micro-batch before it is trained on."""

    amplified: Amplified
    weights: Float[Tensor, "places"]


class Stunting:
    """Shapes the updates of a trainer. `engine` is what searches may use, "columns" or "plain"."""

    def __init__(self, trainer: StuntingTrainer, engine: str) -> None:
        self._trainer, self._engine = trainer, engine
        self.config = trainer.args
        self.objective = objective_for(self.config.method, **self.config.objective())
        self._shared = dropout_of(trainer.model) is None
        self._ahead: deque[Weighed] = deque()
        self._sums: dict[str, tuple[float | Tensor, int]] = {}
        self._inputs: Mapping[str, Tensor] = {}
        self._kept: Any = None
        self.direction: list[Tensor] | None = None  # in the parameters, for a gradient that is projected

    @property
    def model(self) -> Any:
        return self._trainer.model

    def begin(self, batches: Sequence[Mapping[str, Tensor]]) -> None:
        """A new optimiser step with these micro-batches of this process."""
        self._ahead.clear()
        self.direction = None
        if not self.objective.pooled or len(batches) < 2:
            return
        found, signals, keys = list[Amplified](), list[Tensor](), list[Tensor]()  # logits are held one by one
        for batch in batches:
            inputs = self._trainer._prepare_inputs(batch)
            logits, kept = self._forward(inputs)
            places = self._places(inputs, logits, self._look(inputs, logits, kept))
            found.append(places.amplified)
            signals.append(self.objective.signal(places))
            keys.append(places.keys)
        weights = self._weights(torch.cat(signals), torch.cat(keys))
        first = 0
        for amplified, signal in zip(found, signals, strict=True):
            last = first + len(signal)
            self._ahead.append(Weighed(amplified=amplified, weights=weights[first:last]))
            first = last

    @contextlib.contextmanager
    def reading(self, inputs: Mapping[str, Tensor]) -> Iterator[None]:
        """Around the training forward of a micro-batch and its `loss`."""
        self._inputs = dict(inputs)
        if self._ahead or not self._shared:
            yield
            return
        with keeping(self.model) as self._kept:
            try:
                yield
            finally:
                self._kept = None

    def loss(self, logits: Float[Tensor, "batch pos vocab"], items: Any) -> Tensor:
        """Σ over the micro-batch's places of (weight · cross-entropy + penalty), over the step's number of places."""
        inputs = self._inputs
        if self._ahead:
            ahead = self._ahead.popleft()
            places, weights = self._places(inputs, logits, ahead.amplified), ahead.weights
        else:
            own, kept = (logits.detach(), self._kept) if self._shared else self._forward(inputs)
            amplified = self._look(inputs, own, kept)
            places = self._places(inputs, logits, amplified)
            seen = places if self._shared else self._places(inputs, own, amplified)
            weights = self._weights(self.objective.signal(seen), places.keys)
        count = len(places.targets) if items is None else items
        naive = F.cross_entropy(places.logits, places.targets, reduction="none")
        loss = weights.to(naive.dtype) * naive
        penalty = self.objective.penalty(places)
        if penalty is not None:
            loss = loss + penalty
        wish = self.objective.direction(places)
        if wish is not None:
            self._add_direction(wish / count)
        self._count_micro_batch(naive, penalty)
        mean: Tensor = loss.sum() / count
        return mean

    def plain(self, logits: Tensor, labels: Tensor, items: Any) -> Tensor:
        """The ordinary loss: what is evaluated."""
        wanted = labels[:, 1:] != IGNORED
        total = F.cross_entropy(logits[:, :-1][wanted].float(), labels[:, 1:][wanted], reduction="sum")
        loss: Tensor = total / (wanted.sum() if items is None else items)
        return loss

    def figures(self) -> dict[str, float]:
        """Means over the tokens since the last call, of this process's micro-batches, for the loggers."""
        found = {f"stunting/{name}": float(total) / count for name, (total, count) in self._sums.items()}
        self._sums = {}
        return found

    def sums(self) -> dict[str, tuple[str, int]]:
        """What `figures` will be made of, so far; totals to the last bit, and whatever number they are."""
        return {name: (float(total).hex(), count) for name, (total, count) in self._sums.items()}

    def load_sums(self, sums: Mapping[str, tuple[str, int]]) -> None:
        self._sums = {name: (float.fromhex(total), count) for name, (total, count) in sums.items()}

    def state(self) -> dict[str, Any]:
        """What a checkpoint must keep. All other randomness is a function of seed, step and text."""
        return self.objective.state()

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what a checkpoint kept."""
        self.objective.load_state(state)

    @torch.no_grad()
    def _forward(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Any]:
        """The model's own prediction, without dropout, and the keys and values that came up."""
        arguments = {name: inputs[name] for name in ("input_ids", "attention_mask") if name in inputs}
        with self._certain(), self._trainer.accelerator.autocast(), keeping(self.model) as kept:
            return self.model(**arguments, use_cache=False).logits, kept

    @torch.no_grad()
    def _look(self, inputs: Mapping[str, Tensor], logits: Tensor, kept: Any) -> Amplified:
        wanted = F.pad(inputs["labels"][:, 1:] != IGNORED, (0, 1))
        amplifier = self.config.amplifier
        assert amplifier is not None
        with self._certain(), self._trainer.accelerator.autocast():
            found = look(
                self.model, inputs["input_ids"], wanted, amplifier, seed=self._seed(), kept=kept, logits=logits,
                memory=self.config.lookahead_memory, engine=self._engine,
            )  # fmt: skip
        if isinstance(found, Amplified):
            return found
        assert isinstance(self.objective, Adversarial)
        targets = inputs["labels"][:, 1:][wanted[:, :-1]]
        return self.objective.amplify(found, self.model.get_input_embeddings().weight, targets, wanted)

    @contextlib.contextmanager
    def _certain(self) -> Iterator[None]:
        """Without dropout. A model that has none stays in training mode, which is then no different."""
        if self._shared:
            yield
            return
        modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training

    def _places(self, inputs: Mapping[str, Tensor], logits: Tensor, amplified: Amplified) -> Places:
        ids, labels = inputs["input_ids"], inputs["labels"]
        wanted = labels[:, 1:] != IGNORED
        mask = inputs.get("attention_mask")
        real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
        keys = place_keys(self._seed(), ids, real)
        return Places(
            logits=logits[:, :-1][wanted].float(),
            targets=labels[:, 1:][wanted],
            amplified=amplified,
            keys=keys[:, :-1][wanted],
        )

    def _weights(self, signal: Tensor, keys: Tensor) -> Tensor:
        """The weights of this process's places, made from those of all processes where they are pooled."""
        own = slice(0, len(signal))
        if self.objective.pooled:
            signal, keys, own = self._gathered(signal, keys)
        weights = self.objective.weights(signal, keys)
        learned = self.objective.learn(self._summed)  # of these tokens, now that they are weighed
        for name, value in {**self.objective.figures(signal, weights), **learned}.items():
            self._note(name, value, len(signal))
        return weights[own]

    def _summed(self, tensors: list[Tensor]) -> None:
        """Each the sum over all processes, in place."""
        if self._trainer.accelerator.num_processes > 1:
            for tensor in tensors:
                tensor.copy_(self._trainer.accelerator.reduce(tensor, reduction="sum"))

    def _gathered(self, signal: Tensor, keys: Tensor) -> tuple[Tensor, Tensor, slice]:
        accelerator = self._trainer.accelerator
        if accelerator.num_processes == 1:
            return signal, keys, slice(0, len(signal))
        counts = accelerator.gather(torch.tensor([len(signal)], device=signal.device)).tolist()
        most = max(counts)

        def everyones(x: Tensor) -> Tensor:
            rows = accelerator.gather(F.pad(x, (0, most - len(x)))[None].contiguous())
            return torch.cat([row[:count] for row, count in zip(rows, counts, strict=True)])

        first = sum(counts[: accelerator.process_index])
        return everyones(signal), everyones(keys), slice(first, first + len(signal))

    def _add_direction(self, wish: Tensor) -> None:
        """u, the gradient of what the step must not move along; micro-batches add up."""
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        found = torch.autograd.grad(wish, parameters, retain_graph=True, allow_unused=True)
        own = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
        if self.direction is None:
            self.direction = own
        else:
            torch._foreach_add_(self.direction, own)

    def _seed(self) -> int:
        return int(self.config.seed) * 1_000_003 + int(self._trainer.state.global_step)

    def _count_micro_batch(self, naive: Tensor, penalty: Tensor | None) -> None:
        self._note("naive loss, nats per token", naive.detach().mean(), len(naive))
        if penalty is not None:
            self._note("penalty, nats per token", penalty.detach().mean(), len(naive))

    def _note(self, name: str, mean: float | Tensor, tokens: int) -> None:
        total, count = self._sums.get(name, (0.0, 0))
        self._sums[name] = (total + mean * tokens, count + tokens)
