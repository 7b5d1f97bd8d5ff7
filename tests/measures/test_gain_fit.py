"""Tables and cross-fitting against loops that fit the way one would by hand."""

from dataclasses import replace

import numpy as np
import pytest

from snellen.lookahead import mixing
from snellen.measures.lookahead_gain import apply
from snellen.measures.lookahead_gain.arms import Survivors, most_probable, placebo, without_factor
from snellen.measures.lookahead_gain.curves import Problem, shared
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
    table = build(rows, arms[name])
    linear, geometric = np.zeros_like(table.linear), np.zeros_like(table.geometric)
    keep = np.arange(0, len(rows.log_prob), 5)
    some = replace(
        rows, log_prob=rows.log_prob[keep], log_z=rows.log_z[keep], unit=rows.unit[keep], gate=rows.gate[keep]
    )
    mask = np.isin(np.arange(len(rows.log_prob)), keep)
    table = build(some, arms[name].rows(mask))
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
    table, base = build(rows, arms[name]), rows.base()
    fold = statistics.folds(rows.units, parts=4, seed=0)
    settings = finish(select(rows, base, table, fold, [np.array(alphas)]))
    got = np.bincount(
        rows.unit, weights=apply.log_probs(rows, [arms[name]], settings, fold) - rows.log_prob, minlength=rows.units
    )
    for k in range(4):
        kind, units, _ = slow_fit(rows, base, table, (fold != k).astype(float), alphas)
        assert settings[k].kind == kind
        np.testing.assert_allclose(got[fold == k], units[fold == k], atol=1e-8)
    if name == "lookahead" and alphas == [0, 1, 2]:
        assert got.sum() > 10


def test_leaving_out_hopeless_exponents_changes_nothing():
    """The speed-up must be one only: for the whole grid of α and for each α alone, in every fold."""
    taus = (0.1, 0.3, 0.5, 0.7, 1.0, 1.3, 1.6, 2.5, 6.0)
    wide = exact.score(flattened, exact.sample(AUTHOR, [70] * 22, 3), memory=4, widths=(6,), horizon=3, taus=taus)
    rows = rows_of(wide, statistics.units(wide.document), ALPHAS, WEIGHTS)
    lookahead = Survivors.of(wide.beams[6], wide).lookahead(3, ALPHAS)
    fold = statistics.folds(rows.units, parts=5, seed=0)
    subsets = [np.arange(len(ALPHAS)), *(np.array([a]) for a in range(len(ALPHAS)))]
    for arm in (lookahead, without_factor(lookahead), most_probable(wide, 4, ALPHAS)):
        table, base = build(rows, arm), rows.base()
        kept = contenders(rows, base, table, subsets, np.array([0]))
        assert len(kept) < len(taus) - 1
        every = select(rows, base, table, fold, subsets)
        fewer = select(rows, base, table, fold, subsets, taus=kept)
        for ones, others in zip(every, fewer, strict=True):
            for one, other in zip(ones, others, strict=True):
                assert (other.score, other.gain) == pytest.approx((one.score, one.gain), rel=1e-12)
                assert (other.setting.kind, other.setting.tau) == (one.setting.kind, one.setting.tau)


@pytest.fixture(scope="module")
def built(scored, rows):
    """Rows whose bases include three sharpened ones, and the settings of these."""
    near = [most_probable(scored, width, ALPHAS) for width in (2, 4)]
    settings = [
        Setting(kind="linear", tau=1, alpha=1, weights=np.full(rows.gates, 0.6), choice=1),
        Setting(kind="geometric", tau=0, alpha=1, weights=np.full(rows.gates, 0.3), choice=0),
        Setting(kind="gated", tau=2, alpha=0, weights=np.linspace(0, 0.8, rows.gates), choice=1),
    ]
    bases = tuple(apply.sharpened(rows, near, setting) for setting in settings)
    return replace(rows, sharpened=bases), near, settings


def test_a_sharpened_base_is_the_mix_of_horizon_one(scored, built):
    rows, near, settings = built
    everything = np.arange(len(scored))
    fold = np.zeros(rows.units, dtype=np.int8)
    for i, (one, setting) in enumerate(zip(rows.sharpened, settings, strict=True)):
        base = len(rows.tau) + i
        np.testing.assert_allclose(rows.log_base(everything)[base], apply.log_probs(rows, near, [setting], fold))
        candidates = near[setting.choice]
        for row in range(0, len(scored), 41):
            weight = setting.weights[rows.gate[row]]
            kind = "geometric" if setting.kind == "geometric" else "linear"
            tempered = rows.tau[setting.tau] * rows.log_prob[row] - rows.log_z[row, setting.tau]
            slow = slow_mix(rows, candidates, row, setting.tau, setting.alpha, weight, kind)
            assert one.real[row] == pytest.approx(tempered + slow)
        known = scored.top_tokens >= 0
        log_p = np.where(known, scored.top_log_probs, 0.0).astype(float)
        at = rows.log_base_at(base, everything, scored.top_tokens, log_p)
        hit = scored.top_tokens == scored.token[:, None]
        some = hit.any(axis=1)
        np.testing.assert_allclose(at[hit], one.real[some], atol=1e-6)  # log p is a float32 in one, exact in the other
        beyond = rows.log_base_beyond(base, everything, log_p[:, -1])
        assert (at[:, -1] <= beyond + 1e-9).all()
    assert list(rows.cost) == [0, 1, 1, 4, 3, 3 + np.count_nonzero(settings[2].weights)]


