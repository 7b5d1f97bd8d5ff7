"""What measures of written text ask for, and what the runner hands them: continuations of prompts from human texts.

Every prompt is continued by the text that it was cut from and by each decoding, all equally long: the model is kept
from ending, because the human continuation does not end either. All of it is scored by the same model in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from snellen.errors import InputError

Kind = Literal["greedy", "beam", "nucleus", "pure", "amplified", "power"]
# The settings that each kind has; the others stay None.
_HAS: Mapping[str, frozenset[str]] = {
    "greedy": frozenset(),
    "pure": frozenset(),
    "beam": frozenset({"width"}),
    "nucleus": frozenset({"top_p"}),
    "amplified": frozenset({"width", "horizon", "alpha", "weight"}),
    "power": frozenset({"width", "alpha"}),
}


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """One way to continue a prompt.

    greedy: the most probable token; beam: beam search of `width`; nucleus: sampling from the smallest set of tokens
    with probability `top_p` (Holtzman et al. 2019); pure: sampling from the model; amplified: sampling from the mix of
    the model with its lookahead (`lookahead.generate`); power: one of `width` particles that stand for the whole
    continuation's p^alpha, drawn by weight (`lookahead.power_sampling`).
    """

    kind: Kind
    width: int | None = None
    horizon: int | None = None
    alpha: float | None = None
    weight: float | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in _HAS:
            raise InputError(f"decoding {self.kind!r}: known are {', '.join(_HAS)}")
        for name in ("width", "horizon", "alpha", "weight", "top_p"):
            value, wanted = getattr(self, name), name in _HAS[self.kind]
            if (value is not None) != wanted:
                raise InputError(f"decoding {self.kind!r}: {name} {'is missing' if wanted else 'has no meaning there'}")
        for name in ("width", "horizon"):
            count = getattr(self, name)
            if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
                raise InputError(f"decoding {self.kind!r}: {name} {count!r} must be a whole number of at least 1")
        if self.top_p is not None and not 0 < self.top_p < 1:
            raise InputError(f"decoding 'nucleus': top_p {self.top_p} must lie between 0 and 1 (1 is pure sampling)")
        if self.weight is not None and not 0 < self.weight <= 1:
            raise InputError(f"decoding 'amplified': weight {self.weight} must lie above 0, at most 1 (0 is pure)")
        if self.alpha is not None and not 0 <= self.alpha < math.inf:
            raise InputError(f"decoding {self.kind!r}: alpha {self.alpha} must be a number of at least 0")

    @property
    def name(self) -> str:
        """Short, and different for all that a measure may ask for at once."""
        if self.kind == "beam":
            return f"beam {self.width}"
        if self.kind == "nucleus":
            return f"nucleus {self.top_p:g}"
        if self.kind == "amplified":
            ahead = "amplified" if self.horizon != 1 else "horizon 1"
            return f"{ahead} w {self.weight:g} α {self.alpha:g}"
        return f"power α {self.alpha:g}" if self.kind == "power" else self.kind

    @property
    def cost(self) -> int:
        """Tokens that the model runs for each that is written, roughly: what the time left is counted by."""
        width, horizon = self.width or 1, self.horizon or 1
        return 1 + width * max(1, horizon - 1) if self.kind == "amplified" else width


@dataclass(frozen=True, kw_only=True)
class Writing:
    """What is to be written: up to `prompts` prompts of `prompt_tokens`, each continued by `new_tokens`.

    scaled: whether a low limit makes the prompts fewer, as it does where nobody has said how many they are to be
    """

    prompts: int
    prompt_tokens: int
    new_tokens: int
    decodings: tuple[Decoding, ...]
    scaled: bool = False

    def __post_init__(self) -> None:
        for name in ("prompts", "prompt_tokens", "new_tokens"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{name} {value!r}: must be a whole number of at least 1")
        names = [decoding.name for decoding in self.decodings]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise InputError(f"decoding {twice[0]!r} is asked for twice")


@dataclass(frozen=True, kw_only=True)
class Continuations:
    """One continuation of each of n prompts, all of one length, scored under the model that is examined.

    tokens:   int32   [n, length]
    log_prob: float32 [n, length]  of each token given the prompt and the tokens before it, nats
    entropy:  float32 [n, length]  of the prediction that the token was taken from, nats
    text:     [n] decoded
    """

    tokens: NDArray[np.int32]
    log_prob: NDArray[np.float32]
    entropy: NDArray[np.float32]
    text: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Generations:
    """Prompts cut from human texts, side by side and never overlapping, and what follows each of them."""

    document: NDArray[np.int32]  # [n] index into the run's documents, ascending
    start: NDArray[np.int32]  # [n] the prompt's first token in its document
    prompt: Sequence[str]  # [n] decoded
    human: Continuations
    written: Mapping[str, Continuations]  # by the decoding's name

    def __len__(self) -> int:
        return len(self.document)
