"""Tables and cross-fitting against loops that fit the way one would by hand."""

from dataclasses import replace

import numpy as np
import pytest

from snellen.lookahead import mixing
from snellen.measures.lookahead_gain import apply
from snellen.measures.lookahead_gain.arms import Survivors, most_probable, placebo, without_factor
from snellen.measures.lookahead_gain.curves import Problem
from snellen.measures.lookahead_gain.fit import build, contenders
from snellen.measures.lookahead_gain.rows import check, rows_of
from snellen.measures.lookahead_gain.selection import Setting, finish, select
from snellen.results import statistics
from tests.measures import exact

ALPHAS, WEIGHTS, TAUS = (0.0, 1.5, np.inf), (0.1, 0.6), (0.5, 1.0, 1.6)


AUTHOR = exact.deciding(0.9, arms=3, steps=1, noise=4)
PLANLESS = exact.deciding(None, arms=3, steps=1, noise=4)


def flattened(context):
    p = PLANLESS(context) ** 0.6 + 0.01
    return p / p.sum()


@pytest.fixture(scope="module")
def scored():
    """A text that a flattened model predicts badly: every part of a mix has something to gain."""
    found = exact.score(flattened, exact.sample(AUTHOR, [70] * 22, 3), memory=4, widths=(6,), horizon=3, taus=TAUS)
    check(found)
    return found


@pytest.fixture(scope="module")
def rows(scored):
    return rows_of(scored, statistics.units(scored.document), ALPHAS, WEIGHTS)


@pytest.fixture(scope="module")
def arms(scored):
    lookahead = Survivors.of(scored.beams[6], scored).lookahead(3, ALPHAS)
    return {
        "lookahead": lookahead,
        "same candidates": without_factor(lookahead),
        "placebo": placebo(lookahead, [1]),
        "horizon 1": most_probable(scored, 4, ALPHAS),
    }


def slow_mix(rows, arm, i, t, a, weight, kind):
    """log of the mix at the real token of row i, over the base at the same τ."""
    tau = rows.tau[t]
    base = tau * rows.log_prob[i] - rows.log_z[i, t]
    alpha, factor, first = rows.alphas[a], arm.factors[a, i], arm.first[i]
    slots = [s for s in range(len(first)) if factor[s] > -np.inf]
    if np.isinf(alpha):
        best = max(slots, key=lambda s: first[s] + factor[s])
        q = {s: float(s == best) for s in slots}
    else:
        raw = {s: np.exp(alpha * first[s] + factor[s]) for s in slots}
        q = {s: value / sum(raw.values()) for s, value in raw.items()}
    hit = int(arm.hit[i])
    if kind == "linear":
        return np.log((1 - weight) * np.exp(base) + weight * q.get(hit, 0.0)) - base
    if hit not in q:
        return 0.0
    bases = {s: np.exp(tau * first[s] - rows.log_z[i, t]) for s in slots}
    total = sum(bases[s] ** (1 - weight) * q[s] ** weight for s in slots)
    return np.log(sum(bases.values()) * bases[hit] ** (1 - weight) * q[hit] ** weight / total) - base


@pytest.mark.parametrize("name", ["lookahead", "same candidates", "placebo", "horizon 1"])
def test_tables_are_the_sums_of_the_mixes(rows, arms, name):
    table = build(rows, arms[name], len(rows.tau))
    linear, geometric = np.zeros_like(table.linear), np.zeros_like(table.geometric)
    keep = np.arange(0, len(rows.log_prob), 5)
    some = replace(
        rows, log_prob=rows.log_prob[keep], log_z=rows.log_z[keep], unit=rows.unit[keep], gate=rows.gate[keep]
    )
    mask = np.isin(np.arange(len(rows.log_prob)), keep)
    table = build(some, arms[name].rows(mask), len(rows.tau))
    for i in keep:
        for t in range(len(rows.tau)):
            for a in range(len(ALPHAS)):
                for w, weight in enumerate(WEIGHTS):
                    value = slow_mix(rows, arms[name], i, t, a, weight, "linear")
                    linear[t, a, w, rows.gate[i], rows.unit[i]] += value
                    if np.isfinite(ALPHAS[a]):
                        geometric[t, a, w, rows.unit[i]] += slow_mix(rows, arms[name], i, t, a, weight, "geometric")
    np.testing.assert_allclose(table.linear, linear, atol=1e-9)
    np.testing.assert_allclose(table.geometric, geometric, atol=1e-9)


