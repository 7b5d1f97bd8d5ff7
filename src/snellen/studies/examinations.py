"""What is expected of each organism: the model, the text it is judged on, and the answer known by construction.

The table is read to tell a wrong name at once; torch is imported only for what it describes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from snellen.errors import InputError
from snellen.studies import pool
from snellen.studies.names import named

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from snellen.organisms.cache import Tell
    from snellen.organisms.language import Language
    from snellen.organisms.training import Moment

# More beams than there are ends: with fewer, those that survive tell the control `same candidates` which choices end
# well, and the placebo, which scrambles them, falls below it.
ALL = 96
TABLE = "exact table"  # the organism that is not trained


@dataclass(frozen=True, kw_only=True)
class Examination:
    """One model judged on one text.

    organism, stage: the model; `judged_on`: settings of the text's author that differ from the model's own; exponent:
    the model is made too flat (below 1) or too sharp first; widths: the last one is judged, the others are shown;
    horizon: judged; for a gain it just reaches the verdict, and all shorter ones must show nothing.
    """

    name: str
    says: str
    organism: str
    expects: Literal["gain", "nothing", "shown", "dose"]
    widths: tuple[int, ...]
    horizon: int
    judged_on: Mapping[str, Any] = field(default_factory=dict)
    stage: str = "trained"
    exponent: float = 1.0
    sequences: int = 2000
    units: int = 40
    found: bool = False  # of a dose: whether it is to be found, and not only held

    def text(self, seed: int) -> Language:
        from snellen.organisms.catalogue import organism
        from snellen.organisms.markov import Markov
        from snellen.studies.followers import Follower

        if self.expects == "dose":
            return Follower(rules=seed, width=self.widths[-1], reach=self.horizon, **self.judged_on)
        own = Markov() if self.organism == TABLE else organism(self.organism).language
        return replace(own, rules=seed, **self.judged_on)

    def subject(self, seed: int, tell: Tell) -> tuple[PreTrainedModel, Moment | None]:
        """The model, and what is known of its training. Raises `Refused` where it could not be raised."""
        from snellen.organisms.cache import raised
        from snellen.organisms.catalogue import organism
        from snellen.organisms.markov import Markov
        from snellen.organisms.tables import exact, tempered
        from snellen.studies.followers import Follower

        moment = None
        if self.organism == TABLE:
            language = self.text(seed)
            assert isinstance(language, Markov)
            model: PreTrainedModel = exact(language.plain if isinstance(language, Follower) else language)
        else:
            moment = next(m for m in raised(organism(self.organism), seed, tell) if m.stage == self.stage)
            model = moment.model
        return (model if self.exponent == 1 else tempered(model, self.exponent)), moment

    @property
    def room(self) -> float | None:
        """What a perfect choice could gain, nats a decision; None where that is not known in closed form."""
        from snellen.organisms.arms import Arms
        from snellen.organisms.couplets import Couplets
        from snellen.studies.followers import Follower

        author = self.text(0)
        if isinstance(author, Follower):
            return self.dose(0)
        plans = getattr(author, "planning", False) or getattr(author, "rhyming", False)
        return author.room if isinstance(author, Arms | Couplets) and plans else None

    def dose(self, seed: int) -> float:
        """The gain that is in the text, nats a token, in expectation."""
        return _dose(self.text(seed))


@cache
def _dose(author: Language) -> float:
    from snellen.measures.lookahead_gain import LookaheadGain
    from snellen.studies.expected import expected
    from snellen.studies.followers import Follower

    assert isinstance(author, Follower)
    grid = LookaheadGain()
    return expected(
        author.plain.table, author.table, author.size, width=author.width, horizon=author.reach,
        alphas=grid.alphas, weights=grid.weights,
    ).gain  # fmt: skip


_MARKOV: dict[str, Any] = {"expects": "nothing", "widths": (4,), "horizon": 3, "sequences": 40}

EXAMINATIONS = (
    Examination(
        name="pair, planning text", says="the model never learned to choose, the text chooses well",
        organism="planless", judged_on={"planning": True}, expects="gain", widths=(3, 8, ALL), horizon=4,
    ),
    Examination(
        name="pair, own text", says="the same model, on text that does not plan",
        organism="planless", expects="nothing", widths=(ALL,), horizon=4,
    ),
    Examination(
        name="planner", says="the model has seen planning, and cannot do it yet",
        organism="planner", expects="gain", widths=(3, 8, ALL), horizon=4,
    ),
    Examination(
        name="deep planner", says="the same, with a verdict two tokens further off",
        organism="deep planner", expects="gain", widths=(3, 8, ALL), horizon=6,
    ),
    Examination(
        name="internalised", says="the model looks ahead itself",
        organism="internalised", expects="nothing", widths=(ALL,), horizon=4,
    ),
    *(
        Examination(
            name=f"choice {learned} to learn", says="the same model before, while it learns to choose",
            organism="internalised", stage=learned, expects="shown", widths=(ALL,), horizon=4,
        )
        for learned in ("95%", "60%", "20%")
    ),
    Examination(
        name="couplets, rhyming text", says="the model knows common words, the text chooses those that rhyme",
        organism="couplets", judged_on={"rhyming": True}, expects="gain", widths=(6, 24, ALL), horizon=3,
    ),
    Examination(
        name="couplets, unrhymed text", says="the same model, on text that does not care",
        organism="couplets", expects="nothing", widths=(ALL,), horizon=3,
    ),
    Examination(name="markov", says="nothing to plan; learned", organism="markov", **_MARKOV),
    Examination(name="markov, too flat", says="p^0.5 of the same", organism="markov", exponent=0.5, **_MARKOV),
    Examination(name="markov, too sharp", says="p^2 of the same", organism="markov", exponent=2.0, **_MARKOV),
    Examination(name="exact table", says="nothing to plan; not learned", organism=TABLE, **_MARKOV),
    *(
        Examination(
            name=f"small dose {follows:.0%}", says="the author follows the table's own lookahead with this weight",
            organism=TABLE, judged_on={"follows": follows}, expects="dose", widths=(4,), horizon=3, sequences=120,
            units=40, found=found,
        )
        for follows, found in ((0.15, False), (0.25, True), (0.4, True))
    ),
)  # fmt: skip


def examination(name: str) -> Examination:
    for one in EXAMINATIONS:
        if one.name == name:
            return one
    raise InputError(f"examination {name!r}: known are {', '.join(one.name for one in EXAMINATIONS)}")


def chosen(only: Sequence[str]) -> list[Examination]:
    """Examinations by name, or by the name of their organism; all where none is named. Raises InputError."""
    if not only:
        return list(EXAMINATIONS)
    known = [*(one.organism for one in EXAMINATIONS), *(one.name for one in EXAMINATIONS)]
    names = named("only", only, known, "organism")
    return [one for one in EXAMINATIONS if one.name in names or one.organism in names]


def asked(seeds: int, only: Sequence[str], processes: int | None) -> list[Examination]:
    """As `chosen`, once it is checked that there are seeds and processes. Raises InputError."""
    pool.check_seeds(seeds)
    pool.at_once(processes, 1)
    return chosen(only)
