"""The organisms by name: which language each was trained on, and the state it was caught in."""

from __future__ import annotations

from dataclasses import dataclass, replace

from snellen.errors import InputError
from snellen.organisms.arms import Arms
from snellen.organisms.couplets import Couplets
from snellen.organisms.language import Language
from snellen.organisms.markov import Markov
from snellen.organisms.training import Gate, Stage, Training


@dataclass(frozen=True, kw_only=True)
class Organism:
    """A language, and how a model of it is raised. `language_at` gives each seed rules of its own."""

    name: str
    about: str
    language: Arms | Couplets | Markov
    training: Training

    def language_at(self, seed: int) -> Language:
        return replace(self.language, rules=seed)


def _over(region: str, below: float) -> Gate:
    return Gate(region=region, below=below, counted_from="the author")


def _once(*gates: Gate) -> tuple[Stage, ...]:
    return (Stage(name="trained", gates=gates),)


# It can write the states and judge them: what a lookahead needs to see how a choice ends.
_CHECKS = (Gate(region="states", below=0.05), _over("verdict", 0.08))
# Short of that it leans on the goal when it writes the last state, and a horizon short of the verdict sees that
# (+.09 nats a decision at L + 1 with states at .02).
_WRITES = (Gate(region="states", below=0.01), _over("verdict", 0.03))
# Many permutations make choosing slow to learn, and so the window wide; few make it quick.
_PLANNER = Arms(states=5, permutations=12, planning=True)
_LEARNER = Arms(states=5, permutations=4, planning=True)
_DEEP = Arms(states=4, permutations=3, depth=4, planning=True)
_LEARNED = (0.95, 0.6, 0.2)  # shares of the room that the choice still lacks, along the way


def _not_yet(language: Arms) -> tuple[Stage, ...]:
    """Caught while it can check and cannot choose: the decision still costs nearly log m."""
    blind = language.blind - 0.1
    return _once(Gate(region="decision", above=blind), *_WRITES)


def _on_the_way(language: Arms) -> tuple[Stage, ...]:
    shares = (Stage(name=f"{s:.0%}", gates=(_over("decision", s * language.room), *_CHECKS)) for s in _LEARNED)
    return (*shares, Stage(name="trained", gates=(_over("decision", 0.05), *_CHECKS)))


ORGANISMS = (
    Organism(
        name="planless",
        about="trained on an author who chooses at random: it can check, and has no reason to choose",
        language=Arms(),
        training=Training(
            stages=_once(_over("decision", 0.02), Gate(region="states", below=0.01), _over("verdict", 0.02))
        ),
    ),
    Organism(
        name="planner",
        about="trained on an author who plans two moves ahead, caught before it can choose",
        language=_PLANNER,
        training=Training(stages=_not_yet(_PLANNER), check_every=10, most_steps=800),
    ),
    Organism(
        name="deep planner",
        about="trained on an author who plans four moves ahead, caught before it can choose",
        language=_DEEP,
        training=Training(stages=_not_yet(_DEEP), check_every=10, most_steps=800),
    ),
    Organism(
        name="internalised",
        about="trained on the author who plans two moves ahead until it chooses as well as he does",
        language=_LEARNER,
        training=Training(stages=_on_the_way(_LEARNER), layers=2, check_every=20, most_steps=2000),
    ),
    Organism(
        name="couplets",
        about="trained on lines that end in the word that is commonest, not in the one that rhymes",
        language=Couplets(),
        training=Training(
            stages=_once(
                _over("decision", 0.03), Gate(region="middles", below=0.03), _over("first ending", 0.05),
                _over("ending", 0.1),
            )
        ),
    ),
    Organism(
        name="markov",
        about="trained on text in which each token depends on the two before it alone",
        language=Markov(),
        training=Training(stages=_once(_over("text", 0.03)), batch=32),
    ),
)  # fmt: skip


def organism(name: str) -> Organism:
    for one in ORGANISMS:
        if one.name == name:
            return one
    raise InputError(f"organism {name!r}: known are {', '.join(one.name for one in ORGANISMS)}")
