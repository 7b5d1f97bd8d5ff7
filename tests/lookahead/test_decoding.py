"""Generation with lookahead: every step against a search from scratch, and the ways to ask for it."""

import itertools
import math

import pytest
import torch
from transformers import PreTrainedModel, StoppingCriteriaList

from snellen.errors import InputError, Refused
from snellen.lookahead import Lookahead, beam, decoding, generate
from snellen.lookahead.amplification import Amplification, log_power, mixed
from snellen.lookahead.engine import Body, ColumnEngine
from snellen.lookahead.growing import Growing
from snellen.lookahead.mixing import geometric
from snellen.lookahead.plans import prompts_of
from snellen.lookahead.preflight import engine_for
from snellen.lookahead.stem import stem_of
from tests.lookahead.architectures import CONFIGS, CONTEXT, PLAIN, VOCABULARY, tiny

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*:UserWarning", "ignore:.*:DeprecationWarning", "ignore:.*:FutureWarning"
)
SOON = ["gpt2", "mistral", "gemma2", "gpt_oss", "deepseek_v3", "mamba"]
LATER = [name for name in CONFIGS if name not in SOON]
LENGTH = 9


def prompt(batch: int = 1, length: int = LENGTH, seed: int = 1) -> torch.Tensor:
    return torch.randint(1, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(seed))


def growing(model: PreTrainedModel, ids: torch.Tensor, *, width=4, horizon=4, budget=10**9, room=16) -> Growing:
    runner = engine_for(model, length=ids.shape[1] + room, horizon=horizon)
    return Growing(stem_of(runner), ids[0], width=width, horizon=horizon, room=room, budget=budget)


