"""The preflight must pass what is right, and must be able to fail: each fault that it is for is planted once."""

from typing import Any

import pytest
import torch
import transformers as hf
from torch import nn

from snellen.attention import rollout
from snellen.attention.partial import prefix_attention
from snellen.errors import Refused
from snellen.lookahead import Lookahead, beam
from snellen.lookahead.engine import PlainEngine
from snellen.lookahead.preflight import engine_for, preflight
from tests.lookahead.architectures import COLUMNS, PLAIN, tiny
from tests.lookahead.test_beam_search import LENGTH, text

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*:UserWarning", "ignore:.*:DeprecationWarning", "ignore:.*:FutureWarning"
)


@pytest.mark.parametrize("name", COLUMNS + PLAIN)
def test_what_is_measured(name: str) -> None:
    found = preflight(tiny(name), length=40)
    assert found.engine == ("columns" if name in COLUMNS else "plain")
    assert (found.why_plain is None) == (found.engine == "columns")
    assert {n for n, check in found.checks.items() if not check.passed} <= {"cache, several at once"}
    assert found.checks["cache, several at once"].passed == (name != "mamba")  # it forgets its state there
    assert found.cache == "used"
    assert found.why_no_generation is None
    expected = {"own attention", "head", "causality", "cache", "cache, several at once"} | (
        {"forward identity", "rollouts"} if name in COLUMNS else set()
    )
    assert set(found.checks) == expected
    if found.engine == "columns":  # a control: the check sees a difference that is there
        assert found.power is not None
        assert found.power > 100 * found.checks["rollouts"].tolerance


def forgetting(what: str) -> Any:
    def attention(module: nn.Module, *tensors: Any, **arguments: Any) -> Any:
        return rollout.rollout_attention(module, *tensors, **{**arguments, what: None})

    return attention


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("mistral", "sliding_window"),
        ("gemma3", "sliding_window"),
        ("gemma2", "softcap"),
        ("gpt_oss", "s_aux"),
        ("granite", "scaling"),
    ],
)
def test_a_hook_that_forgets_an_argument_is_caught(name: str, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(name)
    monkeypatch.setitem(hf.AttentionInterface._global_mapping, rollout.NAME, forgetting(what))
    found = preflight(model, length=40)
    assert found.engine == "plain"
    assert not found.checks["forward identity"].passed
    with pytest.raises(Refused, match="forward identity"):
        preflight(model, length=40, engine="columns")


def test_a_window_that_is_one_off_for_branches_alone_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def off_by_one(*tensors: Any, first: int, window: int | None = None, **options: Any) -> Any:
        if tensors[0].shape[0] > 1 and window is not None:
            window += 1
        return prefix_attention(*tensors, first=first, window=window, **options)

    monkeypatch.setattr(rollout, "prefix_attention", off_by_one)
    found = preflight(tiny("mistral"), length=40)
    assert found.checks["forward identity"].passed
    assert not found.checks["rollouts"].passed
    assert "rollouts" in str(found.why_plain)


def test_a_short_text_cannot_show_a_window_and_a_longer_one_is_checked_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny("mistral")
    monkeypatch.setitem(hf.AttentionInterface._global_mapping, rollout.NAME, forgetting("sliding_window"))
    assert preflight(model, length=4, horizon=2).engine == "columns"
    assert isinstance(engine_for(model, length=60, horizon=2), PlainEngine)


def test_a_layer_with_a_state_of_its_own_is_run_plainly_and_is_right() -> None:
    model = tiny("llama")

    def running_mean(module: nn.Module, arguments: Any, output: torch.Tensor) -> torch.Tensor:
        count = torch.arange(1, output.shape[1] + 1)[None, :, None]
        return output + output.cumsum(1) / count

    model.model.layers[1].mlp.register_forward_hook(running_mean)
    found = preflight(model, length=40)
    assert found.engine == "plain"
    beams = beam(model, text(), 3, 3)
    for position in (0, 9, LENGTH - 1):
        log_p = 0.0
        branch: list[int] = []
        for token, expected in zip(beams.tokens[0, position, 0], beams.log_probs[0, position, 0], strict=True):
            prefix = torch.cat([text()[:, : position + 1], torch.tensor([branch], dtype=torch.long)], dim=1)
            log_p = model(prefix, use_cache=False).logits[0, -1].log_softmax(-1)[token]
            torch.testing.assert_close(log_p, expected, rtol=0, atol=1e-4)
            branch.append(int(token))


def test_predictions_that_see_later_tokens_are_refused() -> None:
    model = tiny("gpt2")
    model.transformer.h[0].register_forward_hook(
        lambda module, arguments, output: output + output.mean(1, keepdim=True)
    )
    with pytest.raises(Refused, match="later tokens"):
        beam(model, text())


def test_positions_that_scale_with_the_length_are_refused_beyond_it() -> None:
    torch.manual_seed(0)
    config = hf.Phi3Config(
        vocab_size=61,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=96,
        original_max_position_embeddings=24,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "short_factor": [1.0] * 4,
            "long_factor": [4.0] * 4,
            "original_max_position_embeddings": 24,
        },
        pad_token_id=0,
        eos_token_id=None,
    )
    model = hf.Phi3ForCausalLM(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.mul_(6)
    assert preflight(model, length=20).engine == "columns"
    with pytest.raises(Refused, match="--window"):
        preflight(model, length=60)


def test_a_coarse_number_format_reports_its_drift() -> None:
    found = preflight(tiny("llama").bfloat16(), length=60)
    assert found.engine == "columns"
    assert 0 < found.drift["mean"] <= found.drift["max"]
    assert found.floor > 1e-4


def test_amplified_distribution_is_the_linear_mix() -> None:
    model, ids = tiny("qwen2"), text(batch=2, length=9)
    mix = Lookahead(model, width=3, horizon=3, alpha=2.0, weight=0.4).next_token(ids)
    q_ids, q = (x[:, -1] for x in beam(model, ids, 3, 3).next_token(alpha=2.0))
    expected = 0.6 * model(ids).logits[:, -1].softmax(-1)
    for row in range(2):
        for token, prob in zip(q_ids[row], q[row], strict=True):
            if token >= 0:
                expected[row, token] += 0.4 * prob
    torch.testing.assert_close(mix, expected)
    torch.testing.assert_close(mix.sum(-1), torch.ones(2))
