"""Three laws of power lookahead, by enumeration of all completions of a tiny vocabulary."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel

from snellen.lookahead import beam, reference

V = 4


def model(seed: int) -> GPT2LMHeadModel:
    torch.manual_seed(seed)
    config = GPT2Config(vocab_size=V, n_embd=16, n_layer=2, n_head=2, n_positions=16, bos_token_id=0, eos_token_id=0)
    small = GPT2LMHeadModel(config).eval().requires_grad_(False)
    for parameter in small.parameters():
        if parameter.ndim > 1:
            parameter.mul_(8)
    return small


def spread(ids: torch.Tensor, probs: torch.Tensor) -> torch.Tensor:
    """Candidates and probabilities as a distribution over the vocabulary."""
    return torch.zeros(*ids.shape[:-1], V, dtype=probs.dtype).scatter_add_(-1, ids.clamp_min(0), probs)


cases = given(seed=st.integers(0, 10**6), horizon=st.integers(1, 4))


@cases
@settings(max_examples=12, deadline=None)
def test_law_1_alpha_one_over_all_completions_is_the_naive_prediction(seed: int, horizon: int) -> None:
    lm, ids = model(seed), torch.randint(V, (1, 5), generator=torch.Generator().manual_seed(seed))
    found = beam(lm, ids, V**horizon, horizon)
    for depth in range(1, horizon + 1):
        q = spread(*found.next_token(alpha=1.0, horizon=depth))
        torch.testing.assert_close(q, lm(ids).logits.double().softmax(-1), rtol=0, atol=1e-5)


@given(seed=st.integers(0, 10**6), alpha=st.floats(0, 8), width=st.integers(1, V))
@settings(max_examples=12, deadline=None)
def test_law_2_horizon_one_is_sharpening_among_the_candidates(seed: int, alpha: float, width: int) -> None:
    lm, ids = model(seed), torch.randint(V, (1, 5), generator=torch.Generator().manual_seed(seed))
    q = spread(*beam(lm, ids, width, 1).next_token(alpha=alpha))
    p = lm(ids).logits.double().softmax(-1)
    kept = p >= p.topk(width).values[..., -1:]
    expected = torch.where(kept, p**alpha, 0.0)
    torch.testing.assert_close(q, expected / expected.sum(-1, keepdim=True), rtol=0, atol=1e-5)


@cases
@settings(max_examples=12, deadline=None)
def test_law_3_alpha_to_infinity_is_the_best_completions_first_token(seed: int, horizon: int) -> None:
    lm, ids = model(seed), torch.randint(V, (1, 5), generator=torch.Generator().manual_seed(seed))
    found = beam(lm, ids, V**horizon, horizon)
    best = found.tokens[0, :, 0, 0]
    limit_ids, limit = found.next_token(alpha=math.inf)
    assert limit_ids[0, :, 0].tolist() == best.tolist()
    assert (limit[..., 0] == 1).all()
    scores = found.log_probs.sum(-1)[0]
    if horizon > 1 and float((scores[:, 0] - scores[:, 1]).min()) > 1e-2:
        near = spread(*found.next_token(alpha=5000.0))[0]
        assert (near.gather(-1, best[:, None]) > 0.999).all()


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 3.0])
def test_power_lookahead_equals_enumeration(alpha: float) -> None:
    lm, ids, horizon = model(7).double(), torch.tensor([[1, 3, 0]]), 3
    q = spread(*beam(lm, ids, V**horizon, horizon).next_token(alpha=alpha))
    for position in range(3):
        expected = reference.power_lookahead(lm, ids[0, : position + 1], alpha=alpha, horizon=horizon)
        torch.testing.assert_close(q[0, position], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 1.0, 2.0, math.inf])
def test_a_shorter_horizon_equals_a_fresh_search(alpha: float) -> None:
    lm, ids = model(3), torch.tensor([[0, 1, 2, 3, 2, 1]])
    whole = beam(lm, ids, 3, 5)
    for horizon in range(1, 6):
        fresh = beam(lm, ids, 3, horizon).next_token(alpha=alpha)
        for a, b in zip(whole.next_token(alpha=alpha, horizon=horizon), fresh, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("alpha", [-1.0, math.nan])
def test_an_exponent_out_of_range_is_named(alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha"):
        beam(model(0), torch.tensor([[0, 1]]), 2, 2).next_token(alpha=alpha)


def test_a_horizon_that_was_not_searched_is_named() -> None:
    with pytest.raises(ValueError, match="horizon 3"):
        beam(model(0), torch.tensor([[0, 1]]), 2, 2).next_token(horizon=3)