def same_beams(found: object, expected: object) -> None:
    assert torch.equal(found.step_tokens, expected.step_tokens)
    assert torch.equal(found.step_parents, expected.step_parents)
    torch.testing.assert_close(found.step_log_probs, expected.step_log_probs, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", [*SOON, *(pytest.param(name, marks=pytest.mark.slow) for name in LATER)])
def test_every_step_is_the_search_from_scratch(name: str) -> None:
    model, new = tiny(name), 6
    how = {"width": 4, "horizon": 4, "alpha": 1.5, "weight": 0.4}
    options = {"max_new_tokens": new, "do_sample": True, "seed": 3, "eos_token_id": None}
    found = generate(model, prompt(), details=True, **how, **options)
    anew = generate(model, prompt(), details=True, reuse=False, **how, **options)
    assert torch.equal(found.sequences, anew.sequences)
    assert found.passes < anew.passes
    assert isinstance(engine_for(model, length=LENGTH + new, horizon=4), ColumnEngine) == (name not in PLAIN)
    whole = beam(model, found.sequences, 4, 4, positions=(LENGTH - 1, LENGTH + new - 1))
    logits = model(found.sequences).logits[0].float()
    for i, (step, other) in enumerate(zip(found.steps[0], anew.steps[0], strict=True)):
        last = LENGTH + i
        ids, probs = beam(model, found.sequences[:, :last], 4, 4, positions=(last - 1, last)).next_token(alpha=1.5)
        for rollouts in (step.rollouts, other.rollouts):
            assert torch.equal(rollouts.step_tokens[0, 0], whole.step_tokens[0, i])
            assert torch.equal(rollouts.step_parents[0, 0], whole.step_parents[0, i])
            torch.testing.assert_close(rollouts.step_log_probs[0, 0], whole.step_log_probs[0, i], rtol=0, atol=2e-5)
        q = {int(t): float(p) for t, p in zip(ids[0, -1], probs[0, -1], strict=True) if t >= 0}
        assert step.lookahead.keys() == q.keys()
        assert step.lookahead == pytest.approx(q, abs=1e-4)
        log_p = logits[LENGTH - 1 + i].log_softmax(-1)
        assert step.log_prob == pytest.approx(float(log_p[step.token]), abs=2e-5)
        mix = 0.6 * float(log_p[step.token].exp()) + 0.4 * q.get(step.token, 0.0)
        assert math.exp(step.amplified_log_prob) == pytest.approx(mix, abs=1e-4)


@pytest.mark.parametrize(("width", "horizon"), [(1, 1), (1, 5), (5, 1), (3, 7), (VOCABULARY + 5, 2)])
@pytest.mark.parametrize("name", ["gemma3", "gpt_neo"])
def test_any_width_and_horizon(name: str, width: int, horizon: int) -> None:
    model = tiny(name)
    found = generate(model, prompt(), width=width, horizon=horizon, max_new_tokens=3, details=True, eos_token_id=None)
    for i, step in enumerate(found.steps[0]):
        last = LENGTH + i
        same_beams(step.rollouts, beam(model, found.sequences[:, :last], width, horizon, positions=(last - 1, last)))


def test_with_too_few_places_what_is_in_nobodys_way_is_dropped() -> None:
    model, ids = tiny("llama"), prompt()
    search = growing(model, ids)
    search._free = search._free[: 4 * 3 + 1]  # those of one search's survivors, and of one chosen token
    random = torch.Generator().manual_seed(0)
    for _ in range(8):
        same_beams(search.rollouts(), beam(model, ids, 4, 4, positions=(ids.shape[1] - 1, ids.shape[1])))
        level = search.survivors()[-1]
        token = level[int(torch.randint(4, (), generator=random))].root
        search.advance(token)
        ids = torch.cat([ids, torch.tensor([[token]])], dim=1)
        places = [node.place for node in search._at_end().below()]
        assert sorted([*places, *search._free]) == list(range(4 * 3 + 1))  # none lost, none dealt out twice


def test_with_little_memory_states_are_kept_instead_of_logits() -> None:
    model, ids = tiny("qwen3"), prompt()
    rich, poor = growing(model, ids), growing(model, ids, budget=10_000)
    for token in (5, 7, rich.survivors()[0][0].token, 11):
        same_beams(rich.rollouts(), poor.rollouts())
        torch.testing.assert_close(rich.logits(), poor.logits(), rtol=0, atol=1e-5)
        assert len(poor._root.state) == model.config.hidden_size
        rich.advance(token), poor.advance(token)


def test_the_prompt_is_run_once_and_chosen_tokens_are_not_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = tiny("llama"), prompt(length=40)
    engine_for(model, length=40 + 16, horizon=4)
    ran = []
    hidden = Body.hidden
    monkeypatch.setattr(
        Body, "hidden", lambda self, input_ids, **more: ran.append(input_ids.numel()) or hidden(self, input_ids, **more)
    )
    found = generate(model, ids, max_new_tokens=16, details=True, eos_token_id=None)
    assert ran[0] == 40
    assert max(ran[1:]) <= 4 * 3
    assert sum(ran[1:]) == found.ran < 16 * 4 * 3
    assert len(ran) - 1 == found.passes < 16 * 3


@pytest.mark.parametrize("mix", ["linear", "geometric"])
@pytest.mark.parametrize("sample", [True, False])
def test_what_is_asked_for_besides_changes_no_text(mix: str, sample: bool) -> None:
    model = tiny("gpt2", scale=2.0)
    options = {"mix": mix, "weight": 0.3, "max_new_tokens": 8, "do_sample": sample, "seed": 5, "eos_token_id": None}
    steps = []
    bare = generate(model, prompt(2), **options)
    full = generate(model, prompt(2), details=True, on_token=steps.append, **options)
    assert torch.equal(bare, full.sequences)
    assert [step.token for step in steps if step.row == 1] == bare[1, LENGTH:].tolist()
    assert full.log_probs.shape == full.amplified_log_probs.shape == (2, 8)
    if not sample:
        assert all(step.token == step.amplified[0][0] for step in steps)


def test_samples_follow_the_mix() -> None:
    """Composition (q with probability w, else p), inverse transform and processors draw from the same distribution."""
    model, draws = tiny("llama", scale=15.0), 1_200
    for mix in ("linear", "geometric"):
        how = Amplification(mix=mix, weight=0.8, alpha=20.0)
        search = growing(model, prompt())
        row = decoding._Row(number=0, search=search, random=torch.Generator().manual_seed(1))
        prediction = decoding._Prediction(row=row, how=how, logits=search.logits())
        expected = prediction.amplified().exp()
        scores = expected.log()
        for chosen in (
            [prediction.choose(sample=True) for _ in range(draws)],
            [decoding._processed(scores, row.random, sample=True) for _ in range(draws)],
        ):
            frequency = torch.bincount(torch.tensor(chosen), minlength=VOCABULARY) / draws
            spread = (expected * (1 - expected) / draws).sqrt()
            assert ((frequency - expected).abs() <= 4.5 * spread + 4 / draws).all()
            naive = search.logits().softmax(-1)
            assert ((frequency - naive).abs() > 6 * spread).any()  # the test could see a wrong distribution


def test_rounding_does_not_decide_what_is_drawn() -> None:
    """Forward passes of other shapes differ by some 1e-6; over 50,000 tokens that must not show."""
    random = torch.Generator().manual_seed(2)
    logits = 2 * torch.randn(50_000, generator=random)
    changed = 0
    for _ in range(200):
        _, noise = decoding._drawn(random, logits)
        shaken = logits + 1e-6 * torch.randn(50_000, generator=random)
        changed += decoding._first(logits, noise) != decoding._first(shaken, noise)
    assert changed == 0


def test_a_sure_model_is_not_asked_to_search(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = tiny("llama", scale=9.0), prompt()
    searched = []
    survivors = Growing.survivors
    monkeypatch.setattr(Growing, "survivors", lambda self: searched.append(1) or survivors(self))
    options = {"max_new_tokens": 12, "eos_token_id": None}
    first = generate(model, ids, weight=0.1, **options)
    assert 0 < len(searched) < 12
    assert torch.equal(first, generate(model, ids, weight=0.1, details=True, **options).sequences)
    searched.clear()
    generate(model, ids, weight=0.0, do_sample=True, **options)
    assert not searched


def test_best_tokens_without_weight_are_those_of_greedy_generate() -> None:
    model, ids = tiny("qwen3"), prompt()
    expected = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
    for weight in (0.0, 1.0):
        options = {"weight": weight, "horizon": 1, "alpha": 1.0, "width": 1}
        assert torch.equal(generate(model, ids, max_new_tokens=12, **options), expected)


def test_as_custom_generate_with_left_padding() -> None:
    model = tiny("gemma3")
    rows = [prompt(length=6, seed=2)[0], prompt(length=9, seed=3)[0]]
    ids, mask = torch.zeros(2, 9, dtype=torch.long), torch.zeros(2, 9, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, 9 - len(row) :], mask[i, 9 - len(row) :] = row, 1
    how = {"width": 3, "horizon": 3, "alpha": 2.0, "weight": 0.4}
    for sampling in ({}, {"do_sample": True, "top_k": 0, "temperature": 0.8, "top_p": 0.9, "seed": 4}):
        through = model.generate(
            ids, attention_mask=mask, custom_generate=generate, max_new_tokens=5, **how, **sampling
        )
        direct = generate(model, ids, attention_mask=mask, max_new_tokens=5, **how, **sampling)
        assert torch.equal(through, direct)
        assert torch.equal(
            through, Lookahead(model, **how).generate(ids, attention_mask=mask, max_new_tokens=5, **sampling)
        )
        if not sampling:
            for i, row in enumerate(rows):
                alone = generate(model, row[None], max_new_tokens=5, **how)
                assert torch.equal(direct[i, 9:], alone[0, len(row) :])


def test_through_transformers_details_and_constraints_arrive() -> None:
    model, ids = tiny("llama"), prompt(2)
    allowed = {0: [3, 4], 1: [5]}
    found = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        custom_generate=generate,
        max_new_tokens=4,
        return_dict_in_generate=True,
        prefix_allowed_tokens_fn=lambda row, _: allowed[row],
    )
    assert set(found.sequences[0, LENGTH:].tolist()) <= {3, 4}
    assert found.sequences[1, LENGTH:].tolist() == [5] * 4
    assert found.steps[0][0].rollouts.width == 4


def test_rows_do_not_depend_on_one_another() -> None:
    model = tiny("gpt_neox", scale=2.0)
    options = {"max_new_tokens": 8, "do_sample": True, "seed": 7, "eos_token_id": None}
    both = generate(model, prompt(2, seed=4), **options)
    other = generate(model, torch.cat([prompt(1, seed=9), prompt(2, seed=4)[1:]]), **options)
    assert torch.equal(both[1], other[1])
    twice = generate(model, prompt(1).expand(2, -1), **options)
    assert not torch.equal(twice[0], twice[1])
    again = []
    for _ in range(2):
        torch.manual_seed(11)
        again.append(generate(model, prompt(), **{**options, "seed": None}))
    assert torch.equal(*again)
    assert torch.equal(
        generate(model, prompt(), **{**options, "seed": torch.Generator().manual_seed(7)}),
        generate(model, prompt(), **options),
    )


class Letters:
    """A tokenizer whose token n is a letter."""

    def decode(self, ids: list[int], **_: object) -> str:
        return "".join(chr(64 + token) for token in ids)


def test_rows_end_at_stop_tokens_and_texts() -> None:
    model, ids = tiny("llama", scale=2.0), prompt(2)
    options = {"max_new_tokens": 14, "do_sample": True, "seed": 1, "pad_token_id": 0}
    free = generate(model, ids, eos_token_id=None, **options)[:, LENGTH:].tolist()
    stop = free[0][5]

    def until(row: list[int], ends: set[int], after: int = 0) -> list[int]:
        last = next((i for i, token in enumerate(row) if token in ends and i >= after), len(row) - 1)
        return row[: last + 1]

    for asked in ({"stop": stop, "eos_token_id": None}, {"eos_token_id": [stop]}, {"stop": [chr(64 + stop)]}):
        if "stop" in asked and isinstance(asked["stop"], list):
            asked |= {"tokenizer": Letters(), "eos_token_id": None}
        found = generate(model, ids, **options, **asked)[:, LENGTH:].tolist()
        expected = [until(row, {stop}) for row in free]
        longest = max(map(len, expected))
        assert found == [row + [0] * (longest - len(row)) for row in expected]
    pair = "".join(chr(64 + token) for token in free[0][3:5])
    found = generate(model, ids[:1], stop=pair, tokenizer=Letters(), eos_token_id=None, **options)[0, LENGTH:].tolist()
    assert found == free[0][:5]
    late = generate(model, ids[:1], stop=stop, min_new_tokens=10, eos_token_id=None, **options)[0, LENGTH:].tolist()
    assert stop not in late[:10]
    assert len(late) >= 10


def test_a_streamer_hears_every_token() -> None:
    heard = []

    class Streamer:
        def put(self, value: torch.Tensor) -> None:
            heard.append(value.tolist())

        def end(self) -> None:
            heard.append("end")

    found = generate(tiny("llama"), prompt(), max_new_tokens=3, streamer=Streamer())
    assert heard == [prompt().tolist(), *[[token] for token in found[0, LENGTH:].tolist()], "end"]


def test_criteria_of_others_are_asked() -> None:
    seen = []

    def criterion(ids: torch.Tensor, scores: object, **_: object) -> torch.Tensor:
        seen.append(ids.shape[1])
        return torch.tensor([ids.shape[1] >= LENGTH + 3] * len(ids))

    found = generate(tiny("llama"), prompt(), max_new_tokens=9, stopping_criteria=StoppingCriteriaList([criterion]))
    assert found.shape[1] == LENGTH + 3
    assert seen == [LENGTH + 1, LENGTH + 2, LENGTH + 3]


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 3.0, 40.0, math.inf])
def test_power_and_mixes_by_other_means(alpha: float) -> None:
    model, ids = tiny("olmo2"), prompt()
    search = growing(model, ids, width=5)
    log_q = log_power(search.survivors()[-1], alpha)
    tokens, probs = search.rollouts().next_token(alpha=alpha)
    expected = {int(t): float(p) for t, p in zip(tokens[0, 0], probs[0, 0], strict=True) if t >= 0}
    assert {t: math.exp(v) for t, v in log_q.items() if v > -700} == pytest.approx(expected, abs=1e-6)
    log_p = search.logits().double().log_softmax(-1)
    for weight, mix in itertools.product((0.0, 0.3, 1.0), ("linear", "geometric")):
        if mix == "geometric" and math.isinf(alpha):
            continue
        found = mixed(search.logits(), log_q, Amplification(alpha=alpha, weight=weight, mix=mix)).double()
        assert float(found.exp().sum()) == pytest.approx(1, abs=1e-5)
        if mix == "linear":
            wanted = (1 - weight) * log_p.exp()
            for token, value in log_q.items():
                wanted[token] += weight * math.exp(value)
            torch.testing.assert_close(found.exp(), wanted, rtol=1e-4, atol=1e-7)
        else:
            slots = list(log_q)
            inside = geometric(
                log_p[slots][None].numpy(), torch.tensor([list(log_q.values())]).double().numpy(), weight
            )
            wanted = log_p.clone()
            wanted[slots] = torch.from_numpy(inside)[0]
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_lookahead_next_token_is_the_first_step() -> None:
    model, ids = tiny("gpt_oss"), prompt(2)
    for mix in ("linear", "geometric"):
        lookahead = Lookahead(model, alpha=0.7, weight=0.6, mix=mix)
        found = lookahead.generate(ids, max_new_tokens=1, details=True)
        probs = lookahead.next_token(ids)
        for row, steps in enumerate(found.steps):
            assert int(probs[row].argmax()) == steps[0].token
            for token, value in steps[0].amplified:
                assert float(probs[row, token]) == pytest.approx(value, abs=1e-5)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"width": 0}, "width 0"),
        ({"horizon": 0}, "horizon 0"),
        ({"alpha": -1.0}, "alpha -1"),
        ({"alpha": math.nan}, "alpha nan"),
        ({"weight": 1.5}, "weight 1.5"),
        ({"weight": math.nan}, "weight nan"),
        ({"mix": "harmonic"}, "mix 'harmonic'"),
        ({"mix": "geometric", "alpha": math.inf}, "alpha inf"),
        ({"max_new_tokens": 0}, "max_new_tokens 0"),
        ({"max_new_tokens": CONTEXT - LENGTH - 1}, f"at most {CONTEXT - LENGTH - 2} tokens can be new"),
        ({"min_new_tokens": 70}, "min_new_tokens 70"),
        ({"temperature": 0.0, "do_sample": True}, "temperature 0"),
        ({"temperature": 0.5}, "no effect without sampling"),
        ({"top_p": 1.2, "do_sample": True}, "top_p 1.2"),
        ({"top_k": -1, "do_sample": True}, "top_k -1"),
        ({"stop": VOCABULARY}, f"stop token {VOCABULARY}"),
        ({"stop": [""]}, "stop ''"),
        ({"stop": ["x"]}, "needs the tokenizer"),
        ({"eos_token_id": -3}, "stop token -3"),
        ({"widht": 4}, "option 'widht'"),
        ({"memory": "much"}, "not a size"),
        ({"engine": "steam"}, "engine 'steam'"),
        ({"attention_mask": torch.tensor([[1] * (LENGTH - 1) + [0]])}, "padded on the left"),
        ({"attention_mask": torch.zeros(1, LENGTH)}, "all padding"),
        ({"attention_mask": torch.ones(1, 3)}, "attention_mask of shape"),
    ],
)
def test_bad_input_is_named_before_any_work(arguments: dict, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llama")
    if arguments.get("engine") is None:
        monkeypatch.setattr(Body, "hidden", lambda *_, **__: pytest.fail("work was begun"))
    with pytest.raises(InputError, match=what):
        generate(model, prompt(), **arguments)


def test_bad_prompts_are_named() -> None:
    model = tiny("llama")
    with pytest.raises(InputError, match="empty prompt"):
        generate(model, prompt()[:, :0])
    with pytest.raises(InputError, match="input_ids 61"):
        generate(model, prompt() * 0 + VOCABULARY)
    with pytest.raises(InputError, match="shape"):
        prompts_of(prompt()[0], None)
    model.generation_config.pad_token_id = None
    with pytest.raises(InputError, match="pad_token_id"):
        generate(model, prompt(2), eos_token_id=None, stop="A", tokenizer=Letters())


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"num_beams": 2}, "num_beams=2"),
        ({"output_scores": True}, "output_scores=True"),
        ({"token_type_ids": torch.ones(1, LENGTH, dtype=torch.long)}, "token_type_ids"),
        ({"stop": ["x"]}, "needs the tokenizer"),
        ({"width": 0}, "width 0"),
    ],
)
def test_what_transformers_could_ask_and_is_not_done_is_refused(arguments: dict, what: str) -> None:
    model = tiny("gpt2")
    ids = prompt()
    with pytest.raises(InputError, match=what):
        model.generate(
            ids, attention_mask=torch.ones_like(ids), custom_generate=generate, max_new_tokens=3, **arguments
        )


def test_a_masked_model_is_refused() -> None:
    import transformers as hf

    config = hf.BertConfig(vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                           num_attention_heads=4, max_position_embeddings=CONTEXT)  # fmt: skip
    model = hf.BertForMaskedLM(config).eval().requires_grad_(False)
    with pytest.raises(InputError, match="BertForMaskedLM: does not write text; a causal"):
        generate(model, prompt(), max_new_tokens=3)
    blind = hf.BertLMHeadModel(config).eval().requires_grad_(False)  # a causal class of bidirectional weights
    with pytest.raises(Refused, match="later tokens"):
        generate(blind, prompt(), max_new_tokens=3)
