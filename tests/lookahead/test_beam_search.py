"""Beams from every position: against transformers' own beam search, brute force, blocks, and bad input."""

import pytest
import torch
from transformers import PreTrainedModel

from snellen.errors import InputError, Refused
from snellen.lookahead import Rollouts, beam, reference
from snellen.lookahead.beam_search import score_window
from snellen.lookahead.engine import ColumnEngine, PlainEngine
from snellen.lookahead.preflight import engine_for
from tests.lookahead.architectures import COLUMNS, CONFIGS, CONTEXT, PLAIN, VOCABULARY, tiny

LENGTH = 23
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*:UserWarning", "ignore:.*:DeprecationWarning", "ignore:.*:FutureWarning"
)


def text(batch: int = 1, length: int = LENGTH, seed: int = 1) -> torch.Tensor:
    return torch.randint(VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(seed))


def generated(
    model: PreTrainedModel, prefix: torch.Tensor, width: int, horizon: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Completions and summed log-probabilities by transformers' beam search, best first."""
    out = model.generate(
        prefix[None],
        attention_mask=torch.ones_like(prefix)[None],
        num_beams=width,
        num_return_sequences=width,
        max_new_tokens=horizon,
        min_new_tokens=horizon,
        length_penalty=0.0,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        output_scores=True,
        return_dict_in_generate=True,
    )
    return out.sequences[:, len(prefix) :], out.sequences_scores


@pytest.mark.parametrize("name", COLUMNS + PLAIN)
def test_same_beams_as_generate(name: str) -> None:
    model = tiny(name)
    width, horizon = 4, 4
    found = beam(model, text(), width, horizon)
    assert isinstance(
        engine_for(model, length=LENGTH, horizon=horizon), ColumnEngine if name in COLUMNS else PlainEngine
    )
    for position in range(0, LENGTH, 3):
        tokens, scores = generated(model, text()[0, : position + 1], width, horizon)
        assert found.tokens[0, position].tolist() == tokens.tolist()
        torch.testing.assert_close(found.log_probs[0, position].sum(-1), scores, rtol=0, atol=1e-4)


def test_every_architecture_is_spoken_for() -> None:
    assert set(COLUMNS + PLAIN) == set(CONFIGS)


@pytest.mark.parametrize("name", ["llama", "gemma3", "mamba"])
def test_every_depth_equals_brute_force_in_float64(name: str) -> None:
    model = tiny(name, seed=2).double()
    width, horizon = 3, 4
    ids = text(length=12)
    found = beam(model, ids, width, horizon)
    for position in (0, 4, 11):
        for depth, kept in enumerate(
            reference.beam_search(model, ids[0, : position + 1], width=width, horizon=horizon), 1
        ):
            tokens, log_probs = found.completions(depth)
            assert [tuple(c) for c in tokens[0, position].tolist()] == [branch for branch, _ in kept]
            expected = torch.tensor([score for _, score in kept])
            torch.testing.assert_close(log_probs[0, position].sum(-1), expected, rtol=0, atol=1e-5)


def test_naive_is_the_plain_forward_pass() -> None:
    model, ids = tiny("qwen3"), text(batch=2)
    expected = model(ids).logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    torch.testing.assert_close(beam(model, ids, 2, 2).naive, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["gemma2", "gpt_oss", "mistral"])
def test_memory_blocks_and_ranges_change_nothing(name: str) -> None:
    model, ids = tiny(name), text(batch=2)
    whole = beam(model, ids, 4, 5, memory="1GB")
    for other in (beam(model, ids, 4, 5, memory="1MB"), _by_positions(model, ids, 4, 5)):
        assert torch.equal(whole.step_tokens, other.step_tokens)
        assert torch.equal(whole.step_parents, other.step_parents)
        torch.testing.assert_close(whole.step_log_probs, other.step_log_probs, rtol=0, atol=1e-5)


def _by_positions(model: PreTrainedModel, ids: torch.Tensor, width: int, horizon: int) -> Rollouts:
    parts = [beam(model, ids, width, horizon, positions=p) for p in ((0, 1), (1, 9), (9, LENGTH))]
    return Rollouts(
        **{
            name: torch.cat([getattr(p, name) for p in parts], dim=1)
            for name in ("step_tokens", "step_parents", "step_log_probs")
        },
        naive=parts[0].naive,
        positions=torch.cat([p.positions for p in parts]),
    )


def test_more_width_than_completions_leaves_slots_empty() -> None:
    model = tiny("llama")
    found = beam(model, text()[:, :5], VOCABULARY + 9, 1)
    assert (found.tokens[..., VOCABULARY:, :] == -1).all()
    assert (found.log_probs[..., VOCABULARY:, :] == -torch.inf).all()
    torch.testing.assert_close(found.log_probs[..., 0].exp().sum(-1), torch.ones(1, 5))


def test_score_window_agrees_with_the_plain_forward_pass() -> None:
    model, ids = tiny("gemma3"), text()[0]
    starts = torch.zeros(VOCABULARY, dtype=torch.bool)
    starts[::3] = True
    scores = score_window(
        model,
        ids,
        widths=(1, 3),
        horizon=3,
        first=6,
        temperatures=(0.5, 1.0, 2.0),
        top=5,
        starts_word=starts,
        memory="1MB",
    )
    log_p = model(ids[None]).logits[0, 5:-1].double().log_softmax(-1)
    real = log_p.gather(-1, ids[6:, None])
    close = {"rtol": 0, "atol": 1e-5}
    torch.testing.assert_close(torch.from_numpy(scores.log_prob).double(), real[:, 0], **close)
    torch.testing.assert_close(torch.from_numpy(scores.entropy).double(), -(log_p.exp() * log_p).sum(-1), **close)
    assert scores.rank.tolist() == (log_p > real).sum(-1).tolist()
    for column, tau in enumerate((0.5, 1.0, 2.0)):
        torch.testing.assert_close(
            torch.from_numpy(scores.log_z[:, column]).double(), (tau * log_p).logsumexp(-1), **close
        )
    assert scores.top_tokens.tolist() == log_p.topk(5).indices.tolist()
    torch.testing.assert_close(
        torch.from_numpy(scores.log_word_start).double(), log_p[:, starts].logsumexp(-1), **close
    )


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"width": 0}, "width 0"),
        ({"horizon": 0}, "horizon 0"),
        ({"horizon": CONTEXT}, "context of 96"),
        ({"memory": "much"}, "not a size"),
        ({"memory": 10}, "at least 1MB"),
        ({"engine": "steam"}, "engine 'steam'"),
        ({"positions": (4, 99)}, "positions"),
    ],
)
def test_bad_settings_are_named(arguments: dict, what: str) -> None:
    with pytest.raises(InputError, match=what):
        beam(tiny("llama"), text(), **arguments)


