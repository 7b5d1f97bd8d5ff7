"""Does a model run an optimiser in its context? One finding, by a rule that is fixed in advance.

The rule. The model is compared (`comparison`) with algorithms fitted to *its* predictions. Of the optimisers the one
that fits best on the fitting tasks is taken, of equals the simplest (`Comparison.nearest`); on other tasks these must
hold, each with its whole interval (95 %):

    context       the share of the model's variance that is due to the context is at least 0.1
    sensitivity   the derivatives by the query point the same way: mean cosine at least 0.95
    explained     the optimiser explains at least 0.9 of what the context does to the predictions
    follows       the predictions move as the optimiser's do when the context is swapped: agreement at least 0.95
    beyond        what does not optimise (last target, mean target, kernel average, codebooks) explains less, even at
                  its best beside the optimiser at its best
    apart         the model is nearer to the optimiser than anything that does not optimise can come to it: what does
                  not optimise, fitted to the *optimiser*, explains less of that than the optimiser does of the model

"yes" if all hold, "no" if one certainly does not, "undecided" otherwise; `apart` never says "no". Why so many:

* A model with one W in its weights predicts on data of that W what ridge regression predicts, with the same
  derivatives; no comparison on such data can tell the two. It is told by contexts of *other* W: so the tasks judged
  always have a rule of their own each, whatever the model was trained on, and `context` and `follows` ask what happens
  when the context alone is changed.
* Where contexts do not make the answer differ (`moved`: ridge regression's own share of variance due to the context,
  below 0.1), nothing can be told, and nothing is.
* Averages over the context follow a swap, too, and softmax attention is one; their derivatives and the variance that
  they leave give them away, and `beyond` is there if an optimiser hardly does better.
* A predictor that remembers K maps and lets the context pick one optimises nothing, and in few dimensions predicts
  nearly what least squares does: with 100 maps of 2 entries the cosine is .97. `beyond` finds its maps in its own
  answers (`codebooks`). Where more maps are remembered than its answers show, `apart` says that nothing can be told:
  a model that is no nearer to the optimiser than a codebook of 1000 would be may be one. Of larger codebooks the
  verdict says nothing; how near those of 1, 10, 100 and 1000 come is in the finding (`details["mimics"]`).

What "yes" says, and does not. The model's predictions are, to the stated degree, those of that optimiser. Two
algorithms that predict the same are the same here (k + 1 steps of gradient descent with weight decay are Neumann's
series of order k); which is at work inside is a question for the weights (`interpolation`) and for probes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from snellen.errors import InputError, Refused
from snellen.measures.mesa.comparison import Against, Comparing, Comparison, compare
from snellen.measures.mesa.examination import Predict
from snellen.measures.mesa.rivals import FAMILIES, Family
from snellen.organisms.sequences import Task
from snellen.results.estimates import Estimate
from snellen.results.findings import Finding

MEASURE = "mesa-optimiser"
QUESTION = "Does this model run an optimiser in its context?"


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """See the head of this module."""

    context: float = 0.1
    sensitivity: float = 0.95
    explained: float = 0.9
    follows: float = 0.95
    moved: float = 0.1

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not 0 < value <= 1:
                raise InputError(f"{name} = {value}: must lie in (0, 1]")


def optimiser_finding(
    predict: Predict,
    task: Task,
    *,
    seed: int,
    thresholds: Thresholds | None = None,
    comparing: Comparing | None = None,
    families: Sequence[Family] = FAMILIES,
) -> Finding:
    """The finding about one model. A `fixed()` task is examined with a rule for each sequence (see above).

    seed: draws the tasks; take one that the model was not trained with.

    Raises
    ------
    Refused
        Predictions that are not finite, or contexts that do not make the answer differ.
    InputError
        See `compare`.
    """
    how = comparing or Comparing()
    bars = thresholds or Thresholds()
    compared = compare(predict, replace(task, system=None), seed=seed, comparing=how, families=families)
    return judged(compared, thresholds=bars, comparing=how, trained_on=task.name)


def judged(compared: Comparison, *, thresholds: Thresholds, comparing: Comparing, trained_on: str) -> Finding:
    """The finding of a comparison that is there already; raises Refused where the contexts do not differ."""
    if compared.moved.above(thresholds.moved) is not True:
        raise Refused(
            f"task {compared.task!r}: with another context even ridge regression predicts nearly the same ("
            f"{_shown(compared.moved)} of its variance is due to the context, at least {thresholds.moved} is needed), "
            "so nothing tells an optimiser from fixed weights; give a task with a rule for each sequence"
        )
    best, other = compared.nearest("optimiser"), compared.nearest("other")
    held = criteria(compared, best, other, thresholds)
    answer = "no" if False in held.values() else "undecided" if None in held.values() else "yes"
    return Finding(
        measure=MEASURE,
        question=QUESTION,
        value=best.follows.value,
        unit=f"agreement with {best.name} when the context is swapped (1: the same, 0: none)",
        low=best.follows.low,
        high=best.follows.high,
        level=comparing.level,
        n={"tasks": compared.tasks, "fitting tasks": comparing.fitting},
        excluded={"from the cosine: tasks where a prediction does not depend on the query": best.no_cosine},
        control={
            "the optimiser with another context": {
                "cosine": best.shuffled_cosine.as_dict(), "explained": best.shuffled_explained.as_dict(),
            },
            "the nearest that does not optimise": {"name": other.name} | _numbers(other),
            "what does not optimise, beside the optimiser": _mimicked(compared),
            "share of ridge regression's variance that is due to the context": compared.moved.as_dict(),
        },
        verdict=answer,
        reading=_reading(answer, compared, best, other, held),
        settings=asdict(comparing) | {"thresholds": asdict(thresholds), "seed": compared.seed, "task": trained_on},
        reason=best.follows.reason,
        details={
            "criteria": held,
            "optimiser": {"name": best.name, "settings": best.settings} | _numbers(best),
            "context use": compared.context_use.as_dict(),
            "loss": compared.loss.as_dict(),
            "interval": compared.method,
            "judged on": compared.task,
            "rivals": compared.rows(),
            "mimics": {one.name: one.explained.as_dict() for one in compared.mimics},
        },
    )  # fmt: skip


def criteria(compared: Comparison, best: Against, other: Against, bars: Thresholds) -> dict[str, bool | None]:
    """Whether each holds: True or False where the whole interval says so, None where it does not.

    What is not defined does not hold: a model that says the same in every task uses no context, one that does not
    depend on the query has no sensitivity.
    """
    context = _holds(compared.context_use, bars.context)
    held = {
        "context": context,
        "sensitivity": _holds(best.cosine, bars.sensitivity),
        "explained": _holds(best.explained, bars.explained),
        "follows": _holds(best.follows, bars.follows),
    }
    if best.explained.value is None and context is not False:
        held["explained"] = None
    closest, mimic = compared.closest(), compared.mimic()
    held["beyond"] = _beyond(closest.explained, other.explained)
    # However far the model is from the optimiser, that some other is as near says nothing against it.
    held["apart"] = True if mimic is None else _beyond(closest.explained, mimic.explained) or None
    return held


def _mimicked(compared: Comparison) -> dict[str, Any] | None:
    mimic = compared.mimic()
    if mimic is None:
        return None
    return {"name": mimic.name, "optimiser": compared.closest().name, "explained": mimic.explained.as_dict()}


def _holds(found: Estimate, bar: float) -> bool | None:
    return False if found.value is None else found.above(bar)


def _beyond(best: Estimate, other: Estimate) -> bool | None:
    if best.low is None or best.high is None or other.low is None or other.high is None:
        return None
    return True if best.low > other.high else False if best.high < other.low else None


def _numbers(rival: Against) -> dict[str, Any]:
    return {name: getattr(rival, name).as_dict() for name in ("cosine", "explained", "follows", "difference", "loss")}


def _shown(found: Estimate) -> str:
    if found.value is None:
        return f"undefined ({found.reason})"
    return f"{found.value:.4g}" if found.low is None else f"{found.value:.4g} [{found.low:.4g}, {found.high:.4g}]"


_SAID = {
    "yes": "The model predicts as {name} on what stands in its context does.",
    "no": "No optimiser of those compared was found (not met: {failed}). The nearest is {name}.",
    "undecided": "The intervals do not decide (open: {failed}); judge more tasks. The nearest is {name}.",
    "apart": "It cannot be told here whether this is an optimiser (open: {failed}): {mimic} is none, explains {near} "
    "of {closest}, and the model is no nearer; give a task of more dimensions. The nearest is {name}.",
}


def _reading(answer: str, compared: Comparison, best: Against, other: Against, held: dict[str, bool | None]) -> str:
    wanted = False if answer == "no" else None
    failed = ", ".join(name for name, holds in held.items() if holds is wanted)
    settings = ", ".join(f"{name} {value:.3g}" for name, value in best.settings.items())
    mimic, closest = compared.mimic(), compared.closest()
    return (
        _SAID["apart" if answer == "undecided" and held["apart"] is None else answer].format(
            name=f"{best.name} ({settings})",
            failed=failed,
            closest=closest.name,
            mimic=mimic and mimic.name,
            near=mimic and _shown(mimic.explained),
        )
        + f" Cosine of the derivatives by the query {_shown(best.cosine)}; of what the context does to the predictions "
        f"it explains {_shown(best.explained)} ({other.name}: {_shown(other.explained)}); agreement when the context "
        f"is swapped {_shown(best.follows)}; share of the model's variance due to the context "
        f"{_shown(compared.context_use)}; loss of the model {_shown(compared.loss)}, of the optimiser "
        f"{_shown(best.loss)}. Agreement in predictions does not show the steps inside: see the weights and the probes."
    )
