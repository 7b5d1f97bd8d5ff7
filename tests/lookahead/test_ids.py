"""Padding, and ids that a model reads and does not predict, or the other way round."""

import pytest
import torch
from torch import nn

from snellen.errors import InputError, Refused
from snellen.lookahead import Lookahead, beam, generate, particles
from snellen.lookahead.power_sampling import power_sample
from snellen.lookahead.preflight import preflight
from snellen.training.data import rows_of
from snellen.training.monitor import HeldOut
from tests.lookahead.architectures import VOCABULARY, tiny

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*:UserWarning", "ignore:.*:DeprecationWarning", "ignore:.*:FutureWarning"
)
GREEDY = {"weight": 0.0, "max_new_tokens": 6}


def text(*shape: int, low: int = 2, high: int = VOCABULARY) -> torch.Tensor:
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(3))


def padded(pad: int, *, own: int = 6) -> torch.Tensor:
    ids = text(2, 9)
    ids[0, : 9 - own] = pad
    return ids


@pytest.mark.parametrize("eos", [None, 5])
def test_padding_is_inferred_as_transformers_does(eos: int | None) -> None:
    model = tiny("llama")  # pad 0, bos 1
    model.generation_config.eos_token_id = eos
    ids = padded(0)
    expected = model.generate(ids, do_sample=False, max_new_tokens=6)
    found = generate(model, ids, **GREEDY)
    assert torch.equal(found, expected)
    alone = generate(model, ids[:1, 3:], **GREEDY)
    assert torch.equal(found[0, 9:][: alone.shape[1] - 6], alone[0, 6:])
    read = generate(model, ids, attention_mask=torch.ones_like(ids), **GREEDY)  # a mask that is given is the mask
    assert not torch.equal(read, found)


def test_an_end_token_is_no_padding() -> None:
    model = tiny("llama")
    model.generation_config.eos_token_id = 0
    ids = padded(0)
    expected = generate(model, ids, attention_mask=torch.ones_like(ids), **GREEDY)
    assert torch.equal(generate(model, ids, **GREEDY), expected)
    assert torch.equal(model.generate(ids, do_sample=False, max_new_tokens=6), expected)
    no_end = {**GREEDY, "eos_token_id": None}
    expected = generate(model, ids, attention_mask=torch.ones_like(ids), **no_end)
    assert torch.equal(generate(model, ids, **no_end), expected)


def test_padding_that_is_the_first_token_too() -> None:
    model = tiny("llama")
    model.generation_config.pad_token_id = 1
    both = text(2, 9)
    both[:, 0] = 1
    expected = generate(model, both, attention_mask=torch.ones_like(both), **GREEDY)
    assert torch.equal(generate(model, both, **GREEDY), expected)
    with pytest.raises(InputError, match=r"token 1 is the model's padding and its first token \(BOS\): give attention"):
        generate(model, padded(1), **GREEDY)


def test_padding_elsewhere_is_refused() -> None:
    model, ids = tiny("llama"), text(2, 9)
    ids[0, 4] = 0
    with pytest.raises(InputError, match="padding token 0 stands inside a prompt"):
        generate(model, ids, **GREEDY)
    for pad in (-1, VOCABULARY):
        with pytest.raises(InputError, match=f"pad_token_id {pad}"):
            generate(model, text(1, 9), pad_token_id=pad, **GREEDY)
        model.generation_config.pad_token_id = pad
        with pytest.raises(InputError, match=f"pad_token_id {pad}"):
            generate(model, text(2, 9), eos_token_id=[4], **GREEDY)
        assert generate(model, text(1, 9), eos_token_id=[4], **GREEDY).min() >= 0  # one row fills nothing
    model = tiny("llama")
    with pytest.raises(InputError, match="row 0 is padded with token 0"):
        Lookahead(model).next_token(padded(0))


@pytest.fixture
def reads_more() -> object:
    """Its head lacks the last ids."""
    model = tiny("llama")
    model.lm_head = nn.Linear(32, VOCABULARY - 5, bias=False).requires_grad_(False)
    return model


@pytest.fixture
def predicts_more() -> object:
    model = tiny("llama")
    model.lm_head = nn.Linear(32, VOCABULARY + 5, bias=False).requires_grad_(False)
    return model


def test_an_id_without_a_logit_is_read_and_not_written(reads_more) -> None:
    model, last = reads_more, VOCABULARY - 1
    ids = text(1, 9)
    ids[0, 4] = ids[0, 8] = last
    expected = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=6)
    assert torch.equal(generate(model, ids, **GREEDY), expected)
    assert torch.equal(generate(model, ids, weight=1.0, width=1, horizon=1, alpha=1.0, max_new_tokens=6), expected)
    assert preflight(model, length=20, horizon=3).engine
    power_sample(model, ids, particles=3, max_new_tokens=3)
    what = f"the model predicts the ids 0…{VOCABULARY - 6}|stop token {last}: the model predicts"
    for call in (
        lambda: generate(model, ids, stop=last),
        lambda: generate(model, ids, eos_token_id=last),
        lambda: beam(model, ids, 3, 2),
        lambda: particles(model, ids, particles=4, horizon=2),
        lambda: power_sample(model, ids, particles=3, max_new_tokens=3, stop_tokens=[last]),
        lambda: rows_of(
            [ids[0].tolist()], tokenizer=None, max_length=20, vocabulary=VOCABULARY - 5, bos=None, name="x"
        ),
        lambda: HeldOut.of([ids[0].tolist()] * 9, model, horizon=2, tokens=None),
    ):
        with pytest.raises(InputError, match=f"{what}|has the id {last}"):
            call()


def test_an_id_that_is_predicted_and_cannot_be_read_is_refused(predicts_more) -> None:
    ids = text(1, 9)
    for call in (
        lambda: generate(predicts_more, ids),
        lambda: beam(predicts_more, ids, 2, 2),
        lambda: particles(predicts_more, ids, particles=2, horizon=2),
        lambda: preflight(predicts_more, length=9, horizon=2),
    ):
        with pytest.raises(Refused, match=f"predicts {VOCABULARY + 5} ids and has embeddings for {VOCABULARY}"):
            call()
