"""Noise that is a function of a seed and a context, and of nothing else.

A key is 64 bits, made from the seed and all tokens of a context by the finaliser of SplitMix64 (Steele, Lea & Flood
2014, *Fast splittable pseudorandom number generators*). The noise at a node of a search depends on its key alone: so no
block size, engine, batch or interruption changes a number, and a node that several positions share has one noise.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor

_GOLDEN, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_WORD = (1 << 64) - 1

# Children of a key with an index of 0 or more are contexts one token longer; those below are for other noise.
OWN = -1  # the context's own noise
CHUNKS = -2  # −2 − j: of the j-th chunk of its vocabulary


def mixed(word: int) -> int:
    """SplitMix64's finaliser, on an unsigned word."""
    word = ((word ^ (word >> 30)) * _FIRST) & _WORD
    word = ((word ^ (word >> 27)) * _SECOND) & _WORD
    return word ^ (word >> 31)


def child_key(key: int, index: int) -> int:
    """The key of a context with one more token `index`, or of another stream of noise (negative indices)."""
    return mixed((key + (index + 1) * _GOLDEN) & _WORD)


def context_keys(seed: int, text: Iterable[int]) -> list[int]:
    """The key of each prefix of `text` that ends at a token of it; `seed` may be any whole number."""
    key, keys = mixed((seed * _GOLDEN + _SECOND) & _WORD), []
    for token in text:
        key = child_key(key, int(token))
        keys.append(key)
    return keys


def as_tensor(keys: Iterable[int], device: torch.device) -> Int[Tensor, "keys"]:
    """Unsigned words as the int64 of the same bits."""
    return torch.tensor([_signed(key) for key in keys], dtype=torch.long, device=device)


def child_keys(keys: Int[Tensor, "*#shape"], index: Int[Tensor, "*#shape"] | int) -> Int[Tensor, "..."]:
    """`child_key` for tensors, which are broadcast."""
    if isinstance(index, int):
        word = keys + _signed(((index + 1) * _GOLDEN) & _WORD)
    else:
        word = (index + 1).mul_(_signed(_GOLDEN)) + keys
    word.bitwise_xor_(_shifted(word, 30)).mul_(_signed(_FIRST))
    word.bitwise_xor_(_shifted(word, 27)).mul_(_signed(_SECOND))
    return word.bitwise_xor_(_shifted(word, 31))


def uniform(keys: Int[Tensor, "*shape"], dtype: torch.dtype = torch.float64) -> Float[Tensor, "*shape"]:
    """Uniform numbers strictly between 0 and 1, with as many bits as `dtype` holds."""
    bits = 53 if dtype == torch.float64 else 24
    # A 24-bit count and a half needs 25 bits; one bit less keeps the largest below 1.
    bits -= 1
    return _shifted(keys, 64 - bits).to(dtype).add_(0.5).mul_(2.0**-bits)


def exponential(keys: Int[Tensor, "*shape"], dtype: torch.dtype = torch.float64) -> Float[Tensor, "*shape"]:
    """Exponential numbers of rate 1: waiting times."""
    return uniform(keys, dtype).log_().neg_()


def _shifted(word: Tensor, by: int) -> Tensor:
    """Logical shift to the right (of int64 torch has only the arithmetic one)."""
    return (word >> by).bitwise_and_((1 << (64 - by)) - 1)


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word
