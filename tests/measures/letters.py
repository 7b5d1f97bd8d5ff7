"""A language of letters whose next letter depends on the last one alone, a model that knows it exactly, and texts."""

from __future__ import annotations

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

LETTERS = "abcdefghijk"
V = len(LETTERS) + 1  # and the first token, <s>


def table(seed: int = 0) -> np.ndarray:
    """[letters, letters] next-letter probabilities; the most probable letter leads into the loop a b a b …"""
    rng = np.random.default_rng(seed)
    P = rng.dirichlet(np.full(len(LETTERS), 2.0), size=len(LETTERS))
    for row in range(len(LETTERS)):
        P[row, 1 if row == 0 else 0] = P[row].max() + 0.1
    return P / P.sum(axis=1, keepdims=True)


def entropy_rate(P: np.ndarray) -> float:
    """Nats a letter, in the long run."""
    values, vectors = np.linalg.eig(P.T)
    stationary = np.real(vectors[:, np.argmin(abs(values - 1))])
    stationary /= stationary.sum()
    return float(-(stationary[:, None] * P * np.log(P)).sum())


def texts(P: np.ndarray, *, number: int, length: int, seed: int = 1) -> list[str]:
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(number):
        state, text = int(rng.integers(len(LETTERS))), []
        for _ in range(length):
            text.append(LETTERS[state])
            state = int(rng.choice(len(LETTERS), p=P[state]))
        out.append("".join(text))
    return out


def model(P: np.ndarray, context: int = 256) -> LlamaForCausalLM:
    """A llama whose only layer adds nothing: the embedding is the letter, the head the logarithm of its row."""
    config = LlamaConfig(
        vocab_size=V, hidden_size=V, intermediate_size=4, num_hidden_layers=1, num_attention_heads=1,
        num_key_value_heads=1, max_position_embeddings=context, bos_token_id=V - 1, eos_token_id=V - 1,
        tie_word_embeddings=False,
    )  # fmt: skip
    exact = LlamaForCausalLM(config).eval()
    full = np.full((V, V), 1 / len(LETTERS))
    full[:-1, :-1] = P
    # A model that likes to end: what is written must not depend on it.
    full[:, -1] = 0.3
    with torch.no_grad():
        for parameter in exact.parameters():
            parameter.zero_()
        exact.model.embed_tokens.weight.copy_(torch.eye(V))
        exact.model.norm.weight.fill_(1.0)
        exact.lm_head.weight.copy_(torch.from_numpy(np.log(full).T / np.sqrt(V)))
        for layer in exact.model.layers:
            layer.input_layernorm.weight.fill_(1.0)
            layer.self_attn.q_proj.weight.copy_(torch.eye(V))
            layer.self_attn.k_proj.weight.copy_(torch.eye(V))
    return exact.requires_grad_(False)


def tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(WordLevel({**{letter: i for i, letter in enumerate(LETTERS)}, "<s>": V - 1}, unk_token="a"))
    backend.pre_tokenizer = Split("", "isolated")
    backend.decoder = Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="<s>")
