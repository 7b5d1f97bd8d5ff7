"""The frame of a mesa model: blocks of mixer and gated MLP on a residual stream."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel, initialization
from transformers.cache_utils import Cache, DynamicCache
from transformers.masking_utils import create_causal_mask, find_packed_sequence_indices
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm, LlamaRotaryEmbedding
from transformers.utils.output_capturing import capture_outputs

from snellen.architectures.mesa.config import LINEAR, MESA, SOFTMAX, MesaConfig
from snellen.architectures.mesa.convolution import ShortConvolution
from snellen.architectures.mesa.recurrent import HeadGate, LinearMixer, MesaMixer, RecurrentMixer, spread_decay
from snellen.architectures.mesa.softmax import OF_ATTENTION, PACKING, SoftmaxMixer
from snellen.attention.caches import CACHE, CACHE_NAMES, one_cache, refuse_unknown
from snellen.errors import InputError

MIXERS = {SOFTMAX: SoftmaxMixer, LINEAR: LinearMixer, MESA: MesaMixer}


class MesaBlock(GradientCheckpointingLayer):  # type: ignore[misc]
    """h ← h + mixer(norm(h)); h ← h + mlp(norm(h)); and both clipped, where a clip is set."""

    def __init__(self, config: MesaConfig, layer_idx: int) -> None:
        super().__init__()
        assert config.layer_types is not None
        self.clip = config.residual_clip
        self.mixer = MIXERS[config.layer_types[layer_idx]](config, layer_idx)
        self.mixer_norm = _norm(config)
        self.mlp = LlamaMLP(config) if config.intermediate_size else None
        self.mlp_norm = _norm(config) if config.intermediate_size else None

    def forward(
        self,
        hidden_states: Float[Tensor, "batch pos model"],
        *,
        cache: Cache | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """kwargs: of this block's kind of mixer, which knows them all. use_cache is for checkpointing to take away."""
        cache = one_cache(cache=cache, past_key_values=past_key_values)
        mixed, _ = self.mixer(self.mixer_norm(hidden_states), cache=cache, **kwargs)
        hidden_states = hidden_states + mixed
        if self.mlp is not None:
            assert self.mlp_norm is not None
            hidden_states = hidden_states + self.mlp(self.mlp_norm(hidden_states))
        if self.clip is not None:
            hidden_states = hidden_states.clamp(-self.clip, self.clip)
        return hidden_states