def test_ids_beyond_the_vocabulary_are_named() -> None:
    with pytest.raises(InputError, match="vocabulary"):
        beam(tiny("llama"), text() + VOCABULARY)


def test_nan_in_the_weights_is_refused() -> None:
    model = tiny("gpt2")
    model.transformer.h[1].mlp.c_fc.weight[0, 0] = torch.nan
    with pytest.raises(Refused, match="NaN"):
        beam(model, text())


def test_too_little_memory_for_one_position_says_what_to_do() -> None:
    with pytest.raises(InputError, match="lower the width, the horizon or the window"):
        beam(tiny("llama"), text(), width=60, horizon=30, memory="1MB")


@pytest.mark.parametrize("name", [*COLUMNS, "gpt_neo"])
def test_branches_that_follow_the_text_are_looked_up_and_are_the_same(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a text that the model itself finds likely, much is shared; the beams must be those of `generate`."""
    model = tiny(name)
    ids = text(length=2)
    for _ in range(LENGTH - 2):  # greedy, with a stumble now and then
        best = model(ids, use_cache=False).logits[:, -1].topk(3).indices
        ids = torch.cat([ids, best[:, [2 if ids.shape[1] % 5 == 0 else 0]]], dim=1)
    width, horizon = 4, 4
    engine_for(model, length=LENGTH, horizon=horizon)
    computed = []
    runner = ColumnEngine if name in COLUMNS else PlainEngine
    step = runner.step

    def counting(*arguments: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden, nodes = step(*arguments)
        computed.append(len(hidden))
        return hidden, nodes

    monkeypatch.setattr(runner, "step", counting)
    found = beam(model, ids, width, horizon)
    assert sum(computed) < 0.85 * LENGTH * width * (horizon - 1)
    for position in range(0, LENGTH, 2):
        tokens, scores = generated(model, ids[0, : position + 1], width, horizon)
        assert found.tokens[0, position].tolist() == tokens.tolist()
        torch.testing.assert_close(found.log_probs[0, position].sum(-1), scores, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt_oss", "bloom"])
@pytest.mark.parametrize("memory", ["1GB", "1MB"])
def test_widths_searched_together_are_those_searched_alone(
    name: str, memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, ids = tiny(name), text()[0]
    widths, horizon, first = (1, 2, 5), 4, 6
    alone = {width: beam(model, ids[None], width, horizon) for width in widths}
    computed = []
    runner = PlainEngine if name in PLAIN else ColumnEngine
    step = runner.step

    def counting(*arguments: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden, nodes = step(*arguments)
        computed.append(len(hidden))
        return hidden, nodes

    monkeypatch.setattr(runner, "step", counting)
    shares: list[float] = []
    scores = score_window(
        model, ids, widths=widths, horizon=horizon, first=first, memory=memory, progress=shares.append
    )
    for width, (tokens, parents, log_probs) in scores.beams.items():
        expected = alone[width]
        assert tokens.tolist() == expected.step_tokens[0, first - 1 : -1].tolist()
        assert parents.tolist() == expected.step_parents[0, first - 1 : -1].tolist()
        torch.testing.assert_close(
            torch.from_numpy(log_probs), expected.step_log_probs[0, first - 1 : -1], rtol=0, atol=1e-5
        )
    # The narrow searches find most of their nodes in the wide one.
    assert sum(computed) < 1.3 * max(widths) * (horizon - 1) * (LENGTH - first)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
