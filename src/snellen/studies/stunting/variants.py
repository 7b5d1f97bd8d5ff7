"""The trainings that are compared: each method, and each with the lookahead taken out of what it stunts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from snellen.errors import InputError
from snellen.training.amplifiers import Amplifier, Beam, Learned, Particles

HORIZON = 4  # reaches the verdict of the language that is trained on; one less sees nothing of it
MASKED = "masked"  # the twin that is no variant of a training: a masked model (`masked.py`)
WIDTH = 5  # as many as there are choices


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A method with its settings. `control_of`: the variant whose lookahead this one lacks, all else being equal."""

    name: str
    says: str
    method: str
    amplifier: Amplifier | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    control_of: str | None = None


_BEAM = Beam(width=WIDTH, horizon=HORIZON)
_SHARPENING = Beam(width=WIDTH, horizon=1)

# With D = 1 the lookahead part q_D - q_1 is zero, and skip, penalty, balance and particle are the ordinary training (a
# test shows it). So the controls with D = 1 are those in which sharpening counts as lookahead (`against="naive"`).
VARIANTS = (
    Variant(name="ordinary", says="the ordinary loss", method="ordinary"),
    Variant(name="myopic", says="no gradient to earlier positions", method="myopic"),
    Variant(name="skip", says="tokens that lookahead predicts better are left out", method="skip", amplifier=_BEAM),
    Variant(
        name="skip, naive", says="as first proposed: better than the model itself", method="skip", amplifier=_BEAM,
        settings={"against": "naive"},
    ),
    Variant(
        name="skip, naive, D = 1", says="the same, sharpening alone", method="skip", amplifier=_SHARPENING,
        settings={"against": "naive"}, control_of="skip, naive",
    ),
    Variant(
        name="penalty", says="a bounded push away from lookahead", method="penalty", amplifier=_BEAM,
        settings={"strength": 1.0},
    ),
    Variant(
        name="penalty, strength 4", says="the same, four times as strong", method="penalty", amplifier=_BEAM,
        settings={"strength": 4.0},
    ),
    Variant(
        name="penalty, naive, D = 1", says="sharpening alone is pushed away from", method="penalty",
        amplifier=_SHARPENING, settings={"strength": 1.0, "against": "naive"}, control_of="penalty",
    ),
    Variant(name="balance", says="movement towards and away sums to zero", method="balance", amplifier=_BEAM),
    Variant(
        name="balance, D = 3", says="the same, one token short of the verdict", method="balance",
        amplifier=Beam(width=WIDTH, horizon=HORIZON - 1), control_of="balance",
    ),
    Variant(
        name="balance, gradient", says="the same, by projecting the update", method="balance", amplifier=_BEAM,
        settings={"balance_form": "gradient"},
    ),
    Variant(
        name="balance, step", says="the same, by projecting the step that the optimiser made", method="balance",
        amplifier=_BEAM, settings={"balance_form": "step"},
    ),
    Variant(
        name="balance, naive", says="sharpening is balanced too", method="balance", amplifier=_BEAM,
        settings={"against": "naive"},
    ),
    Variant(
        name="balance, naive, D = 1", says="sharpening alone is balanced", method="balance", amplifier=_SHARPENING,
        settings={"against": "naive"}, control_of="balance, naive",
    ),
    Variant(
        name="particle", says="balance at infinite width", method="particle",
        amplifier=Particles(particles=WIDTH, horizon=HORIZON),
    ),
    Variant(
        name="particle, naive, D = 1", says="sharpening alone is balanced, sampled", method="particle",
        amplifier=Particles(particles=WIDTH, horizon=1), settings={"against": "naive"}, control_of="particle",
    ),
    Variant(
        name="adversarial", says="balance against a learned lookahead", method="adversarial",
        amplifier=Learned(width=WIDTH, horizon=HORIZON),
    ),
    Variant(
        name="adversarial, naive, D = 1", says="a network that does not look is balanced", method="adversarial",
        amplifier=Learned(width=WIDTH, horizon=1), settings={"against": "naive"}, control_of="adversarial",
    ),
)  # fmt: skip


NAMES = (*(one.name for one in VARIANTS), MASKED)


def variant(name: str) -> Variant:
    for one in VARIANTS:
        if one.name == name:
            return one
    raise InputError(f"variant {name!r}: known are {', '.join(one.name for one in VARIANTS)}")
