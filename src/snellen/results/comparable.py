"""What of two runs is in the same unit, and what a user can do where it is not.

A token is another piece of text for another tokenizer, so that "nats per token" is another unit. The gain is a mean
over the scored tokens and can be given a byte: times tokens, over bytes, which is the same question for both runs where
both judged the very same characters. Numbers of stretches that are cut in tokens, or of sequences of so many, can not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from snellen.results.coverage import Tokens, sums
from snellen.results.findings import Finding
from snellen.results.store import Run

_OVER_LIMIT = "beyond the limit"  # `texts.windows.OVER_LIMIT`, which lies above this room
PER_TOKEN = re.compile(r"(\bper |/)token$")
OTHER_TOKENS = "the tokenizers differ: a token is another piece of text for each"


def counts_tokens(unit: str) -> bool:
    """A number whose unit names tokens depends on what one is."""
    return re.search(r"\btokens?\b", unit) is not None


@dataclass(frozen=True, kw_only=True)
class Common:
    """What two runs have in common, as far as units go."""

    runs: tuple[Run, Run]
    tokens: tuple[Tokens, Tokens]
    same_text: bool

    @property
    def same_tokenizer(self) -> bool:
        """By the digests in `run.json`; where one is missing, by whether the same text became the same tokens."""
        known = [run.content.get("identity", {}).get("tokenizer_sha256") for run in self.runs]
        if None in known:
            return self.same_text and self.tokens[0].same_tokens(self.tokens[1])
        return bool(known[0] == known[1])

    @property
    def limits(self) -> tuple[int, ...]:
        """Which of the runs scored a part of the text, by their `--limit`."""
        return tuple(
            k for k, run in enumerate(self.runs) if run.content.get("text", {}).get("excluded", {}).get(_OVER_LIMIT)
        )

    def mend(self) -> str | None:
        """The commands after which both runs have scored the same; None where no limit keeps them apart."""
        if not self.same_text or not self.limits:
            return None
        every = max(sum(tokens or 0 for tokens in run.documents("tokens")["tokens"]) for run in self.runs)
        asked = [run.content.get("key", {}).get("limit") for run in self.runs]
        if not self.same_tokenizer:
            again, limit = self.limits, every
        elif asked[0] == asked[1]:
            return None
        else:
            limit = every if len(self.limits) < 2 else max(asked)
            again = tuple(k for k in self.limits if asked[k] != limit)
        commands = [
            f"`snellen exam {self.runs[k].content.get('identity', {}).get('source', 'MODEL')} … --limit {limit}`"
            for k in again
        ]
        return " and ".join(commands)

    def per_byte(self, pair: tuple[Finding, Finding]) -> tuple[tuple[Finding, Finding], tuple[float, float]] | str:
        """Both numbers, which are means over scored tokens, a byte; and by how much each was multiplied. Or why not."""
        if not self.same_text:
            return f"{OTHER_TOKENS}, and the texts differ, too"
        judged = tuple(one.judged() for one in self.tokens)
        if not judged[0].same_characters(judged[1]):
            mend = self.mend()
            return f"{OTHER_TOKENS}; nor are they comparable a byte, since the runs scored different characters" + (
                f": score all of the text in both with {mend}" if mend else ""
            )
        factors = []
        for one in judged:
            found = sums(one)
            factors.append(float(found.tokens.sum() / found.bytes.sum()))
        return (_scaled(pair[0], factors[0]), _scaled(pair[1], factors[1])), (factors[0], factors[1])


def _scaled(finding: Finding, factor: float) -> Finding:
    def times(value: float | None) -> float | None:
        return None if value is None else value * factor

    return replace(
        finding, value=times(finding.value), low=times(finding.low), high=times(finding.high),
        unit=PER_TOKEN.sub(r"\1byte", finding.unit),
    )  # fmt: skip


def units_of(finding: Finding) -> int:
    """How many units its interval rests on: the smallest of the counts that it states."""
    counts: list[Any] = [count for count in finding.n.values() if count]
    return int(np.min(counts)) if counts else 0
