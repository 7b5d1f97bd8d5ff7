"""Keeping a forward's keys: outputs and gradients are the model's own, and what is kept is what was computed."""

import contextlib
import warnings

import pytest
import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from snellen.attention.caches import cache_in
from snellen.attention.keeping import NAME, keeping
from snellen.errors import InputError
from tests.lookahead.architectures import VOCABULARY, tiny

LENGTHS = (11, 7, 4)
REAL = torch.arange(11) < torch.tensor(LENGTHS)[:, None]
IDS = torch.randint(VOCABULARY, (3, 11), generator=torch.Generator().manual_seed(1)).masked_fill(~REAL, 0)


def trained(name: str, attention: str = "sdpa") -> PreTrainedModel:
    """In training mode without dropout."""
    model = tiny(name).train().requires_grad_(True)
    if model._can_set_attn_implementation():
        model.set_attn_implementation(attention)
    for module in model.modules():
        for field in ("p", "dropout"):
            if isinstance(getattr(module, field, None), float):
                setattr(module, field, 0.0)
    return model


def step(model: PreTrainedModel, *, wrapped: nn.Module | None = None, keep: bool) -> tuple:
    """Logits and gradients of a loss on a batch with padding; and what was kept."""
    model.zero_grad()
    arguments = {"input_ids": IDS, "attention_mask": REAL.long()}
    kept = None
    if keep:
        with keeping(model) as kept:
            logits = (wrapped or model)(**arguments).logits
    else:
        logits = model(**arguments).logits
    nn.functional.cross_entropy(logits[:, :-1][REAL[:, 1:]].float(), IDS[:, 1:][REAL[:, 1:]]).backward()
    return logits.detach(), [p.grad for p in model.parameters() if p.grad is not None], kept


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "llama", "mistral", "qwen3", "gemma3", "opt"])
@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "autocast"])
def test_outputs_and_gradients_are_bit_for_bit_the_models_own(name: str, attention: str, autocast: bool) -> None:
    model = trained(name, attention)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        logits, gradients, _ = step(model, keep=False)
        same_logits, same_gradients, kept = step(model, keep=True)
    assert torch.equal(logits, same_logits)
    assert all(torch.equal(a, b) for a, b in zip(gradients, same_gradients, strict=True))
    assert len(kept.text) == model.config.num_hidden_layers
    for key, value in kept.text.values():
        assert (key.shape[0], key.shape[2], value.shape[2]) == (3, 11, 11)
        assert not key.requires_grad
        assert key.dtype == value.dtype == (torch.bfloat16 if autocast else torch.float32)
    assert model.config._attn_implementation == attention


def test_what_is_kept_are_the_keys_of_the_cache_and_the_last_hidden_states() -> None:
    model = trained("llama").eval()
    with torch.no_grad(), keeping(model) as kept:
        out = model(input_ids=IDS, use_cache=True, output_hidden_states=True)
    for (key, value), layer in zip(kept.text.values(), cache_in(out).layers, strict=True):
        assert torch.equal(key, layer.keys)
        assert torch.equal(value, layer.values)
    assert torch.equal(kept.hidden, out.hidden_states[-1])