def slow_error(units, tokens, counts):
    ratio = (units * counts).sum() / (tokens * counts).sum()
    spread = np.repeat(units - ratio * tokens, counts.astype(int))
    return np.sqrt(len(spread) / (len(spread) - 1) * (spread**2).sum())


def slow_fit(rows, base, table, counts, alphas):
    """One fit by the rules, in loops. Returns the kind, the setting's gains by unit (over naive), and its score."""
    tokens = rows.tokens.sum(axis=0)
    start = [(base[t] * counts).sum() - (rows.tau[t] != 1) for t in range(len(base))]
    fallback = int(np.argmax(start))
    best = (-np.inf, None, None)
    for t in range(len(base)):
        for a in alphas:
            for w in range(len(WEIGHTS)):
                for kind, cells in (("linear", table.linear[t, a, w].sum(axis=0)), ("geometric", None)):
                    units = cells
                    if kind == "geometric":
                        if not np.isfinite(ALPHAS[a]):
                            continue
                        units = table.geometric[t, a, w]
                    score = (units * counts).sum() + start[t] - 2
                    if score > best[0]:
                        best = (score, kind, units + base[t])
    gated = (-np.inf, None, None)
    for t in range(len(base)):
        for a in alphas:
            sums = (table.linear[t, a] * counts).sum(axis=-1)
            worth = [max(0.0, sums[:, g].max() - 1) for g in range(rows.gates)]
            if sum(worth) + start[t] - 1 > gated[0]:
                gated = (sum(worth) + start[t] - 1, t, a)
    _, t, a = gated
    score, units = start[t] - 1, base[t].copy()
    for g in range(rows.gates):
        sums = (table.linear[t, a, :, g] * counts).sum(axis=-1)
        w = int(sums.argmax())
        cell = table.linear[t, a, w, g]
        if sums[w] > 1 and sums[w] > slow_error(cell, rows.tokens[g], counts):
            score, units = score + sums[w] - 1, units + cell
    if score > best[0]:
        best = (score, "gated", units)
    gain = best[2] - base[fallback]
    if best[0] > start[fallback] and (gain * counts).sum() > slow_error(gain, tokens, counts):
        return best[1], best[2], best[0]
    return "none", base[fallback], start[fallback]


@pytest.mark.parametrize("name", ["lookahead", "same candidates", "placebo"])
@pytest.mark.parametrize("alphas", [[0, 1, 2], [1], [2]])
def test_cross_fitting_is_that_of_the_loops(rows, arms, name, alphas):
    table, base = build(rows, arms[name], len(rows.tau)), rows.base()
    fold = statistics.folds(rows.units, parts=4, seed=0)
    drawn = statistics.resamples(rows.units, number=100, level=0.95, seed=0).counts
    counts = np.concatenate([np.ones((rows.units, 1)), drawn[:, :4]], axis=1)
    fit = finish(select(rows, base, table, counts, fold, [np.array(alphas)], block_bytes=1))
    for r in range(counts.shape[1]):
        held = 0.0
        for k in range(4):
            kind, units, _ = slow_fit(rows, base, table, counts[:, r] * (fold != k), alphas)
            held += (units * counts[:, r])[fold == k].sum()
            if r == 0:
                assert fit.settings[k].kind == kind
        assert fit.held[r] == pytest.approx(held, abs=1e-8)
    if name == "lookahead" and alphas == [0, 1, 2]:
        assert fit.held[0] > 10


@pytest.mark.parametrize("name", ["lookahead", "same candidates", "horizon 1"])
def test_the_columns_sum_to_the_tables(scored, rows, arms, name):
    fold = statistics.folds(rows.units, parts=5, seed=2)
    drawn = statistics.resamples(rows.units, number=100, level=0.95, seed=0)
    problem = Problem.of(scored, rows, fold, drawn, tempered_base=True, seed=0)
    fit = problem.fits([arms[name]])[0]
    log_probs = apply.log_probs(problem.rows, [arms[name]], fit.settings, fold)
    assert (log_probs - rows.log_prob).sum() == pytest.approx(fit.held[0], abs=1e-7)


