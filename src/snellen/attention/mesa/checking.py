"""What mesa-attention takes, and what it says to the rest."""

from __future__ import annotations

from typing import get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from snellen.attention.mesa.systems import Form
from snellen.errors import InputError


def check_shapes(
    q: Tensor, k: Tensor, v: Tensor, *, ridge: Tensor, log_decay: Tensor | None, gate: Tensor | None, form: str
) -> None:
    """For whole sequences [batch, pos, heads, dim], and for single tokens [batch, heads, dim].

    Raises
    ------
    InputError
        An unknown form, sizes that do not fit, integers, or no position at all. Values may be of any size: neither
        form compares them with keys.
    """
    if form not in get_args(Form):
        raise InputError(f"form={form!r}: there is {' and '.join(map(repr, get_args(Form)))}")
    given = {"q": q, "k": k, "v": v, "ridge": ridge, "log_decay": log_decay, "gate": gate}
    for name, x in given.items():
        needed = name not in ("log_decay", "gate")
        if (x is not None or needed) and not isinstance(x, Tensor):
            raise InputError(f"{name} is a {type(x).__name__}: give a tensor" + ("" if needed else ", or None"))
        if x is not None and x.is_meta:
            raise InputError(f"{name} has no content (device meta): give numbers")
    if q.ndim not in (3, 4):
        raise InputError(f"q is {_shape(q)}: it must be [batch, pos, heads, dim], or [batch, heads, dim] of one token")
    axes = ("batch", "heads") if q.ndim == 3 else ("batch", "pos", "heads")
    places = tuple(q.shape[:-1])
    for name, x in (("k", k), ("v", v)):
        if tuple(x.shape[:-1]) != places:
            raise InputError(f"{name} is {_shape(x)}, q is {_shape(q)}: {', '.join(axes)} must be the same")
    if k.shape[-1] != q.shape[-1]:
        raise InputError(
            f"keys have {k.shape[-1]} entries, queries {q.shape[-1]}: they are compared, so make them equal"
        )
    for name, gated in (("log_decay", log_decay), ("gate", gate)):
        if gated is not None and tuple(gated.shape) != places:
            raise InputError(f"{name} is {_shape(gated)}: one number for each of {', '.join(axes)} is {list(places)}")
    for name, number in given.items():
        if number is not None and not number.is_floating_point():
            raise InputError(f"{name} is {number.dtype}: give floating-point numbers, e.g. {name}.float()")
    heads, dim = q.shape[-2:]
    if tuple(ridge.shape) not in ((heads, 1), (heads, dim)):
        raise InputError(f"ridge is {_shape(ridge)}: give [{heads}, 1], or [{heads}, {dim}] for one of each entry")
    if not q.numel() or not v.numel():
        raise InputError(f"q is {_shape(q)} and v {_shape(v)}: there is nothing to attend to")


def check_values(
    q: Float[Tensor, "*places dim"],
    k: Float[Tensor, "*places dim"],
    v: Float[Tensor, "*places vdim"],
    *,
    ridge: Float[Tensor, "heads _"],
    log_decay: Float[Tensor, "*places"] | None,
    gate: Float[Tensor, "*places"] | None,
) -> None:
    """Raises InputError for what is not finite, a ridge that is not positive, a decay over 1, a gate below 0."""
    for name, x in (("q", q), ("k", k), ("v", v), ("log_decay", log_decay), ("gate", gate)):
        if x is not None:
            _check(name, x, x.isfinite(), "all must be finite (mask out what is no input)")
    _check("ridge", ridge, (ridge > 0) & ridge.isfinite(), "it must be over 0 and finite, e.g. 0.25 + softplus(x)")
    if log_decay is not None:
        _check(
            "log_decay",
            log_decay,
            log_decay <= 0,
            "the forget factor is its exponential and must not be over 1; give at most 0, e.g. logsigmoid(x)",
        )
    if gate is not None:
        _check("gate", gate, gate >= 0, "a negative weight makes no regression; give 0 or more, e.g. sigmoid(x)")


def check_flags(q: Tensor, **flags: Bool[Tensor, "..."] | None) -> None:
    """Of masks and resets [batch, pos]; raises InputError."""
    for name, x in flags.items():
        if x is not None and not isinstance(x, Tensor):
            raise InputError(f"{name} is a {type(x).__name__}: give a tensor of bool [batch, pos], or None")
        if x is not None and (x.dtype != torch.bool or x.shape != q.shape[:2]):
            raise InputError(f"{name} is {x.dtype} {_shape(x)}: give bool {list(q.shape[:2])}, [batch, pos]")


def check_state(k: Tensor, v: Tensor, *, gram: Tensor, cross: Tensor) -> None:
    """Of keys and values [batch, pos, heads, dim] for a state; raises InputError."""
    expected = (k.shape[0], k.shape[2], v.shape[-1], k.shape[-1])
    if tuple(cross.shape) != expected or tuple(gram.shape[:2]) != expected[:2] or gram.shape[-1] != k.shape[-1]:
        raise InputError(
            f"the state is of [batch, heads, vdim, dim] {_shape(cross)}, keys and values of {list(expected)}: begin "
            "with MesaState.empty(batch, heads, dim, vdim), and choose rows with .rows"
        )


def _check(name: str, x: Tensor, good: Tensor, mend: str) -> None:
    if bool(good.all()):
        return
    where = tuple(int(i) for i in (~good).nonzero()[0])
    raise InputError(f"{name}[{', '.join(map(str, where))}] is {float(x[where]):g}: {mend}")


def _shape(x: Tensor) -> list[int]:
    return list(x.shape)
