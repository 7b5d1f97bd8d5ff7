"""From what was scored to the rows that are judged: checks, order, units, gates."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snellen.errors import Refused
from snellen.lookahead import mixing
from snellen.measures.base import Beams, Scored
from snellen.measures.lookahead_gain.fit import Rows
from snellen.results.statistics import Units

GATE_ENTROPY = (1.0, 2.5, 4.0)  # nats: edges of the gates of a gated mix
GATE_MARGIN = 1.0  # nats between the two most probable tokens
GATES = 2 * (len(GATE_ENTROPY) + 1)
# not one value a row
_SHARED = {
    "temperatures", "beams", "particles", "generations", "readings", "horizon", "starts_word", "documents", "tell",
}  # fmt: skip


def check(scored: Scored) -> None:
    """Raise `Refused` for what no number can be vouched for."""
    if scored.horizon < 2 or not scored.beams:
        raise Refused(
            f"horizon = {scored.horizon}, widths = {sorted(scored.beams)}: the lookahead gain needs beams of a"
            " horizon of at least 2 (a horizon of 1 is sharpening, not lookahead)"
        )
    if not len(scored):
        raise Refused("no token was scored: give more text")
    for name in ("log_prob", "log_z", "entropy", "top_log_probs"):
        if np.isnan(getattr(scored, name)).any():
            raise Refused(f"{name}: NaN among the scores; the model's logits are not finite")
    tau = scored.temperatures
    if not (np.isfinite(tau) & (tau > 0)).all() or np.count_nonzero(tau == 1) != 1:
        raise Refused(f"temperatures = {list(tau)}: the exponents must be above 0 and contain 1 once")
    if not np.isfinite(scored.log_z).all():
        raise Refused("log_z: infinite; the model's logits are not finite")
    if (scored.log_prob > 1e-3).any():
        raise Refused("log_prob: above 0, so these are no probabilities")


def take(scored: Scored, rows: NDArray[np.integer]) -> Scored:
    """The given rows of a `Scored`, in the given order."""
    changed: dict[str, Any] = {
        f.name: getattr(scored, f.name)[rows] for f in fields(scored) if f.name not in _SHARED | {"pieces"}
    }

    def of(beams: Beams) -> Beams:
        weights = None if beams.log_weights is None else beams.log_weights[rows]
        return Beams(
            tokens=beams.tokens[rows], parents=beams.parents[rows], log_probs=beams.log_probs[rows], log_weights=weights
        )

    return replace(
        scored,
        pieces=[scored.pieces[i] for i in rows.tolist()],
        beams={width: of(beams) for width, beams in scored.beams.items()},
        particles=None if scored.particles is None else of(scored.particles),
        **changed,
    )


def rows_of(scored: Scored, units: Units, alphas: tuple[float, ...], weights: tuple[float, ...]) -> Rows:
    """The rows with their gates; the base exponent 1 comes first, so that it wins where nothing speaks for another.

    log Z at τ = 1 is 0 by definition; what stands there is rounding, and taking it as 0 keeps the arm `naive` naive.
    """
    first = np.argsort(scored.temperatures != 1, kind="stable")
    log_z = scored.log_z[:, first].astype(np.float64)
    if float(np.abs(log_z[:, 0]).max()) > 1e-2:
        raise Refused("log_z at exponent 1 is not 0: the probabilities do not sum to 1")
    log_z[:, 0] = 0.0
    top = scored.top_log_probs.astype(np.float64)
    if top.shape[1] > 1:
        margin = np.where(np.isfinite(top[:, 1]), top[:, 0] - np.where(np.isfinite(top[:, 1]), top[:, 1], 0), np.inf)
    else:
        margin = np.full(len(scored), np.inf)
    return Rows(
        log_prob=scored.log_prob.astype(np.float64),
        log_z=log_z,
        tau=scored.temperatures[first].astype(np.float64),
        alphas=alphas,
        weights=np.asarray(weights, dtype=np.float64),
        unit=units.of_row,
        units=units.count,
        gate=mixing.gate(scored.entropy, margin, GATE_ENTROPY, GATE_MARGIN),
        gates=GATES,
    )
