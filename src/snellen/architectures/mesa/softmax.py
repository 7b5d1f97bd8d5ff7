"""The softmax layer: transformers' own attention."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb, eager_attention_forward

from snellen.architectures.mesa.config import SOFTMAX, MesaConfig
from snellen.attention.caches import refuse_unknown

# By which collators tell kernels, and only them, where texts begin.
PACKING = frozenset({"cu_seq_lens_q", "cu_seq_lens_k", "seq_idx"})
# What an attention implementation may be told besides.
OF_ATTENTION = PACKING | {"max_length_q", "max_length_k", "position_ids", "output_attentions", "output_hidden_states"}


class SoftmaxMixer(nn.Module):
    """Causal softmax attention, by whichever implementation transformers was told to use."""

    kind = SOFTMAX

    def __init__(self, config: MesaConfig, layer_idx: int) -> None:
        super().__init__()
        assert config.head_dim is not None
        self.config, self.layer_idx = config, layer_idx
        self.head_dim = config.head_dim
        # What transformers' attention functions read from the module.
        self.num_key_value_groups, self.is_causal = 1, True
        self.scaling = config.head_dim**-0.5
        width = config.num_attention_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, width, bias=config.attention_bias)
        self.k_proj = nn.Linear(config.hidden_size, width, bias=config.attention_bias)
        self.v_proj = nn.Linear(config.hidden_size, width, bias=config.attention_bias)
        self.o_proj = nn.Linear(width, config.hidden_size, bias=config.attention_bias)

    def forward(
        self,
        hidden_states: Float[Tensor, "batch pos model"],
        *,
        attention_mask: Tensor | None = None,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[Float[Tensor, "batch pos model"], Tensor | None]:
        """attention_mask: as transformers' mask functions make it for the implementation in use; it holds what the
        recurrent layers get as token_mask and resets. kwargs: for that implementation, `OF_ATTENTION` alone.
        """
        refuse_unknown(type(self).__name__, kwargs, OF_ATTENTION)
        places = hidden_states.shape[:-1]
        projections = (self.q_proj, self.k_proj, self.v_proj)
        query, key, value = (p(hidden_states).view(*places, -1, self.head_dim).transpose(1, 2) for p in projections)
        if position_embeddings is not None:
            query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        if cache is not None:
            key, value = cache.update(key, value, self.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        out, weights = attend(self, query, key, value, attention_mask, dropout=0.0, scaling=self.scaling, **kwargs)
        mixed: Tensor = self.o_proj(out.reshape(*places, -1).contiguous())
        return mixed, weights if isinstance(weights, torch.Tensor) else None
