"""Tiny random models and a tokenizer, saved as users would have them."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast


def tokenizer(*, bos_in_front: bool = False, prefix: str | None = None) -> PreTrainedTokenizerFast:
    """One token a byte, then <s> 256 and </s> 257."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({character: i for i, character in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<s>", "</s>"])
    if bos_in_front or prefix:
        backend.post_processor = processors.TemplateProcessing(
            single=prefix or "<s> $A", special_tokens=[("<s>", 256), ("</s>", 257)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


def gpt2(**options: Any) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "vocab_size": 260, "n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 2, "initializer_range": 0.3,
        "bos_token_id": 256, "eos_token_id": 257,
    }  # fmt: skip
    return GPT2LMHeadModel(GPT2Config(**settings | options))


def save(folder: Path, model: Any = None, tok: Any = "default") -> Path:
    (gpt2() if model is None else model).save_pretrained(folder)
    if tok is not None:
        (tokenizer() if tok == "default" else tok).save_pretrained(folder)
    return folder


def write_gguf(
    path: Path, *, broken: bool = False, pre: str | None = "gpt-2", more: Any = None, tokens: int = 259
) -> Path:
    """A llama of one layer in the GGUF format, float32, with a byte-level tokenizer; `more` is done to its writer.

    `tokens` is how many rows the embedding has.
    """
    import gguf
    import numpy as np

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*alphabet, "th", "<s>", "</s>"]
    rng = np.random.default_rng(0)
    width, hidden = 32, 64
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name("tiny")
    writer.add_context_length(48)
    writer.add_embedding_length(width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(8)
    writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("gpt2")
    if pre is not None:
        writer.add_tokenizer_pre(pre)
    writer.add_token_list(words)
    writer.add_token_types([1] * 257 + [3, 3])
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(257)
    writer.add_eos_token_id(258)
    shapes = {
        "token_embd": (tokens, width), "output": (tokens, width), "blk.0.attn_q": (width, width),
        "blk.0.attn_k": (16, width), "blk.0.attn_v": (16, width), "blk.0.attn_output": (width, width),
        "blk.0.ffn_gate": (hidden, width), "blk.0.ffn_up": (hidden, width), "blk.0.ffn_down": (width, hidden),
    }  # fmt: skip
    for name, shape in shapes.items():
        if not (broken and name == "blk.0.ffn_up"):
            writer.add_tensor(f"{name}.weight", rng.normal(size=shape, scale=0.3).astype(np.float32))
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(width, dtype=np.float32))
    if more is not None:
        more(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
