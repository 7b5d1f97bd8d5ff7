"""Models that are exact by construction: a table of next-token distributions as a `transformers` model.

They are examined through the same search, head and measure as any other model, but nothing in them was learned, so
that whatever a measure finds on them is the measure's own.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import GPT2LMHeadModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from snellen.errors import InputError
from snellen.organisms.markov import Markov


class TableConfig(PretrainedConfig):  # type: ignore[misc]  # transformers has no types
    """tokens: vocabulary of an order-2 table; max_position_embeddings: longest text."""

    model_type = "snellen-table"

    def __init__(self, tokens: int = 2, max_position_embeddings: int = 128, **rest: Any) -> None:
        self.tokens = tokens
        self.hidden_size = (tokens + 1) ** 2
        self.max_position_embeddings = max_position_embeddings
        super().__init__(vocab_size=tokens, tie_word_embeddings=False, **rest)


class TableModel(PreTrainedModel):  # type: ignore[misc]  # transformers has no types
    """The hidden state is the context itself (one of (tokens + 1)² pairs, one-hot), the head its log-probabilities."""

    config_class = TableConfig
    base_model_prefix = "context"
    _tied_weights_keys = None

    def __init__(self, config: TableConfig) -> None:
        super().__init__(config)
        self.context = Contexts(config)
        self.head = nn.Linear(config.hidden_size, config.tokens, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.context.names

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def get_decoder(self) -> nn.Module:
        return self.context

    def forward(self, input_ids: Tensor, use_cache: bool = False, return_dict: bool = True) -> CausalLMOutputWithPast:
        hidden = self.context(input_ids=input_ids).last_hidden_state
        return CausalLMOutputWithPast(logits=self.head(hidden))


class Contexts(nn.Module):
    """Ids [batch, pos] → one-hot pairs of the last two tokens [batch, pos, (tokens + 1)²]."""

    def __init__(self, config: TableConfig) -> None:
        super().__init__()
        self.tokens = config.tokens
        self.names = nn.Embedding(config.tokens, config.hidden_size)  # its shape says the vocabulary; not read

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None = None,
        use_cache: bool = False,
        return_dict: bool = True,
    ) -> BaseModelOutputWithPast:
        before = nn.functional.pad(input_ids[:, :-1], (1, 0), value=self.tokens)
        pair = before * (self.tokens + 1) + input_ids
        hidden = nn.functional.one_hot(pair, (self.tokens + 1) ** 2).to(self.names.weight.dtype)
        return BaseModelOutputWithPast(last_hidden_state=hidden)


def exact(language: Markov) -> TableModel:
    """The author of a Markov text as a model."""
    model: TableModel = TableModel(
        TableConfig(tokens=language.tokens, max_position_embeddings=language.size + 16)
    ).eval()
    table = torch.from_numpy(np.log(language.table).reshape(-1, language.tokens)).float()
    with torch.no_grad():
        model.head.weight.copy_(table.T)
    model.requires_grad_(False)
    return model


def tempered(model: PreTrainedModel, exponent: float) -> PreTrainedModel:
    """A copy of the model that predicts p^τ / Z: too flat below 1, too sharp above.

    Raises
    ------
    InputError
        The exponent is not a number above 0, or the model is none whose logits are known to be linear in what is
        scaled here (GPT-2's last norm, a table's head).
    """
    if not 0 < exponent < float("inf"):
        raise InputError(f"exponent = {exponent!r}: must be a number above 0")
    model = copy.deepcopy(model)
    if isinstance(model, TableModel):
        scaled = [model.head.weight]
    elif isinstance(model, GPT2LMHeadModel):
        scaled = [model.transformer.ln_f.weight, model.transformer.ln_f.bias]
    else:
        raise InputError(f"model: {type(model).__name__} cannot be tempered; give a GPT-2 or a table")
    with torch.no_grad():
        for parameter in scaled:
            parameter.mul_(exponent)
    return model
