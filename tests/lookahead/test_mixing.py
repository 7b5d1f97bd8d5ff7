"""The power family and the mixes, against loops that read like the formulas."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snellen.lookahead import mixing

ALPHAS = (0.0, 0.5, 1.0, 2.0, 7.0)
seeds = st.integers(0, 10**6)


def random_beams(seed, n=3, depth=4, width=5, empty=0.2):
    """Beams of any shape: distinct first tokens, random parents, some empty slots."""
    rng = np.random.default_rng(seed)
    tokens = np.stack([[rng.permutation(40)[:width] for _ in range(depth)] for _ in range(n)]).astype(np.int32)
    parents = rng.integers(0, width, (n, depth, width)).astype(np.int16)
    log_probs = -rng.exponential(2.0, (n, depth, width))
    dead = rng.random((n, depth, width)) < empty
    dead[:, 0, 0] = False
    for i in range(n):
        for d in range(1, depth):
            alive = np.flatnonzero(~dead[i, d - 1])
            parents[i, d] = alive[parents[i, d] % len(alive)] if len(alive) else 0
            if not len(alive):
                dead[i, d] = True
    tokens[dead], parents[dead], log_probs[dead] = -1, -1, -np.inf
    parents[:, 0] = -1
    return tokens, parents, log_probs.astype(np.float32)


def slow_q(tokens, parents, log_probs, depth, alpha):
    """q_{α,D} by first token, from a walk up the parents of each survivor. One position."""
    survivors = []
    for slot in range(tokens.shape[1]):
        if tokens[depth - 1, slot] < 0:
            continue
        total, at = 0.0, slot
        for d in range(depth - 1, -1, -1):
            total += float(log_probs[d, at])
            first = int(tokens[d, at])
            at = int(parents[d, at])
        survivors.append((total, first))
    if not survivors:
        return {}
    if math.isinf(alpha):
        return {max(survivors)[1]: 1.0}
    q = {}
    for total, first in survivors:
        q[first] = q.get(first, 0.0) + math.exp(alpha * total)
    mass = sum(q.values())
    return {token: value / mass for token, value in q.items()}


def fast_q(tokens, parents, log_probs, depth, alpha):
    roots, totals = mixing.lineages(tokens, parents, log_probs)
    first = totals[:, 0]
    factor = mixing.log_factor(roots[:, depth - 1], totals[:, depth - 1], first, alpha)
    return mixing.log_power(first, factor, alpha), factor


@settings(deadline=None, max_examples=40)
@given(seeds)
def test_power_family_is_the_sum_over_survivors(seed):
    beams = random_beams(seed)
    for depth in (1, 2, 4):
        for alpha in (*ALPHAS, math.inf):
            log_q, _ = fast_q(*beams, depth, alpha)
            for i in range(len(log_q)):
                expected = slow_q(*(array[i] for array in beams), depth, alpha)
                for slot, token in enumerate(beams[0][i, 0]):
                    assert math.exp(log_q[i, slot]) == pytest.approx(expected.get(int(token), 0.0), abs=1e-9)


def everything(seed, vocabulary=3, depth=3):
    """Every completion of a random conditional table, as beams that keep all."""
    rng = np.random.default_rng(seed)
    width = vocabulary**depth
    tokens = np.full((1, depth, width), -1, dtype=np.int32)
    parents = np.full((1, depth, width), -1, dtype=np.int16)
    steps = np.full((1, depth, width), -np.inf)
    for d in range(depth):
        number = vocabulary ** (d + 1)
        tokens[0, d, :number] = np.arange(number) % vocabulary
        parents[0, d, :number] = np.arange(number) // vocabulary if d else -1
        steps[0, d, :number] = np.log(rng.dirichlet(np.ones(vocabulary), size=number // vocabulary)).ravel()
    return tokens, parents, steps


@settings(deadline=None, max_examples=30)
@given(seeds)
def test_law_1_all_completions_at_alpha_1_give_the_naive_prediction(seed):
    beams = everything(seed)
    for depth in (1, 2, 3):
        log_q, _ = fast_q(*beams, depth, 1.0)
        np.testing.assert_allclose(log_q[0, :3], beams[2][0, 0, :3], atol=1e-9)


@settings(deadline=None, max_examples=30)
@given(seeds, st.floats(0, 8))
def test_law_2_horizon_1_is_sharpening(seed, alpha):
    beams = random_beams(seed, empty=0.0)
    log_q, factor = fast_q(*beams, 1, alpha)
    power = np.exp(alpha * beams[2][:, 0].astype(np.float64))
    np.testing.assert_allclose(np.exp(log_q), power / power.sum(axis=1, keepdims=True), rtol=1e-9)
    np.testing.assert_allclose(factor, 0.0, atol=1e-12)


@settings(deadline=None, max_examples=30)
@given(seeds)
def test_law_3_large_alpha_takes_the_first_token_of_the_best(seed):
    beams = everything(seed)
    limit, _ = fast_q(*beams, 3, math.inf)
    near, _ = fast_q(*beams, 3, 2000.0)
    roots, totals = mixing.lineages(*beams)
    assert limit[0].argmax() == roots[0, 2, totals[0, 2].argmax()]
    assert np.exp(limit).sum() == 1
    order = np.sort(totals[0, 2])
    if order[-1] - order[-2] > 0.02:
        np.testing.assert_allclose(np.exp(near), np.exp(limit), atol=1e-6)


def full(log_base, inside, mixed):
    """The mix over the whole vocabulary, when the candidates are its first tokens."""
    out = log_base.copy()
    out[:, : mixed.shape[1]] = np.where(inside, mixed, out[:, : mixed.shape[1]])
    return out


@settings(deadline=None, max_examples=40)
@given(seeds, st.floats(0, 1))
def test_mixes_are_distributions(seed, weight):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(9, 0.7), size=4) + 1e-12
    p /= p.sum(axis=1, keepdims=True)
    inside = rng.random((4, 5)) < 0.6
    inside[:, 0] = True
    factor = np.where(inside, rng.normal(size=(4, 5)), -np.inf)
    log_q = mixing.log_power(np.log(p[:, :5]), factor, 1.5)
    q = np.zeros_like(p)
    q[:, :5] = np.exp(log_q)
    with np.errstate(divide="ignore"):
        both = mixing.linear(np.log(p), np.log(q), weight)
    np.testing.assert_allclose(np.exp(both), (1 - weight) * p + weight * q, atol=1e-12)
    np.testing.assert_allclose(np.exp(both).sum(axis=1), 1)

    geometric = mixing.geometric(np.log(p[:, :5]), log_q, weight)
    whole = np.exp(full(np.log(p), inside, geometric))
    np.testing.assert_allclose(whole.sum(axis=1), 1)
    np.testing.assert_allclose(np.exp(geometric).sum(axis=1), np.where(inside, p[:, :5], 0).sum(axis=1))
    for i in range(4):
        slots = np.flatnonzero(inside[i])
        raw = np.array([p[i, a] ** (1 - weight) * q[i, a] ** weight for a in slots])
        np.testing.assert_allclose(np.exp(geometric[i, slots]), raw / raw.sum() * p[i, slots].sum(), rtol=1e-9)


def test_permutation_stays_inside_the_candidates_and_is_uniform():
    inside = np.array([True, False, True, True])
    factor = np.tile(np.where(inside, 0.0, -np.inf), (60_000, 1))
    source = mixing.permuted(factor, np.random.default_rng(0))
    assert (np.sort(source, axis=1) == np.arange(4)).all()
    assert (source[:, 1] == 1).all()
    codes, counts = np.unique(source[:, 0] * 16 + source[:, 2] * 4 + source[:, 3], return_counts=True)
    assert len(codes) == 6
    assert np.abs(counts / 10_000 - 1).max() < 0.05
    moved = mixing.permuted(factor, np.random.default_rng(0), derange=True)
    assert (np.sort(moved, axis=1) == np.arange(4)).all()
    assert (moved[:, inside] != np.flatnonzero(inside)).all()


def test_permutation_of_one_candidate_is_itself():
    factor = np.array([[-np.inf, 0.3, -np.inf], [-np.inf] * 3])
    for derange in (False, True):
        source = mixing.permuted(factor, np.random.default_rng(1), derange=derange)
        assert (source == np.arange(3)).all()


def test_gates():
    got = mixing.gate(np.array([0.0, 1.0, 2.4, 9.0]), np.array([0.0, 2.0, 1.0, np.inf]), (1.0, 2.5), 1.0)
    assert got.tolist() == [0, 3, 3, 5]


def test_wrong_input_is_named():
    tokens, parents, log_probs = random_beams(0, empty=0.0)
    bad = log_probs.copy()
    bad[0, 1, 1] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        mixing.lineages(tokens, parents, bad)
    lost = parents.copy()
    lost[1, 2, 0] = 9
    with pytest.raises(ValueError, match="outside"):
        mixing.lineages(tokens, lost, log_probs)
    hollow = tokens.copy()
    hollow[1, 0, 2] = -1
    orphan = parents.copy()
    orphan[1, 1, 0] = 2
    with pytest.raises(ValueError, match="empty slot"):
        mixing.lineages(hollow, orphan, log_probs)
    with pytest.raises(ValueError, match="alpha"):
        mixing.log_factor(np.zeros((1, 1), dtype=np.int64), np.zeros((1, 1)), np.zeros((1, 1)), -1.0)
    with pytest.raises(ValueError, match="weight"):
        mixing.linear(np.zeros(2), np.zeros(2), 1.5)


@pytest.mark.parametrize("alpha", [0.0, 0.7, 1.0, 2.5])
def test_a_weight_is_so_many_equal_completions(alpha):
    """A survivor of weight n adds what n survivors of its probability would."""
    roots = np.array([[0, 0, 1, -1, -1]])
    totals = np.array([[-1.0, -2.5, -1.7, -np.inf, -np.inf]])
    first = np.array([[-0.6, -1.2]])
    weights = np.log(np.array([[3.0, 1.0, 2.0, 1.0, 1.0]]))
    copies = mixing.log_factor(
        np.array([[0, 0, 0, 0, 1, 1]]), np.array([[-1.0, -1.0, -1.0, -2.5, -1.7, -1.7]]), first, alpha
    )
    np.testing.assert_allclose(mixing.log_factor(roots, totals, first, alpha, weights), copies, rtol=1e-12)
    best = mixing.log_factor(roots, totals, first, np.inf, weights)
    np.testing.assert_allclose(best, mixing.log_factor(roots, totals, first, np.inf))
