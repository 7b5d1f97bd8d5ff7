"""The smallest languages of each kind, and every sequence that they can write."""

from __future__ import annotations

import numpy as np

from snellen.organisms.arms import Arms
from snellen.organisms.couplets import Couplets
from snellen.organisms.language import Language
from snellen.organisms.markov import Markov

ARMS = Arms(states=3, depth=2, permutations=2, noise=2)
PLANNING = Arms(states=3, depth=2, permutations=2, noise=2, planning=True, error=0.3)
COUPLETS = Couplets(words=2, stems=4, middles=2, rhymes=4, noise=2)
RHYMING = Couplets(words=2, stems=4, middles=2, rhymes=4, noise=2, rhyming=True, error=0.3)
MARKOV = Markov(tokens=3, size=5, rules=7)
LANGUAGES = [ARMS, PLANNING, COUPLETS, RHYMING, MARKOV]


def name(language: Language) -> str:
    chooses = getattr(language, "planning", False) or getattr(language, "rhyming", False)
    return f"{type(language).__name__.lower()}{' that chooses' if chooses else ''}"


def everything(language: Language) -> tuple[np.ndarray, np.ndarray]:
    """All sequences of probability above zero with the log-probability of each token, by `predict` alone."""
    found: list[tuple[list[int], list[float]]] = [([], [])]
    for _ in range(language.length):
        longer = []
        for prefix, so_far in found:
            p = language.predict(prefix)
            assert abs(p.sum() - 1) < 1e-12
            longer += [([*prefix, int(t)], [*so_far, float(np.log(p[t]))]) for t in np.flatnonzero(p)]
        found = longer
    return np.array([s for s, _ in found]), np.array([log_p for _, log_p in found])
