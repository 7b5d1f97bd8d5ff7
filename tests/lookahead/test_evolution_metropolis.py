"""The chain's stationary distribution, by enumeration of all texts of a toy vocabulary."""

import itertools

import numpy as np
import pytest
import torch

from snellen.errors import InputError
from snellen.lookahead.evolution import Conditionals, Metropolis, metropolis, reference
from snellen.lookahead.evolution.chains import log_acceptance
from snellen.lookahead.evolution.convergence import effective_samples, split_r_hat, summary
from snellen.lookahead.evolution.frame import frame_of
from snellen.lookahead.evolution.writing import proposal
from tests.lookahead.masked_models import masked

WORDS, LENGTH = "abcd", 3
TOKENS = [5, 6, 7, 8]
TEXTS = list(itertools.product(TOKENS, repeat=LENGTH))


def toy(kind="bert", **options):
    return masked(kind, words=WORDS, double=True, **options)


def target(model, *, prompt="", temperature=1.0):
    scorer = Conditionals(model, frame_of(model, prompt=prompt, suffix="", longest=LENGTH))
    energies = torch.tensor([-float(x.sum()) for x in scorer.log_likelihoods(TEXTS)], dtype=torch.float64)
    return scorer, energies, (-energies / temperature).softmax(-1)


def transitions(model, *, prompt="", temperature=1.0, proposal_temperature=1.0, accept=None):
    """The transition matrix out of the code's own proposal and acceptance functions, and the target."""
    scorer, energies, pi = target(model, prompt=prompt, temperature=temperature)
    accept = accept or log_acceptance
    number = {text: i for i, text in enumerate(TEXTS)}
    matrix = torch.zeros(len(TEXTS), len(TEXTS), dtype=torch.float64)
    for place in range(LENGTH):
        log_q = proposal(scorer.at(TEXTS, [place] * len(TEXTS)), model.ordinary, proposal_temperature)
        for x, text in enumerate(TEXTS):
            stay = 1.0
            for token in TOKENS:
                y = number[(*text[:place], token, *text[place + 1 :])]
                log_a = accept(
                    float(energies[x]), float(energies[y]), float(log_q[x, text[place]]), float(log_q[x, token]),
                    temperature=temperature,
                )  # fmt: skip
                moves = float(log_q[x, token].exp()) * float(np.exp(log_a))
                matrix[x, y] += moves / LENGTH
                stay -= moves
            matrix[x, x] += stay / LENGTH
    return matrix, pi


SETTINGS = [(1.0, 1.0), (0.6, 1.0), (1.0, 1.7), (2.0, 0.8)]


@pytest.mark.parametrize(("temperature", "proposal_temperature"), SETTINGS)
@pytest.mark.parametrize("prompt", ["", "dab"])
def test_the_kernel_keeps_the_target_and_is_in_detailed_balance(temperature, proposal_temperature, prompt):
    model = toy()
    matrix, pi = transitions(model, prompt=prompt, temperature=temperature, proposal_temperature=proposal_temperature)
    # What a chain stays with is the rest of its moves: proposals that sum to more than 1 would leave less than nothing.
    assert float(matrix.min()) > -1e-15
    assert float(1 - matrix.diagonal().mean()) > 0.05
    assert float((pi @ matrix - pi).abs().max()) < 1e-12  # asked for: 1e-6
    flow = pi[:, None] * matrix
    assert float((flow - flow.T).abs().max()) < 1e-12
    # The chain reaches every text, so the target is its only stationary distribution.
    assert bool((torch.linalg.matrix_power(matrix, LENGTH) > 0).all())


@pytest.mark.parametrize(
    "accept",
    [
        pytest.param(lambda *_, **__: 0.0, id="Gibbs sampling: always accept"),
        pytest.param(lambda old, new, *_, **__: min(0.0, old - new), id="no Hastings correction"),
        pytest.param(lambda old, new, back, there, **_: min(0.0, old - new + there - back), id="wrong way round"),
    ],
)
def test_kernels_that_are_not_exact_are_seen(accept):
    matrix, pi = transitions(toy(), accept=accept)
    assert float((pi @ matrix - pi).abs().sum()) / 2 > 1e-3


@pytest.mark.parametrize(("temperature", "proposal_temperature"), SETTINGS[:3])
def test_the_kernel_is_that_of_the_slow_twin(temperature, proposal_temperature):
    model = toy("roberta", around=False)
    texts, pi, matrix = reference.kernel(
        model.model, TOKENS, LENGTH, model.mask, temperature=temperature, proposal=proposal_temperature
    )
    assert texts == TEXTS
    fast, fast_pi = transitions(model, temperature=temperature, proposal_temperature=proposal_temperature)
    torch.testing.assert_close(fast, matrix, rtol=0, atol=1e-12)
    torch.testing.assert_close(fast_pi, pi, rtol=0, atol=1e-12)


def total_variation_bound(draws, pi):
    """What the total variation of an empirical distribution exceeds with probability 1e-4 at most, and its mean bound.

    E|p̂_i − π_i| ≤ √(π_i (1 − π_i) / n_i) with n_i the effective sample size of the indicator of text i; about the mean
    McDiarmid's √(log(1/δ) / 2n) with the smallest n_i.
    """
    sizes = []
    for text in range(len(pi)):
        indicator = (draws == text).astype(float)
        size = effective_samples(indicator) if indicator.var() > 0 else draws.size
        sizes.append(min(size, draws.size))
    sizes = np.array(sizes)
    mean = 0.5 * np.sqrt(pi * (1 - pi) / sizes).sum()
    return mean + np.sqrt(np.log(1e4) / (2 * sizes.min()))


