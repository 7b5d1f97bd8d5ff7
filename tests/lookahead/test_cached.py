"""A model that reads on from its cache otherwise than it reads the whole is scored, and refused for generation."""

from typing import Any

import pytest
import torch
import transformers as hf
from transformers import DynamicCache

import snellen
from snellen.attention.caches import CACHE
from snellen.cli.writing import Job
from snellen.errors import Refused
from snellen.lookahead import Lookahead, beam, generate
from snellen.lookahead.power_sampling import power_sample
from snellen.lookahead.preflight import preflight
from snellen.organisms.markov import Markov
from snellen.organisms.tables import exact
from tests.architectures import small
from tests.lookahead.architectures import VOCABULARY, tiny

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning")


def ids(batch: int = 1, length: int = 9) -> torch.Tensor:
    return torch.randint(1, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(1))


class Swallowing(hf.LlamaForCausalLM):
    """It knows its cache by a name that nobody uses any more; what came under the new one is gone."""

    def forward(self, input_ids: Any = None, attention_mask: Any = None, layer_past: Any = None, **kwargs: Any) -> Any:
        kwargs = {name: value for name, value in kwargs.items() if name not in ("cache", "past_key_values")}
        kwargs.pop("position_ids", None)
        if attention_mask is not None:
            attention_mask = attention_mask[:, -input_ids.shape[1] :]
        return super().forward(input_ids=input_ids, attention_mask=attention_mask, **kwargs)


class OffByOne(hf.LlamaForCausalLM):
    """What follows the cache stands one position too far."""

    def forward(self, input_ids: Any = None, position_ids: Any = None, **kwargs: Any) -> Any:
        cache = kwargs.get(CACHE)
        seen = 0 if cache is None else cache.get_seq_length()
        if position_ids is None:
            position_ids = (torch.arange(input_ids.shape[1]) + seen)[None]
        return super().forward(input_ids=input_ids, position_ids=position_ids + (seen > 0), **kwargs)


class Several(hf.LlamaForCausalLM):
    """Several tokens behind a cache do not see each other's order."""

    def forward(self, input_ids: Any = None, position_ids: Any = None, **kwargs: Any) -> Any:
        cache = kwargs.get(CACHE)
        if cache is not None and (seen := cache.get_seq_length()) and input_ids.shape[1] > 1:
            position_ids = torch.full_like(input_ids, seen)
        return super().forward(input_ids=input_ids, position_ids=position_ids, **kwargs)


class Padded(hf.LlamaForCausalLM):
    """It forgets its mask as soon as there is a cache."""

    def forward(self, input_ids: Any = None, attention_mask: Any = None, **kwargs: Any) -> Any:
        cache = kwargs.get(CACHE)
        if cache is not None and cache.get_seq_length():
            attention_mask = None
        return super().forward(input_ids=input_ids, attention_mask=attention_mask, **kwargs)


class Broken(hf.LlamaForCausalLM):
    def forward(self, input_ids: Any = None, **kwargs: Any) -> Any:
        cache = kwargs.get(CACHE)
        if cache is not None and cache.get_seq_length():
            raise RuntimeError("sizes do not\nmatch")
        return super().forward(input_ids=input_ids, **kwargs)


FAULTS = [Swallowing, OffByOne, Several, Padded, Broken]


def planted(fault: type[hf.LlamaForCausalLM]) -> hf.PreTrainedModel:
    honest = tiny("llama")
    model = fault(honest.config).eval().requires_grad_(False)
    model.load_state_dict(honest.state_dict())
    return model


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_cache_is_refused_for_generation_in_one_line_and_scored_all_the_same(fault: type) -> None:
    model, honest = planted(fault), tiny("llama")
    found = preflight(model, length=40)
    assert found.engine == "columns"
    assert not all(check.passed for name, check in found.checks.items() if name.startswith("cache"))
    assert found.as_dict()["why_no_generation"] == found.why_no_generation != None  # noqa: E711
    assert "\n" not in str(found.why_no_generation)
    assert torch.equal(beam(model, ids(), 3, 3).tokens, beam(honest, ids(), 3, 3).tokens)
    torch.testing.assert_close(
        Lookahead(model).next_token(ids()), Lookahead(honest).next_token(ids()), rtol=0, atol=1e-6
    )
    refused = pytest.raises(
        Refused, match=rf"{fault.__name__}: refused for generation \(not for scoring\): predictions"
    )
    with refused:
        generate(model, ids(), max_new_tokens=3)
    with refused:
        Lookahead(model).generate(ids(), max_new_tokens=3)
    with refused:
        model.generate(ids(), attention_mask=torch.ones_like(ids()), custom_generate=generate, max_new_tokens=3)
    with refused:
        power_sample(model, ids(), particles=2, max_new_tokens=3)


