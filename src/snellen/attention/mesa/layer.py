"""The mesa-layer's attention over whole sequences."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from snellen.attention.mesa.checking import check_flags, check_shapes, check_values
from snellen.attention.mesa.chunks import LEAST_DECAY, Chunks
from snellen.attention.mesa.chunks import chunk_size as fitting_size
from snellen.attention.mesa.gradient import Mesa
from snellen.attention.mesa.systems import Setting, Solver
from snellen.attention.mesa.trust import LEAST_IN_SINGLE, Untrusted, least_ratio
from snellen.errors import InputError

# With weaker decay a preconditioner whose regulariser decays too saves more steps than it costs.
_WEAK_DECAY = math.log(0.99)


@torch.compiler.disable(  # type: ignore[untyped-decorator, no-untyped-call]
    reason="which solver serves, and whether its result can be trusted, is decided by looking at numbers"
)
def mesa_attention(
    q: Float[Tensor, "batch pos heads dim"],
    k: Float[Tensor, "_batch _pos _heads _dim"],
    v: Float[Tensor, "_batch _pos _heads _vdim"],
    *,
    ridge: Float[Tensor, "_heads _dim_or_1"],
    log_decay: Float[Tensor, "_batch _pos _heads"] | None = None,
    gate: Float[Tensor, "_batch _pos _heads"] | None = None,
    form: str = "2023",
    mask: Bool[Tensor, "_batch _pos"] | None = None,
    resets: Bool[Tensor, "_batch _pos"] | None = None,
    chunk_size: int | None = None,
    ill_conditioned: str = "refuse",
) -> Float[Tensor, "batch pos heads vdim"]:
    """At each position the exact ridge regression of all values so far on their keys, applied to the query.

    With H_t and G_t the sums of β_s k_s k_sᵀ and β_s v_s k_sᵀ over s ≤ t, each decayed since then,
    o_t = G_t A_t⁻¹ q_t, where A_t is H_t and a regulariser Λ that in form "2023" decays with the data (von Oswald et
    al. 2023, arXiv 2309.05858) and in form "mesanet" does not (von Oswald et al. 2025, arXiv 2506.05233). Without decay
    the two are one. Nothing is normalised here. Work and memory grow with the length, not its square. Gradients flow to
    all of q, k, v, ridge, log_decay and gate; there are no second derivatives.

    Half-precision input is solved in float32, and that in float64 where the ridge is too little for float32; the output
    has the type of q, k and v. A text's first position decays the regulariser of form "2023" too. torch.compile leaves
    the call as it is, between two graphs.

    ridge: Λ's diagonal (1/λ), [heads, 1] or [heads, dim]. log_decay: log γ_t, what becomes at t of all before it. gate:
    β_t, the weight of t itself. mask: False where there is no token: it is neither seen nor given an output (0), and
    the decay there counts for nothing. resets: True where a text begins that shall not see what stands before it in
    its row (packed sequences). chunk_size: at most so many positions are solved with one factor. ill_conditioned: what
    to do where the ridge is lost even in float64's rounding; with "warn" the diagonal is raised there.

    Raises
    ------
    InputError
        Sizes that do not fit, something that is not finite, ridge ≤ 0, log_decay > 0, gate < 0.
    Refused
        The ridge regression cannot be solved to about 1 % in float64, or its gradients, where they are asked for,
        cannot (which comes earlier). That comes in form "2023" with decay when the
        keys that are remembered do not span all directions (1/(1 − γ) below the size of a key, or keys of low rank),
        since its regulariser vanishes; and in both with keys many millions of times √ridge.
    """
    check_shapes(q, k, v, ridge=ridge, log_decay=log_decay, gate=gate, form=form)
    check_flags(q, mask=mask, resets=resets)
    if q.ndim != 4:
        raise InputError(f"q is {list(q.shape)}: it must be [batch, pos, heads, dim]; one token at a time: mesa_step")
    if chunk_size is not None and (isinstance(chunk_size, bool) or not isinstance(chunk_size, int) or chunk_size < 1):
        raise InputError(f"chunk_size={chunk_size}: at least 1, or None")
    if ill_conditioned not in ("refuse", "warn"):
        raise InputError(f"ill_conditioned={ill_conditioned!r}: there is 'refuse' and 'warn'")
    kind = torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
    exact = torch.promote_types(kind, torch.float32)
    if mask is not None:
        q, k, v = (x.masked_fill(~mask[..., None, None], 0.0) for x in (q, k, v))
        log_decay, gate = (None if x is None else x.masked_fill(~mask[..., None], 0.0) for x in (log_decay, gate))
    check_values(q, k, v, ridge=ridge, log_decay=log_decay, gate=gate)
    batch, length, heads, dim = q.shape
    solver = _solver(form, log_decay)
    size = fitting_size(length, dim, log_decay, least=0.0 if solver == "plain" else LEAST_DECAY)
    chunks = Chunks.of(batch, length, min(size, chunk_size or size), resets, q.device)
    ones = torch.ones((batch, length, heads), dtype=exact, device=q.device)
    given = [q, k, v, torch.zeros_like(ones) if log_decay is None else log_decay, ones if gate is None else gate]

    def attended(exact: torch.dtype, *, least: float, refuse: bool) -> Tensor:
        setting = Setting(
            form="mesanet" if form == "mesanet" else "2023",
            solver=solver,
            first=chunks.first,
            refuse=refuse,
            least=least,
        )
        cut = [chunks.cut(x.to(exact)) for x in given]
        out = chunks.joined(Mesa.apply(*cut, ridge.to(exact).expand(heads, dim), setting)).to(kind)  # type: ignore[no-untyped-call]
        if not bool(out.isfinite().all()):
            raise Untrusted(
                f"form={form!r}: the output is not finite in {kind}, though the input is; make keys smaller"
            )
        return out

    if exact == torch.float32:
        try:
            return attended(exact, least=LEAST_IN_SINGLE, refuse=True)
        except Untrusted:
            exact = torch.float64
    gradients = torch.is_grad_enabled() and any(x.requires_grad for x in (*given, ridge))
    return attended(exact, least=least_ratio(exact, gradients=gradients), refuse=ill_conditioned == "refuse")


def _solver(form: str, log_decay: Tensor | None) -> Solver:
    if form == "2023" or log_decay is None:
        return "cholesky"
    strongest = float(log_decay.detach().min())
    if strongest == 0:
        return "cholesky"
    return "preconditioned" if strongest >= _WEAK_DECAY else "plain"
