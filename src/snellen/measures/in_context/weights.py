"""Which rules a model's answers follow: least squares of the difference between two contexts on that of each rule.

Both prompts of a pair have the same x's, so that whatever depends on them alone (copying x, liking a number) cancels.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from snellen.results.estimates import Estimate
from snellen.results.samples import LOST, Sample

WORST = 1e6  # condition of the rules among one another beyond which their weights cannot be told apart
APART = "these prompts do not tell the rules apart"


def weights(
    answer: Float[ndarray, "pairs"], rules: Mapping[str, Float[ndarray, "pairs"]], sample: Sample
) -> dict[str, Estimate]:
    """Weight of each rule, refitted in each resample of the pairs.

    answer, rules: what the model and each rule say in one context, minus what they say in the other.
    """
    design = np.stack(list(rules.values()), axis=1)
    length = np.linalg.norm(design, axis=0)
    if not length.all() or np.linalg.cond(design / length) > WORST:
        return {name: Estimate.undefined(APART) for name in rules}
    design = design / length
    point = _solved(design, answer, np.ones((len(answer), 1)))[0]
    drawn = _solved(design, answer, sample.resamples.counts[sample.unit])
    return {
        name: Estimate.of(
            float(point[k] / length[k]),
            *sample.resamples.interval(float(point[k] / length[k]), drawn[:, k] / length[k]),
            LOST,
        )
        for k, name in enumerate(rules)
    }


def _solved(
    design: Float[ndarray, "pairs rules"], answer: Float[ndarray, "pairs"], counts: Float[ndarray, "pairs resamples"]
) -> Float[ndarray, "resamples rules"]:
    """Weighted normal equations of every resample; NaN where too few different pairs were drawn."""
    gram = np.einsum("nr,np,nq->rpq", counts, design, design, optimize=True)
    side = np.einsum("nr,np,n->rp", counts, design, answer, optimize=True)
    out = np.full(side.shape, np.nan)
    usable = np.linalg.cond(gram) < WORST**2
    out[usable] = np.linalg.solve(gram[usable], side[usable][..., None])[..., 0]
    return out
