"""Word mode against loops, and on an author who plans."""

from dataclasses import replace

import numpy as np
import pytest

from snellen.measures.lookahead_gain import LookaheadGain, words
from snellen.measures.lookahead_gain.fit import Rows
from tests.measures import exact


def walk(beams, i, slot):
    path, steps, at = [], [], slot
    for d in range(beams.tokens.shape[1] - 1, -1, -1):
        path.insert(0, int(beams.tokens[i, d, at]))
        steps.insert(0, float(beams.log_probs[i, d, at]))
        at = int(beams.parents[i, d, at])
    return path, steps


@pytest.fixture(scope="module")
def scored():
    model = exact.markov(6, 1)
    texts = exact.sample(model, [60] * 3, 0)
    starts = [True, False, True, False, True, False]
    return exact.score(model, texts, memory=2, widths=(12,), horizon=3, starts_word=starts)


def test_words_and_their_probabilities(scored):
    begins, after, naive = words.real_words(scored)
    starts = scored.starts_word[scored.token]
    assert (begins == np.flatnonzero(starts)).all()
    for i, j, value in zip(begins, after, naive, strict=True):
        rest = [r for r in range(i + 1, len(scored)) if scored.document[r] == scored.document[i] and starts[r]]
        assert j == (rest[0] if rest else -1)
        if rest:
            expected = scored.log_prob[i:j].sum() + scored.log_word_start[j] - scored.log_word_start[i]
            assert value == pytest.approx(expected, abs=1e-4)
        else:
            assert value == -np.inf


def test_a_gap_in_the_text_ends_no_word(scored):
    apart = replace(scored, index=scored.index + (np.arange(len(scored)) >= 20))
    begins, after, _ = words.real_words(apart)
    last = begins[begins < 20][-1]
    assert after[begins == last] == -1


@pytest.mark.parametrize("alpha", [0.0, 1.0, 2.5, np.inf])
@pytest.mark.parametrize("weight", [0.3])
def test_the_mix_over_words_is_that_of_the_loops(scored, alpha, weight):
    begins, after, naive = words.real_words(scored)
    keep = np.isfinite(naive)
    begins, after, naive = begins[keep], after[keep], naive[keep]
    beams = scored.beams[12]
    first, root, total, hit = words.candidates(scored, beams, begins, after)
    rows = Rows(
        log_prob=naive, log_z=np.zeros((len(naive), 1)), tau=np.ones(1), alphas=(alpha,), weights=np.array([weight]),
        unit=np.arange(len(naive), dtype=np.int32), units=len(naive), gate=np.zeros(len(naive), dtype=int), gates=1,
    )  # fmt: skip
    arms = words.factors(first, root, total, alpha, np.arange(12)[None].repeat(len(naive), axis=0))
    for name, cut in (("same words", True), ("lookahead", False)):
        got = words.over_naive(naive, first, arms[name], root == -1, hit, alpha, rows.weights)[0]
        matched = 0
        for row, (i, j) in enumerate(zip(begins, after, strict=True)):
            votes, held_back = {}, []
            for slot in range(12):
                path, steps = walk(beams, i, slot)
                if not scored.starts_word[path[0]]:
                    continue
                ends = [d for d in (1, 2) if scored.starts_word[path[d]]]
                if not ends:
                    held_back.append(sum(steps))
                    continue
                word = tuple(path[: ends[0]])
                own = sum(steps[: ends[0]])
                votes.setdefault(word, []).append(own if cut else sum(steps))
            if cut:
                votes = {word: logs[:1] for word, logs in votes.items()}
            if not votes and not held_back:
                assert got[row] == 0
                continue
            if np.isinf(alpha):
                flat = [(log, word) for word, logs in votes.items() for log in logs] + [(x, None) for x in held_back]
                best = max(flat, key=lambda entry: entry[0])[1]
                q = {word: float(word == best) for word in votes}
                share = float(best is None)
            else:
                raw = {word: sum(np.exp(alpha * x) for x in logs) for word, logs in votes.items()}
                left = sum(np.exp(alpha * x) for x in held_back)
                mass = sum(raw.values()) + left
                q, share = {word: value / mass for word, value in raw.items()}, left / mass
            real = tuple(int(token) for token in scored.token[i:j])
            matched += real in q
            p = np.exp(naive[row])
            expected = np.log((1 - weight) * p + weight * (q.get(real, 0.0) + share * p)) - naive[row]
            assert got[row] == pytest.approx(expected, abs=1e-4)
        assert 10 < matched < len(begins)


def test_a_planning_author_gains_by_the_word():
    """The decision and the state after it spell one word; what speaks for it stands behind the word."""
    planless = exact.deciding(None, arms=3, steps=1, noise=8)
    starts = np.ones(len(planless(())), dtype=bool)
    starts[6:9] = False
    found = {}
    for name, author in (("planning", 0.9), ("planless", None)):
        texts = exact.sample(exact.deciding(author, arms=3, steps=1, noise=8), [120] * 25, 2)
        scored = exact.score(planless, texts, memory=4, widths=(8,), horizon=3, starts_word=list(starts))
        measure = LookaheadGain(alphas=(0.0, 1.0, 2.0), weights=(0.05, 0.2, 0.5, 0.8))
        found[name] = measure.measure(scored, seed=0).finding.details["words"]
    gain = found["planning"]
    assert gain["reason"] is None
    assert gain["n"]["words"] + gain["excluded"]["the end of the word was not scored"] == 25 * 90
    assert gain["low"] > 0.05
    assert abs(gain["control"]["placebo"]["value"]) < 0.02
    assert abs(found["planless"]["value"]) < 0.01
    assert found["planless"]["low"] <= 0 <= found["planless"]["high"]


def test_words_that_never_end_inside_the_horizon_have_a_reason():
    model = exact.markov(5, 3)
    scored = exact.score(
        model, exact.sample(model, [80] * 20, 0), memory=2, widths=(2,), horizon=2, starts_word=[True] + [False] * 4
    )
    rare = replace(scored, starts_word=np.zeros(5, dtype=bool))
    measure = LookaheadGain(alphas=(1.0,), weights=(0.2,))
    words = measure.measure(rare, seed=0).finding.details["words"]
    assert words["value"] is None
    assert words["reason"]