def test_a_sharpened_base_is_a_distribution(rows):
    everything = exact.score(flattened, exact.sample(AUTHOR, [30] * 22, 4), memory=4, widths=(6,), horizon=2, top=14,
                             taus=TAUS)  # fmt: skip
    assert (everything.top_tokens >= 0).all()
    all_ = rows_of(everything, statistics.units(everything.document), ALPHAS, WEIGHTS)
    near = [most_probable(everything, 4, ALPHAS)]
    for kind in ("linear", "geometric", "gated"):
        setting = Setting(kind=kind, tau=2, alpha=1, weights=np.full(all_.gates, 0.45))
        base = apply.sharpened(all_, near, setting)
        at = base.at(np.arange(len(everything)), everything.top_tokens, everything.top_log_probs.astype(float))
        np.testing.assert_allclose(np.exp(at).sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("name", ["lookahead", "placebo"])
def test_mixes_into_a_sharpened_base(scored, built, arms, name):
    rows, _, _ = built
    arm = arms[name]
    only = np.flatnonzero(arm.hit >= 0)[5]
    mask = np.arange(len(scored)) == only
    one = replace(
        rows, log_prob=rows.log_prob[mask], log_z=rows.log_z[mask], unit=rows.unit[mask], gate=rows.gate[mask],
        sharpened=tuple(
            replace(
                s, log_z=s.log_z[mask], tokens=s.tokens[mask], over=s.over[mask], rest=s.rest[mask], real=s.real[mask]
            )
            for s in rows.sharpened
        ),
    )  # fmt: skip
    table = build(one, arm.rows(mask))
    hit, first = arm.hit[only], arm.first[only]
    for b in range(len(rows.tau), len(rows.tau) + 3):
        at = rows.log_base_at(b, np.array([only]), arm.tokens[only : only + 1], first[None])[0]
        for a, alpha in enumerate(ALPHAS):
            inside = arm.factors[a, only] > -np.inf
            log_q = mixing.log_power(first[None], arm.factors[a, only][None], alpha)[0]
            for w, weight in enumerate(WEIGHTS):
                linear = np.log((1 - weight) * np.exp(at[hit]) + weight * np.exp(log_q[hit])) - at[hit]
                assert table.linear[b, a, w].sum() == pytest.approx(linear, abs=1e-5)
                if np.isfinite(alpha):
                    parts = np.exp((1 - weight) * at[inside] + weight * log_q[inside])
                    mixed = np.exp((1 - weight) * at[hit] + weight * log_q[hit]) / parts.sum()
                    geometric = np.log(mixed * np.exp(at[inside]).sum()) - at[hit]
                    assert table.geometric[b, a, w].sum() == pytest.approx(geometric, abs=1e-5)


def test_no_fold_is_judged_with_a_base_that_has_seen_it(scored, rows):
    units = statistics.units(scored.document)
    fold = statistics.folds(units.count, parts=5, seed=0)
    problem = Problem.of(scored, rows, fold, level=0.95, tempered_base=True, seed=0)
    weights = [np.full(rows.gates, w) for w in (0.1, 0.6, 0.6, 0.1, 0.6)]
    settings = [Setting(kind="linear", tau=0, alpha=0, weights=w) for w in weights]
    settings[4] = replace(settings[4], kind="none")
    nested = problem._with_sharpened(settings)
    taus = len(nested.rows.tau)
    assert len(nested.rows.sharpened) == 2
    assert nested.allowed[:, taus:].tolist() == [
        [True, False], [False, True], [False, True], [True, False], [False, False],
    ]  # fmt: skip
    arm = without_factor(Survivors.of(scored.beams[6], scored).lookahead(2, ALPHAS))
    base = nested.rows.base()
    base[taus:] += 50.0  # were they allowed, they would be taken
    picked = select(nested.rows, base, build(nested.rows, arm), fold, [np.arange(len(ALPHAS))], allowed=nested.allowed)[
        0
    ]
    assert (picked[0].base, picked[1].base) == (taus, taus + 1)
    assert picked[4].base < taus
    assert picked[4].setting.tau < taus


def test_without_a_mix_an_arm_is_the_best_control(scored, rows):
    """An arm that never hits, where `temperature` wins: equal to it in every fold."""
    taus = replace(rows, tau=np.array([1.0, 0.5]), log_z=rows.log_z[:, [0, 1]])
    units = statistics.units(scored.document)
    fold = statistics.folds(units.count, parts=5, seed=0)
    problem = Problem.of(scored, taus, fold, level=0.95, tempered_base=True, seed=0)
    _, common = shared(problem)
    fits = common.fits
    worse = replace(fits["horizon 1"], log_probs=fits["temperature"].log_probs - 1)
    built = problem.on_top_of({**fits, "horizon 1": worse})
    nothing = most_probable(scored, 1, ALPHAS)  # all of q on the best token: at these weights never worth it
    arm = replace(nothing, hit=np.full_like(nothing.hit, -1))
    fit = built.fit([built.examined(arm)])
    assert {setting.kind for setting in fit.settings} == {"none"}
    np.testing.assert_allclose(fit.log_probs, fits["temperature"].log_probs, rtol=1e-12)


def test_blocks_change_nothing_but_rounding(rows, arms):
    whole = build(rows, arms["lookahead"])
    small = build(replace(rows, block=17), arms["lookahead"])
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
