"""Tiny random models of many architectures, with weights large enough that attention is far from uniform."""

from __future__ import annotations

from collections.abc import Callable

import torch
import transformers as hf
from transformers import PreTrainedModel

VOCABULARY = 61
CONTEXT = 96
WINDOW = 7  # shorter than every text in the tests

_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}
_GROUPED = {**_COMMON, "num_key_value_heads": 2}
_GPT = {
    "vocab_size": VOCABULARY,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": CONTEXT,
    "eos_token_id": None,
}
_MIXED = ["sliding_attention", "full_attention", "sliding_attention"]
_GEMMA = {
    **_GROUPED,
    "head_dim": 8,
    "sliding_window": WINDOW,
    "layer_types": _MIXED,
    "query_pre_attn_scalar": 8,
}

CONFIGS: dict[str, Callable[[], hf.PreTrainedConfig]] = {
    "gpt2": lambda: hf.GPT2Config(**_GPT),
    "gpt_neox": lambda: hf.GPTNeoXConfig(**_COMMON),
    "llama": lambda: hf.LlamaConfig(**_GROUPED),
    "mistral": lambda: hf.MistralConfig(**_GROUPED, sliding_window=WINDOW),
    "qwen2": lambda: hf.Qwen2Config(**_GROUPED, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1),
    "qwen3": lambda: hf.Qwen3Config(**_GROUPED, head_dim=16),
    "gemma2": lambda: hf.Gemma2Config(**_GEMMA, attn_logit_softcapping=2.0, final_logit_softcapping=4.0),
    "gemma3": lambda: hf.Gemma3TextConfig(**_GEMMA),
    "phi3": lambda: hf.Phi3Config(**_GROUPED, sliding_window=WINDOW),
    "olmo2": lambda: hf.Olmo2Config(**_GROUPED),
    "opt": lambda: hf.OPTConfig(**{**_COMMON, "ffn_dim": 48}, word_embed_proj_dim=16),
    "granite": lambda: hf.GraniteConfig(
        **_GROUPED,
        embedding_multiplier=2.0,
        attention_multiplier=0.3,
        residual_multiplier=0.7,
        logits_scaling=2.0,
    ),
    "mixtral": lambda: hf.MixtralConfig(**_GROUPED, num_local_experts=4, num_experts_per_tok=2, sliding_window=WINDOW),
    "gpt_oss": lambda: hf.GptOssConfig(
        **_GROUPED,
        head_dim=8,
        sliding_window=WINDOW,
        layer_types=_MIXED,
        num_local_experts=4,
        num_experts_per_tok=2,
    ),
    "deepseek_v3": lambda: hf.DeepseekV3Config(
        **{**_COMMON, "num_key_value_heads": 4},
        moe_intermediate_size=16,
        n_routed_experts=4,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
        first_k_dense_replace=1,
        kv_lora_rank=16,
        q_lora_rank=16,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=12,
    ),
    "gpt_neo": lambda: hf.GPTNeoConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_layers=2,
        attention_types=[[["global", "local"], 1]],
        num_heads=4,
        max_position_embeddings=CONTEXT,
        window_size=WINDOW,
        eos_token_id=None,
    ),
    "bloom": lambda: hf.BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=3, n_head=4, eos_token_id=None),
    "gptj": lambda: hf.GPTJConfig(**_GPT, rotary_dim=4),
    "falcon": lambda: hf.FalconConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, eos_token_id=None
    ),
    "mamba": lambda: hf.MambaConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, state_size=4, eos_token_id=None
    ),
}

# Architectures whose configurations or classes say less of their bodies than others' do: widths that differ by layer,
# an output layer called "decoder", a body that `get_decoder` does not find, a context under another name.
UNUSUAL: dict[str, Callable[[], hf.PreTrainedConfig]] = {
    "gemma4": lambda: hf.Gemma4TextConfig(
        **_GEMMA | {"layer_types": ["sliding_attention", "sliding_attention", "full_attention"]},
        global_head_dim=16,
        num_global_key_value_heads=1,
        vocab_size_per_layer_input=VOCABULARY,
        hidden_size_per_layer_input=8,
        num_kv_shared_layers=0,
    ),
    "gemma3n": lambda: hf.Gemma3nTextConfig(
        **{k: v for k, v in _GEMMA.items() if k != "query_pre_attn_scalar"} | {"intermediate_size": [48, 32, 48]},
        vocab_size_per_layer_input=VOCABULARY,
        hidden_size_per_layer_input=8,
        num_kv_shared_layers=0,
        laurel_rank=4,
        activation_sparsity_pattern=[0.0, 0.0, 0.0],
    ),
    "modernbert_decoder": lambda: hf.ModernBertDecoderConfig(
        **_COMMON, cls_token_id=1, sep_token_id=2, local_attention=WINDOW, layer_types=_MIXED
    ),
    "llama4": lambda: hf.Llama4TextConfig(
        **_GROUPED, head_dim=8, intermediate_size_mlp=48, num_local_experts=4, attention_chunk_size=WINDOW
    ),
    "mpt": lambda: hf.MptConfig(
        vocab_size=VOCABULARY, d_model=32, n_heads=4, n_layers=3, max_seq_len=CONTEXT, eos_token_id=None
    ),
}
# Which engine serves whom.
COLUMNS = ["gpt2", "gpt_neox", "llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "olmo2", "opt"]
COLUMNS += ["granite", "mixtral", "gpt_oss", "deepseek_v3"]
PLAIN = ["gpt_neo", "bloom", "falcon", "mamba"]
# Its attention can be chosen in some releases of transformers alone.
(COLUMNS if hf.GPTJForCausalLM._can_set_attn_implementation() else PLAIN).append("gptj")


def tiny(name: str, *, seed: int = 0, scale: float = 6.0) -> PreTrainedModel:
    """A random model of the architecture, float32, in eval mode, its matrices multiplied by `scale`."""
    torch.manual_seed(seed)
    model = hf.AutoModelForCausalLM.from_config((CONFIGS | UNUSUAL)[name]()).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.mul_(scale)
        elif "sink" in "".join(n for n, p in model.named_parameters() if p is parameter):
            parameter.normal_()
    return model
