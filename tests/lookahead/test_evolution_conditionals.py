"""Scores of a masked model: against plain forward passes one at a time, in every batch, on four architectures."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from snellen.errors import InputError, Refused
from snellen.lookahead.evolution import Conditionals, reference
from snellen.lookahead.evolution.fitness import judge, repetition
from snellen.lookahead.evolution.frame import GAP, Frame, frame_of
from snellen.lookahead.evolution.writing import draw, proposal, write
from tests.lookahead.masked_models import masked

KINDS = ("bert", "roberta", "distilbert", "modernbert")


def conditionals(model, *, prompt="ab", suffix="c", longest=8, memory="1GB"):
    return Conditionals(model, frame_of(model, prompt=prompt, suffix=suffix, longest=longest), memory=memory)


@pytest.mark.parametrize("kind", KINDS)
def test_log_likelihoods_are_those_of_plain_passes(kind):
    model = masked(kind, double=True)
    fast = conditionals(model)
    bodies = [(5, 6, 7), (8, 5, 5, 6, 7), (6,), (5, 6, 7)]
    found = fast.log_likelihoods(bodies)
    for body, log_probs in zip(bodies, found, strict=True):
        row = torch.tensor(fast.frame.row(body))
        places = range(fast.frame.start, fast.frame.start + len(body))
        slow = [float(reference.conditional(model.model, row, place, model.mask)[row[place]]) for place in places]
        np.testing.assert_allclose(log_probs, slow, rtol=0, atol=1e-12)
        assert reference.energy(model.model, row, places, model.mask) == pytest.approx(-log_probs.sum(), abs=1e-12)
    # Prompt and suffix, and what the tokenizer puts around them, are part of the context and not of the score.
    assert fast.frame.row((5,)) == [0, 5, 6, 5, 7, 2]


@pytest.mark.parametrize("kind", KINDS)
def test_the_head_at_one_place_is_the_whole_head_there(kind):
    model = masked(kind)
    narrow, plain = conditionals(model), conditionals(model)
    assert narrow._head.narrow
    plain._head.narrow = False
    bodies = [(5, GAP, 7, 8), (6, 6, GAP)]
    torch.testing.assert_close(narrow.at(bodies, [1, 0]), plain.at(bodies, [1, 0]), rtol=0, atol=1e-5)
    # The head that is narrowed leaves no hook behind.
    assert not model.model.base_model._forward_hooks


def test_a_model_whose_head_cannot_be_narrowed_is_run_as_it_is():
    model = masked("bert", double=True)
    whole, forward = conditionals(model), model.model.cls.forward
    # A head that mixes places: the hidden state of one place alone gives other logits.
    model.model.cls.forward = lambda hidden: forward(hidden + hidden.mean(dim=1, keepdim=True))
    mixing = conditionals(model)
    assert whole._head.narrow
    assert not mixing._head.narrow
    row = torch.tensor(mixing.frame.row((5, 6, 7)))
    slow = reference.conditional(model.model, row, mixing.frame.start + 1, model.mask)
    torch.testing.assert_close(mixing.at([(5, 6, 7)], [1])[0], slow, rtol=0, atol=1e-12)


def test_a_score_depends_on_no_batch_and_is_computed_once(monkeypatch):
    model = masked("roberta", double=True)
    rng = np.random.default_rng(0)
    bodies = [tuple(int(t) for t in rng.integers(5, 9, size=rng.integers(1, 8))) for _ in range(40)]
    together = conditionals(model).log_likelihoods(bodies)
    alone = conditionals(model)
    monkeypatch.setattr(alone, "_rows", lambda length: 1)
    for body, log_probs in zip(bodies, together, strict=True):
        np.testing.assert_allclose(alone.log_likelihoods([body])[0], log_probs, rtol=0, atol=1e-12)
    distinct = set(bodies)
    assert alone.passes == sum(map(len, distinct))
    assert alone.token_passes == sum(len(body) * len(alone.frame.row(body)) for body in distinct)
    alone.log_likelihoods(bodies)
    assert alone.passes == sum(map(len, distinct))


def test_the_memory_bounds_the_batch():
    model = masked("bert")
    small, large = conditionals(model, memory="1MB"), conditionals(model, memory="1GB")
    assert 1 <= small._rows(10) < large._rows(10)
    assert large._rows(10) <= 4096 // 10
    with pytest.raises(InputError, match="memory 'lots'"):
        conditionals(model, memory="lots")


def test_nan_is_refused():
    model = masked("bert")
    scorer = conditionals(model)
    with torch.no_grad():
        model.model.get_output_embeddings().bias[3] = torch.nan
    with pytest.raises(Refused, match="NaN"):
        scorer.log_likelihoods([(5, 6)])


def test_proposals_hold_ordinary_tokens_only():
    model = masked("bert", double=True)
    log_probs = conditionals(model).at([(5, GAP, 7)], [1])
    log_q = proposal(log_probs, model.ordinary, 0.5)
    assert log_q[0, :5].exp().sum() == 0  # the special tokens
    expected = (2 * log_probs[0, 5:]).softmax(-1)
    torch.testing.assert_close(log_q[0, 5:].exp(), expected, rtol=0, atol=1e-12)


def test_draws_have_the_distribution():
    log_q = torch.tensor([[0.0, 0.5, 0.0, 0.2, 0.3]], dtype=torch.float64).log()
    uniforms = ((np.arange(1000) + 0.5) / 1000).tolist()
    tokens = draw(log_q.expand(1000, -1), uniforms)
    assert np.bincount(tokens, minlength=5).tolist() == [0, 500, 0, 200, 300]
    assert draw(log_q, [0.0]) == [1]  # not the token before it, whose probability is zero
    assert draw(log_q, [math.nextafter(1.0, 0.0)]) == [4]


def test_writing_fills_gaps_alone_and_is_reproducible():
    model = masked("roberta")
    bodies = [(5, GAP, 7, GAP), (GAP, GAP), (6, 7)]

    def run():
        rngs = [np.random.default_rng(i) for i in range(3)]
        return write(conditionals(model), bodies, rngs, temperature=1.0)

    first = run()
    assert first == run()
    assert [len(text) for text in first] == [4, 2, 2]
    assert (first[0][0], first[0][2], first[2]) == (5, 7, (6, 7))
    assert all(5 <= token < 9 for text in first for token in text)


def test_writing_one_gap_samples_the_conditional():
    """χ² of 1,500 single-gap draws against the model's own conditional."""
    from scipy import stats

    model = masked("bert", double=True)
    scorer = conditionals(model)
    rng = np.random.default_rng(1)
    texts = write(scorer, [(5, GAP, 7)] * 1500, [rng] * 1500, temperature=1.0)
    counts = np.bincount([text[1] for text in texts], minlength=9)[5:]
    expected = proposal(scorer.at([(5, GAP, 7)], [1]), model.ordinary, 1.0)[0, 5:].exp().numpy()
    assert stats.chisquare(counts, 1500 * expected).pvalue > 1e-4


