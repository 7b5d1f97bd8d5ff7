"""Does the text that this model writes stay like the text that people wrote, or does it degenerate?

Prompts cut from human texts are continued by several decodings and compared, prompt by prompt, with what the human
wrote: plausibility and its trace, repetition and loops, diversity, drift. The question of this package among them is
whether sampling from a prediction that was amplified by lookahead falls into loops as maximisation does.
`docs/degeneration.md` gives the definitions, with their papers, and the choices.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from snellen.errors import InputError, Refused
from snellen.measures.base import Measure, Measured, Scored
from snellen.measures.degeneration import tables
from snellen.measures.degeneration.estimates import of_prompts
from snellen.measures.degeneration.quantities import LOOP
from snellen.measures.degeneration.tables import HUMAN, Comparison
from snellen.measures.generations import Continuations, Decoding, Generations, Writing
from snellen.results import statistics
from snellen.results.findings import Finding
from snellen.results.samples import Sample

HEADLINE = "seq-rep-4"
LONGEST_GRAM = 4
PROMPTS = 32
CONTRASTED = ("log-probability", "seq-rep-4", LOOP, "distinct-2")


@dataclass(frozen=True, kw_only=True)
class Degeneration(Measure):
    """What is written, and how.

    prompts:              at most so many, cut evenly from the texts; None: 32, and fewer under a low limit
    prompt_tokens:        length of each
    new_tokens:           length of each continuation, and of the human one
    beams:                widths of beam search
    nucleus:              probabilities of nucleus sampling
    amplified:            (weight, α) of amplified sampling; the first is the headline. Each is also run at horizon 1,
                          which is sharpening without lookahead
    power:                exponents of power sampling (p^α of the whole continuation)
    width, horizon:       of the search behind `amplified`, at its defaults that of `snellen.lookahead.generate`
    particles:            of power sampling
    resamples, level:     of the intervals
    """

    name: ClassVar[str] = "degeneration"
    question: ClassVar[str] = "Does what this model writes repeat itself more than the text that people wrote?"
    needs: ClassVar[frozenset[str]] = frozenset({"generations"})

    prompts: int | None = None
    prompt_tokens: int = 32
    new_tokens: int = 96
    beams: tuple[int, ...] = (4,)
    nucleus: tuple[float, ...] = (0.9, 0.95)
    amplified: tuple[tuple[float, float], ...] = ((0.2, 2.0), (0.5, 2.0), (1.0, 1.0))
    power: tuple[float, ...] = (2.0,)
    width: int = 4
    horizon: int = 4
    particles: int = 8
    resamples: int = 1000
    level: float = 0.95

    def __post_init__(self) -> None:
        if self.new_tokens < 3 * LONGEST_GRAM:
            raise InputError(f"new_tokens = {self.new_tokens}: repetition needs at least {3 * LONGEST_GRAM}")
        if not self.amplified:
            raise InputError("amplified = (): the headline is about the first of them; give at least one")
        for entry in self.amplified:
            if len(entry) != 2:
                raise InputError(f"amplified = {self.amplified}: must be pairs of a weight and an exponent")
        if self.resamples < 100:
            raise InputError(f"resamples = {self.resamples}: a percentile needs at least 100")
        if not 0.5 <= self.level < 1:
            raise InputError(f"level = {self.level}: must lie in [0.5, 1)")
        _ = self.writing  # raises for what is wrong in the rest

    @property
    def writing(self) -> Writing:
        decodings = [Decoding(kind="greedy")]
        decodings += [Decoding(kind="beam", width=width) for width in self.beams]
        decodings += [Decoding(kind="pure")]
        decodings += [Decoding(kind="nucleus", top_p=p) for p in self.nucleus]
        for horizon in sorted({1, self.horizon}):
            decodings += [self._amplified(weight, alpha, horizon) for weight, alpha in self.amplified]
        decodings += [Decoding(kind="power", alpha=alpha, width=self.particles) for alpha in self.power]
        return Writing(
            prompts=PROMPTS if self.prompts is None else self.prompts,
            scaled=self.prompts is None,
            prompt_tokens=self.prompt_tokens,
            new_tokens=self.new_tokens,
            decodings=tuple(decodings),
        )

    def _amplified(self, weight: float, alpha: float, horizon: int) -> Decoding:
        return Decoding(kind="amplified", width=self.width, horizon=horizon, alpha=alpha, weight=weight)

    def _twins(self) -> dict[str, str]:
        """Each amplified decoding, and the same with no lookahead in it: candidates cut and sharpened."""
        if self.horizon == 1:
            return {}
        return {
            self._amplified(w, alpha, self.horizon).name: self._amplified(w, alpha, 1).name
            for w, alpha in self.amplified
        }

    @property
    def headline(self) -> str:
        return self._amplified(*self.amplified[0], self.horizon).name

    def measure(self, scored: Scored, *, seed: int) -> Measured:
        """Compare each decoding with the human text; `Refused` where the prompts cannot carry an interval."""
        found = scored.generations
        if found is None:
            raise ValueError("degeneration needs generations (see `needs`); the run handed none over")
        self._check(found)
        sample = of_prompts(found.document, number=self.resamples, level=self.level, seed=seed)
        compared = {name: Comparison.of(found.human, own, sample) for name, own in found.written.items()}
        human = Comparison.of(found.human, None, sample)
        contrasts = {
            name: Comparison.of(found.written[twin], found.written[name], sample)
            for name, twin in self._twins().items()
        }
        said, reading = tables.verdict(self.headline, HEADLINE, compared, human)
        if sample.limited:
            said = f"{said.removesuffix('.')} ({statistics.LIMITED})."
        return Measured(
            finding=self._finding(found, sample, compared, human, contrasts, seed, said, reading),
            tables={
                "degeneration_metrics": tables.metrics(compared, human, len(found)),
                "degeneration_traces": tables.traces(found, sample),
                "degeneration_texts": tables.texts(found),
            },
        )

    def _finding(
        self, found: Generations, sample: Sample, compared: dict[str, Comparison], human: Comparison,
        contrasts: dict[str, Comparison], seed: int, said: str, reading: str,
    ) -> Finding:  # fmt: skip
        first = compared[self.headline].differences[HEADLINE]
        rivals = {"pure": "pure", "greedy": "greedy"}
        if self.headline in self._twins():
            rivals["horizon 1"] = self._twins()[self.headline]
        return Finding(
            measure=self.name,
            question=self.question,
            value=first.value,
            unit=f"{HEADLINE} (sequences of {LONGEST_GRAM} tokens) beyond the human text",
            low=first.low,
            high=first.high,
            level=self.level,
            n={"prompts": len(found), sample.kind: sample.units, "tokens written a decoding": found.human.tokens.size},
            excluded={},
            control={
                "human": human.values[HEADLINE].as_dict(),
                **{name: compared[own].differences[HEADLINE].as_dict() for name, own in rivals.items()},
                "pure sampling is in order": _order(compared["pure"]),
            },
            verdict=said,
            reading=reading,
            settings=_plain(asdict(self)) | {"decoding": self.headline, "seed": seed},
            reason=first.reason,
            details={
                "interval": "t",
                "human": {name: value.as_dict() for name, value in human.values.items()},
                "decodings": {
                    name: {metric: value.as_dict() for metric, value in own.values.items()}
                    for name, own in compared.items()
                },
                "beyond horizon 1": {
                    name: {metric: own.differences[metric].as_dict() for metric in CONTRASTED}
                    for name, own in contrasts.items()
                },
            },
        )

    def _check(self, found: Generations) -> None:
        """Arrays of the shapes that were asked for, with finite numbers; a damaged piece never becomes a result."""
        shape = (len(found), self.new_tokens)
        missing = {decoding.name for decoding in self.writing.decodings} - found.written.keys()
        if missing:
            raise ValueError(f"no continuations by {sorted(missing)}")
        for name, own in {HUMAN: found.human, **found.written}.items():
            _check_one(name, own, shape)


def _check_one(name: str, own: Continuations, shape: tuple[int, int]) -> None:
    for part in ("tokens", "log_prob", "entropy"):
        if getattr(own, part).shape != shape:
            raise ValueError(f"{part} of {name!r} have the shape {getattr(own, part).shape}, not {shape}")
    if (own.tokens < 0).any():
        raise ValueError(f"tokens of {name!r}: below 0")
    bad = ~(np.isfinite(own.log_prob) & np.isfinite(own.entropy))
    if bad.any():
        prompt, place = (int(x) for x in np.argwhere(bad)[0])
        raise Refused(
            f"the model gives token {place} behind prompt {prompt} ({name}) no finite log-probability or entropy: "
            "its weights or its dtype overflow there; try --dtype float32, or another checkpoint"
        )


def _order(pure: Comparison) -> dict[str, Any]:
    """Tokens drawn from a prediction have E[log p] = −entropy, whatever the model: the interval must hold 0."""
    return pure.values["log-probability + entropy"].as_dict()


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}
