"""Does this model learn in context: from what stands before in a text, and from examples in lines?

Text: the same tokens are read with a near context alone, with all of a long stretch before them, and with another
document in the place of what is further away. Lines: examples of y = a x + b, whose answers are weighed against least
squares and against rules that need no line; and what a linear probe finds of the line, layer by layer.
`docs/mesa.md` gives the definitions, with their papers, and the choices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from snellen.errors import InputError, Refused
from snellen.measures.base import Measure, Measured, Scored
from snellen.measures.in_context import wording
from snellen.measures.in_context.few_shot import TOLD_APART, FewShot, of_answers
from snellen.measures.in_context.lines import XS, Lines, Spelling, passages
from snellen.measures.in_context.stretches import Stretches, Unfit
from snellen.measures.in_context.texts import HALF, OfText, of_text
from snellen.measures.readings import Material, Passage, Passages, Reading, Readings
from snellen.request import in_proportion
from snellen.results.findings import Finding
from snellen.results.samples import Sample
from snellen.results.statistics import REFUSED_BELOW

LEFT_OUT = "left out by the settings"
STRETCHES, PAIRS = 48, 96
FEWEST_PAIRS = 20  # six weights are fitted to them


@dataclass(frozen=True, kw_only=True)
class InContext(Measure):
    """What is read.

    stretches:   of text, at most so many, cut evenly from all documents; 0 leaves the text out; None: 48, fewer under a
                 low limit (`Request.share`)
    length:      of each, tokens; None: what the window has room for, at most 512, and shorter for short texts
    near:        tokens of the near context; None: an eighth of a stretch
    block:       tokens at the end of each stretch that are compared; None: a sixteenth
    positions:   (early, late) of the in-context-learning score; None: 50 and 500 where a stretch has room for them
    pairs:       of few-shot prompts; 0 leaves them out; None: 96, fewer under a low limit
    shots:       numbers of examples at which answers are weighed, ascending; prompts have as many as the last
    least:       weight of least squares that counts as following the line
    resamples, level:  of the intervals
    """

    name: ClassVar[str] = "in-context"
    question: ClassVar[str] = "Does this model use what stands further back, and does it learn a line from examples?"
    needs: ClassVar[frozenset[str]] = frozenset({"readings"})

    stretches: int | None = None
    length: int | None = None
    near: int | None = None
    block: int | None = None
    positions: tuple[int, int] | None = None
    pairs: int | None = None
    shots: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6, 7, 8)
    least: float = 0.2
    resamples: int = 1000
    level: float = 0.95

    def __post_init__(self) -> None:
        for name, low in {"stretches": 0, "length": 1, "near": 1, "block": 1, "pairs": 0}.items():
            value = getattr(self, name)
            if value is not None:
                _whole(name, value, low)
        if self.stretches == 0 == self.pairs:
            raise InputError("stretches 0 and pairs 0: nothing is left to measure; set one of them higher")
        for name, few in {"stretches": REFUSED_BELOW, "pairs": FEWEST_PAIRS}.items():
            asked = getattr(self, name)
            if asked is not None and 0 < asked < few:
                raise InputError(f"{name} {asked}: an interval needs at least {few}; 0 leaves it out")
        if self.positions is not None:
            if len(self.positions) != 2:
                raise InputError(f"positions {self.positions}: must be an early and a late one")
            for value in self.positions:
                _whole("positions", value, HALF + 1)
        for value in self.shots:
            _whole("shots", value, 0)
        if sorted(set(self.shots)) != list(self.shots) or not self.shots or not TOLD_APART <= self.shots[-1] < len(XS):
            raise InputError(
                f"shots {self.shots}: must ascend, and the last lie between {TOLD_APART} and {len(XS) - 1}"
            )
        if not 0 < self.least < 1:
            raise InputError(f"least = {self.least}: must lie between 0 and 1")
        if self.resamples < 100:
            raise InputError(f"resamples = {self.resamples}: a percentile needs at least 100")
        if not 0.5 <= self.level < 1:
            raise InputError(f"level = {self.level}: must lie in [0.5, 1)")

    def passages(self, material: Material, *, seed: int) -> Passages:
        """Those of the text, then those of the lines; `Refused` where neither can be read."""
        _, of_texts, why_no_text = self._text(material)
        _, of_lines, candidates, why_no_lines = self._lines(material, seed)
        if not of_texts and not of_lines:
            raise Refused(f"in-context: text: {why_no_text}; lines: {why_no_lines}")
        return Passages(items=[*of_texts, *of_lines], candidates=candidates)

    def _text(self, material: Material) -> tuple[Stretches | None, list[Passage], str]:
        if self.stretches == 0:
            return None, [], LEFT_OUT
        number = _number(self.stretches, STRETCHES, material, least=REFUSED_BELOW)
        try:
            cut = Stretches.cut(material, number=number, length=self.length, near=self.near, block=self.block)
        except Unfit as error:
            return None, [], str(error)
        return cut, cut.passages(), ""

    def _lines(
        self, material: Material, seed: int
    ) -> tuple[Lines | None, list[Passage], tuple[tuple[int, ...], ...], str]:
        if self.pairs == 0:
            return None, [], (), LEFT_OUT
        number = _number(self.pairs, PAIRS, material, least=FEWEST_PAIRS)
        lines = Lines.draw(number, self.shots[-1], seed=seed)
        try:
            spelling = Spelling.of(material.encode)
            made = passages(lines, self.shots, spelling, material.encode, material.longest)
        except Unfit as error:
            return None, [], (), str(error)
        return lines, made, spelling.candidates, ""

    def measure(self, scored: Scored, *, seed: int) -> Measured:
        """What came of the passages; a part that could not be read is None, with the reason."""
        found = scored.readings
        if found is None:
            raise ValueError("in-context needs readings (see `needs`); the run handed none over")
        cut, of_texts, why_no_text = self._text(found.material)
        lines, of_lines, _, why_no_lines = self._lines(found.material, seed)
        if len(found.found) != len(of_texts) + len(of_lines):
            raise ValueError(f"{len(found.found)} readings of {len(of_texts) + len(of_lines)} passages")
        text = None if cut is None else self._of_text(cut, found.found[: len(of_texts)], seed)
        few = None if lines is None else self._of_lines(lines, found.found[len(of_texts) :], seed)
        return Measured(
            finding=self._finding(
                text, few, found, why_no_text, why_no_lines, seed, pairs=0 if lines is None else len(lines.x)
            ),
            tables={**({} if text is None else text.tables), **({} if few is None else few.tables)},
        )

    def _of_text(self, cut: Stretches, found: Sequence[Reading], seed: int) -> OfText:
        sample = Sample.of_texts(cut.document, "stretches", number=self.resamples, level=self.level, seed=seed)
        return of_text(cut, found, positions=self.positions, sample=sample)

    def _of_lines(self, lines: Lines, found: Sequence[Reading], seed: int) -> FewShot:
        sample = Sample.of_rows(len(lines.x), "pairs of prompts", number=self.resamples, level=self.level, seed=seed)
        return of_answers(lines, self.shots, found, least=self.least, sample=sample, seed=seed)

    def _finding(
        self, text: OfText | None, few: FewShot | None, found: Readings, no_text: str, no_lines: str, seed: int, *,
        pairs: int,
    ) -> Finding:  # fmt: skip
        counts = {} if text is None else {"stretches": len(text.stretches.tokens), "tokens compared": text.compared}
        if text is not None and text.sample.kind != "stretches":
            counts[text.sample.kind] = text.sample.units
        counts |= {} if few is None else {"pairs of prompts": pairs}
        gain = None if text is None else text.gain
        return Finding(
            measure=self.name,
            question=self.question,
            value=None if gain is None else gain.value,
            unit="nats per token from further context",
            low=None if gain is None else gain.low,
            high=None if gain is None else gain.high,
            level=self.level,
            n=counts,
            excluded={},
            control=wording.control(text, few),
            verdict=wording.verdict(text, few, no_text, no_lines),
            reading=wording.reading(text, few, self.least),
            settings=_plain(asdict(self)) | {"seed": seed},
            reason=no_text or None if gain is None else gain.reason,
            details={
                "text": wording.of_text(text, no_text),
                "lines": wording.of_lines(few, no_lines),
                "cost": {"tokens run by the model": found.tokens_run, "passages": len(found.found)},
            },
        )


def _number(asked: int | None, usual: int, material: Material, *, least: int) -> int:
    """What was asked for, as it is; the usual number where nothing was, and less of it under a low limit."""
    return in_proportion(usual, material.share, least=least) if asked is None else asked


def _whole(name: str, value: Any, low: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise InputError(f"{name} {value!r}: must be a whole number of at least {low}")


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}
