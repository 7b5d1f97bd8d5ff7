"""Hashes that tell models apart, and nothing else."""

import torch

from snellen.models.body import context_length
from snellen.models.identity import tokenizer_sha256, weights_sha256
from tests.models import small


def test_the_hash_is_of_names_types_shapes_and_bytes():
    state = {"b": torch.arange(6.0), "a": torch.ones(2, 3)}
    known = weights_sha256(state)
    assert known == "88fe79974508f7a56acf53f929ad6cc11f6879b89d4bf7a26b6018e8fd23b6da"
    assert known == weights_sha256({"a": torch.ones(3, 2).T, "b": torch.arange(12.0)[::2] / 2})  # layout is not content
    others = [
        {"c": state["b"], "a": state["a"]},
        {"a": state["a"], "b": state["b"].view(2, 3)},
        {"a": state["a"], "b": state["b"].double()},
        {"a": state["a"], "b": state["b"] + torch.tensor([0, 0, 0, 0, 0, 1e-6])},
        {"a": state["a"]},
    ]
    assert len({known, *map(weights_sha256, others)}) == 1 + len(others)


def test_tied_weights_and_copies_of_them_hash_alike():
    tensor = torch.randn(4, 4)
    assert weights_sha256({"a": tensor, "b": tensor}) == weights_sha256({"a": tensor, "b": tensor.clone()})
    assert weights_sha256({"a": tensor, "b": tensor}) != weights_sha256({"a": tensor, "b": tensor.T})


def test_odd_tensors():
    state = {"scalar": torch.tensor(3), "empty": torch.empty(0, 4), "half": torch.ones(3, dtype=torch.bfloat16)}
    assert weights_sha256(state) == weights_sha256({name: tensor.clone() for name, tensor in state.items()})


def test_a_tokenizer_hash_ignores_padding_and_truncation():
    tokenizer, other = small.tokenizer(), small.tokenizer(bos_in_front=True)
    known = tokenizer_sha256(tokenizer)
    assert known != tokenizer_sha256(other)
    tokenizer.pad_token = "</s>"
    tokenizer(["a", "abc"], padding=True, truncation=True, max_length=2)
    state = (tokenizer.backend_tokenizer.truncation, tokenizer.backend_tokenizer.padding)
    assert None not in state
    assert tokenizer_sha256(tokenizer) == known
    assert state == (tokenizer.backend_tokenizer.truncation, tokenizer.backend_tokenizer.padding)


def test_slow_tokenizers_are_hashed_by_vocabulary():
    class Slow:
        def __init__(self, words):
            self.words = words

        def get_vocab(self):
            return self.words

    assert tokenizer_sha256(Slow({"a": 0, "b": 1})) == tokenizer_sha256(Slow({"b": 1, "a": 0}))
    assert tokenizer_sha256(Slow({"a": 0, "b": 1})) != tokenizer_sha256(Slow({"a": 1, "b": 0}))


def test_context_lengths():
    from transformers import BloomConfig, GPT2Config, LlamaConfig, MambaConfig, MptConfig

    assert context_length(GPT2Config(n_positions=77)) == 77
    assert context_length(LlamaConfig(max_position_embeddings=99)) == 99
    assert context_length(MptConfig(max_seq_len=55)) == 55
    assert context_length(BloomConfig()) is None
    assert context_length(MambaConfig()) is None
