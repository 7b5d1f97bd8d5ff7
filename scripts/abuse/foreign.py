"""Files of models that others wrote: config.json and its neighbours with an entry exchanged, missing or absurd."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from scripts.abuse.trials import Trial, unchecked
from scripts.abuse.world import World, snellen

_ABSURD: tuple[Any, ...] = (
    None, 0, -1, 1.5, 10**12, True, "x", "\x1b]0;x\x07", [], {}, [1, 2], {"a": {"b": [None]}}, float("nan"),
    float("inf"),
)  # fmt: skip
_REMOVED = object()
_ENTRIES: dict[str, tuple[str, ...]] = {
    "config.json": (
        "hidden_size", "num_attention_heads", "num_key_value_heads", "num_hidden_layers", "vocab_size",
        "intermediate_size", "max_position_embeddings", "model_type", "architectures", "hidden_act", "rms_norm_eps",
        "rope_parameters", "rope_theta", "torch_dtype", "dtype", "bos_token_id", "eos_token_id", "head_dim",
        "tie_word_embeddings", "layer_types", "auto_map", "quantization_config", "attention_dropout", "pad_token_id",
        "initializer_range", "sliding_window", "use_cache", "is_encoder_decoder",
    ),
    "generation_config.json": ("bos_token_id", "eos_token_id", "temperature", "top_k", "repetition_penalty", "x"),
    "tokenizer_config.json": (
        "tokenizer_class", "bos_token", "model_max_length", "added_tokens_decoder", "chat_template",
    ),
    "tokenizer.json": ("model", "added_tokens", "pre_tokenizer", "version", "decoder"),
}  # fmt: skip
_WHOLE: dict[str, bytes] = {
    "deep": b"[" * 10_000 + b"]" * 10_000, "deep object": b'{"a":' * 10_000, "list": b"[]", "word": b'"x"',
    "number": b"5", "null": b"null", "empty": b"", "nul": b"\0" * 50, "latin": b'{"model_type": "\xff"}',
    "nan": b"NaN", "digits": b'{"hidden_size": ' + b"9" * 5000 + b"}", "twice": b'{"a": 1, "a": 2}',
}  # fmt: skip


def planned(world: World, *, short: bool) -> Iterator[Trial]:
    """Read by `snellen generate`; what loads all the same may run. And `n_head` of a GPT-2, which has its own names."""
    number = 0
    for file, entries in _ENTRIES.items():
        for name, content in _WHOLE.items():
            number += 1
            if not short or number % 6 == 0:
                yield _trial(world, f"{file} {name}", lambda folder, f=file, c=content: (folder / f).write_bytes(c))
        for entry in entries:
            for value in (*_ABSURD, _REMOVED):
                number += 1
                if short and number % 9:
                    continue
                word = "removed" if value is _REMOVED else json.dumps(value)
                yield _trial(
                    world, f"{file} {entry} {word}", lambda folder, f=file, e=entry, v=value: _change(folder / f, e, v)
                )
    for value in _ABSURD:
        for entry in ("n_head", "n_layer", "n_embd", "n_positions", "layer_norm_epsilon", "activation_function"):
            number += 1
            if not short or number % 9 == 0:
                yield _trial(
                    world, f"gpt2 {entry} {json.dumps(value)}", lambda folder, e=entry, v=value: _gpt2(folder, e, v)
                )


def _change(path: Path, entry: str, value: Any) -> None:
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if value is _REMOVED:
        content.pop(entry, None)
    else:
        content[entry] = value
    path.write_text(json.dumps(content), encoding="utf-8")


def _gpt2(folder: Path, entry: str, value: Any) -> None:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=300, n_positions=64, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(folder)
    _change(folder / "config.json", entry, value)


def _trial(world: World, what: str, change: Callable[[Path], Any]) -> Trial:
    def act(folder: Path) -> int:
        shutil.copytree(world / "model", folder / "model")
        change(folder / "model")
        return snellen("generate", folder / "model", "--max-new-tokens", "2", "--prompt", "the")

    return Trial(
        name=f"foreign {what.encode('unicode_escape').decode()}.",
        act=act,
        check=unchecked,
        shown=f"snellen generate MODEL with {what}",
    )
