"""What a cache holds is what a full pass would have computed; padding and packing change nothing."""

import copy

import pytest
import torch
from transformers import DynamicCache

from snellen.attention.caches import CACHE, cache_in
from snellen.errors import InputError
from tests.architectures import small

TOLERANCE = {"rtol": 1e-4, "atol": 2e-5}
MIXED = ["softmax", "linear", "mesa"]


@pytest.fixture(autouse=True)
def _inference():
    with torch.no_grad():
        yield


def in_parts(model, ids, sizes, **arguments):
    """Logits of consecutive parts, each after the cache of those before."""
    cache, out, first = DynamicCache(config=model.config), [], 0
    mask = arguments.pop("attention_mask", None)
    for size in sizes:
        given = {} if mask is None else {"attention_mask": mask[:, : first + size]}
        out.append(model(ids[:, first : first + size], **{CACHE: cache}, **given).logits)
        first += size
    assert cache.get_seq_length() == first
    return torch.cat(out, dim=1)


@pytest.mark.parametrize("layer_types", small.MIXTURES, ids="-".join)
@pytest.mark.parametrize("settings", [{}, {"mesa_form": "2023", "decay": False}, {"conv_size": 0}], ids=str)
def test_prompt_then_token_by_token_is_the_full_pass(layer_types, settings):
    model, ids = small.language(layer_types, **settings), small.text(length=11)
    whole = model(ids, use_cache=False).logits
    for sizes in ([5] + [1] * 6, [1] * 11, [3, 4, 4], [11]):
        torch.testing.assert_close(in_parts(model, ids, sizes), whole, **TOLERANCE)


@pytest.mark.parametrize("positions", ["rope", "learned", "none"])
@pytest.mark.parametrize("layer_types", [["mesa"], ["linear"], MIXED], ids="-".join)
def test_padding_changes_nothing(layer_types, positions):
    model = small.language(layer_types, positions=positions, attention_bias=True)
    ids = small.text(batch=3, length=9)
    whole = model(ids, use_cache=False).logits
    for before, after in ((4, 0), (0, 4), (2, 3)):
        padded = torch.nn.functional.pad(ids, (before, after), value=1)
        mask = torch.nn.functional.pad(torch.ones_like(ids), (before, after))
        found = model(padded, attention_mask=mask, use_cache=False).logits[:, before : before + 9]
        torch.testing.assert_close(found, whole, **TOLERANCE)
        for sizes in ([before + 9 + after], [3] * 4 + [1 + before + after - 4], [1] * (before + 9 + after)):
            parts = in_parts(model, padded, sizes, attention_mask=mask)
            torch.testing.assert_close(parts[:, before : before + 9], whole, **TOLERANCE)


def test_a_text_goes_on_behind_padding_on_the_right():
    model, ids = small.language(MIXED), small.text(length=9)
    whole = model(ids, use_cache=False).logits
    padded = torch.cat([ids[:, :5], torch.ones(2, 3, dtype=torch.long), ids[:, 5:]], dim=1)
    mask = torch.tensor([[1] * 5 + [0] * 3 + [1] * 4] * 2)
    for sizes in ([12], [8, 4], [8, 1, 1, 1, 1], [7, 2, 3]):
        found = in_parts(model, padded, sizes, attention_mask=mask)
        torch.testing.assert_close(found[:, mask[0].bool()], whole, **TOLERANCE)


@pytest.mark.parametrize("layer_types", small.MIXTURES, ids="-".join)
def test_packed_rows_are_texts_of_their_own(layer_types):
    model = small.language(layer_types)
    texts = [small.text(batch=1, length=n, seed=n) for n in (5, 1, 8, 2)]
    packed = torch.cat(texts, dim=1)
    places = torch.cat([torch.arange(x.shape[1]) for x in texts])[None]
    found = model(packed, position_ids=places, use_cache=False).logits
    alone = torch.cat([model(x, use_cache=False).logits for x in texts], dim=1)
    torch.testing.assert_close(found, alone, **TOLERANCE)
    torch.testing.assert_close(model(packed, position_ids=places).logits, alone, **TOLERANCE)
    together = model(packed, use_cache=False).logits
    assert (together - alone).abs().max() > 0.01


