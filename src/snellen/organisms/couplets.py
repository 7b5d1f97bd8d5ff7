"""Couplets: the last word of a line takes several tokens, and must rhyme.

    BOS w … w S M E / w … w S M E

A line ends in a word of three tokens: stem S, middle M (certain, given the stem) and ending E. The ending carries the
rhyme. Each stem forms words with a few rhymes only (*mari-gold* with *cold*, *or-ange* with none that is called for):
where it has a word that rhymes with line one, that word's ending is certain, otherwise it is one of N endings that
rhyme with nothing: a dead end, met two tokens after the stem was chosen. The *frequency* author chooses the stem of
line two by how common it is; the *rhyming* author chooses, with probability 1 − error, among those that rhyme.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snellen.errors import InputError
from snellen.organisms.language import Floats, Ids, Language, among, at_least, certain, share

BOS, BREAK = 0, 1
_FIRST = 2  # words, stems, middles, endings, free endings follow
REACH = 3  # the horizon that sees the second ending
_WORD = 3  # tokens of a line-final word


@dataclass(frozen=True, kw_only=True)
class Couplets(Language):
    """words: kinds of filler, `filler` of them in a line; stems: S with `rhymes_each` of `rhymes` rhymes each.

    spellings: ways to write a rhyme (a stem and a rhyme fix which); noise: endings that rhyme with nothing; zipf: the
    exponent of the stems' frequencies; rhyming: the author of line two, who errs with probability `error`.
    """

    words: int = 4
    filler: int = 1
    stems: int = 8
    middles: int = 4
    rhymes: int = 8
    rhymes_each: int = 2
    spellings: int = 2
    noise: int = 12
    zipf: float = 0.7
    rhyming: bool = False
    error: float = 0.15
    rules: int = 0

    def __post_init__(self) -> None:
        least = {"stems": 2, "rhymes": 2, "filler": 0, "rules": 0}
        for name in ("words", "filler", "stems", "middles", "rhymes", "rhymes_each", "spellings", "noise", "rules"):
            at_least(name, getattr(self, name), least.get(name, 1))
        share("error", self.error)
        if not 0 <= self.zipf < math.inf:
            raise InputError(f"zipf = {self.zipf!r}: must be 0 or more")
        if self.rhymes_each >= self.rhymes:
            raise InputError(f"rhymes_each = {self.rhymes_each}: must be below rhymes = {self.rhymes}")
        if self.stems * self.rhymes_each < self.rhymes:
            raise InputError(f"stems = {self.stems} with {self.rhymes_each} rhymes each cannot have all {self.rhymes}")

    @property
    def vocabulary(self) -> int:
        return int(self._free(0)) + self.noise

    @property
    def length(self) -> int:
        return 2 * (self.filler + _WORD) + 2

    @property
    def decisions(self) -> Sequence[int]:
        return (self.length - _WORD,)

    @property
    def reach(self) -> int:
        """The horizon that sees the rhyme."""
        return REACH

    @property
    def regions(self) -> Mapping[str, Sequence[int]]:
        at, first = self.decisions[0], self.filler + 1
        return {"decision": (at,), "middles": (first + 1, at + 1), "first ending": (first + 2,), "ending": (at + 2,)}

    @property
    def room(self) -> float:
        """What the rhyming author's own choice gains on its text over the frequency author's, nats a decision."""
        fitting = self.fits @ self.frequency  # [rhymes] chance that a stem of the frequency author rhymes
        called = (self.fits / self.rhymes_each) @ self.frequency  # [rhymes] how often line one calls for each
        gain = np.zeros(self.rhymes)
        for p, q in ((1 - self.error, fitting), (self.error, 1 - fitting)):
            gain += p * (math.log(p) - np.log(q)) if p > 0 else 0.0
        return float(called @ gain)

    @cached_property
    def frequency(self) -> Floats:
        """[stems] how common each is."""
        weight = np.arange(1.0, self.stems + 1) ** -self.zipf
        out: Floats = weight / weight.sum()
        return out

    @cached_property
    def fits(self) -> NDArray[np.bool_]:
        """[rhymes, stems] has the stem a word with this rhyme? Every rhyme has about equally many."""
        rng = np.random.default_rng([self.rules, 2])
        slots = np.arange(self.stems * self.rhymes_each) % self.rhymes
        for _ in range(10_000):
            drawn = rng.permutation(slots).reshape(self.stems, self.rhymes_each)
            if all(len(set(row)) == self.rhymes_each for row in drawn.tolist()):
                out = np.zeros((self.rhymes, self.stems), dtype=np.bool_)
                out[drawn.T, np.arange(self.stems)] = True
                return out
        raise InputError(f"stems = {self.stems}, rhymes = {self.rhymes}: no lexicon found; give more rhymes")

    @cached_property
    def tables(self) -> tuple[Ids, Ids]:
        """[stems] the middle of each, [stems, rhymes] the spelling of each of its rhymes."""
        rng = np.random.default_rng([self.rules, 3])
        return rng.integers(self.middles, size=self.stems), rng.integers(self.spellings, size=(self.stems, self.rhymes))

    @cached_property
    def choice(self) -> Floats:
        """[rhymes, stems] the author's distribution of the stem of line two, given the rhyme of line one."""
        chance = np.tile(self.frequency, (self.rhymes, 1))
        if self.rhyming:
            fitting = (chance * self.fits).sum(axis=1, keepdims=True)
            chance *= np.where(self.fits, (1 - self.error) / fitting, self.error / (1 - fitting))
        return chance

    def sample(self, number: int, *, seed: Any) -> Ids:
        rng = np.random.default_rng(seed)
        out = np.empty((number, self.length), dtype=np.int64)
        out[:, 0], out[:, self.filler + _WORD + 1] = BOS, BREAK
        for line in (0, 1):
            start = 1 + line * (self.filler + _WORD + 1)
            out[:, start : start + self.filler] = _FIRST + rng.integers(self.words, size=(number, self.filler))
        stem = rng.choice(self.stems, size=number, p=self.frequency)
        options = np.argsort(~self.fits.T, axis=1, kind="stable")[:, : self.rhymes_each]  # [stems, rhymes_each]
        rhyme = options[stem, rng.integers(self.rhymes_each, size=number)]
        self._write(out, self.filler + 1, stem, self._ending(stem, rhyme))
        drawn = (rng.random((number, 1)) > np.cumsum(self.choice, axis=1)[rhyme]).sum(axis=1)
        stem = np.minimum(drawn, self.stems - 1)
        free = self._free(rng.integers(self.noise, size=number))
        self._write(out, self.decisions[0], stem, np.where(self.fits[rhyme, stem], self._ending(stem, rhyme), free))
        return out

    def log_probs(self, sequences: Ids) -> Floats:
        words, stems = slice(_FIRST, self._stem(0)), slice(self._stem(0), self._middle(0))
        middles, rhymed = slice(self._middle(0), self._rhymed(0)), slice(self._rhymed(0), self._free(0))
        line = [*[words] * self.filler, stems, middles]
        end = slice(self._rhymed(0), self.vocabulary)
        kinds = [slice(BOS, BOS + 1), *line, rhymed, slice(BREAK, BREAK + 1), *line, end]
        sequences, lawful = among(sequences, kinds)
        out = np.zeros(sequences.shape)
        first, at = self.filler + 1, self.decisions[0]
        for start in (1, at - self.filler):
            out[:, start : start + self.filler] = -math.log(self.words)
        one, two = sequences[:, first] - self._stem(0), sequences[:, at] - self._stem(0)
        rhyme = self._rhyme(sequences[:, first + 2])
        middle, _ = self.tables
        with np.errstate(divide="ignore"):
            out[:, first] = np.log(self.frequency[one])
            out[:, at] = np.log(self.choice[rhyme, two])
            for place, stem in ((first, one), (at, two)):
                out[:, place + 1] = np.log(sequences[:, place + 1] == self._middle(middle[stem]))
            own = self.fits[rhyme, one] & (sequences[:, first + 2] == self._ending(one, rhyme))
            out[:, first + 2] = np.where(own, -math.log(self.rhymes_each), -np.inf)
            last, rhymed = sequences[:, at + 2], self.fits[rhyme, two]
            free = np.where(last >= self._free(0), -math.log(self.noise), -np.inf)
            out[:, at + 2] = np.where(rhymed, np.log(last == self._ending(two, rhyme)), free)
        return np.where(lawful, out, -np.inf)

    def predict(self, prefix: Sequence[int]) -> Floats:
        if prefix and not (0 <= prefix[-1] < self.vocabulary and self.predict(prefix[:-1])[prefix[-1]] > 0):
            raise self.impossible(prefix)
        out = np.zeros(self.vocabulary)
        line, place = divmod(len(prefix), self.filler + _WORD + 1)
        if line > 1:
            raise self.impossible(prefix)
        if place == 0:
            return certain(self.vocabulary, BREAK if line else BOS)
        if place <= self.filler:
            out[_FIRST : _FIRST + self.words] = 1 / self.words
            return out
        rhyme = int(self._rhyme(prefix[self.filler + _WORD])) if line else None
        if place == self.filler + 1:
            out[self._stem(0) : self._stem(self.stems)] = self.frequency if rhyme is None else self.choice[rhyme]
            return out
        stem = prefix[len(prefix) - (place - self.filler - 1)] - self._stem(0)
        if place == self.filler + 2:
            return certain(self.vocabulary, int(self._middle(self.tables[0][stem])))
        if rhyme is None:
            for other in range(self.rhymes):
                if self.fits[other, stem]:
                    out[self._ending(stem, other)] = 1 / self.rhymes_each
        elif self.fits[rhyme, stem]:
            out[self._ending(stem, rhyme)] = 1.0
        else:
            out[self._free(0) :] = 1 / self.noise
        return out

    def is_dead_end(self, sequences: Ids) -> NDArray[np.bool_]:
        """[number] has the stem of line two no word that rhymes? Sequences [number, > first decision].

        Only the decision is looked at; something other than a stem there is a dead end too.
        """
        at = self.decisions[0]
        if sequences.ndim != 2 or sequences.shape[1] <= at:
            raise InputError(f"sequences of shape {sequences.shape}: must reach the decision at place {at}")
        ending = sequences[:, self.filler + _WORD]
        if (ending < self._rhymed(0)).any() or (ending >= self._free(0)).any():
            raise InputError("sequences: not prompts of this language (see sample_prompts)")
        stem = sequences[:, at] - self._stem(0)
        known = (stem >= 0) & (stem < self.stems)
        dead: NDArray[np.bool_] = ~(known & self.fits[self._rhyme(ending), np.where(known, stem, 0)])
        return dead

    def spell(self, token: int) -> str:
        if token < _FIRST:
            return ("BOS", "/")[token]
        starts = (("w", _FIRST), ("stem", self._stem(0)), ("mid", self._middle(0)), ("end", self._rhymed(0)))
        for name, start in (("free", self._free(0)), *reversed(starts)):
            if token >= start:
                return f"{name}{token - start}"
        raise AssertionError(token)

    def _write(self, out: Ids, place: int, stem: Ids, ending: Ids) -> None:
        out[:, place] = self._stem(stem)
        out[:, place + 1] = self._middle(self.tables[0][stem])
        out[:, place + 2] = ending

    def _stem(self, stem: Any) -> Any:
        return _FIRST + self.words + stem

    def _middle(self, middle: Any) -> Any:
        return self._stem(self.stems) + middle

    def _rhymed(self, ending: Any) -> Any:
        return self._middle(self.middles) + ending

    def _ending(self, stem: Any, rhyme: Any) -> Any:
        return self._rhymed(rhyme * self.spellings + self.tables[1][stem, rhyme])

    def _rhyme(self, ending: Any) -> Any:
        return (ending - self._rhymed(0)) // self.spellings

    def _free(self, ending: Any) -> Any:
        return self._rhymed(self.rhymes * self.spellings) + ending
