"""Particle: balance against lookahead of infinite width."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from snellen.training.objectives.balance import Balance


@dataclass(frozen=True, kw_only=True)
class Particle(Balance):
    """v4: as `Balance`, with q_D and q_1 estimated from particles, so that words that no beam starts with count too.

    Held at zero: what `Balance` holds, with movement measured along an estimate δ̂ of q_D − q_1 over all completions.
    Approximation, besides those of `Balance`: δ̂ has sampling noise and the bias of a ratio of two sums. Neither depends
    on the real token, so that the expected movement is ⟨E δ̂, π − p⟩ with π the truth: 0 for every number of particles
    where the model predicts the truth, whatever lookahead says. Off the truth the noise makes part of the balancing
    random: a lookahead that is drowned in noise is balanced only in part.

    q_D and q_1 come from one sample of completions, at depths D and 1, and not q_1 from the exact softmax of the logits
    times α, although that is at hand: first tokens that the sample missed are then missing from both. Where q_D = q_1
    in truth, their difference was 7 to 10% less noisy so, and movement nowhere noisier (docs/stunting.md).
    """

    method: ClassVar[str] = "particle"
