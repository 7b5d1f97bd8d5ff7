"""A causal language model of softmax, linear and mesa layers."""

from __future__ import annotations

from typing import Any, ClassVar

from jaxtyping import Int
from torch import Tensor, nn
from transformers import GenerationMixin
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.modeling_utils import slice_logits_to_keep
from transformers.utils.generic import can_return_tuple

from snellen.architectures.mesa.config import MesaConfig
from snellen.architectures.mesa.model import MesaModel, MesaPreTrainedModel
from snellen.attention.caches import CACHE, cache_in, one_cache, refuse_unknown

OF_LOSS = frozenset({"num_items_in_batch", "ignore_index", "shift_labels"})


class MesaForCausalLM(MesaPreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """A citizen of transformers: saved, loaded, trained, and generated with, as any other."""

    _tied_weights_keys: ClassVar[dict[str, str]] = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: MesaConfig) -> None:
        super().__init__(config)
        self._is_stateful = config.recurrent  # nothing to roll back to, so no assisted decoding
        self.model = MesaModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @property
    def layers(self) -> nn.ModuleList:
        layers = self.model.layers
        assert isinstance(layers, nn.ModuleList)
        return layers

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Int[Tensor, "batch pos"] | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Int[Tensor, "_ pos"] | None = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Int[Tensor, "batch pos"] | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """As every causal language model of transformers; `MesaModel.forward` says what is refused.

        kwargs: `OF_ATTENTION`, and beside labels what the loss takes, `OF_LOSS`.
        """
        of_loss = {name: kwargs.pop(name) for name in OF_LOSS & kwargs.keys()}
        if labels is None:  # of a batch's size the Trainer tells whoever computes the loss
            refuse_unknown(f"{type(self).__name__} without labels", of_loss, {"num_items_in_batch"})
        out = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=one_cache(cache=cache, past_key_values=past_key_values),
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        logits = self.lm_head(slice_logits_to_keep(out.last_hidden_state, logits_to_keep))
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **of_loss)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            hidden_states=out.hidden_states,
            attentions=out.attentions,
            **{CACHE: cache_in(out)},
        )