def test_a_check_that_was_made_for_scoring_is_completed_for_generation() -> None:
    model = planted(OffByOne)
    beam(model, ids(), 2, 2)
    with pytest.raises(Refused, match="refused for generation"):
        generate(model, ids(), max_new_tokens=2, width=2, horizon=2)
    generate(tiny("llama"), ids(), max_new_tokens=2, width=2, horizon=2)


def test_what_the_planted_fault_does_to_transformers_own_generation() -> None:
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    mask = torch.ones_like(ids())
    model, honest = planted(Swallowing), tiny("llama")
    right = honest.generate(ids(), attention_mask=mask, **options)
    assert torch.equal(model.generate(ids(), attention_mask=mask, use_cache=False, **options), right)
    assert not torch.equal(model.generate(ids(), attention_mask=mask, **options), right)


@pytest.mark.parametrize("layer_types", [["mesa"], ["linear"], ["softmax", "mesa"]], ids="-".join)
def test_our_own_architectures_read_on_as_they_read(layer_types: list[str]) -> None:
    found = preflight(small.language(layer_types), length=24)
    assert found.cache == "used"
    assert found.why_no_generation is None
    assert found.checks["cache"].passed
    assert found.checks["cache, several at once"].passed


def test_models_without_a_cache_are_told_and_may_generate() -> None:
    table = preflight(exact(Markov(tokens=2, size=32)), length=16)
    assert (table.cache, table.why_no_generation) == ("none", None)
    assert "cache" not in table.checks
    torch.manual_seed(0)
    config = hf.OpenAIGPTConfig(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=96)
    model = hf.OpenAIGPTLMHeadModel(config).eval().requires_grad_(False)
    found = preflight(model, length=24)
    assert (found.cache, found.why_no_generation) == ("none", None)
    assert found.checks["cache"].passed  # its `generate` runs the whole text anew
    assert generate(model, ids(), max_new_tokens=2, width=2, horizon=2).shape == (1, 11)


def test_a_text_of_one_token_leaves_nothing_to_compare() -> None:
    found = preflight(tiny("llama"), length=1, horizon=2)
    assert "cache" not in found.checks
    assert found.why_no_generation is None


@pytest.mark.parametrize("length", [2, 3, 4, 5, 6, 7])
def test_short_texts(length: int) -> None:
    assert preflight(tiny("llama"), length=length, horizon=2).why_no_generation is None
    assert preflight(planted(OffByOne), length=length, horizon=2).why_no_generation is not None


def test_loading_says_so_and_every_way_to_write_is_refused() -> None:
    pocket = snellen.load("pocket")
    assert pocket.preflight.cache == "used"
    assert pocket.preflight.checks["cache"].passed
    assert pocket.preflight.as_dict()["checks"]["cache"]["passed"]
    own = pocket.model.forward

    def swallowing(input_ids: Any = None, **kwargs: Any) -> Any:
        if isinstance(kwargs.get(CACHE), DynamicCache) and kwargs[CACHE].get_seq_length():
            kwargs = {n: v for n, v in kwargs.items() if n not in (CACHE, "attention_mask", "position_ids")}
        return own(input_ids=input_ids, **kwargs)

    pocket.model.forward = swallowing
    subject = snellen.load(pocket.model, tokenizer=pocket.tokenizer)
    assert subject.preflight.why_no_generation is not None
    for method in ("greedy", "sample", "beam", "power", "amplified"):
        settings = {"width": 2, "horizon": 2, "alpha": 2.0, "weight": 0.2, "mix": "linear", "particles": 2}
        job = Job(subject=subject, method=method, settings=settings, max_new_tokens=4, stops=[], details=False)
        with pytest.raises(Refused, match="refused for generation"):
            job.check(["It was"])
