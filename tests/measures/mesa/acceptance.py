"""One layer of linear attention, trained on regression in context: `python -m tests.measures.mesa.acceptance`.

Prints what docs/mesa.md says of it; `test_verdict` holds it to that.
"""

from __future__ import annotations

import time

from snellen.architectures import MesaForPrediction
from snellen.measures.mesa import construction
from snellen.measures.mesa.comparison import Comparison, compare
from snellen.measures.mesa.examination import predicting
from snellen.measures.mesa.implicit import implicit_weights
from snellen.measures.mesa.interpolation import interpolate
from snellen.measures.mesa.rivals import RIDGE, gradient_descent
from snellen.measures.mesa.verdict import optimiser_finding
from snellen.organisms.regression import LinearRegression
from tests.measures.mesa.training import one_layer, train

REGRESSION = LinearRegression()  # dim 10, context 10, as in von Oswald et al. 2022
STEPS, BATCH, RATE = 700, 2048, 1e-2


def trained(seed: int = 0) -> MesaForPrediction:
    model = one_layer(REGRESSION, seed=seed)
    train(model, REGRESSION, steps=STEPS, batch=BATCH, rate=RATE, seed=seed + 1)
    return model


def _show(name: str, found: Comparison) -> None:
    print(f"\n{name}: loss {found.loss.value:.4f} [{found.loss.low:.4f}, {found.loss.high:.4f}]")
    for rival in found.rivals:
        numbers = ((key, getattr(rival, key)) for key in ("cosine", "explained", "difference", "slope", "loss"))
        said = ", ".join(f"{key} {one.value:.5f} [{one.low:.5f}, {one.high:.5f}]" for key, one in numbers if one.low)
        print(f"  {rival.name} (fitted to the {rival.fitted_to}, {rival.settings}): {said}")


def main() -> None:
    for seed in range(3):
        begun = time.process_time()
        model = trained(seed)
        print(f"\nseed {seed}: trained in {time.process_time() - begun:.1f} s of processor time")
        begun = time.process_time()
        found = compare(predicting(model), REGRESSION, seed=77, families=(gradient_descent(1), RIDGE))
        _show(f"10 000 tasks, compared in {time.process_time() - begun:.1f} s", found)
        best = found.of("data")[0]
        step = construction.gradient_step(dim=10, rate=best.settings["rate"])
        data = REGRESSION.draw(10_000, seed=78)
        print(interpolate(model, step, data))
        x, y = REGRESSION.pairs(data)
        families = {"step": gradient_descent(1), "ridge": RIDGE}
        rivals = {name: family.fitted(x, y, y[:, -1], at=10)[0] for name, family in families.items()}
        implied = implicit_weights(predicting(model), REGRESSION, data[:2000], rivals=rivals)
        print("r2", implied.r2, {name: one.relative for name, one in implied.distances.items()})
    begun = time.process_time()
    verdict = optimiser_finding(predicting(model), REGRESSION, seed=77)
    print(f"\ntrained ({time.process_time() - begun:.1f} s): {verdict.verdict}. {verdict.reading}")
    fixed = REGRESSION.fixed()
    control = one_layer(fixed)
    losses = train(control, fixed, steps=STEPS, batch=BATCH, rate=RATE)
    print(f"\none W for all: loss {losses[0]:.4f} to {losses[-1]:.4f}")
    for name, one in (("trained with one W", control), ("untrained", one_layer(REGRESSION))):
        verdict = optimiser_finding(predicting(one), REGRESSION, seed=77)
        print(f"\n{name}: {verdict.verdict}. {verdict.reading}")


if __name__ == "__main__":
    main()
