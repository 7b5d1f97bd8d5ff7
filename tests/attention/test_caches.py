"""One cache under several names: what models of ours are given arrives, or is refused by name."""

import inspect

import pytest
import torch
import transformers as hf
from transformers import DynamicCache

from snellen.attention.caches import CACHE, CACHE_NAMES, cache_argument, cache_in, holds_text, one_cache
from snellen.attention.keeping import keeping
from snellen.errors import InputError
from snellen.lookahead import generate
from tests.architectures import small
from tests.lookahead.architectures import tiny

BOTH = ("cache", "past_key_values")
MIXTURES = (["mesa"], ["linear"], ["softmax"], ["softmax", "mesa"])


@pytest.fixture(autouse=True)
def _inference():
    with torch.no_grad():
        yield


def test_the_name_in_use_is_that_of_transformers_own_models():
    for model in (hf.LlamaForCausalLM, hf.GPT2LMHeadModel, hf.MistralForCausalLM):
        assert cache_argument(model.forward) == CACHE
    out = tiny("llama")(small.text(length=5), use_cache=True)
    assert CACHE in list(out.keys())
    assert cache_in(out) is out[CACHE]
    assert cache_in(tiny("llama")(small.text(length=5), use_cache=False)) is None
    assert cache_in(tiny("mamba")(small.text(length=5), use_cache=True)) is not None


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("layer_types", MIXTURES, ids="-".join)
def test_a_model_of_ours_takes_its_cache_by_either_name(layer_types, name):
    model, ids = small.language(layer_types), small.text(length=9)
    whole = model(ids, use_cache=False).logits
    for forward, of in ((model, lambda out: out.logits), (model.model, lambda out: model.lm_head(out[0]))):
        cache = DynamicCache(config=model.config)
        parts = [of(forward(part, **{name: cache})) for part in ids.split([4, 1, 1, 3], dim=1)]
        torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-4, atol=2e-5)
        assert cache.get_seq_length() == 9


def test_two_different_caches_are_an_error_and_one_under_both_names_is_not():
    model, ids = small.language(["softmax", "mesa"]), small.text(length=6)
    one, other = DynamicCache(config=model.config), DynamicCache(config=model.config)
    for forward in (model, model.model):
        with pytest.raises(InputError, match="cache and past_key_values"):
            forward(ids, cache=one, past_key_values=other)
    model(ids, cache=one, past_key_values=one)
    assert one.get_seq_length() == 6
    assert one_cache(cache=None, past_key_values=None) is None


@pytest.mark.parametrize("layer_types", MIXTURES, ids="-".join)
def test_an_argument_that_nobody_knows_raises_with_its_name(layer_types):
    model, ids = small.language(layer_types), small.text(length=6)
    for forward in (model, model.model):
        forward(ids, renamed=None)
        with pytest.raises(InputError, match="'renamed'"):
            forward(ids, renamed=DynamicCache(config=model.config))
        with pytest.raises(InputError, match="'is_causal'"):
            forward(ids, is_causal=False)
    hidden = model.model.embed_tokens(ids)
    for layer in model.layers:
        with pytest.raises((InputError, TypeError), match="renamed"):
            layer(hidden, renamed=1)
    with pytest.raises(InputError, match="shift_labels"):
        model(ids, shift_labels=ids)


def test_what_models_of_ours_name_is_what_transformers_hands_them():
    # Greedy generation, a training step with the size of its batch, and packed rows: everything arrives.
    model, ids = small.language(["softmax", "mesa"]), small.text(length=6)
    for keyword in ("attention_mask", "position_ids", "inputs_embeds", "use_cache", "labels", "logits_to_keep", *BOTH):
        assert keyword in inspect.signature(model.forward).parameters
    half = model(ids, labels=ids, num_items_in_batch=torch.tensor(20)).loss
    torch.testing.assert_close(half, model(ids, labels=ids).loss * (ids[:, 1:].numel() / 20))


@pytest.mark.parametrize("name", ["gpt2", "mamba"])
def test_custom_generate_takes_an_empty_cache_by_any_name_and_refuses_a_filled_one(name):
    model, ids = tiny(name), small.text(length=6)
    config = hf.GenerationConfig(max_length=8, do_sample=False)
    config._pad_token_tensor = None
    options = {"generation_config": config, "width": 2, "horizon": 2}
    expected = generate(model, ids, max_new_tokens=2, width=2, horizon=2, eos_token_id=None)
    filled = cache_in(model(ids, use_cache=True))
    for given in CACHE_NAMES:
        empty = DynamicCache(config=model.config)
        assert not holds_text(empty)
        assert torch.equal(generate(model, ids, **options, **{given: empty}), expected)
        with pytest.raises(InputError, match=given):
            generate(model, ids, **options, **{given: filled})
    with pytest.raises(InputError, match="cache and past_key_values"):
        generate(model, ids, **options, cache=empty, past_key_values=DynamicCache(config=model.config))
    with pytest.raises(InputError, match="'renamed'"):
        generate(model, ids, **options, renamed=empty)


def test_a_pass_that_went_on_from_a_cache_does_not_serve_a_search():
    model, ids = tiny("llama"), small.text(length=6)
    cache = cache_in(model(ids[:, :3], use_cache=True))
    with keeping(model) as kept:
        model(ids[:, 3:], **{CACHE: cache})
        with pytest.raises(InputError, match="from a cache"):
            kept.check(ids[:, 3:])
