"""Do the answers to few-shot lines follow the line, or what can be had without one?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pyarrow as pa
from jaxtyping import Float
from numpy import ndarray
from scipy.special import logsumexp

from snellen.errors import Refused
from snellen.measures.in_context import probes
from snellen.measures.in_context.lines import ARMS, YS, Lines
from snellen.measures.in_context.rules import LEAST, RULES
from snellen.measures.in_context.weights import weights
from snellen.measures.readings import Reading
from snellen.results.estimates import Estimate
from snellen.results.samples import Sample

TOLD_APART = 4  # examples from which on the rules are told apart
LINE, UNSEEN = "least squares", "least squares, pairs as they were"
NO_STATES = "the model's body does not hand out what its layers say"
Verdict = Literal["yes", "no", "undecided"]


@dataclass(frozen=True, kw_only=True)
class FewShot:
    """weight: of least squares in the answers to all lines with at least 4 examples, beside the other rules; 1 for a
             model that solves them
    unseen:  of the line that the shuffled prompts do not show any more, in the answers to these; 0 but for chance
    worth:   log-probability of the right answer after the examples in order minus after the shuffled ones, nats
    right:   share of prompts whose likeliest answer is right
    mass:    probability of any number from 10 to 99 where one must stand (behind what all of them begin with)
    probed:  for each target: the best layer, what it explains, and what the best layer explains in shuffled prompts
    """

    weight: Estimate
    unseen: Estimate
    worth: Estimate
    right: Estimate
    mass: Estimate
    said: Verdict
    probed: Mapping[str, tuple[int, Estimate, Estimate]]
    reason: str | None
    tables: Mapping[str, pa.Table]


def verdict(weight: Estimate, unseen: Estimate, least: float) -> Verdict:
    """Yes: the whole interval of the weight lies above `least`, and that of the unseen line holds 0 or lies below.

    No: the whole interval lies below `least`. Anything else is undecided.
    """
    if weight.low is None or weight.high is None or unseen.low is None:
        return "undecided"
    if weight.high < least:
        return "no"
    return "yes" if weight.low > least and unseen.low <= 0 else "undecided"


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Of n pairs, two functions each: log-probabilities normalised over all answers, and of any of them."""

    log_prob: Float[ndarray, "n 2 answers"]
    total: Float[ndarray, "n 2"]

    @classmethod
    def of(cls, weighed: Float[ndarray, "n 2 answers"]) -> Answers:
        """Raises `Refused` where no answer has any probability."""
        total = logsumexp(weighed.astype(np.float64), axis=-1, keepdims=True)
        if not np.isfinite(total).all():
            raise Refused("the model gives none of the numbers from 10 to 99 any probability where one must stand")
        return cls(log_prob=weighed - total, total=total[..., 0])

    @property
    def expected(self) -> Float[ndarray, "n 2"]:
        answers: ndarray = np.exp(self.log_prob) @ np.array(YS, dtype=np.float64)
        return answers

    def log_prob_of(self, y: Float[ndarray, "n 2"]) -> Float[ndarray, "n 2"]:
        """Of the nearest answer there is."""
        at = np.clip(np.rint(y), YS[0], YS[-1]).astype(np.int64) - YS[0]
        found: ndarray = np.take_along_axis(self.log_prob, at[..., None], axis=-1)[..., 0]
        return found


def of_answers(
    lines: Lines, shots: Sequence[int], found: Sequence[Reading], *, least: float, sample: Sample, seed: int
) -> FewShot:
    """From the readings of `lines.passages`; `shots` are the lines that were weighed, the last of them with all."""
    n, all_of_them = len(lines.x), lines.examples
    ordered, shuffled = found[: 2 * n], found[2 * n :]
    if len(found) != ARMS * n or shots[-1] != all_of_them:
        raise ValueError(f"{len(found)} readings of {n} pairs, the last line after {shots[-1]} of {all_of_them}")
    weighed = np.stack([one.candidates for one in ordered]).reshape(n, 2, len(shots), len(YS))
    by_shot = {shot: Answers.of(weighed[:, :, k]) for k, shot in enumerate(shots)}
    lost = Answers.of(np.stack([one.candidates for one in shuffled]).reshape(n, 2, len(YS)))
    said = {shot: _rules(lines, shot, shuffled=False) for shot in shots}
    there, gone = said[all_of_them], _rules(lines, all_of_them, shuffled=True)
    telling = [shot for shot in shots if shot >= TOLD_APART]
    answers, rules = {k: _apart(by_shot[k].expected) for k in telling}, {k: _all_apart(said[k]) for k in telling}
    curve = {k: weights(answers[k], rules[k], sample) for k in telling}
    together = weights(
        np.concatenate([answers[k] for k in telling]),
        {name: np.concatenate([rules[k][name] for k in telling]) for name in RULES},
        replace(sample, unit=np.tile(sample.unit, len(telling))),  # the lines of a pair are resampled together
    )
    control = weights(_apart(lost.expected), _all_apart({**gone, UNSEEN: there[LINE]}), sample)
    final, truth = by_shot[all_of_them], lines.y[:, :, -1]
    probed, drawn = _probes(lines, ordered, shuffled, there, sample, seed)
    weight, unseen = together[LINE], control[UNSEEN]
    return FewShot(
        weight=weight,
        unseen=unseen,
        worth=sample.mean((final.log_prob_of(truth) - lost.log_prob_of(truth)).mean(axis=1)),
        right=sample.share((final.log_prob.argmax(axis=-1) + YS[0] == truth).mean(axis=1).astype(np.float64)),
        mass=sample.mean(np.exp(final.total).mean(axis=1)).within(0, 1),
        said=verdict(weight, unseen, least),
        probed=probed,
        reason=None if probed else NO_STATES,
        tables={
            "in_context_answers": _answers(lines, by_shot, lost, sample),
            "in_context_errors": _errors(lines, by_shot, said, sample),
            "in_context_weights": _weights(curve, together, control, all_of_them),
            **({} if drawn is None else {"in_context_probes": drawn}),
        },
    )


