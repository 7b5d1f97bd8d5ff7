"""The models that are compared, all of the same number of parameters (after von Oswald et al. 2023, the source below).

On tasks a variant is a stack of attention layers without MLP and norm, heads of 20 entries. Deep ones have six layers
of two heads on a residual stream of 40; the others are as much wider as it takes to have as many parameters. (The
source's convention is another: layers of equal size, so that the deep models have more parameters. `mesa-small`, one
mesa-layer as large as a layer of the deep models, is that comparison.)

A single layer cannot pair a state with its successor, since a head sees one token at a time. The source gives single
layers *constructed* tokens, which hold the states before, or a softmax layer first that copies. Both are here, and
deep models are trained on either kind of token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from snellen.architectures import MesaConfig
from snellen.errors import InputError

Kind = Literal["softmax", "linear", "mesa"]

DEPTH, DEEP_WIDTH, DEEP_HEADS, HEAD_SIZE = 6, 40, 2, 20
CLIP = 10.0  # the source bounds the residual stream; none of what is to be predicted comes near

TEXT_WIDTH, TEXT_HEADS, TEXT_MLP = 128, 4, 352
BASE = "mesa"
TEXT_BASE = "softmax-mesa"


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A stack of layers on tasks.

    tokens: what a position of the input holds. heads: in each layer. width: of the residual stream; None: as wide as
    gives the number of parameters of the deep models. patience: how many times as many steps it is trained for, with
    the learning rate of the variant `tuned_as`.
    """

    name: str
    says: str
    layers: Sequence[Kind]
    tokens: Literal["constructed", "plain"]
    heads: int = DEEP_HEADS
    width: int | None = None
    patience: int = 1
    tuned_as: str | None = None


@dataclass(frozen=True, kw_only=True)
class TextVariant:
    """A stack of layers on text. convolution: over how many tokens the inputs of linear and mesa layers are smeared."""

    name: str
    says: str
    layers: Sequence[Kind]
    convolution: int = 0


_SOFTMAX: tuple[Kind, ...] = tuple("softmax" for _ in range(DEPTH))
_LINEAR: tuple[Kind, ...] = tuple("linear" for _ in range(DEPTH))
_LONGER = 4  # times the steps, for those that might only be slow

VARIANTS = (
    Variant(name=BASE, says="one mesa-layer", layers=("mesa",), tokens="constructed", heads=4),
    Variant(
        name="mesa-small", says="one mesa-layer as large as one layer of the deep models", layers=("mesa",),
        tokens="constructed", width=DEEP_WIDTH,
    ),
    Variant(name="linear-1", says="one linear layer", layers=("linear",), tokens="constructed", heads=4),
    Variant(name="softmax-1", says="one softmax layer", layers=("softmax",), tokens="constructed", heads=4),
    Variant(name="linear-6", says="six linear layers", layers=_LINEAR, tokens="constructed"),
    Variant(name="softmax-6", says="six softmax layers", layers=_SOFTMAX, tokens="constructed"),
    Variant(
        name="linear-6-long", says="six linear layers, four times the steps", layers=_LINEAR, tokens="constructed",
        patience=_LONGER, tuned_as="linear-6",
    ),
    Variant(
        name="softmax-6-long", says="six softmax layers, four times the steps", layers=_SOFTMAX, tokens="constructed",
        patience=_LONGER, tuned_as="softmax-6",
    ),
    Variant(
        name="hybrid", says="a softmax layer, then a mesa-layer", layers=("softmax", "mesa"), tokens="plain", heads=3
    ),
    Variant(
        name="linear-6-plain", says="a softmax layer, then five linear ones", layers=("softmax", *_LINEAR[1:]),
        tokens="plain",
    ),
    Variant(name="softmax-6-plain", says="six softmax layers", layers=_SOFTMAX, tokens="plain"),
)  # fmt: skip

TEXT_VARIANTS = (
    TextVariant(name="softmax", says="four softmax layers", layers=_SOFTMAX[:4]),
    TextVariant(
        name="softmax-linear", says="softmax first, then three linear layers", layers=("softmax", *_LINEAR[:3]),
        convolution=4,
    ),
    TextVariant(
        name=TEXT_BASE, says="softmax first, then three mesa-layers", layers=("softmax", "mesa", "mesa", "mesa"),
        convolution=4,
    ),
)  # fmt: skip


def variant(name: str) -> Variant | TextVariant:
    """By its name. Raises `InputError` where there is none of that name."""
    known: tuple[Variant | TextVariant, ...] = (*VARIANTS, *TEXT_VARIANTS)
    for one in known:
        if one.name == name:
            return one
    raise InputError(f"variant {name!r}: known are {', '.join(one.name for one in known)}")


def task_config(one: Variant, *, inputs: int, outputs: int, length: int, target: int) -> MesaConfig:
    """Vectors in, vectors out, of about `target` parameters where the variant leaves its width open.

    Keys are not normalised: they are what is regressed on, and their length matters. A ridge is learned per head.
    """
    a_width = 4 * len(one.layers) * one.heads * HEAD_SIZE + inputs + outputs + length  # parameters for each of width
    return MesaConfig(
        hidden_size=one.width or round(target / a_width), num_hidden_layers=len(one.layers),
        layer_types=list(one.layers), num_attention_heads=one.heads, head_dim=HEAD_SIZE, intermediate_size=0,
        norm="none", mesa_form="2023", ridge_floor=1e-3, ridge_init=0.1, normalize_qk=False, decay=False, gate=False,
        conv_size=0, positions="learned", max_position_embeddings=length, residual_clip=CLIP, initializer_range=0.08,
        input_size=inputs, output_size=outputs, use_cache=False,
    )  # fmt: skip


def text_config(one: TextVariant, *, vocabulary: int, length: int, start: int) -> MesaConfig:
    """A language model with the settings of MesaNet's layer: gates, decay, keys and queries of unit length."""
    return MesaConfig(
        vocab_size=vocabulary, hidden_size=TEXT_WIDTH, num_hidden_layers=len(one.layers),
        layer_types=list(one.layers), num_attention_heads=TEXT_HEADS, intermediate_size=TEXT_MLP,
        conv_size=one.convolution, max_position_embeddings=length, tie_word_embeddings=True, use_cache=False,
        bos_token_id=start, eos_token_id=start,
    )  # fmt: skip


def parameters(model: Any) -> int:
    return sum(p.numel() for p in model.parameters())