def sampled(model, *, prompt="", **options):
    run = metropolis(model, prompt=prompt, settings=Metropolis(length=LENGTH, population=128, thin=1, **options))
    number = {text: i for i, text in enumerate(TEXTS)}
    return run, np.array([[number[body] for body in states] for states in run.samples]).T  # [chains, draws]


@pytest.fixture(scope="module")
def run():
    model = toy()
    return model, *sampled(model, prompt="ca", steps=200, burn_in=40)


def test_samples_have_the_enumerated_distribution(run):
    model, _, draws = run
    pi = target(model, prompt="ca")[2].numpy()
    empirical = np.bincount(draws.ravel(), minlength=len(TEXTS)) / draws.size
    distance = np.abs(empirical - pi).sum() / 2
    bound = total_variation_bound(draws, pi)
    assert bound < 0.12  # else the comparison would say nothing
    assert distance < bound
    # The same bound tells the target from its neighbours: another temperature, and no dependence between places.
    for other in (target(model, prompt="ca", temperature=1.5)[2].numpy(), np.full(len(TEXTS), 1 / len(TEXTS))):
        assert np.abs(empirical - other).sum() / 2 > bound


def test_the_run_says_what_it_did(run):
    _, found, draws = run
    assert draws.shape == (128, 160)
    assert found.finished
    assert 0.3 < found.convergence["acceptance"] < 1
    assert found.convergence["r_hat"] < 1.1
    assert 1000 < found.convergence["effective_samples"] < 128 * 160
    assert found.trace[0]["step"] == 0
    assert found.trace[-1]["step"] == 200
    assert found.trace[-1]["passes"] == found.cost.passes
    best = max(found.members, key=lambda member: member.log_likelihood)
    assert found.members[0] == best
    assert found.trace[-1]["best"] == pytest.approx(best.log_likelihood)
    # All 64 texts are scored once, and each step costs a pass a chain.
    assert found.cost.passes <= 64 * LENGTH + 128 * (200 + LENGTH)


def test_it_is_reproducible_and_the_seed_matters():
    model = toy()
    runs = [
        metropolis(model, settings=Metropolis(length=4, population=3, steps=12, thin=3, burn_in=0, seed=seed))
        for seed in (1, 1, 2)
    ]
    assert runs[0].samples == runs[1].samples
    assert runs[0].samples != runs[2].samples
    assert len(runs[0].samples) == 4
    # A chain's randomness is its own: with more chains beside it, it does the same.
    more = metropolis(model, settings=Metropolis(length=4, population=5, steps=12, thin=3, burn_in=0, seed=1))
    assert [states[:3] for states in more.samples] == list(runs[0].samples)


def test_the_budget_ends_the_chains():
    model = toy()
    settings = Metropolis(length=6, population=2, steps=10_000, passes=100)
    found = metropolis(model, settings=settings)
    assert found.cost.passes <= 100
    assert found.finished
    assert 0 < found.trace[-1]["step"] < 10_000


def test_chains_start_from_given_texts_of_their_length():
    model = toy()
    seen, heard = [], []
    found = metropolis(
        model,
        settings=Metropolis(length=3, population=2, steps=1),
        start=[(5, 5, 5), (6, 6, 6), (7, 7, 7)],
        watch=seen.append,
        told=heard.append,
    )
    assert heard[-1] == found.cost.passes
    assert {member.tokens for member in seen[0].members} == {(5, 5, 5), (6, 6, 6)}
    with pytest.raises(InputError, match=r"2 tokens.*length 3"):
        metropolis(model, settings=Metropolis(length=3, population=2, steps=1), start=[(5, 5)])


def test_effective_samples_of_autoregressive_chains():
    """AR(1) with coefficient ρ: the mean of n draws is worth n (1 − ρ) / (1 + ρ) independent ones."""
    rng = np.random.default_rng(0)
    for rho in (0.0, 0.5, 0.9):
        draws = np.zeros((8, 4000))
        noise = rng.normal(size=draws.shape)
        for t in range(1, draws.shape[1]):
            draws[:, t] = rho * draws[:, t - 1] + noise[:, t]
        expected = draws.size * (1 - rho) / (1 + rho)
        assert effective_samples(draws) == pytest.approx(expected, rel=0.12)
        assert split_r_hat(draws) == pytest.approx(1, abs=0.02)


def test_chains_that_disagree_are_told():
    rng = np.random.default_rng(0)
    apart = rng.normal(size=(4, 500)) + np.arange(4)[:, None]
    assert split_r_hat(apart) > 1.3
    assert effective_samples(apart) < 40
    drifting = rng.normal(size=(4, 500)) + np.linspace(0, 4, 500)
    assert split_r_hat(drifting) > 1.3
    assert summary(np.ones((4, 500)), acceptance=0.0) == {"r_hat": None, "effective_samples": None, "acceptance": 0.0}
    assert summary(np.empty(0), acceptance=0.5)["r_hat"] is None
