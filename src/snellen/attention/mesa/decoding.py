"""The mesa-layer one token at a time: what it remembers of a text, and the next token's output."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from snellen.attention.mesa.checking import check_flags, check_shapes, check_state, check_values
from snellen.attention.mesa.cholesky import factored
from snellen.attention.mesa.gradient import full_precision
from snellen.attention.mesa.trust import least_ratio, trusted
from snellen.errors import InputError
from snellen.kinds import MOST, checked


@dataclass(frozen=True, kw_only=True)
class MesaState:
    """What a text leaves behind, the same for both forms: constant in size, however long the text.

    gram: H. cross: G. log_remaining: log of ζ_t0, what the 2023 form has left of its regulariser.
    """

    gram: Float[Tensor, "batch heads dim dim"]
    cross: Float[Tensor, "batch heads vdim dim"]
    log_remaining: Float[Tensor, "batch heads"]

    @classmethod
    @checked
    def empty(
        cls,
        batch: int,
        heads: int,
        dim: int,
        vdim: int,
        *,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> MesaState:
        """Before a text. dtype: that of the sums, at least float32. The default finds all that `mesa_attention` finds;
        with less, what rounding took from the sums cannot be brought back where a matrix turns out ill-conditioned."""
        for name, size in (("batch", batch), ("heads", heads), ("dim", dim), ("vdim", vdim)):
            if not 1 <= size <= MOST:
                raise InputError(f"{name} {size}: must be from 1 to {MOST}")
        exact = torch.promote_types(dtype, torch.float32)

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(batch, heads, *shape, dtype=exact, device=device)

        return cls(gram=zeros(dim, dim), cross=zeros(vdim, dim), log_remaining=zeros())

    @checked
    @torch.no_grad()
    def after(
        self,
        k: Float[Tensor, "batch pos heads dim"],
        v: Float[Tensor, "batch pos heads vdim"],
        *,
        log_decay: Float[Tensor, "batch pos heads"] | None = None,
        gate: Float[Tensor, "batch pos heads"] | None = None,
        mask: Bool[Tensor, "batch pos"] | None = None,
    ) -> MesaState:
        """Once this state has seen some more positions: one product, whatever their number (a prompt's).

        Raises InputError as `mesa_attention` does, and where the sizes are not this state's.
        """
        check_flags(k, mask=mask)
        check_state(k, v, gram=self.gram, cross=self.cross)
        exact = self.gram.dtype
        weight = torch.ones(k.shape[:3], dtype=exact, device=k.device) if gate is None else gate.to(exact)
        decay = torch.zeros_like(weight) if log_decay is None else log_decay.to(exact)
        if mask is not None:
            k, v = (x.masked_fill(~mask[..., None, None], 0.0) for x in (k, v))
            weight, decay = (x.masked_fill(~mask[..., None], 0.0) for x in (weight, decay))
        check_values(k, k, v, ridge=torch.ones(1, 1), log_decay=decay, gate=weight)
        key, value = (x.to(exact).transpose(1, 2) for x in (k, v))
        # Sums from the end, so that what decays much has the error.
        until_end = decay.flip(1).cumsum(1).flip(1) - decay
        left = key * (weight * until_end.exp()).transpose(1, 2)[..., None]
        total = decay.sum(1)
        remains = total.exp()[..., None, None]
        with full_precision(k.device):
            return MesaState(
                gram=remains * self.gram + left.mT @ key,
                cross=remains * self.cross + value.mT @ left,
                log_remaining=self.log_remaining + total,
            )

    def rows(self, index: Int[Tensor, "chosen"]) -> MesaState:
        """The states of some rows, in that order: what beam search does with a cache."""
        return MesaState(gram=self.gram[index], cross=self.cross[index], log_remaining=self.log_remaining[index])


@torch.compiler.disable(  # type: ignore[untyped-decorator, no-untyped-call]
    reason="whether the result can be trusted is decided by looking at numbers"
)
@torch.no_grad()
def mesa_step(
    q: Float[Tensor, "batch heads dim"],
    k: Float[Tensor, "_batch _heads _dim"],
    v: Float[Tensor, "_batch _heads _vdim"],
    state: MesaState,
    *,
    ridge: Float[Tensor, "_heads _dim_or_1"],
    log_decay: Float[Tensor, "_batch _heads"] | None = None,
    gate: Float[Tensor, "_batch _heads"] | None = None,
    form: str = "2023",
) -> tuple[Float[Tensor, "batch heads vdim"], MesaState]:
    """The next position's output, as `mesa_attention` has it there, and the state after it. No gradients.

    The matrix itself is kept, not its inverse, and factored anew for each token: a recursion of inverses would lose
    digits with every step, and in form "mesanet" there is none.

    Raises
    ------
    InputError, Refused
        As `mesa_attention` does.
    """
    check_shapes(q, k, v, ridge=ridge, log_decay=log_decay, gate=gate, form=form)
    if q.ndim != 3 or not isinstance(state, MesaState):
        what = f"q is {list(q.shape)}" if q.ndim != 3 else f"state is a {type(state).__name__}"
        raise InputError(f"{what}: give q as [batch, heads, dim], and a MesaState (MesaState.empty before a text)")
    check_values(q, k, v, ridge=ridge, log_decay=log_decay, gate=gate)
    kind = torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
    after = state.after(
        k[:, None],
        v[:, None],
        log_decay=None if log_decay is None else log_decay[:, None],
        gate=None if gate is None else gate[:, None],
    )
    regulariser = ridge.to(after.gram.dtype).expand(q.shape[1:])
    if form == "2023":
        regulariser = regulariser * after.log_remaining.exp()[..., None]
    with full_precision(q.device):
        factor, ratio = factored(after.gram + torch.diag_embed(regulariser))
        forgets = form == "2023" and bool(after.log_remaining.any())
        trusted(ratio[..., None], least=least_ratio(ratio.dtype), heads=None, forgets=forgets, refuse=True)
        solved = torch.cholesky_solve(q.to(after.gram.dtype)[..., None], factor)
        return (after.cross @ solved)[..., 0].to(kind), after
