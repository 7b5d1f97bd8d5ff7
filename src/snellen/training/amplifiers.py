"""What may look ahead during training: settings of the amplifier that is trained against, and of the monitor."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from snellen.errors import InputError
from snellen.kinds import check_fields


@dataclass(frozen=True, kw_only=True)
class Amplifier(ABC):
    """horizon: D, how many tokens deep it looks."""

    kind: ClassVar[str]
    horizon: int = 4

    def __post_init__(self) -> None:
        check_fields(self)
        self._at_least_one("horizon")

    @property
    @abstractmethod
    def branches(self) -> int:
        """Branches a position, W."""

    def _at_least_one(self, field: str) -> None:
        value = getattr(self, field)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{field} = {value!r}: must be a whole number of at least 1")


@dataclass(frozen=True, kw_only=True)
class Beam(Amplifier):
    """Power lookahead over the completions that beam search keeps. width: W; alpha: the exponent α (inf: the best)."""

    kind: ClassVar[str] = "beam"
    width: int = 4
    alpha: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least_one("width")
        if math.isnan(self.alpha) or self.alpha < 0:
            raise InputError(f"alpha = {self.alpha!r}: the exponent must be 0 or more (inf for the best completion)")

    @property
    def branches(self) -> int:
        return self.width


@dataclass(frozen=True, kw_only=True)
class Particles(Amplifier):
    """Power lookahead at infinite width, estimated from `particles` completions sampled without replacement."""

    kind: ClassVar[str] = "particles"
    particles: int = 64
    alpha: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least_one("particles")
        if not 0 <= self.alpha < math.inf:
            raise InputError(f"alpha = {self.alpha!r}: a sum over all completions needs a finite exponent of 0 or more")
        if self.alpha == 1:
            raise InputError(
                "alpha = 1.0 with particles: completions of all widths then sum up to the model's own prediction "
                "(q = p), so that there is no lookahead to stunt or to watch; choose another exponent (2.0, say)"
            )

    @property
    def branches(self) -> int:
        return self.particles


@dataclass(frozen=True, kw_only=True)
class Learned(Amplifier):
    """A small network over the hidden states of a beam's branches, trained on the real next tokens.

    width: W of the beam; hidden: units of the network; learning_rate: of its Adam.
    """

    kind: ClassVar[str] = "learned"
    width: int = 4
    hidden: int = 64
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least_one("width")
        self._at_least_one("hidden")
        if not 0 < self.learning_rate < math.inf:
            raise InputError(f"learning_rate = {self.learning_rate!r}: must be above 0")

    @property
    def branches(self) -> int:
        return self.width


KINDS: dict[str, type[Amplifier]] = {one.kind: one for one in (Beam, Particles, Learned)}
