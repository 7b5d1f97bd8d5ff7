"""Noise from keys, and draws from one distribution: against plain integers and exact probabilities."""

import math
from types import SimpleNamespace

import pytest
import torch
from scipy import stats

from snellen.lookahead import counter_noise as noise
from snellen.lookahead.engine import Body
from snellen.lookahead.race import Draws, log_sums, turns, with_replacement, without_replacement

ROWS = 20_000


class Table(Body):
    """One distribution, whatever the hidden states."""

    def __init__(self, logits: torch.Tensor) -> None:
        self.logits_of_all, self.vocabulary = logits, len(logits)
        self.model = SimpleNamespace(device=torch.device("cpu"))

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.logits_of_all.repeat(len(hidden), 1)


def logits(vocabulary: int = 150) -> torch.Tensor:
    generated = torch.randn(vocabulary, generator=torch.Generator().manual_seed(3)) * 2
    generated[[5, 70, 149]] = torch.tensor([-torch.inf, 4.0, 5.0])
    generated[[1, 100]] = 4.5
    return generated


def drawn(how: object, *, count: int, exponent: float, table: torch.Tensor | None = None) -> Draws:
    keys = noise.as_tensor(noise.context_keys(11, range(ROWS)), torch.device("cpu"))
    body = Table(logits() if table is None else table)
    return how(body, torch.zeros(ROWS, 1), keys, count=count, exponent=exponent, budget=100_000_000)


def frequencies(tokens: torch.Tensor, probabilities: torch.Tensor) -> float:
    """p-value of a χ² test; tokens that are expected fewer than 20 times are taken together."""
    seen = torch.bincount(tokens, minlength=len(probabilities)).double()
    expected = probabilities * len(tokens)
    rare = expected < 20
    if float(expected[rare].sum()) > 0:
        seen, expected = (torch.cat([x[~rare], x[rare].sum()[None]]) for x in (seen, expected))
    else:  # impossible tokens alone, which would be 0 of 0
        seen, expected = seen[~rare], expected[~rare]
    return float(stats.chisquare(seen, expected * (seen.sum() / expected.sum())).pvalue)


def test_keys_of_tensors_are_those_of_plain_integers() -> None:
    keys = noise.context_keys(-7, [0, 3, 49_999, 3])
    assert len(set(keys)) == 4
    for index in (0, 5, 60_000, noise.OWN, noise.CHUNKS - 12):
        found = noise.child_keys(noise.as_tensor(keys, torch.device("cpu")), index)
        assert found.tolist() == noise.as_tensor([noise.child_key(key, index) for key in keys], found.device).tolist()
        assert torch.equal(noise.child_keys(noise.as_tensor(keys, found.device), torch.full((4,), index)), found)


def test_the_finaliser_is_that_of_splitmix64() -> None:
    """The first outputs of the published generator, seeded with 1234567."""
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert [noise.child_key(1234567, index) for index in range(4)] == published


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_uniform_numbers_are_uniform_and_never_0_or_1(dtype: torch.dtype) -> None:
    keys = torch.cat(
        [torch.tensor([0, -1]), noise.as_tensor(noise.context_keys(1, range(50_000)), torch.device("cpu"))]
    )
    found = noise.uniform(keys, dtype)
    assert float(found.min()) > 0
    assert float(found.max()) < 1
    assert stats.kstest(found[2:].numpy(), "uniform").pvalue > 1e-3


def test_log_sums_are_those_of_the_chunks() -> None:
    rows = torch.stack([logits(), logits().flip(0)])
    rows[1, 64:128] = -torch.inf  # a chunk of impossible tokens alone
    for exponent in (0.0, 0.5, 1.0, 3.0):
        powered = torch.where(rows == -torch.inf, rows, rows * exponent).double()
        expected = torch.stack([powered[:, a:b].logsumexp(-1) for a, b in ((0, 64), (64, 128), (128, 150))], dim=-1)
        torch.testing.assert_close(log_sums(rows, exponent)[1].double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("exponent", [1.0, 0.6])
def test_the_first_arrival_is_a_draw_and_the_second_one_of_the_rest(exponent: float) -> None:
    pi = (exponent * logits().double()).softmax(-1)
    found = drawn(without_replacement, count=4, exponent=exponent)
    assert frequencies(found.tokens[:, 0], pi) > 1e-3
    second = (pi[:, None] * pi[None] / (1 - pi[:, None])).fill_diagonal_(0).sum(0)
    assert frequencies(found.tokens[:, 1], second) > 1e-3
    # Memoryless: the rest arrives at rate 1 − π(first) after the first one.
    waited = found.gaps[:, 1].double().exp() * (1 - pi[found.tokens[:, 0]])
    assert stats.kstest(waited.numpy(), "expon").pvalue > 1e-3
    torch.testing.assert_close(found.proposals.double().exp(), pi[found.tokens], rtol=1e-4, atol=0)
    torch.testing.assert_close(found.log_probs, logits().log_softmax(-1)[found.tokens], rtol=0, atol=1e-5)
    assert (found.tokens != 5).all()


def test_all_tokens_arrive_once_and_impossible_ones_never() -> None:
    found = drawn(without_replacement, count=200, exponent=1.0, table=logits()[:70])
    assert (found.tokens[:, :69].sort(-1).values == torch.tensor([t for t in range(70) if t != 5])).all()
    assert (found.tokens[:, 69] == -1).all()
    assert (found.log_probs[:, 69] == -torch.inf).all()
    assert (found.gaps.diff(dim=-1) >= 0).all()


@pytest.mark.parametrize("exponent", [1.0, 2.0, 0.0])
def test_draws_with_replacement_have_the_right_margins_and_are_spread(exponent: float) -> None:
    table = logits()
    pi = torch.where(table == -torch.inf, table, table * exponent).double().softmax(-1)
    found = drawn(with_replacement, count=8, exponent=exponent)
    for turn in (0, 3, 7):
        assert frequencies(found.tokens[:, turn], pi) > 1e-3
    low = found.tokens < 70
    expected = float(pi[:70].sum())
    assert float(low.sum(-1).double().var()) < 0.3 * 8 * expected * (1 - expected)  # binomial if they were independent
    torch.testing.assert_close(found.proposals.double().exp(), pi[found.tokens], rtol=1e-4, atol=0)


def test_turns_are_the_draws_of_the_whole_list_whatever_the_blocks() -> None:
    keys = noise.as_tensor(noise.context_keys(2, range(40)), torch.device("cpu"))
    body, hidden = Table(logits()), torch.zeros(40, 1)
    whole = with_replacement(body, hidden, keys, count=5, exponent=1.5, budget=100_000_000)
    owner, turn = torch.tensor([0, 0, 7, 39]), torch.tensor([0, 4, 2, 1])
    for budget in (100_000_000, 200_000):
        found = turns(body, hidden, keys, owner, turn, exponent=1.5, budget=budget)
        assert torch.equal(found.tokens, whole.tokens[owner, turn])
        assert math.isclose(float(found.proposals.sum()), float(whole.proposals[owner, turn].sum()), rel_tol=1e-6)
