"""Whether a ridge regression can be solved in the number format that it is given in."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from snellen.errors import Refused

# What must be left of a number after others were taken from it, in units of the number format. Over decays, ranks,
# lengths, ridges and sizes of keys, the relative error of a position's output was 1 to 15 over the units that were left
# (float32 against float64): about 1 % here, a few times that where a query asks for what the keys do not hold.
LEAST_UNITS = 1000.0
# The same as a ratio, where float64 is at hand for what has less: above it the error over all outputs was at most 2e-5,
# and what a solve for each position in float32 has.
LEAST_IN_SINGLE = 4e-3
# And where gradients are asked for, in float64: they are differences of what is solved twice. Above it ten searches
# found none off by more than 4e-4 of what they say of the loss, at 1e-11 they could be anything
# (`benchmarks/mesa_bound.py`).
LEAST_FOR_GRADIENTS = 1e-9


class Untrusted(Refused):
    """A number format cannot hold it; a wider one may."""


def least_ratio(kind: torch.dtype, *, gradients: bool = False) -> float:
    return max(LEAST_UNITS * torch.finfo(kind).eps, LEAST_FOR_GRADIENTS if gradients else 0.0)


def trusted(
    ratio: Float[Tensor, "*any"], *, least: float, heads: Iterable[int] | None, forgets: bool, refuse: bool
) -> None:
    """`ratio`: what is left where most cancels, and must be `least`; `forgets`: the regulariser decays with the data.

    `heads`: whose they are, one for each ratio; None where `ratio` is [*batch, heads, chunks].

    Raises
    ------
    Untrusted
        A ratio so small that the result is mostly rounding (or not a number); a RuntimeWarning instead where not
        `refuse`.
    """
    good = ratio >= least
    if bool(good.all()):
        return
    if heads is None:
        bad = {int(place[-2]) for place in (~good).nonzero()}
    else:
        bad = {head for head, well in zip(heads, good.flatten().tolist(), strict=True) if not well}
    kind = str(ratio.dtype).removeprefix("torch.")
    what = f"the ridge is lost in rounding in heads {sorted(bad)}: {float(ratio.min()):.1g} of what it stands beside, "
    what += f"where {kind} needs {least:.1g}{' for gradients' if least == LEAST_FOR_GRADIENTS else ''}. "
    if forgets:
        what += (
            "In form '2023' it decays with the data, and here the keys that are remembered do not span all directions "
            "(too strong a decay, keys of low rank): use form='mesanet', log_decay nearer 0, or a larger ridge"
        )
    else:
        what += "The keys are too large: normalise them, or use a larger ridge"
    if refuse:
        raise Untrusted(what)
    warnings.warn(what + "; outputs and gradients there are mostly rounding", RuntimeWarning, stacklevel=2)
