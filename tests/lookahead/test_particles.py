"""Particles from every position: against their slow twins, and the same for any memory, engine, batch and range."""

import math

import pytest
import torch

from snellen.errors import InputError, Refused
from snellen.lookahead import Particles, beam, particle_reference, particles
from snellen.lookahead.engine import ColumnEngine
from snellen.lookahead.preflight import engine_for
from tests.lookahead.architectures import VOCABULARY, tiny
from tests.lookahead.test_laws import V, model, spread

METHODS = ("without replacement", "stochastic beam", "smc")
pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning", "ignore:.*:FutureWarning")


def text(batch: int = 1, length: int = 12) -> torch.Tensor:
    return torch.randint(VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(1))


def wide(seed: int = 3) -> torch.nn.Module:
    """A vocabulary of two chunks and a short third, so that arrivals of chunks matter."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    config = GPT2Config(vocab_size=150, n_embd=16, n_layer=1, n_head=2, n_positions=32, eos_token_id=None)
    small = GPT2LMHeadModel(config).eval().requires_grad_(False)
    for parameter in small.parameters():
        if parameter.ndim > 1:
            parameter.mul_(10)
    return small


def same(a: Particles, b: Particles) -> None:
    assert torch.equal(a.step_tokens, b.step_tokens)
    assert torch.equal(a.step_parents, b.step_parents)
    torch.testing.assert_close(a.step_log_probs, b.step_log_probs, rtol=0, atol=2e-5)
    torch.testing.assert_close(a.step_log_weights, b.step_log_weights, rtol=0, atol=2e-4)


@pytest.mark.parametrize(
    ("name", "method", "temperature"),
    [
        ("llama", "without replacement", None),
        ("mamba", "without replacement", 2.0),
        ("wide", "without replacement", 0.8),
        ("gemma3", "stochastic beam", None),
        ("mamba", "stochastic beam", 1.0),
        ("wide", "stochastic beam", 0.4),
    ],
)
def test_without_replacement_equals_its_slow_twin(name: str, method: str, temperature: float | None) -> None:
    lm = (wide() if name == "wide" else tiny(name, seed=2)).double()
    ids, count, horizon = text(), 4, 3
    found = particles(lm, ids, count, horizon, method=method, temperature=temperature, seed=5)
    twin = getattr(particle_reference, method.replace(" ", "_"))
    exponent = {} if temperature is None else {"exponent": 1 / temperature}
    for position in (0, 7):
        check(
            found,
            position,
            twin(lm, ids[0, : position + 1], particles=count, horizon=horizon, seed=5, **exponent),
        )


@pytest.mark.parametrize(("name", "alpha", "ramp"), [("llama", 2.0, 0), ("mamba", 3.0, 4), ("wide", 1.5, 2)])
def test_smc_equals_its_slow_twin(name: str, alpha: float, ramp: int) -> None:
    lm = (wide() if name == "wide" else tiny(name, seed=2)).double()
    ids, count, horizon = text(), 6, 3
    found = particles(lm, ids, count, horizon, alpha, method="smc", ramp=ramp, seed=5, resample_below=0.8)
    targets = [alpha if d >= ramp else 1 + (alpha - 1) * d / ramp for d in (1, 2, 3)]
    for position in (0, 7):
        twin = particle_reference.sequential(
            lm, ids[0, : position + 1], particles=count, targets=targets, exponent=alpha, resample_below=0.8, seed=5
        )
        check(found, position, twin)


def check(found: Particles, position: int, twin: list[list[tuple[tuple[int, ...], float, float]]]) -> None:
    for depth, expected in enumerate(twin, 1):
        tokens, log_probs = found.completions(depth)
        assert [tuple(c) for c in tokens[0, position].tolist()] == [c for c, *_ in expected]
        for value, column in ((log_probs[0, position].sum(-1), 1), (found.step_log_weights[0, position, depth - 1], 2)):
            torch.testing.assert_close(value, torch.tensor([e[column] for e in expected]), rtol=0, atol=2e-4)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt_oss"])
def test_memory_engine_batch_and_range_change_nothing(name: str, method: str) -> None:
    lm, ids = tiny(name), text(batch=2, length=15)
    whole = particles(lm, ids, 4, 4, method=method, memory="1GB")
    assert isinstance(engine_for(lm, length=15, horizon=4), ColumnEngine)
    same(whole, particles(lm, ids, 4, 4, method=method, memory="1MB"))
    same(whole, particles(lm, ids, 4, 4, method=method, engine="plain"))
    part = particles(lm, ids[1:], 4, 4, method=method, positions=(6, 11))
    assert torch.equal(part.step_tokens[0], whole.step_tokens[1, 6:11])
    torch.testing.assert_close(part.step_log_weights[0], whole.step_log_weights[1, 6:11], rtol=0, atol=2e-4)
    torch.testing.assert_close(part.naive[0], whole.naive[1, 6:11], rtol=0, atol=1e-5)
    assert not torch.equal(whole.step_tokens, particles(lm, ids, 4, 4, method=method, seed=1).step_tokens)


def test_the_first_slots_of_a_stochastic_beam_are_the_sample_of_fewer() -> None:
    lm, ids = tiny("llama"), text()
    many, few = (particles(lm, ids, count, 3, method="stochastic beam") for count in (9, 4))
    assert torch.equal(many.step_tokens[..., :4], few.step_tokens)


@pytest.mark.parametrize("method", METHODS[:2])
@pytest.mark.parametrize("horizon", [1, 2, 3])
def test_when_all_completions_are_covered_it_is_enumeration(horizon: int, method: str) -> None:
    lm, ids = model(7), torch.tensor([[1, 3, 0, 2, 1]])
    found, exact = particles(lm, ids, V**horizon + 3, horizon, method=method), beam(lm, ids, V**horizon, horizon)
    assert (found.log_weights[..., : V**horizon] == 0).all()
    assert (found.log_weights[..., V**horizon :] == -torch.inf).all()
    assert (found.tokens[..., V**horizon :, :] == -1).all()
    for alpha in (0.0, 0.5, 1.0, 3.0, math.inf):
        expected = spread(*exact.next_token(alpha=alpha))
        torch.testing.assert_close(spread(*found.next_token(alpha=alpha)), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.log_evidence(1.0), torch.zeros(1, 5, dtype=torch.float64), rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", METHODS[:2])
def test_no_completion_comes_twice_without_replacement(method: str) -> None:
    tokens = particles(model(2), torch.tensor([[1, 3, 0]]), 20, 3, method=method).tokens
    for position in range(3):
        assert len({tuple(c) for c in tokens[0, position].tolist()}) == 20


def test_equal_particles_and_branches_of_the_text_are_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, ids = model(7), torch.tensor([[1, 3, 0, 2, 1, 1]])
    engine_for(lm, length=6, horizon=3)
    computed, step = [], ColumnEngine.step

    def counting(*arguments: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden, nodes = step(*arguments)
        computed.append(len(hidden))
        return hidden, nodes

    monkeypatch.setattr(ColumnEngine, "step", counting)
    particles(lm, ids, 64, 3, method="smc")
    assert sum(computed) <= 6 * (V + V**2)
    computed.clear()
    particles(lm, ids, 8, 3)
    assert sum(computed) < 6 * (V + 8)  # V distinct tokens, one of them the text's own


@pytest.mark.parametrize("method", METHODS)
def test_naive_is_the_plain_forward_pass(method: str) -> None:
    lm, ids = tiny("qwen3"), text(batch=2)
    expected = lm(ids).logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    torch.testing.assert_close(particles(lm, ids, 2, 2, method=method).naive, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"alpha": -1.0}, "alpha -1"),
        ({"alpha": math.nan}, "alpha nan"),
        ({"alpha": math.inf, "method": "smc"}, "alpha inf"),
        ({"alpha": math.nan, "method": "smc"}, "alpha nan"),
        ({"particles": 0}, "particles 0"),
        ({"horizon": 0}, "horizon 0"),
        ({"horizon": 90}, "horizon 90.*context of 96"),
        ({"method": "magic"}, "method 'magic'"),
        ({"temperature": 0.0}, "temperature 0"),
        ({"temperature": math.nan}, "temperature nan"),
        ({"ramp": -1, "method": "smc"}, "ramp -1"),
        ({"ramp": 2}, "belong to method 'smc'"),
        ({"resample_below": 0.9, "method": "stochastic beam"}, "belong to method 'smc'"),
        ({"resample_below": 1.5, "method": "smc"}, "resample_below 1.5"),
        ({"positions": (4, 99)}, "positions"),
        ({"memory": "1MB", "particles": 200}, "200 particles .* at least"),
        ({"engine": "steam"}, "engine 'steam'"),
    ],
)
def test_bad_settings_are_named(arguments: dict, what: str) -> None:
    with pytest.raises(InputError, match=what):
        particles(tiny("llama"), text(), **arguments)


@pytest.mark.parametrize(("arguments", "what"), [({"alpha": -1.0}, "alpha"), ({"horizon": 5}, "horizon 5")])
def test_bad_questions_are_named(arguments: dict, what: str) -> None:
    with pytest.raises(InputError, match=what):
        particles(model(0), torch.tensor([[0, 1]]), 2, 2).next_token(**arguments)


def test_nan_in_the_weights_is_refused() -> None:
    lm = tiny("gpt2")
    lm.transformer.h[1].mlp.c_fc.weight[0, 0] = torch.nan
    with pytest.raises(Refused, match="NaN"):
        particles(lm, text(), 2, 2)