def _rules(lines: Lines, shot: int, *, shuffled: bool) -> dict[str, Float[ndarray, "n 2"]]:
    """What each rule says at the line with `shot` examples before it, where so many are enough for it."""
    x, query, y = lines.x[:, :shot], lines.x[:, shot], lines.written(shuffled)
    return {
        name: np.stack([rule(x, y[:, f, :shot], query) for f in (0, 1)], axis=1)
        for name, rule in RULES.items()
        if shot >= LEAST[name]
    }


def _apart(values: Float[ndarray, "n 2"]) -> Float[ndarray, "n"]:
    difference: ndarray = values[:, 0] - values[:, 1]
    return difference


def _all_apart(rules: Mapping[str, Float[ndarray, "n 2"]]) -> dict[str, Float[ndarray, "n"]]:
    return {name: _apart(values) for name, values in rules.items()}


def _answers(lines: Lines, by_shot: Mapping[int, Answers], lost: Answers, sample: Sample) -> pa.Table:
    """Log-probability of the right answer, and of chance among all answers."""
    rows = []
    for shot, answers in by_shot.items():
        own = sample.mean(answers.log_prob_of(lines.y[:, :, shot]).mean(axis=1))
        rows.append({"examples": shot, "prompts": "in order", **own.row("log_prob"), "chance": -float(np.log(len(YS)))})
    own = sample.mean(lost.log_prob_of(lines.y[:, :, -1]).mean(axis=1))
    rows.append({**rows[-1], "prompts": "shuffled", **own.row("log_prob")})
    return pa.Table.from_pylist(rows)


def _errors(
    lines: Lines, by_shot: Mapping[int, Answers], said: Mapping[int, Mapping[str, ndarray]], sample: Sample
) -> pa.Table:
    """Mean distance from the right answer of what the model expects and of what each rule says; and how probable the
    model takes the rule's answer to be."""
    rows = []
    for shot, answers in by_shot.items():
        truth = lines.y[:, :, shot]
        for name, values in {"model": answers.expected, **said[shot]}.items():
            error = sample.mean(np.abs(values - truth).mean(axis=1))
            chance = sample.mean(np.exp(answers.log_prob_of(values)).mean(axis=1)).within(0, 1)
            rows.append({"examples": shot, "who": name, **error.row("error"), **chance.row("probability")})
    return pa.Table.from_pylist(rows)


def _weights(
    curve: Mapping[int, Mapping[str, Estimate]],
    together: Mapping[str, Estimate],
    control: Mapping[str, Estimate],
    most: int,
) -> pa.Table:
    """By number of examples; null: of all lines together from `TOLD_APART` examples on, which the verdict is about."""
    parts: list[tuple[int | None, str, Mapping[str, Estimate]]] = [(None, "in order", together)]
    parts += [(shot, "in order", found) for shot, found in curve.items()]
    parts += [(most, "shuffled", control)]
    rows = [
        {"examples": shot, "prompts": prompts, "rule": name, **one.row(), "reason": one.reason}
        for shot, prompts, found in parts
        for name, one in found.items()
    ]
    kinds = [("examples", pa.int64()), ("prompts", pa.string()), ("rule", pa.string())]
    kinds += [(name, pa.float64()) for name in ("value", "low", "high")]
    return pa.Table.from_pylist(rows, pa.schema([*kinds, ("reason", pa.string())]))


def _probes(
    lines: Lines, ordered: Sequence[Reading], shuffled: Sequence[Reading], there: Mapping[str, ndarray],
    sample: Sample, seed: int,
) -> tuple[dict[str, tuple[int, Estimate, Estimate]], pa.Table | None]:  # fmt: skip
    """Of the slope, and of the least-squares answer beyond what the other rules say: what is left of it when its linear
    regression on them is taken off. (They say much of it: with a query beyond all examples the nearest one already lies
    on the answer's side of the mean.)
    """
    states = {}
    for prompts, readings in (("in order", ordered), ("shuffled", shuffled)):
        kept = [one.states for one in readings if one.states is not None]
        if len(kept) < len(readings):
            return {}, None
        states[prompts] = np.stack(kept)
    others = np.stack([values.reshape(-1) for name, values in there.items() if name != LINE], axis=1)
    targets = {
        "slope": lines.slope.astype(np.float64).reshape(-1),
        "answer beyond the rules": _left_over(there[LINE].reshape(-1), others),
    }
    pair = np.repeat(np.arange(len(lines.x)), 2)
    found = {
        (target, prompts): probes.explained(own, values, pair, sample, seed=seed)
        for target, values in targets.items()
        for prompts, own in states.items()
    }
    best = {
        target: (*probes.best(found[target, "in order"]), probes.best(found[target, "shuffled"])[1])
        for target in targets
    }
    return best, probes.table(found)


def _left_over(values: Float[ndarray, "rows"], others: Float[ndarray, "rows columns"]) -> Float[ndarray, "rows"]:
    design = np.column_stack([np.ones(len(values)), others])
    left: ndarray = values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
    return left
