"""The gain that would have been found on this text: what a null says.

Suppose that the author follows the lookahead with weight w: at every position of this text its next token is drawn from
(1 − w) b + w q, with b the control that is best on this text and q the amplified prediction at one exponent. The
control of *his* text is the one that is best in expectation there: another temperature, or `same candidates` sharpened,
follows him part of the way. What the lower end of the interval is made of, d = log(½ + ½ mix/control) or
log mix/control, then has a known mean and variance at every position, sums over the tokens; nothing is drawn. The
gain is found with probability `POWER` where

    (Σ mean − ½) / error  ≥  t + z(POWER)

with all three in nats over the text; the ½ nat is what fitting costs. The error is that of the ratio estimator over
documents: the variance at the positions and how much the documents' means differ. The standard error of the *measured*
gain cannot be used for this: it grows with the gain.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from snellen.lookahead import mixing
from snellen.measures.lookahead_gain.arms import Candidates
from snellen.results import statistics

if TYPE_CHECKING:
    from snellen.measures.lookahead_gain.curves import Problem
    from snellen.measures.lookahead_gain.fit import Rows

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
POWER = 0.8
FITTING = 0.5  # nats that fitting a mix costs on the text that judges it
LEAST, MOST = 0.001, 0.95  # weights between which the author is looked for
CHOOSING = 4000  # positions on which the control is chosen
CLOSE = 1.01  # ratio of two weights that are taken for one


@dataclass(frozen=True, kw_only=True)
class Detectable:
    """value: the smallest gain that is found with probability `power`, nats a token; None, and why, where none is.

    alpha, weight: the author that is supposed.
    """

    value: float | None
    power: float
    alpha: float | None
    weight: float | None
    reason: str | None = None

    def as_dict(self) -> dict[str, Any]:
        said = {} if self.reason is None else {"reason": self.reason}
        return {"value": self.value, "power": self.power, "alpha": self.alpha, "weight": self.weight, **said}


@dataclass(frozen=True, kw_only=True)
class Power:
    """What is to be expected of a text whose author follows the lookahead with one weight.

    gain: nats a token over the best control; sure: the chance that the lower end lies above 0.
    """

    gain: float
    sure: float


class Authors:
    """The authors who follow the lookahead of one width and horizon, on the positions of one text.

    Slots of a position: the candidates, the other naive top tokens, and one that holds the rest of the vocabulary,
    at the mean log p that it has there.
    """

    def __init__(self, problem: Problem, lookahead: Candidates, alpha: int) -> None:
        self.rows, self.judge = problem.rows, problem.judge
        rows, n, count = problem.rows, len(problem.rows.log_prob), lookahead.first.shape[1]
        self.known, tokens, log_p = _slots(problem, lookahead)
        everything = np.arange(n)
        base = problem.base_of_units()[rows.unit]
        self.log_b, beyond = np.zeros(log_p.shape), np.zeros(n)
        for one in np.unique(base).tolist():
            mine = everything[base == one]
            self.log_b[mine] = rows.log_base_at(one, mine, tokens[mine], log_p[mine])
            beyond[mine] = _mean_beyond(rows, one, mine, np.where(self.known[mine], log_p[mine], -np.inf))
            self.log_b[mine, -1] = rows.log_base_beyond(one, mine, beyond[mine])
        self.log_p, self.known[:, -1] = log_p, True
        self.log_p[:, -1] = beyond
        self.log_b = np.where(self.known, self.log_b, 0.0)
        self.b = np.where(self.known, np.exp(self.log_b), 0.0)
        self.b[:, -1] = np.clip(1 - self.b[:, :-1].sum(axis=1), 0.0, 1.0)
        self.inside = np.zeros_like(self.known)
        self.inside[:, :count] = lookahead.factors[alpha] > -np.inf
        self.first = np.where(self.inside[:, :count], lookahead.first, 0.0)
        self.log_q = self._over_slots(lookahead.factors[alpha], rows.alphas[alpha])
        self.q = np.exp(self.log_q)
        self._tabulate()

    def _over_slots(self, factor: Floats, alpha: float) -> Floats:
        """[n, slots] log q, −∞ where a slot is no candidate."""
        out = np.full(self.log_b.shape, -np.inf)
        out[:, : factor.shape[1]] = mixing.log_power(self.first, factor, alpha)
        return out

    def _tabulate(self) -> None:
        """Expected gain over b of every control, of the author b and of the author q: it is linear in his weight."""
        some = slice(None, None, max(1, len(self.log_b) // CHOOSING))
        plain = np.where(self.inside[:, : self.first.shape[1]], 0.0, -np.inf)
        same = [self._over_slots(plain, alpha) for alpha in self.rows.alphas]
        self.same, self.controls, over_b, over_q = same, list[tuple[int, int, float]](), list[float](), list[float]()
        b, q = self.b[some], self.q[some]
        for tau in range(-1, len(self.rows.tau)):  # −1: b itself
            log_base = self._base(tau)[some]
            bare = np.where(self.known[some], log_base - self.log_b[some], 0.0)
            for a, weight in [(-1, 0.0), *((a, float(w)) for a in range(len(same)) for w in self.rows.weights)]:
                over = bare if a < 0 else bare + _mixed(log_base, same[a][some], weight, self.known[some])
                self.controls.append((tau, a, weight))
                over_b.append(float((b * over).sum()))
                over_q.append(float((q * over).sum()))
        self.over_b, self.over_q = np.asarray(over_b), np.asarray(over_q)

    def _base(self, tau: int) -> Floats:
        if tau < 0:
            return self.log_b
        out: Floats = self.rows.tau[tau] * self.log_p - self.rows.log_z[:, tau, None]
        return out

    def at(self, weight: float, level: float) -> Power:
        """The author of one weight."""
        author = (1 - weight) * self.b + weight * self.q
        mix = self.log_b + _mixed(self.log_b, self.log_q, weight, self.known)
        expected = (1 - weight) * self.over_b + weight * self.over_q
        tau, a, other = self.controls[int(expected.argmax())]
        control = self._base(tau)
        if a >= 0:
            control = control + _mixed(control, self.same[a], other, self.known)
        over = np.where(self.known, mix - control, 0.0)
        tokens, found = self.judge.tokens, list[float]()
        total = tokens.sum()
        for d in (over, np.logaddexp(over, 0.0) - np.log(2.0)):
            mean = (author * d).sum(axis=1)
            variance = (author * d**2).sum(axis=1) - mean**2
            between = statistics.mean(self.judge.sums(mean), tokens)
            error = float(np.sqrt(max(variance.sum(), 0.0) + (float(between.error) * total) ** 2))
            short = between.quantile(level)
            found.append(float(stats.norm.cdf((float(mean.sum()) - FITTING) / error - short)) if error > 0 else 0.0)
        return Power(gain=float((author * over).sum() / total), sure=max(found))


def _slots(problem: Problem, lookahead: Candidates) -> tuple[NDArray[np.bool_], NDArray[np.int32], Floats]:
    """[n, slots] which slots hold a token, the token, and log p of it: candidates, other top tokens, one empty slot."""
    top, inside = problem.scored.top_tokens, lookahead.factors[0] > -np.inf
    again = ((top[:, :, None] == lookahead.tokens[:, None]) & inside[:, None]).any(axis=2)
    known = np.concatenate([inside, (top >= 0) & ~again, np.zeros((len(top), 1), dtype=bool)], axis=1)
    tokens = np.concatenate([lookahead.tokens, top, np.full((len(top), 1), -1, dtype=np.int32)], axis=1)
    seen = problem.scored.top_log_probs.astype(np.float64)
    log_p = np.concatenate([lookahead.first, seen, np.zeros((len(top), 1))], axis=1)
    return known, tokens, np.where(known, log_p, 0.0)


def _mean_beyond(rows: Rows, base: int, mine: Ints, log_p: Floats) -> Floats:
    """[rows] mean log p, under the base, of the tokens that have no slot. d log Z / dτ is the mean of all."""
    order = np.argsort(rows.tau)
    tau, log_z = rows.tau[order], rows.log_z[mine][:, order]
    exponent = rows.exponent(base)
    at = int(np.abs(tau - exponent).argmin())
    known = np.exp(exponent * log_p - log_z[:, at, None])
    left = 1 - known.sum(axis=1)
    least = np.min(np.where(log_p > -np.inf, log_p, np.inf), axis=1)  # none beyond is more probable
    if len(tau) < 2:
        return np.asarray(least - 1.0, dtype=np.float64)
    slope = np.gradient(log_z, tau, axis=1)[:, at]
    seen = np.where(log_p > -np.inf, known * np.where(log_p > -np.inf, log_p, 0.0), 0.0).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(left > 1e-6, (slope - seen) / left, least)
    return np.asarray(np.minimum(mean, least), dtype=np.float64)


def _mixed(log_base: Floats, log_q: Floats, weight: float, known: NDArray[np.bool_]) -> Floats:
    """[n, slots] log of (1 − w) + w q/base; 0 where a slot holds nothing."""
    with np.errstate(invalid="ignore"):
        ratio = np.where(known & (log_q > -np.inf), np.exp(log_q - log_base), 0.0)
    out: Floats = np.where(known, np.log1p(weight * (ratio - 1)), 0.0)
    return out


def detectable(problem: Problem, lookahead: Candidates) -> Detectable:
    """The smallest gain that would have been found on this text with probability `POWER`, the author's α nearest 1."""
    alphas = problem.rows.alphas
    finite = [a for a, alpha in enumerate(alphas) if np.isfinite(alpha)]
    alpha = min(finite, key=lambda a: abs(alphas[a] - 1))
    authors, level = Authors(problem, lookahead, alpha), problem.judge.level
    low, high = LEAST, MOST
    if authors.at(high, level).sure < POWER:
        return Detectable(
            value=None, power=POWER, alpha=None, weight=None,
            reason="not even an author who follows this lookahead alone would have been found: too little text, or"
            " a lookahead that is hardly more than its control",
        )  # fmt: skip
    while high / low > CLOSE:
        middle = float(np.sqrt(low * high))
        low, high = (low, middle) if authors.at(middle, level).sure >= POWER else (middle, high)
    return Detectable(value=authors.at(high, level).gain, power=POWER, alpha=alphas[alpha], weight=high)