class MesaPreTrainedModel(PreTrainedModel):  # type: ignore[misc]
    """What transformers asks of an architecture."""

    config_class = MesaConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = ["MesaBlock"]
    _skip_keys_device_placement: ClassVar[list[str]] = list(CACHE_NAMES)
    _supports_sdpa = True
    _supports_attention_backend = True
    _can_compile_fullgraph = False
    _can_record_outputs: ClassVar[dict[str, type]] = {"hidden_states": MesaBlock, "attentions": SoftmaxMixer}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Normal with std initializer_range, but what is said in docs/mesa.md.

        Through `transformers.initialization`, which leaves alone what was loaded.
        """
        super()._init_weights(module)
        if isinstance(module, ShortConvolution):
            initialization.uniform_(module.weight, -(module.size**-0.5), module.size**-0.5)
        elif isinstance(module, HeadGate):
            initialization.normal_(module.weight, mean=0.0, std=self.config.initializer_range)
            initialization.zeros_(module.bias)
        elif isinstance(module, MesaMixer):
            rest = self.config.ridge_init - self.config.ridge_floor
            initialization.constant_(module.raw_ridge, rest + math.log(-math.expm1(-rest)))  # softplus⁻¹
        if isinstance(module, RecurrentMixer) and module.decay_proj is not None:
            initialization.copy_(module.decay_proj.bias, spread_decay(module.heads))


class MesaModel(MesaPreTrainedModel):
    """Embedding, blocks, norm. `tokens` False: only vectors come in; `final_norm` False: none at the end."""

    def __init__(self, config: MesaConfig, *, tokens: bool = True, final_norm: bool = True) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size) if tokens else None
        learned = config.positions == "learned"
        self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size) if learned else None
        self.layers = nn.ModuleList(MesaBlock(config, i) for i in range(config.num_hidden_layers))
        self.norm = _norm(config) if final_norm else nn.Identity()
        turning = config.positions == "rope" and SOFTMAX in (config.layer_types or ())
        self.rotary_emb = LlamaRotaryEmbedding(config) if turning else None
        self.gradient_checkpointing = False
        self.post_init()

    @capture_outputs  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Int[Tensor, "batch pos"] | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Int[Tensor, "_ pos"] | None = None,
        cache: Cache | None = None,
        inputs_embeds: Float[Tensor, "batch pos model"] | None = None,
        use_cache: bool | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """As transformers' decoders. attention_mask: [batch, seen + pos], 0 where there is no token. cache and
        past_key_values are two names of one thing. kwargs: `OF_ATTENTION`.

        Packed rows are told by position_ids that begin anew, with neither attention_mask nor cache, as everywhere in
        transformers.

        Raises
        ------
        InputError
            Neither or both of input_ids and inputs_embeds, a mask that recurrent layers cannot follow, a cache of
            another model or two of them, packed rows with a cache, positions beyond those that were learned, an
            argument that is not known.
        """
        refuse_unknown(type(self).__name__, kwargs, OF_ATTENTION)
        cache = one_cache(cache=cache, past_key_values=past_key_values)
        if (input_ids is None) == (inputs_embeds is None):
            raise InputError("give either input_ids or inputs_embeds, and not both")
        if inputs_embeds is None:
            assert self.embed_tokens is not None
            inputs_embeds = self.embed_tokens(input_ids)
        resets = self._resets(position_ids, attention_mask, cache, use_cache, len(inputs_embeds))
        if self.config.recurrent and resets is None and not PACKING.isdisjoint(kwargs):
            given = ", ".join(sorted(PACKING.intersection(kwargs)))
            raise InputError(f"{given}: recurrent layers know texts by position_ids that begin anew; give these too")
        if use_cache is None:  # a cache that nobody asked for would cost a pass of training something
            use_cache = self.config.use_cache and not self.training and resets is None
        if use_cache and cache is None:
            cache = DynamicCache(config=self.config)
        if position_ids is None:
            position_ids = _positions(inputs_embeds, attention_mask, cache)
        hidden_states = inputs_embeds
        if self.embed_positions is not None:
            hidden_states = hidden_states + self.embed_positions(self._known(position_ids))
        named = {CACHE: cache}
        softmax: dict[str, Any] = {}
        if SOFTMAX in self.config.layer_types:
            softmax["attention_mask"] = create_causal_mask(
                config=self.config,
                inputs_embeds=inputs_embeds,
                attention_mask=attention_mask,
                position_ids=position_ids,
                **named,
            )
            softmax["position_ids"] = position_ids
            if self.rotary_emb is not None:
                softmax["position_embeddings"] = self.rotary_emb(hidden_states, position_ids)
        recurrent: dict[str, Any] = {}
        if self.config.recurrent:
            recurrent = {"token_mask": _token_mask(attention_mask, inputs_embeds), "resets": resets}
        for kind, layer in zip(self.config.layer_types, self.layers, strict=True):
            own = {**softmax, **kwargs} if kind == SOFTMAX else recurrent
            hidden_states = layer(hidden_states, use_cache=use_cache, **named, **own)
        return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden_states), **named)

    def _resets(
        self,
        position_ids: Tensor | None,
        attention_mask: Tensor | None,
        cache: Cache | None,
        use_cache: bool | None,
        batch: int,
    ) -> Bool[Tensor, "batch pos"] | None:
        """True where a text of a packed row begins; None where rows are single texts."""
        if position_ids is None or attention_mask is not None:
            return None
        if cache is not None and cache.get_seq_length():
            return None
        texts = find_packed_sequence_indices(position_ids.expand(batch, -1))
        if texts is None:
            return None
        if use_cache or cache is not None:
            raise InputError(
                "position_ids begin anew inside a row, so it holds several texts, which leave no common cache: "
                "use_cache=False (or, if it is one text, give an attention_mask)"
            )
        return torch.diff(texts, prepend=texts[:, :1] - 1, dim=1) != 0

    def _known(self, position_ids: Tensor) -> Tensor:
        most = self.config.max_position_embeddings
        if int(position_ids.max()) >= most:
            raise InputError(
                f"position {int(position_ids.max())}: there are max_position_embeddings={most} learned ones; read a "
                "shorter text, or train a model with positions='rope' or 'none'"
            )
        return position_ids


def _positions(inputs_embeds: Tensor, attention_mask: Any, cache: Cache | None) -> Int[Tensor, "batch_or_1 pos"]:
    """Of each token among the real ones of its row, so that padding on the left moves nothing."""
    pos, device = inputs_embeds.shape[1], inputs_embeds.device
    if isinstance(attention_mask, Tensor) and attention_mask.ndim == 2:
        counted: Tensor = (attention_mask.to(device).long().cumsum(-1) - 1).clamp_min(0)[:, -pos:]
        return counted
    seen = 0 if cache is None else cache.get_seq_length()
    return (torch.arange(pos, device=device) + seen)[None]


def _norm(config: MesaConfig) -> nn.Module:
    return LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps) if config.norm == "rms" else nn.Identity()


def _token_mask(attention_mask: Any, inputs_embeds: Tensor) -> Bool[Tensor, "batch pos"] | None:
    """Of the positions of this pass; None where all are tokens."""
    if attention_mask is None:
        return None
    if not isinstance(attention_mask, Tensor) or attention_mask.ndim != 2:
        kind = list(attention_mask.shape) if isinstance(attention_mask, Tensor) else type(attention_mask).__name__
        raise InputError(
            f"attention_mask is {kind}: recurrent layers see all tokens so far, so give [batch, pos] with 0 for "
            "padding only (and several texts in a row by position_ids)"
        )
    batch, pos = inputs_embeds.shape[:2]
    if attention_mask.shape[0] != batch or attention_mask.shape[1] < pos:
        raise InputError(f"attention_mask is {list(attention_mask.shape)}: it must cover [{batch}, {pos}] tokens")
    mask = attention_mask[:, -pos:].to(device=inputs_embeds.device, dtype=torch.bool)
    return None if bool(mask.all()) else mask
