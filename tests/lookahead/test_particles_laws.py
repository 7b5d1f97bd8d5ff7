"""What the estimators promise: unbiased, exact inclusion, right rates, and less variance than with replacement."""

from functools import cache

import pytest
import torch
from transformers import GPT2LMHeadModel

from snellen.lookahead import Particles, beam, particles
from tests.lookahead.test_laws import V, model, spread

WITHOUT = ("without replacement", "stochastic beam")
IDS = torch.tensor([[1, 3, 0, 2]])
SEEDS, N, D = 120, 6, 3


@cache
def lm() -> GPT2LMHeadModel:
    return model(7)


@cache
def truth() -> tuple[torch.Tensor, torch.Tensor]:
    """All completions after each position, as numbers in base V, and log p of each, in float64."""
    found = beam(lm(), IDS, V**D, D)
    return codes(found.tokens[0]), found.log_probs[0].double().sum(-1)


def codes(tokens: torch.Tensor) -> torch.Tensor:
    return (tokens * V ** torch.arange(tokens.shape[-1] - 1, -1, -1)).sum(-1)


@cache
def runs(method: str, alpha: float = 2.0) -> list[Particles]:
    extra = {"ramp": 2, "resample_below": 0.7} if method == "smc" else {}
    seeds = range(SEEDS if alpha == 2 else 60)
    return [particles(lm(), IDS, N, D, alpha, method=method, seed=seed, **extra) for seed in seeds]


def evidence(alpha: float, horizon: int) -> torch.Tensor:
    log_p = beam(lm(), IDS, V**horizon, horizon).log_probs[0].double().sum(-1)
    return (alpha * log_p).exp().sum(-1)


def standard_errors(values: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    return (values.mean(0) - expected) / (values.std(0) / len(values) ** 0.5)


@pytest.mark.parametrize("method", [*WITHOUT, "smc"])
@pytest.mark.parametrize("horizon", [1, 2, 3])
def test_evidence_is_unbiased_for_every_exponent_and_depth(method: str, horizon: int) -> None:
    for alpha in (0.5, 1.0, 2.0, 3.0):
        found = torch.stack([run.log_evidence(alpha, horizon)[0].exp() for run in runs(method)])
        expected, moves = evidence(alpha, horizon), found.std(0) > 1e-6  # all tokens are covered at horizon 1
        torch.testing.assert_close(found.mean(0)[~moves], expected[~moves], rtol=1e-5, atol=0)
        assert not moves.any() or standard_errors(found[:, moves], expected[moves]).abs().max() < 4.5


@pytest.mark.parametrize("method", WITHOUT)
def test_every_completion_counts_once_on_average(method: str) -> None:
    """Included with probability π and then weighted 1/π: Horvitz and Thompson, completion by completion."""
    tokens, log_p = truth()
    counted = torch.zeros(SEEDS, *tokens.shape, dtype=torch.float64)
    for seed, run in enumerate(runs(method)):
        mine = codes(run.tokens[0])
        same = mine[:, None, :] == tokens[:, :, None]
        counted[seed] = (same * run.log_weights[0].double().exp()[:, None, :]).sum(-1)
    # Where few are sighted, or few are missed, the error of the mean is not normal.
    sighted = (counted > 0).sum(0)
    both = (sighted > 20) & (sighted < SEEDS - 10)
    assert int(both.sum()) > 8
    assert standard_errors(counted, torch.ones_like(log_p))[both].abs().max() < 4.5
    nearly_sure = sighted >= SEEDS - 10
    assert nearly_sure.any()
    assert (counted.mean(0)[nearly_sure] - 1).abs().max() < 0.1


@pytest.mark.parametrize("method", WITHOUT)
@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_less_error_than_independent_draws(method: str, alpha: float) -> None:
    """Against as many independent completions from p, weighted p^{α−1}, on a quarter of all completions."""
    (tokens, log_p), count = truth(), 16
    drawn = torch.multinomial(log_p.exp(), 400 * count, replacement=True, generator=torch.Generator().manual_seed(0))
    drawn = drawn.view(-1, 400, count)
    weight = ((alpha - 1) * log_p[:, None].expand(-1, 400, -1).gather(-1, drawn)).exp()
    first = (tokens // V ** (D - 1))[:, None].expand(-1, 400, -1).gather(-1, drawn)
    independent = torch.zeros(len(tokens), 400, V, dtype=torch.float64).scatter_add_(-1, first, weight)
    independent /= independent.sum(-1, keepdim=True)
    temperature = 1.0 if alpha == 1 else None
    found = [particles(lm(), IDS, count, D, alpha, method=method, temperature=temperature, seed=s) for s in range(30)]
    ours = torch.stack([spread(*run.next_token())[0] for run in found], dim=1)
    target = power(alpha)[:, None]
    assert float((ours - target).square().mean()) < 0.8 * float((independent - target).square().mean())


def sums(run: Particles, alpha: float) -> torch.Tensor:
    """The unnormalised estimate by first token: [pos, V]."""
    ids, probs = run.next_token(alpha)
    return (spread(ids, probs) * run.log_evidence(alpha).exp()[..., None])[0]


def power(alpha: float) -> torch.Tensor:
    tokens, log_p = truth()
    q = torch.zeros(len(tokens), V, dtype=torch.float64)
    return q.scatter_add_(1, tokens // V ** (D - 1), (alpha * log_p - (alpha * log_p).logsumexp(-1, True)).exp())


@pytest.mark.parametrize(
    ("method", "widths", "low", "high"),
    [("smc", (8, 32, 128), -0.95, -0.4), ("without replacement", (4, 8, 16), -3.0, -0.5)],
)
def test_error_falls_at_least_as_the_root_of_the_particles(
    method: str, widths: tuple[int, ...], low: float, high: float
) -> None:
    """The slope of log error over log N: −1/2, or better where quantiles are spread evenly or few are left out."""
    alpha, errors = 2.0, []
    for width in widths:
        found = [particles(lm(), IDS, width, D, alpha, method=method, seed=1000 + s).next_token() for s in range(24)]
        difference = torch.stack([spread(*f)[0] for f in found]) - power(alpha)
        errors.append(difference.square().sum(-1).mean().sqrt().log())
    x = torch.tensor([float(w) for w in widths], dtype=torch.float64).log()
    x -= x.mean()
    slope = float((x * torch.stack(errors)).sum() / x.square().sum())
    assert low < slope < high, (slope, errors)


@pytest.mark.parametrize("method", [*WITHOUT, "smc"])
def test_many_particles_come_near_the_enumerated_power_lookahead(method: str) -> None:
    count = 256 if method == "smc" else 40
    for alpha in (1.0, 2.0):
        found = particles(lm(), IDS, count, D, alpha, method=method, seed=3)
        difference = spread(*found.next_token())[0] - power(alpha)
        assert float(0.5 * difference.abs().sum(-1).max()) < 0.06


@pytest.mark.parametrize("method", [*WITHOUT, "smc"])
def test_exponent_one_is_the_naive_prediction(method: str) -> None:
    """Law 1, on average over seeds: the estimate by first token is unbiased for p."""
    alpha = 1.0
    several = runs(method)[:60] if method != "smc" else runs(method, alpha)[:60]
    found = torch.stack([sums(run, alpha) for run in several])
    p = lm()(IDS).logits[0].double().softmax(-1)
    moves = found.std(0) > 1e-6
    assert standard_errors(found[:, moves], p[moves]).abs().max() < 4.5
    torch.testing.assert_close(found.mean(0)[~moves], p[~moves], rtol=0, atol=1e-5)
