"""Adversarial: balance against a lookahead that learns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from jaxtyping import Bool, Float, Int
from torch import Tensor

from snellen.errors import InputError
from snellen.lookahead.batch import Branches
from snellen.lookahead.learned import Evidence
from snellen.training.amplifiers import Learned
from snellen.training.objectives.balance import Balance
from snellen.training.objectives.base import Amplified, Places
from snellen.training.objectives.movement import away, movement
from snellen.training.objectives.rivals import Rivals


@dataclass(frozen=True, kw_only=True)
class Adversarial(Balance):
    """v5: a network over the branches' hidden states, trained throughout on the real next tokens, in the place of q_D.

    Held at zero: what `Balance` holds, with δ = q_net − q_twin, where the twin is the same network without the
    rollouts (`lookahead.learned`): what a search and no more than a search lets a network of this size predict.
    Approximation: those of `Balance`, and that the networks are only as good as their online training has made them;
    what they have not found is not balanced. A step is weighed by networks that have not seen its tokens.

    Order of use, in each step: `amplify` for every micro-batch, then `signal` and `weights` as ever, then `learn` once.

    amplifier: width and horizon of the beam, size and learning rate of the networks. updates: Adam steps of the
    networks on each step's tokens. seed: of their initial weights. form: as of `Balance`. against: "naive" takes
    δ = q_net − p, which is all that is left to stunt when the horizon is 1.
    """

    method: ClassVar[str] = "adversarial"
    amplifier: Learned = field(default_factory=Learned)
    updates: int = 1
    seed: int = 0
    _rivals: Rivals = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.updates, bool) or not isinstance(self.updates, int) or self.updates < 1:
            raise InputError(f"updates = {self.updates!r}: must be a whole number of at least 1")
        if self.amplifier.horizon == 1 and self.against == "horizon 1":
            raise InputError(
                "amplifier.horizon = 1: a network that looks no further than its twin has nothing over it; "
                'give a horizon of 2 or more, or against = "naive"'
            )
        rivals = Rivals(hidden=self.amplifier.hidden, learning_rate=self.amplifier.learning_rate, seed=self.seed)
        object.__setattr__(self, "_rivals", rivals)

    @property
    def pooled(self) -> bool:
        """In both forms: all tokens of a step are predicted by networks that have learned from none of them."""
        return True

    def amplify(
        self,
        branches: Branches,
        embeddings: Float[Tensor, "vocab embedding"],
        targets: Int[Tensor, "places"],
        where: Bool[Tensor, "batch pos"] | None = None,
    ) -> Amplified:
        """q_net and q_twin of a micro-batch, within p(S); its tokens are kept for `learn`.

        embeddings: of the model's tokens (`model.get_input_embeddings().weight`). where: the places; `targets` are of
        those, in the order of `tensor[where]`.
        """
        evidence = Evidence.of(branches, embeddings, where)
        net, twin, naive = self._rivals.predict(evidence, targets)
        mass = evidence.log_probs.double().exp().masked_fill(evidence.tokens < 0, 0.0).sum(-1, keepdim=True)
        control = twin if self.against == "horizon 1" else naive
        return Amplified(tokens=evidence.tokens, lookahead=mass * net, control=mass * control)

    def signal(self, places: Places) -> Float[Tensor, "places"]:
        """m = ⟨q_net − q_twin, 1_x − p⟩."""
        return movement(places)

    def direction(self, places: Places) -> Float[Tensor, ""] | None:
        return away(places) if self.form == "gradient" else None

    def learn(self, reduce: Callable[[list[Tensor]], None] | None = None) -> Mapping[str, float]:
        return self._rivals.learn(self.updates, reduce)

    def state(self) -> dict[str, Any]:
        """Weights of both networks and what their Adam remembers, as tensors by name."""
        return self._rivals.state()

    def load_state(self, state: Mapping[str, Any]) -> None:
        self._rivals.load_state(state)

    def parameters(self) -> list[Tensor]:
        """Of both networks; empty before the first tokens."""
        return self._rivals.parameters()
