"""Texts that end what is written, against a search in all that was written so far."""

import random

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM, LogitsProcessorList

from snellen.errors import InputError
from snellen.lookahead import generate
from snellen.lookahead.stop_texts import StopText
from tests.texts.tokenizers_here import byte_level, metaspace, word_piece

TOKENIZERS = {"bytes": byte_level(), "metaspace": metaspace(), "words": word_piece()}
STOPS = ["🙂", "🙂🙂 🙂", "漢字", "漢字漢字漢字漢字", "e\u0301", "👩‍👩‍👧‍👦", "\n\n", " the cat", "</s>", "the"]


def first(tokenizer: object, tokens: list[int], stops: list[str]) -> int | None:
    """The plain loop: after how many tokens the text so far holds one of them."""
    for count in range(1, len(tokens) + 1):
        text = tokenizer.decode(tokens[:count], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if any(stop in text for stop in stops):
            return count
    return None


def fires(tokenizer: object, tokens: list[int], stops: list[str], prompt: int = 0) -> int | None:
    criterion = StopText(stops, tokenizer, prompt)
    for count in range(1, len(tokens) + 1 - prompt):
        if bool(criterion(torch.tensor([tokens[: prompt + count]]), None)[0]):
            return count
    return None


@pytest.mark.parametrize("kind", ["bytes", "metaspace"])
@pytest.mark.parametrize("stop", STOPS)
def test_it_fires_at_the_token_that_completes_it(kind: str, stop: str) -> None:
    tokenizer = TOKENIZERS[kind]
    before = "some words that go on for a while, and a few more of them: " * 2 + "漢🙂" * 20
    tokens = tokenizer(before + stop + " and so on", add_special_tokens=False)["input_ids"]
    expected = first(tokenizer, tokens, [stop])
    assert expected is not None
    assert fires(tokenizer, tokens, [stop]) == expected
    assert StopText([stop], tokenizer, 0).cut(tokens) == expected


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(list(TOKENIZERS)),
    seed=st.integers(0, 10**6),
    stops=st.lists(st.sampled_from([*STOPS, "a", "st", "\ufffd", "字 "]) | st.text(min_size=1, max_size=3), max_size=2),
)
@example(kind="metaspace", seed=0, stops=["字"])
def test_on_any_tokens_it_is_the_plain_loop(kind: str, seed: int, stops: list[str]) -> None:
    """Also tokens that are no text: parts of characters, special tokens, ids without any text."""
    tokenizer, rng = TOKENIZERS[kind], random.Random(seed)
    pieces = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in [*STOPS, "the cat", "x st", *stops]]
    tokens: list[int] = []
    while len(tokens) < 90:
        part = rng.choice(pieces) if rng.random() < 0.6 else [rng.randrange(len(tokenizer)) for _ in range(3)]
        tokens += part[: rng.randint(0, len(part))] if rng.random() < 0.3 else part
    if stops:
        assert fires(tokenizer, tokens, stops) == first(tokenizer, tokens, stops)


def test_many_tokens_without_text_are_no_distance() -> None:
    tokenizer = byte_level()
    st_, op = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("xst", "op!"))
    nothing = len(tokenizer) + 5  # an id that the tokenizer does not know is no text
    tokens = st_ + [nothing] * 300 + op
    assert fires(tokenizer, tokens, ["stop"]) == first(tokenizer, tokens, ["stop"]) == len(st_) + 300 + len(op) - 1


def test_what_stands_in_the_prompt_ends_nothing() -> None:
    tokenizer = byte_level()
    before = tokenizer("a stop, and st", add_special_tokens=False)["input_ids"]
    for more, expected in (("op", None), (" x", None), ("op stop", True)):
        tokens = before + tokenizer(more, add_special_tokens=False)["input_ids"]
        found = fires(tokenizer, tokens, ["stop"], prompt=len(before))
        assert (found is not None) == bool(expected), more


def test_spaces_are_not_cleaned_up_before_it_is_looked_for() -> None:
    tokenizer = byte_level(clean_up_tokenization_spaces=True)
    tokens = tokenizer("the cat , and", add_special_tokens=False)["input_ids"]
    assert fires(tokenizer, tokens, ["cat ,"]) is not None
    assert fires(tokenizer, tokens, ["cat,"]) is None


def test_an_empty_one_is_refused() -> None:
    with pytest.raises(InputError, match="stop ''"):
        StopText([""], byte_level(), 0)


@pytest.mark.parametrize("stop", ["🙂", "漢字", "e\u0301"])
def test_generation_ends_there(stop: str) -> None:
    """A model that writes what a list says."""
    tokenizer = byte_level()
    written = tokenizer("naïve " * 3 + stop + " and on and on", add_special_tokens=False)["input_ids"]
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=128,
            bos_token_id=None,
            eos_token_id=None,
        )
    ).eval()

    def told(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        forced = torch.full_like(scores, -torch.inf)
        forced[:, written[ids.shape[1] - 1]] = 0.0
        return forced

    ids = torch.tensor([[5]])
    options = {
        "logits_processor": LogitsProcessorList([told]),
        "stop": stop,
        "tokenizer": tokenizer,
        "eos_token_id": None,
    }
    found = generate(model, ids, max_new_tokens=len(written), **options)[0, 1:].tolist()
    assert found == written[: first(tokenizer, written, [stop])]
    assert len(found) < len(written)
