"""The recurrent layers: linear attention and the mesa-layer, between the same projections."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers.cache_utils import Cache

from snellen.architectures.mesa.cache import state_of
from snellen.architectures.mesa.config import LINEAR, MESA, MesaConfig
from snellen.architectures.mesa.convolution import ShortConvolution
from snellen.architectures.mesa.linear import linear_attention
from snellen.attention import MesaState, mesa_attention, mesa_step


@dataclass(frozen=True, kw_only=True)
class Read:
    """What a recurrent layer reads of some positions; padding is zero in all but the queries."""

    q: Float[Tensor, "batch pos heads dim"]
    k: Float[Tensor, "batch pos heads dim"]
    v: Float[Tensor, "batch pos heads dim"]
    log_decay: Float[Tensor, "batch pos heads"] | None
    gate: Float[Tensor, "batch pos heads"] | None
    mask: Bool[Tensor, "batch pos"] | None
    resets: Bool[Tensor, "batch pos"] | None


class RecurrentMixer(nn.Module, ABC):
    """Queries, keys and values by projection and short convolution; decay and gate from the layer's input."""

    kind: str

    def __init__(self, config: MesaConfig, layer_idx: int) -> None:
        super().__init__()
        assert config.head_dim is not None
        self.config, self.layer_idx = config, layer_idx
        self.heads, self.head_dim = config.num_attention_heads, config.head_dim
        width = self.heads * self.head_dim
        self.q_proj = nn.Linear(config.hidden_size, width, bias=config.attention_bias)
        self.k_proj = nn.Linear(config.hidden_size, width, bias=config.attention_bias)
        self.v_proj = nn.Linear(config.hidden_size, width, bias=config.attention_bias)
        self.o_proj = nn.Linear(width, config.hidden_size, bias=config.attention_bias)
        self.conv = ShortConvolution(3 * width, config.conv_size) if config.conv_size else None
        self.decay_proj = HeadGate(config.hidden_size, self.heads) if config.decay else None
        self.gate_proj = HeadGate(config.hidden_size, self.heads) if config.gate else None

    def forward(
        self,
        hidden_states: Float[Tensor, "batch pos model"],
        *,
        token_mask: Bool[Tensor, "batch pos"] | None = None,
        resets: Bool[Tensor, "batch pos"] | None = None,
        cache: Cache | None = None,
    ) -> tuple[Float[Tensor, "batch pos model"], None]:
        """token_mask: False where there is no token. resets: True where a text of a packed row begins."""
        store = state_of(cache, self.layer_idx)
        past = {} if store is None else store.states
        read, convolved = self._read(hidden_states, past.get("conv"), token_mask, resets)
        out, states = self._mix(read, past, keep=store is not None)
        if past and torch.is_grad_enabled() and out.requires_grad:
            out = _CutOff.apply(out)  # type: ignore[no-untyped-call]
        if store is not None:
            if convolved is not None:
                states["conv"] = convolved
            store.store({name: x.detach() for name, x in states.items()}, hidden_states.shape[1])
        if token_mask is not None:
            out = out * token_mask[..., None, None]
        mixed: Tensor = self.o_proj(out.flatten(2).to(hidden_states.dtype))
        return mixed, None

    @abstractmethod
    def _mix(self, read: Read, past: dict[str, Tensor], *, keep: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """Outputs [batch pos heads dim], and what to keep of the text so far where `keep`; `past`: what was kept."""

    def _read(
        self,
        hidden_states: Tensor,
        before: Tensor | None,
        mask: Tensor | None,
        resets: Tensor | None,
    ) -> tuple[Read, Tensor | None]:
        projected = [p(hidden_states) for p in (self.q_proj, self.k_proj, self.v_proj)]
        convolved = None
        if self.conv is not None:
            joined, convolved = self.conv(torch.cat(projected, dim=-1), before=before, mask=mask, resets=resets)
            projected = list(joined.chunk(3, dim=-1))
        # Half precision ends here: the solves are in float32 and what they are made of should be no coarser.
        exact = torch.promote_types(projected[0].dtype, torch.float32)
        q, k, v = (x.unflatten(-1, (self.heads, self.head_dim)).to(exact) for x in projected)
        if self.config.normalize_qk:
            q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        log_decay = None if self.decay_proj is None else F.logsigmoid(self.decay_proj(hidden_states).to(exact))
        gate = None if self.gate_proj is None else torch.sigmoid(self.gate_proj(hidden_states).to(exact))
        if mask is not None:
            k, v = (x.masked_fill(~mask[..., None, None], 0.0) for x in (k, v))
            if log_decay is not None:
                log_decay = log_decay.masked_fill(~mask[..., None], 0.0)
        return Read(q=q, k=k, v=v, log_decay=log_decay, gate=gate, mask=mask, resets=resets), convolved


class LinearMixer(RecurrentMixer):
    """Linear attention: o_t = Σ_{s≤t} ζ_ts β_s v_s (k_s·q_t), nothing else."""

    kind = LINEAR

    def _mix(self, read: Read, past: dict[str, Tensor], *, keep: bool) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.autocast(read.q.device.type, enabled=False):
            out, state = linear_attention(
                read.q,
                read.k,
                read.v,
                log_decay=read.log_decay,
                gate=read.gate,
                resets=read.resets,
                state=past.get("cross"),
            )
        return out, {"cross": state}


class MesaMixer(RecurrentMixer):
    """The mesa-layer: ridge regression of the values so far on their keys, applied to the query."""

    kind = MESA

    def __init__(self, config: MesaConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.raw_ridge = nn.Parameter(torch.empty(self.heads, self.head_dim if config.mesa_form == "mesanet" else 1))

    @property
    def ridge(self) -> Float[Tensor, "heads dim_or_1"]:
        """Λ's diagonal, over `ridge_floor`."""
        exact = torch.promote_types(self.raw_ridge.dtype, torch.float32)
        return self.config.ridge_floor + F.softplus(self.raw_ridge.to(exact))

    def _mix(self, read: Read, past: dict[str, Tensor], *, keep: bool) -> tuple[Tensor, dict[str, Tensor]]:
        solved: tuple[Tensor, dict[str, Tensor]] = _solve(read, past, keep, self.ridge, self.config.mesa_form)
        return solved


@torch.compiler.disable(  # type: ignore[untyped-decorator, no-untyped-call]
    reason="Which solver serves, and whether its result can be trusted, is decided by looking at numbers, which a "
    "compiled graph cannot; what lies between the mesa-layers is compiled (fullgraph=False)."
)
def _solve(
    read: Read, past: dict[str, Tensor], keep: bool, ridge: Tensor, form: str
) -> tuple[Tensor, dict[str, Tensor]]:
    gates = {"log_decay": read.log_decay, "gate": read.gate}
    if not past:
        out = mesa_attention(
            read.q,
            read.k,
            read.v,
            ridge=ridge,
            log_decay=read.log_decay,
            gate=read.gate,
            form=form,
            mask=read.mask,
            resets=read.resets,
        )
        if not keep:
            return out, {}
        batch, _, heads, dim = read.q.shape
        state = MesaState.empty(batch, heads, dim, dim, device=read.q.device)
        state = state.after(read.k, read.v, log_decay=read.log_decay, gate=read.gate, mask=read.mask)
    else:
        state = MesaState(**{name: past[name] for name in _STATE})
        steps = []
        for t in range(read.q.shape[1]):
            at = {name: None if x is None else x[:, t] for name, x in gates.items()}
            step, state = mesa_step(read.q[:, t], read.k[:, t], read.v[:, t], state, ridge=ridge, form=form, **at)
            steps.append(step)
        # Attached to what it was made of, so that `_CutOff` meets whoever asks for a gradient.
        out = torch.stack(steps, dim=1) + 0.0 * (read.q + read.k + read.v)
    return out, {name: getattr(state, name) for name in _STATE}


_STATE = ("gram", "cross", "log_remaining")


class HeadGate(nn.Module):
    """One number for each head and token. The bias is added in full precision, where it would drown the rest."""

    def __init__(self, hidden_size: int, heads: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(heads, hidden_size))
        self.bias = nn.Parameter(torch.empty(heads))

    def forward(self, x: Float[Tensor, "batch pos model"]) -> Float[Tensor, "batch pos heads"]:
        exact = torch.promote_types(x.dtype, torch.float32)
        return F.linear(x, self.weight).to(exact) + self.bias.to(exact)


class _CutOff(torch.autograd.Function):
    """The identity, and an error instead of a gradient that leaves out what lies in the cache."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        raise RuntimeError(
            "no gradient flows through a recurrent layer's cache: run the whole text in one forward pass, with "
            "use_cache=False"
        )


def spread_decay(heads: int) -> Tensor:
    """The bias at which γ = 1 − 1/τ, with memories τ of the heads evenly spread over log τ (see docs/mesa.md)."""
    shortest, longest = _MEMORY
    tau = torch.exp(torch.linspace(math.log(shortest), math.log(longest), heads))
    return torch.log(tau - 1.0)  # logit of 1 − 1/τ


_MEMORY = (100.0, 1000.0)  # tokens