FRAME = Frame(opening=(0,), prompt=(5, 6), suffix=(7,), closing=(2,), mask=4)


@pytest.mark.parametrize(
    ("body", "expected"),
    [((5, 6, 7), 1 / 3), ((7, 8), 0.0), ((7, 7, 7, 7), 2 / 4), ((5, 6, 5, 6), 3 / 4), ((8,), 0.0)],
)
def test_repetition_counts_pairs_seen_before_the_prompts_included(body, expected):
    assert repetition(FRAME, body) == pytest.approx(expected)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(5, 9), min_size=1, max_size=12))
def test_repetition_against_a_plain_count(body):
    text = [*FRAME.prompt, *body]
    pairs = list(itertools.pairwise(text))
    repeated = [pair in pairs[:i] for i, pair in enumerate(pairs)]
    assert repetition(FRAME, body) == pytest.approx(sum(repeated[1:]) / len(body))


def test_fitness_is_the_mean_less_the_weighted_repetition():
    scorer = conditionals(masked("bert", double=True))
    (one,) = judge(scorer, [(5, 6, 5, 6)], weight=2.0)
    assert one.log_likelihood == pytest.approx(scorer.log_likelihoods([(5, 6, 5, 6)])[0].mean())
    assert one.repetition == 0.75
    assert one.fitness == pytest.approx(one.log_likelihood - 1.5)
    assert one.energy == pytest.approx(-4 * one.log_likelihood)


def test_prompts_that_do_not_fit():
    model = masked("bert", places=16)
    with pytest.raises(InputError, match=r"'<unk>'.*ordinary"):
        frame_of(model, prompt="xy", suffix="", longest=3)
    with pytest.raises(InputError, match=r"'<mask>'"):
        frame_of(model, prompt="a", suffix="<mask>", longest=3)
    with pytest.raises(InputError, match=r"up to 12 free ones.*16.*at most 11 free tokens"):
        frame_of(model, prompt="abc", suffix="", longest=12)
    with pytest.raises(InputError, match="shorten the prompt"):
        frame_of(model, prompt="a" * 20, suffix="", longest=1)
    assert frame_of(model, prompt="abc", suffix="", longest=11).fixed == 5
