"""Results into words, and into what `findings.json` holds beside them."""

from __future__ import annotations

from typing import Any

from snellen.measures.in_context.few_shot import TOLD_APART, FewShot
from snellen.measures.in_context.texts import HALF, OfText
from snellen.results.estimates import Estimate
from snellen.results.statistics import LIMITED


def verdict(text: OfText | None, few: FewShot | None, no_text: str, no_lines: str) -> str:
    few_texts = "" if text is None or not text.sample.limited else f" ({LIMITED})"
    said = f"Text: not measured ({no_text})." if text is None else f"Text: {_text(text)}{few_texts}."
    lines = f"Lines: not measured ({no_lines})." if few is None else f"Lines: {_lines(few)}."
    return f"{said} {lines}"


def _text(text: OfText) -> str:
    gain, beyond = text.gain, text.beyond
    if gain.low is None or gain.high is None:
        return "undecided, the interval is not defined"
    if gain.low <= 0:
        return "no gain from further context was found"
    if beyond.value is None or beyond.low is None:
        return "further context helps, but there is no control that says that it is what it says"
    if beyond.low <= 0:
        return "undecided, foreign text in the same place may help as much"
    return "yes, further context helps, and foreign text in its place does not help as much"


def _lines(few: FewShot) -> str:
    answers = {
        "yes": "yes, answers follow the line through the examples, beyond rules that need none",
        "no": "no, answers do not follow the line through the examples",
        "undecided": "undecided whether answers follow the line through the examples",
    }
    return answers[few.said]


def reading(text: OfText | None, few: FewShot | None, least: float) -> str:
    parts = []
    if text is not None:
        cut = text.stretches
        parts.append(
            f"The last {cut.block} tokens of each stretch of {cut.length} are predicted so many nats better with all "
            f"of it before them than with {cut.near} tokens (the first of them; one more with each) alone. With "
            f"another document in the place of what is further away: {_number(text.foreign)}; what the own text gives "
            f"beyond that: {_number(text.beyond)}."
        )
        if text.positions is not None:
            early, late = text.positions
            parts.append(
                f"In-context-learning score (loss at token {late} minus at token {early}, ± {HALF}; negative: it "
                f"learns): {_number(text.score)}; that compares different tokens, the number above the same ones."
            )
    if few is not None:
        parts.append(
            f"Lines, those with at least {TOLD_APART} examples: when they come from another line, answers move by so "
            "much of what least squares moves by, beside what copying, averaging and going on explain: "
            f"{_number(few.weight)} (1: least squares; yes if all of the interval lies above {least:g}, no if below). "
            "The same of the line that shuffled pairs "
            f"do not show: {_number(few.unseen)}, which must hold 0."
        )
        parts += [
            f"A linear probe explains {_number(one, 2)} of the {target} at layer {layer}, its best, and "
            f"{_number(other, 2)} at the best layer of shuffled prompts."
            for target, (layer, one, other) in few.probed.items()
        ]
    return " ".join(parts)


def control(text: OfText | None, few: FewShot | None) -> dict[str, Any]:
    out: dict[str, Any] = {}
    if text is not None:
        out["foreign text in the place of further context"] = text.foreign.as_dict()
        out["own further context beyond foreign text"] = text.beyond.as_dict()
    if few is not None:
        out["weight of a line that shuffled examples do not show"] = few.unseen.as_dict()
        for target, (_, _, other) in few.probed.items():
            out[f"probe for the {target}, best layer, shuffled examples"] = other.as_dict()
    return out


def of_text(text: OfText | None, reason: str) -> dict[str, Any]:
    if text is None:
        return {"reason": reason}
    cut = text.stretches
    where = (
        {"early": None, "late": None}
        if text.positions is None
        else dict(zip(("early", "late"), text.positions, strict=True))
    )
    return {
        "documents": len(set(cut.document.tolist())),
        "length": cut.length,
        "near": cut.near,
        "block": cut.block,
        "interval": "t",
        "gain from further context": text.gain.as_dict(),
        "foreign": text.foreign.as_dict(),
        "beyond foreign": text.beyond.as_dict(),
        "in-context-learning score": {**text.score.as_dict(), **where},
    }


def of_lines(few: FewShot | None, reason: str) -> dict[str, Any]:
    if few is None:
        return {"reason": reason}
    return {
        "follows the line": few.said,
        "weight of least squares": few.weight.as_dict(),
        "weight of the unseen line, shuffled": few.unseen.as_dict(),
        "right answer, in order minus shuffled": {**few.worth.as_dict(), "unit": "nats"},
        "share of prompts whose likeliest answer is right": few.right.as_dict(),
        "probability of any number where one must stand": few.mass.as_dict(),
        "probes": {
            target: {"layer": layer, **one.as_dict(), "shuffled": other.as_dict()}
            for target, (layer, one, other) in few.probed.items()
        }
        or {"reason": few.reason},
    }


def _number(one: Estimate, digits: int = 3) -> str:
    if one.value is None:
        return f"undefined ({one.reason})"
    if one.low is None or one.high is None:
        return f"{one.value:+.{digits}f}"
    return f"{one.value:+.{digits}f} [{one.low:+.{digits}f}, {one.high:+.{digits}f}]"