def test_the_mask_is_the_one_that_the_own_implementation_gets() -> None:
    """An implementation that has a mask function, one that has none, and one whose function is registered late."""
    model = trained("llama").eval()
    seen: list[torch.Tensor | None] = []

    def spy(module, query, key, value, attention_mask, **arguments):
        seen.append(attention_mask)
        return sdpa_attention_forward(module, query, key, value, attention_mask, **arguments)

    AttentionInterface.register("spy", spy)
    model.set_attn_implementation("spy")
    try:
        for _ in range(2):
            seen.clear()
            with keeping(model):
                model(input_ids=IDS, attention_mask=REAL.long())
            within = list(seen)
            seen.clear()
            model(input_ids=IDS, attention_mask=REAL.long())
            for a, b in zip(within, seen, strict=True):
                assert (a is None) == (b is None) == ("spy" not in AttentionMaskInterface._global_mapping)
                assert a is None or torch.equal(a, b)
            AttentionMaskInterface.register("spy", AttentionMaskInterface._global_mapping["sdpa"])
    finally:
        for registry in (AttentionInterface, AttentionMaskInterface):
            for name in ("spy", NAME + "spy"):
                registry._global_mapping.pop(name, None)


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpointed_layer_is_not_kept_twice(reentrant: bool) -> None:
    model = trained("llama")
    _, plain, _ = step(model, keep=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    _, gradients, kept = step(model, keep=True)
    assert all(torch.equal(a, b) for a, b in zip(plain, gradients, strict=True))
    assert len(kept.text) == 3
    with keeping(model) as kept:  # the backward pass inside: the second run of a layer is not noted
        loss = model(input_ids=IDS, labels=IDS).loss
        before = dict(kept.text)
        loss.backward()
        assert all(kept.text[module][0] is key for module, (key, _) in before.items())


def test_the_forward_may_come_through_a_wrapper() -> None:
    class Wrapper(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.module = inner

        def forward(self, **arguments: torch.Tensor) -> object:
            return self.module(**arguments)

    model = trained("gpt2")
    logits, _, kept = step(model, wrapped=Wrapper(model), keep=True)
    assert len(kept.text) == 3
    assert torch.equal(logits, step(model, keep=False)[0])


def test_the_last_forward_is_kept_but_not_what_runs_in_a_pause() -> None:
    model = trained("llama")
    with torch.no_grad(), keeping(model) as kept:
        model(input_ids=IDS)
        model(input_ids=IDS[:2])
        with kept.pause():
            model(input_ids=IDS[:1])
    kept.check(IDS[:2])
    assert all(key.shape[0] == 2 for key, _ in kept.text.values())


def test_own_attention_is_back_after_an_exception_and_keeping_nests() -> None:
    model = trained("gpt2", "eager")
    hooks = len(model.get_decoder()._forward_hooks)
    with contextlib.suppress(KeyError), keeping(model), keeping(model) as inner:
        assert model.config._attn_implementation == f"{NAME}eager"
        model(input_ids=IDS)
        assert len(inner.text) == 3
        raise KeyError
    assert model.config._attn_implementation == "eager"
    assert len(model.get_decoder()._forward_hooks) == hooks


def test_an_architecture_that_does_not_ask_for_its_attention_keeps_hidden_states_alone() -> None:
    model = trained("gpt_neo")
    _, _, kept = step(model, keep=True)
    assert not kept.text
    assert kept.hidden.shape == (3, 11, 32)


PACKED = torch.tensor([[*range(6), *range(5)]] * 3)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"attention_mask": REAL.flip(1).long()}, "padding must stand on the right"),
        ({"position_ids": PACKED}, "position_ids: must count from 0"),
        ({"attention_mask": torch.zeros(3, 1, 11, 11)}, "attention_mask: must be"),
    ],
)
def test_texts_that_do_not_begin_on_the_left_are_refused(arguments: dict, what: str) -> None:
    model = trained("llama")
    with keeping(model) as kept:
        model(input_ids=IDS, **arguments)
    with pytest.raises(InputError, match=what):
        kept.check(IDS)


def test_position_ids_that_count_are_fine_and_those_of_padding_do_not_matter() -> None:
    model = trained("llama")
    places = torch.arange(11).expand(3, -1)
    for arguments in ({"position_ids": places}, {"attention_mask": REAL, "position_ids": places * REAL}):
        with keeping(model) as kept:
            model(input_ids=IDS, **arguments)
        kept.check(IDS, REAL)


def test_of_another_batch_is_refused() -> None:
    model = trained("llama")
    with keeping(model) as kept:
        pass
    with pytest.raises(InputError, match="no forward pass"):
        kept.check(IDS)
    with keeping(model) as kept:
        model(input_ids=IDS, attention_mask=REAL.long())
    for ids, wanted, what in (
        (IDS[:2], None, "batch"),
        (IDS.flip(0), None, "other texts"),
        (IDS, torch.ones_like(REAL), "wanted"),
    ):
        with pytest.raises(InputError, match=what):
            kept.check(ids, wanted)
