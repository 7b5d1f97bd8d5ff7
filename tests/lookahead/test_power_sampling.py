"""Power sampling: against its slow twin and enumeration, with stop tokens, shared prompts and bad input."""

import math
from functools import cache

import pytest
import torch

from snellen.errors import InputError
from snellen.lookahead import particle_reference
from snellen.lookahead.engine import ColumnEngine
from snellen.lookahead.power_sampling import PowerSamples, power_sample
from snellen.lookahead.preflight import engine_for
from tests.lookahead.architectures import VOCABULARY, tiny
from tests.lookahead.test_laws import V, model

PROMPT, STOP, LENGTH = torch.tensor([[1, 3, 0]]), 2, 4
pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning", "ignore:.*:FutureWarning")


@cache
def continuations() -> dict[tuple[int, ...], float]:
    """log p of every continuation that ends with the stop token or is cut at LENGTH."""
    lm, found = model(7), {}
    grown = [((), 0.0)]
    while grown:
        tokens, log_p = grown.pop()
        if len(tokens) == LENGTH or tokens[-1:] == (STOP,):
            found[tokens] = log_p
            continue
        following = particle_reference.next_log_probs(lm, torch.cat([PROMPT[0], PROMPT.new_tensor(tokens)]))
        grown += [((*tokens, v), log_p + float(following[v])) for v in range(V)]
    return found


def ended(samples: PowerSamples, particle: int) -> tuple[int, ...]:
    return tuple(token for token in samples.tokens[0, particle].tolist() if token >= 0)


@pytest.mark.parametrize(("alpha", "ramp", "temperature"), [(2.0, 0, None), (3.0, 6, 0.5), (0.5, 2, None)])
def test_samples_and_evidence_are_those_of_the_power_distribution(
    alpha: float, ramp: int, temperature: float | None
) -> None:
    """On average over seeds: evidence, and evidence × weight of each likely continuation (all unbiased)."""
    lm, exact, seeds, count = model(7), continuations(), 40, 12
    evidence = torch.zeros(seeds, dtype=torch.float64)
    shares = {c: torch.zeros(seeds, dtype=torch.float64) for c in exact}
    for seed in range(seeds):
        found = power_sample(
            lm,
            PROMPT,
            alpha=alpha,
            particles=count,
            max_new_tokens=LENGTH,
            stop_tokens=[STOP],
            ramp=ramp,
            temperature=temperature,
            seed=seed,
        )
        evidence[seed] = found.log_evidence[0].exp()
        assert math.isclose(float(found.log_weights[0].exp().sum()), 1, rel_tol=1e-4)
        for i in range(count):
            tokens = ended(found, i)
            assert found.stopped[0, i] == (tokens[-1] == STOP)
            assert math.isclose(float(found.log_probs[0, i].sum()), exact[tokens], abs_tol=1e-4)
            shares[tokens][seed] += evidence[seed] * found.log_weights[0, i].double().exp()
    powered = {c: math.exp(alpha * log_p) for c, log_p in exact.items()}
    assert within(evidence, sum(powered.values()))
    likely = [c for c in exact if powered[c] > 0.01 * sum(powered.values())]
    assert len(likely) > 2
    for c in likely:
        assert within(shares[c], powered[c])


def within(values: torch.Tensor, expected: float) -> bool:
    return abs(float(values.mean()) - expected) < 4.5 * float(values.std()) / len(values) ** 0.5


@pytest.mark.parametrize("name", ["llama", "gemma3", "mamba"])
def test_equals_its_slow_twin(name: str) -> None:
    lm = tiny(name, seed=2, scale=4.0).double()
    prompt = torch.randint(VOCABULARY, (1, 9), generator=torch.Generator().manual_seed(1))
    alpha, count, length = 1.5, 6, 5
    stop = list(range(0, VOCABULARY, 4))
    targets = [1 + (alpha - 1) * min(1, d / 3) for d in range(1, length + 1)]
    twin = particle_reference.sequential(
        lm, prompt[0], particles=count, targets=targets, exponent=alpha, resample_below=0.9, seed=4, stop=stop
    )[-1]
    found = power_sample(
        lm,
        prompt,
        alpha=alpha,
        particles=count,
        max_new_tokens=length,
        stop_tokens=stop,
        ramp=3,
        resample_below=0.9,
        seed=4,
    )
    assert [ended(found, i) for i in range(count)] == [tokens for tokens, *_ in twin]
    weights = torch.tensor([alpha * log_p + weight for _, log_p, weight in twin], dtype=torch.float64)
    torch.testing.assert_close(found.log_evidence[0], weights.logsumexp(0), rtol=0, atol=1e-4)
    torch.testing.assert_close(found.log_weights[0].double(), weights - weights.logsumexp(0), rtol=0, atol=1e-4)


