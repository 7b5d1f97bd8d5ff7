"""How much each position's loss depends on the residual stream at each position, by plain autograd."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from snellen.attention.myopic.interface import replace_hidden
from snellen.errors import InputError
from snellen.kinds import checked
from snellen.models.body import body_of, embedding_rows


@checked
def influence_matrix(
    model: PreTrainedModel, input_ids: Int[Tensor, "pos"], *, layer: int
) -> Float[Tensor, "pos-1 pos-1"]:
    """‖∂ℓ_s/∂h_t‖ · ‖h_t‖ at [s, t]: how many nats a relative change of h_t would move the loss at s, at most.

    ℓ_s is the cross-entropy of token s + 1, h_t the residual stream at t after `layer` blocks (0: the embeddings).
    Lower triangular for an ordinary causal model, diagonal for a myopic one. One backward pass a position: for short
    texts.

    Raises
    ------
    InputError
        Fewer than two tokens, or no such layer.
    """
    if len(input_ids) < 2:
        raise InputError(f"input_ids: {len(input_ids)} tokens; a loss needs two")
    low, high, known = int(input_ids.min()), int(input_ids.max()), embedding_rows(model)
    if low < 0 or high >= known:
        raise InputError(f"input_ids {low}…{high}: the model's vocabulary has the ids 0…{known - 1}")
    decoder = body_of(model)
    blocks: Any = getattr(decoder, "layers", getattr(decoder, "h", ()))
    if not 0 <= layer < len(blocks):
        raise InputError(f"layer = {layer}: {type(model).__name__} has {len(blocks)} layers, counted from 0")
    kept: list[Tensor] = []

    def keep(_: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        def with_gradient(x: Tensor) -> Tensor:
            kept.append(x if x.requires_grad else x.detach().requires_grad_())
            return kept[-1]

        return replace_hidden(args, kwargs, with_gradient)

    handle = blocks[layer].register_forward_pre_hook(keep, with_kwargs=True)
    try:
        with torch.enable_grad():
            logits = model(input_ids=input_ids[None], use_cache=False).logits[0, :-1]
            losses = torch.nn.functional.cross_entropy(logits, input_ids[1:], reduction="none")
            rows = []
            for loss in losses:
                (gradient,) = torch.autograd.grad(loss, kept[0], retain_graph=True)
                rows.append(gradient[0, :-1].norm(dim=-1))
    finally:
        handle.remove()
    influence: Tensor = torch.stack(rows) * kept[0][0, :-1].detach().norm(dim=-1)
    return influence