def test_leaving_out_hopeless_exponents_changes_nothing():
    """The speed-up must be one only: for the whole grid of α and for each α alone, in every resample."""
    taus = (0.1, 0.3, 0.5, 0.7, 1.0, 1.3, 1.6, 2.5, 6.0)
    wide = exact.score(flattened, exact.sample(AUTHOR, [70] * 22, 3), memory=4, widths=(6,), horizon=3, taus=taus)
    rows = rows_of(wide, statistics.units(wide.document), ALPHAS, WEIGHTS)
    lookahead = Survivors.of(wide.beams[6], wide).lookahead(3, ALPHAS)
    fold = statistics.folds(rows.units, parts=5, seed=0)
    counts = statistics.resamples(rows.units, number=200, level=0.95, seed=0).counts
    subsets = [np.arange(len(ALPHAS)), *(np.array([a]) for a in range(len(ALPHAS)))]
    for arm in (lookahead, without_factor(lookahead), most_probable(wide, 4, ALPHAS)):
        table, base = build(rows, arm, len(rows.tau)), rows.base()
        kept = contenders(rows, base, table, subsets, np.array([0]))
        assert len(kept) < len(taus) - 1
        every = select(rows, base, table, counts, fold, subsets)
        fewer = select(rows, base, table, counts, fold, subsets, taus=kept)
        for one, other in zip(every, fewer, strict=True):
            np.testing.assert_allclose(other.score, one.score, rtol=1e-12)
            np.testing.assert_allclose(other.held, one.held, rtol=1e-12)


def test_blocks_change_nothing_but_rounding(rows, arms):
    whole = build(rows, arms["lookahead"], len(rows.tau))
    small = build(replace(rows, block=17), arms["lookahead"], len(rows.tau))
    np.testing.assert_allclose(small.linear, whole.linear, atol=1e-9)
    np.testing.assert_allclose(small.geometric, whole.geometric, atol=1e-9)


def test_the_ten_most_probable_tokens(scored, rows, arms):
    """Against the mix over the whole vocabulary, for every kind of setting."""
    fold = np.zeros(rows.units, dtype=np.int8)
    vocabulary = len(scored.starts_word)
    for kind, weights in (("none", 0.0), ("linear", 0.4), ("geometric", 0.7), ("gated", None)):
        gates = np.full(rows.gates, weights) if weights is not None else np.linspace(0, 0.9, rows.gates)
        setting = Setting(kind=kind, tau=1, alpha=1, weights=gates)
        tokens, probs = apply.most_probable(
            rows, scored.top_tokens, scored.top_log_probs.astype(float), [arms["lookahead"]], [setting], fold
        )
        for i in range(0, len(rows.log_prob), 37):
            base = np.full(vocabulary, np.nan)
            base[scored.top_tokens[i]] = np.exp(rows.tau[1] * scored.top_log_probs[i] - rows.log_z[i, 1])
            arm = arms["lookahead"]
            inside = arm.factors[1, i] > -np.inf
            log_q = mixing.log_power(arm.first[i : i + 1], arm.factors[1, i : i + 1], ALPHAS[1])[0]
            names = arm.tokens[i][inside]
            own = np.exp(rows.tau[1] * arm.first[i][inside] - rows.log_z[i, 1])
            base[names] = own
            mixed = base.copy()
            w = gates[rows.gate[i]]
            if kind in ("linear", "gated"):
                mixed *= 1 - w
                mixed[names] += w * np.exp(log_q[inside])
            elif kind == "geometric":
                raw = own ** (1 - w) * np.exp(log_q[inside]) ** w
                mixed[names] = own.sum() * raw / raw.sum()
            known = tokens[i] >= 0
            assert known[:1].all()
            np.testing.assert_allclose(probs[i][known], mixed[tokens[i][known]], rtol=1e-4)
            order = np.sort(mixed[np.isfinite(mixed)])[::-1][: known.sum()]
            np.testing.assert_allclose(probs[i][known], order, rtol=1e-4)
            assert (probs[i][~known] == 0).all()