def test_the_engine_the_batch_and_the_memory_change_nothing() -> None:
    lm = tiny("qwen3")
    prompts = torch.randint(VOCABULARY, (2, 20), generator=torch.Generator().manual_seed(1))
    options = {"alpha": 2.0, "particles": 5, "max_new_tokens": 6}
    whole = power_sample(lm, prompts, **options)
    for other in (
        power_sample(lm, prompts, engine="plain", **options),
        power_sample(lm, prompts, memory="9MB", **options),
    ):
        assert torch.equal(whole.tokens, other.tokens)
        torch.testing.assert_close(whole.log_weights, other.log_weights, rtol=0, atol=1e-4)
    assert torch.equal(power_sample(lm, prompts[1:], **options).tokens[0], whole.tokens[1])


def test_the_prompt_is_run_once_and_stopped_or_equal_particles_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = model(7)
    engine_for(lm, length=3, horizon=LENGTH)
    reads, computed = [], []
    read, step = ColumnEngine.read, ColumnEngine.step

    def reading(self: ColumnEngine, ids: torch.Tensor) -> torch.Tensor:
        reads.append(len(ids))
        return read(self, ids)

    def counting(*arguments: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden, nodes = step(*arguments)
        computed.append(len(hidden))
        return hidden, nodes

    monkeypatch.setattr(ColumnEngine, "read", reading)
    monkeypatch.setattr(ColumnEngine, "step", counting)
    options = {"alpha": 1.0, "particles": 40, "max_new_tokens": LENGTH, "temperature": 1.0}
    power_sample(lm, PROMPT, **options)
    assert reads == [3]
    assert len(computed) == LENGTH - 1
    assert all(count <= V**depth for depth, count in enumerate(computed, 1))
    computed.clear()
    found = power_sample(lm, PROMPT, stop_tokens=[0, 1, 2, 3], **options)
    assert computed == []
    assert (found.tokens[..., 1:] == -1).all()
    assert found.stopped.all()
    assert torch.isnan(found.effective_sizes[0, 1:]).all()


def test_choosing_by_weight_and_the_best() -> None:
    found = power_sample(model(7), PROMPT, alpha=2.0, particles=16, max_new_tokens=LENGTH)
    chosen = found.chosen(4000, seed=1)[0]
    shares = torch.bincount(chosen, minlength=16) / 4000
    torch.testing.assert_close(shares, found.log_weights[0].exp(), rtol=0, atol=1e-3)
    assert int(found.best()[0]) == int(found.log_probs[0].sum(-1).argmax())
    with pytest.raises(InputError, match="count 0"):
        found.chosen(0)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"alpha": -1.0}, "alpha -1"),
        ({"alpha": math.nan}, "alpha nan"),
        ({"alpha": math.inf}, "alpha inf"),
        ({"particles": 0}, "particles 0"),
        ({"max_new_tokens": 0}, "max_new_tokens 0"),
        ({"max_new_tokens": 95}, "max_new_tokens 95.*context of 96"),
        ({"stop_tokens": [VOCABULARY]}, "stop token 61"),
        ({"stop_tokens": [-1]}, "stop token -1"),
        ({"temperature": -2.0}, "temperature -2"),
        ({"ramp": -1}, "ramp -1"),
        ({"resample_below": math.nan}, "resample_below nan"),
        ({"memory": "1MB", "particles": 400}, "400 particles of 8 tokens may need"),
    ],
)
def test_bad_settings_are_named(arguments: dict, what: str) -> None:
    prompt = torch.ones(1, 5, dtype=torch.long)
    with pytest.raises(InputError, match=what):
        power_sample(tiny("llama"), prompt, **{"max_new_tokens": 8, **arguments})
