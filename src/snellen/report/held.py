"""The sentences around the figures: each says what this run holds, and none what another might."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from snellen.report import figures, scale
from snellen.report.data import Evidence
from snellen.report.figures import Figure
from snellen.report.text import listing

NOWHERE = "With the mix that was fitted every token is exactly as probable as under the best control"


def of_strip(strip: Mapping[str, Any] | None, most: int) -> str:
    """What there is to see in the text, and how to get there. `most`: tokens that a page shows."""
    if strip is None:
        return "No token of this run was scored."
    inspect = strip["inspect"]
    said, keys = "Each token has its numbers.", ""
    if inspect is not None:
        kept = "a beam tree" if inspect["width"] else "a list of what was most probable"
        if inspect["chosen"] == min(strip["total"], most):
            said = f"Every token {'shown here ' if strip['total'] > most else ''}holds {kept}."
        else:
            largest = "differences" if strip["modes"][0]["diverging"] else "surprises"
            said = f"Underlined tokens hold {kept}: the largest {largest} and an even sample of the rest."
            keys = " (with Shift to the next one underlined)"
    nothing = f"{NOWHERE}: there is no difference to colour. " if _no_difference(strip) else ""
    return f"{nothing}{said} Click one, or move with the arrow keys{keys} and press Enter."


def of_arms(evidence: Evidence) -> str:
    units = figures.others(evidence)
    said = f"Each arm is fitted on some {units} and judged on others."
    arms = {row["arm"] for row in evidence.arms}
    if "lookahead" in arms:
        said += " Lookahead counts only for what it adds to the best control"
        said += (
            "; the placebo shuffles what lookahead contributes and must gain nothing over it."
            if "placebo" in arms
            else "."
        )
    return said


def of_landscape(drawn: Sequence[Figure], evidence: Evidence) -> str:
    ahead = "the tokens looked ahead" if len({row["horizon"] for row in evidence.gains}) > 1 else ""
    return f"How the gain changes with {listing([*(figure.about for figure in drawn), ahead])}."


def of_splits(drawn: Sequence[Figure], evidence: Evidence) -> str:
    """Empty where the run has no such table."""
    if not drawn:
        return f"{NOWHERE}: the gain is zero in every group of tokens." if figures.nowhere(evidence.splits) else ""
    sizes = (
        ", with the number of tokens in each (after the dot)"
        if any(row.get("n") is not None for row in evidence.splits)
        else ""
    )
    return f"The gain among groups of tokens{sizes}, in nats per token." + scale.reaches(scale.MEAN)


def of_context(drawn: Sequence[Figure]) -> str:
    said = listing([figure.about for figure in drawn])
    return f"{said[:1].upper()}{said[1:]}."


def of_order(evidence: Evidence) -> str:
    said = ["before any number is printed the model must pass the preflight"] if evidence.part("preflight") else []
    placebo = evidence.gain.control.get("placebo") if evidence.gain else None
    said += ["the placebo shows what the method finds where there is nothing to find"] if placebo else []
    words = ", and ".join(said)
    return f"{words[:1].upper()}{words[1:]}." if words else ""


def _no_difference(strip: Mapping[str, Any]) -> bool:
    return "lookahead" in strip and not any(mode["name"] == "control" for mode in strip["modes"])