def test_packed_rows_leave_no_cache():
    model, ids = small.language(MIXED), small.text(batch=1, length=6)
    places = torch.tensor([[0, 1, 2, 0, 1, 2]])
    with pytest.raises(InputError, match="use_cache=False"):
        model(ids, position_ids=places, use_cache=True)
    assert cache_in(model(ids, position_ids=places)) is None
    with pytest.raises(InputError, match=r"cu_seq_lens_q.*position_ids"):
        model(ids, cu_seq_lens_q=torch.tensor([0, 3, 6]))


@pytest.mark.parametrize("layer_types", small.MIXTURES, ids="-".join)
def test_rows_of_a_cache_are_chosen_and_repeated(layer_types):
    model, ids = small.language(layer_types), small.text(batch=3, length=7)
    cache = cache_in(model(ids[:, :5], use_cache=True))
    repeated, chosen, reordered = (copy.deepcopy(cache) for _ in range(3))
    repeated.batch_repeat_interleave(2)
    chosen.batch_select_indices(torch.tensor([2, 0]))
    reordered.reorder_cache(torch.tensor([1, 1, 0]))
    whole = model(ids, use_cache=False).logits[:, 5:]
    for changed, rows in ((cache, [0, 1, 2]), (repeated, [0, 0, 1, 1, 2, 2]), (chosen, [2, 0])):
        found = model(ids[rows, 5:], **{CACHE: changed}).logits
        torch.testing.assert_close(found, whole[rows], **TOLERANCE)
    mixed = torch.cat([ids[[1, 1, 0], :5], ids[:, 5:]], dim=1)
    found = model(ids[:, 5:], **{CACHE: reordered}).logits
    torch.testing.assert_close(found, model(mixed, use_cache=False).logits[:, 5:], **TOLERANCE)


def test_a_cache_is_emptied_and_copied():
    model, ids = small.language(MIXED), small.text()
    first = model(ids[:, :6], use_cache=True)
    kept = copy.deepcopy(cache_in(first))
    ahead = model(ids[:, 6:], **{CACHE: cache_in(first)}).logits
    torch.testing.assert_close(model(ids[:, 6:], **{CACHE: kept}).logits, ahead, rtol=0, atol=0)
    kept.reset()
    assert kept.get_seq_length() == 0
    torch.testing.assert_close(model(ids[:, :6], **{CACHE: kept}).logits, first.logits, **TOLERANCE)


def test_what_a_state_cannot_do_is_refused():
    model, ids = small.language(MIXED), small.text()
    cache = cache_in(model(ids, use_cache=True))
    assert not cache.is_croppable
    cache.layers[1].crop(0)
    with pytest.raises(InputError, match="cannot forget"):
        cache.crop(-2)
    with pytest.raises(InputError, match=r"DynamicCache\(config=model.config\)"):
        model(ids, **{CACHE: DynamicCache()})
    with pytest.raises(InputError, match=r"attention_mask is \[2, 1, 11, 11\]"):
        model(ids, attention_mask=torch.ones(2, 1, 11, 11, dtype=torch.bool))
    with pytest.raises(InputError, match="must cover"):
        model(ids, attention_mask=torch.ones(2, 5))
    with pytest.raises(InputError, match="not both"):
        model()
    with pytest.raises(InputError, match="max_position_embeddings=4"):
        small.language(["mesa"], positions="learned", max_position_embeddings=4)(ids)


def test_no_gradient_pretends_to_flow_through_a_cache():
    ids = small.text()
    for layer_types in (["mesa"], ["linear"]):
        model = small.language(layer_types)
        with torch.enable_grad():
            cache = cache_in(model(ids[:, :5], use_cache=True))
            loss = model(ids[:, 5:], **{CACHE: cache}, labels=ids[:, 5:]).loss
            with pytest.raises(RuntimeError, match="use_cache=False"):
                loss.backward()


def test_a_softmax_model_has_a_cache_that_can_be_cropped():
    model, ids = small.language(["softmax", "softmax"]), small.text()
    cache = cache_in(model(ids, use_cache=True))
    cache.crop(-4)
    found = model(ids[:, 7:], **{CACHE: cache}).logits
    torch.testing.assert_close(found, model(ids, use_cache=False).logits[:, 7:], **TOLERANCE)
