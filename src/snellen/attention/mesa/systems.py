"""The matrices A_t of all positions, and their solution by whichever way is exact."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from snellen.attention.mesa.cholesky import Factor, factored
from snellen.attention.mesa.chunks import carried, look_back
from snellen.attention.mesa.conjugate import TOLERANCE, conjugate_gradients
from snellen.attention.mesa.trust import trusted

Form = Literal["2023", "mesanet"]
# "cholesky" is exact where nothing decays, or the regulariser does too; the others are conjugate gradients.
Solver = Literal["cholesky", "preconditioned", "plain"]

# Where a solution is made of terms so many times larger than it, what they lose is found by one step of refinement.
_REFINED_BELOW = 0.2
# More steps than this over the number of entries, and a factorisation is cheaper.
_EXTRA_STEPS = 20
# The matrices that are held at once where each position has its own.
_BLOCK_BYTES = 1 << 26


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is not a tensor with a gradient.

    first: the chunks that begin a text. refuse: where ill-conditioned, that is where less than `least` is left of a
    number that others are taken from.
    """

    form: Form
    solver: Solver
    first: Bool[Tensor, "batch chunks"]
    refuse: bool
    least: float


@dataclass(frozen=True, kw_only=True)
class Systems:
    """A_t = H_t and a regulariser, at all positions in chunks (mostly [batch, heads, chunks])."""

    key: Float[Tensor, "*chunks places dim"]
    weight: Float[Tensor, "*chunks places places"]  # ζ_ts β_s
    zeta: Float[Tensor, "*chunks places 1"]  # since the chunk's beginning
    regulariser: Float[Tensor, "..."]  # Λ, or what is left of it at each place
    gram: Float[Tensor, "*chunks dim dim"]  # H before each chunk
    factor: Factor | None
    setting: Setting

    def solve(
        self, rhs: Float[Tensor, "batch heads chunks places dim"]
    ) -> Float[Tensor, "batch heads chunks places dim"]:
        """A_t⁻¹ rhs_t for each place t.

        Raises
        ------
        Untrusted
            A matrix that this number format cannot solve, where each has a factor of its own; the one factor of a
            chunk is looked at where it is made.
        """
        if self.setting.solver != "cholesky":
            return self._iterated(rhs)
        assert self.factor is not None
        found = self.factor.solve(rhs)
        poor = self.factor.left_of_start < _REFINED_BELOW
        if bool(poor.any()):
            some, part = self._chosen(poor), found[poor]
            assert some.factor is not None
            found[poor] = part + some.factor.solve(rhs[poor] - some._product(part))
        return found

    def _chosen(self, chunks: Bool[Tensor, "batch heads chunks"]) -> Systems:
        """Of some chunks, in one row."""
        factor = None if self.factor is None else self.factor.chosen(chunks)
        regulariser = self.regulariser.expand(*chunks.shape, -1, -1)[chunks]
        key, weight, zeta, gram = (x[chunks] for x in (self.key, self.weight, self.zeta, self.gram))
        return replace(self, key=key, weight=weight, zeta=zeta, regulariser=regulariser, gram=gram, factor=factor)

    def _product(self, x: Tensor) -> Tensor:
        scores = x @ self.key.mT
        seen = look_back(x, self.key, scores=scores, weight=self.weight, state=self.gram, zeta=self.zeta)
        return torch.addcmul(seen, x, self.regulariser)

    def _iterated(self, rhs: Tensor) -> Tensor:
        """By conjugate gradients; by a factor each what is ill-conditioned for them, or not solved by them.

        Solved is what the residual itself says, not only the recursion that the steps are made of.
        """
        diagonal = self._diagonal()
        well = self._well_conditioned(diagonal)
        found, iterable = torch.zeros_like(rhs), rhs
        if not bool(well.all()):
            found = self._one_by_one(found, rhs, ~well)
            iterable = rhs.masked_fill(~well[..., None], 0.0)
        iterated, solved = conjugate_gradients(
            self._product,
            iterable,
            most=rhs.shape[-1] + _EXTRA_STEPS,
            precondition=None if self.factor is None else self.factor.solve,
        )
        size = diagonal.amax(-1) * iterated.norm(dim=-1) + iterable.norm(dim=-1)
        off = (iterable - self._product(iterated)).norm(dim=-1)
        solved = solved & (off <= 10 * TOLERANCE[rhs.dtype] * size)
        found = found + iterated
        return found if bool(solved.all()) else self._one_by_one(found, rhs, ~solved)

    def _diagonal(self) -> Float[Tensor, "batch heads chunks places dim"]:
        """Of each A_t."""
        own: Tensor = self.weight @ self.key.square()
        own += self.zeta * self.gram.diagonal(dim1=-2, dim2=-1)[..., None, :]
        own += self.regulariser
        return own

    def _well_conditioned(self, diagonal: Tensor) -> Bool[Tensor, "batch heads chunks places"]:
        """Where the least pivot over its diagonal entry is surely enough.

        Pivots grow with the matrix, and A_t is at least Λ. Where that does not settle it: at least what the chunk's end
        has left of H, and Λ.
        """
        least = self.setting.least
        well: Tensor = (self.regulariser / diagonal).amin(-1) >= least
        if bool(well.all()):
            return well
        lower = self.gram * self.zeta[..., -1:, :]
        lower.diagonal(dim1=-2, dim2=-1).add_(self.regulariser[..., 0, :])
        factor, info = torch.linalg.cholesky_ex(lower)
        pivots = factor.diagonal(dim1=-2, dim2=-1).square()[..., None, :]
        surely: Tensor = ((pivots / diagonal).amin(-1) >= least) & (info == 0)[..., None]
        return well | surely

    def _one_by_one(self, found: Tensor, rhs: Tensor, where: Bool[Tensor, "batch heads chunks places"]) -> Tensor:
        """`found`, but anew at some positions: each one's matrix is made and factored, in blocks of bounded memory."""
        found = found.clone()
        places, dim = rhs.shape[-2:]
        block = max(1, _BLOCK_BYTES // (rhs.element_size() * (3 * dim * dim + 2 * places * dim)))
        regulariser = self.regulariser.expand(rhs.shape)
        for index in torch.split(where.nonzero(), block):
            at = index.unbind(-1)
            chunk = at[:-1]
            keys = self.key[chunk]
            matrix = self.gram[chunk] * self.zeta[at][..., None]
            matrix.baddbmm_((keys * self.weight[at][..., None]).mT, keys)
            matrix.diagonal(dim1=-2, dim2=-1).add_(regulariser[at])
            factor, ratio = factored(matrix)
            setting = self.setting
            trusted(ratio, least=setting.least, heads=at[1].tolist(), forgets=False, refuse=setting.refuse)
            found[at] = torch.cholesky_solve(rhs[at][..., None], factor)[..., 0]
        return found


def chunk_factor(
    k: Float[Tensor, "batch heads chunks places dim"],
    gate: Float[Tensor, "batch heads chunks places"],
    log_decay: Float[Tensor, "batch heads chunks places"],
    log_zeta: Float[Tensor, "batch heads chunks places"],
    ridge: Float[Tensor, "heads dim"],
    gram: Float[Tensor, "batch heads chunks dim dim"],
    setting: Setting,
) -> Factor | None:
    """One for each chunk: of the exact matrices, or of a preconditioner, whose regulariser decays inside the chunk.

    Raises
    ------
    Untrusted
        The exact matrices cannot be solved in this number format (a preconditioner need not be exact), or keys are so
        large beside Λ that a solution, though right, is made of terms that cancel.
    """
    if setting.solver != "cholesky":
        # What is left of Λ⁻¹ where a text's first key was added; the one factor of a chunk looks at it by itself.
        left = 1 / (1 + (gate * (k.square() / ridge[:, None, None]).sum(-1)).amax(-1))
        trusted(left, least=setting.least, heads=None, forgets=False, refuse=setting.refuse)
    if setting.solver == "plain":
        return None
    begun = log_zeta[..., :1]  # the decay of the chunk's first place, which is behind its matrix
    start = gram * begun[..., None].exp()
    if setting.form == "2023":
        regulariser = ridge[:, None] * remaining(log_decay, log_zeta, setting.first)[..., :1]
    elif setting.solver == "cholesky":
        regulariser = ridge[:, None].expand(start.shape[:-1])
    else:
        # At the place with decay ζ the preconditioner has ζ c Λ for Λ. With c = 1/√ζ of the last place neither end
        # is off by more than that.
        regulariser = ridge[:, None] * (0.5 * (begun - log_zeta[..., -1:])).exp()
    start.diagonal(dim1=-2, dim2=-1).add_(regulariser)
    outer, ratio = factored(start)
    factor = Factor.of(outer, k, gate=gate, log_zeta=log_zeta)
    if setting.solver == "cholesky":
        ratio = torch.minimum(ratio, factor.left_of_start)
        forgets = setting.form == "2023" and bool(log_decay.any())
        trusted(ratio, least=setting.least, heads=None, forgets=forgets, refuse=setting.refuse)
    return factor


def remaining(
    log_decay: Float[Tensor, "batch heads chunks places"],
    log_zeta: Float[Tensor, "batch heads chunks places"],
    first: Bool[Tensor, "batch chunks"],
) -> Float[Tensor, "batch heads chunks places"]:
    """ζ_t0: what is left at each place of the regulariser that its text began with."""
    total = log_decay.double().sum(-1)
    before = carried(total, torch.ones_like(total), first)
    return (before[..., None] + log_zeta).exp().to(log_decay.dtype)


def left_over(
    ridge: Float[Tensor, "heads dim"],
    log_decay: Float[Tensor, "batch heads chunks places"],
    log_zeta: Float[Tensor, "batch heads chunks places"],
    setting: Setting,
) -> Tensor:
    """The regulariser at each place, in a shape that multiplies [batch, heads, chunks, places, dim]."""
    if setting.form == "mesanet":
        return ridge[:, None, None]
    return ridge[:, None, None] * remaining(log_decay, log_zeta, setting.first)[..., None]
