"""Slow and obvious twins of the kernels, in float64: they read like the formulas."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def branch_attention(
    query: Float[Tensor, "heads dim"],
    text_keys: Float[Tensor, "kv_heads pos dim"],
    text_values: Float[Tensor, "kv_heads pos vdim"],
    branch_keys: Float[Tensor, "depth kv_heads dim"],
    branch_values: Float[Tensor, "depth kv_heads vdim"],
    *,
    position: int,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Float[Tensor, "heads"] | None = None,
) -> Float[Tensor, "heads vdim"]:
    """One query, the last token of one branch of text position `position`, against all that it sees.

    It stands at position + depth and sees the keys at places > position + depth − window.
    """
    depth = branch_keys.shape[0]
    keys = torch.cat([text_keys[:, : position + 1], branch_keys.movedim(0, 1)], dim=1).double()
    values = torch.cat([text_values[:, : position + 1], branch_values.movedim(0, 1)], dim=1).double()
    here = position + depth
    out = []
    for head in range(query.shape[0]):
        kv = head // (query.shape[0] // keys.shape[0])
        scores = keys[kv] @ query[head].double() * scale
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        if window is not None:
            scores[: max(0, here - window + 1)] = -torch.inf
        weights = torch.exp(scores - scores.max())
        sink = 0.0 if sinks is None else torch.exp(sinks[head].double() - scores.max())
        out.append(weights @ values[kv] / (weights.sum() + sink))
    return torch.stack(out)
