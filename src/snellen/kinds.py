"""Whether a value is of the kind that an annotation says, and functions that refuse arguments that are not.

What Python makes of a wrong argument (an AttributeError from far inside) tells nobody which one it was. The kinds are
read off the annotations themselves, shapes and types of tensors among them.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from enum import Enum
from numbers import Integral, Real
from typing import Any, Literal, ParamSpec, TypeVar

from snellen.errors import InputError

MOST = 2**31 - 1  # of what is counted in tensors
LEAST_TEMPERATURE = 1e-6  # below it a rounding error decides, and logits overflow

P = ParamSpec("P")
T = TypeVar("T")
_NAMES = {
    bool: "true or false", int: "a whole number", float: "a number", str: "a word", dict: "a table", list: "a list",
    Sequence: "a list", Collection: "a list", tuple: "a list"}  # fmt: skip


def checked(function: Callable[P, T]) -> Callable[P, T]:
    """The function, with its arguments held against their annotations first. InputError: argument, value, kind."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def checking(*args: P.args, **kwargs: P.kwargs) -> T:
        kinds = _kinds_of(function)
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            known = signature.parameters[name].kind not in (
                inspect.Parameter.VAR_POSITIONAL,
                inspect.Parameter.VAR_KEYWORD,
            )
            if known and name in kinds:
                check(name, value, kinds[name])
        return function(*args, **kwargs)

    return checking


def check_fields(settings: Any) -> None:
    """The same for a dataclass, at the beginning of its `__post_init__`."""
    own: Any = type(settings)
    kinds = _kinds_of(own)
    for field in dataclasses.fields(settings):
        if field.init:
            check(field.name, getattr(settings, field.name), kinds[field.name])


def check(name: str, value: Any, kind: Any) -> None:
    """Raises InputError for a value of another kind."""
    wanted = list(members(kind))
    if not any(is_a(value, one) for one in wanted):
        said = " or ".join(dict.fromkeys(map(said_of, wanted)))
        raise InputError(f"{name} {_brief(value)}: must be {said}")


@functools.cache
def _kinds_of(function: Any) -> Mapping[str, Any]:
    return typing.get_type_hints(function)


def members(kind: Any) -> Iterable[Any]:
    """The kinds of a union, or the one."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return [one for part in typing.get_args(kind) for one in members(part)]
    return [kind]


def is_a(value: Any, kind: Any) -> bool:
    """Of one kind, not of a union. A truth value is no number, a word no list."""
    origin = typing.get_origin(kind)
    if kind in (Any, object):
        return True
    if getattr(kind, "_is_protocol", False):  # of methods: who calls them sees
        return True
    if origin is Literal:
        return value in typing.get_args(kind)
    if kind is bool or isinstance(value, bool):
        return isinstance(value, bool) and kind is bool
    if kind is int:
        return isinstance(value, Integral)
    if kind is float:
        return isinstance(value, Real)
    if origin in (list, tuple, Sequence, Collection):
        if isinstance(value, str):
            return False
        given = typing.get_args(kind)
        inside = [one for one in given if one is not ...]
        if origin is tuple and ... not in given and (not isinstance(value, Sequence) or len(value) != len(given)):
            return False
        held = isinstance(value, Collection if origin is Collection else Sequence)
        return held and all(any(is_a(x, y) for one in inside for y in members(one)) for x in value)
    if _is_model(kind):  # one that is wrapped (an adapter) passes its attributes on
        return isinstance(value, kind) or (hasattr(value, "config") and hasattr(value, "forward"))
    return isinstance(value, origin or kind)


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and kind.__name__ == "PreTrainedModel"


def said_of(kind: Any) -> str:
    """A kind in words."""
    if kind is type(None):
        return "nothing"
    if shape := getattr(kind, "dim_str", None):  # a tensor, as jaxtyping has it
        return f"a tensor of {kind.__name__.partition('[')[0].lower()} [{shape}]"
    origin = typing.get_origin(kind) or kind
    if isinstance(origin, type) and issubclass(origin, Enum):
        return "a word"
    return _NAMES.get(origin, getattr(origin, "__name__", str(origin)))


def _brief(value: Any) -> str:
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"of shape {tuple(value.shape)}, {value.dtype}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}… ({type(value).__name__})"
