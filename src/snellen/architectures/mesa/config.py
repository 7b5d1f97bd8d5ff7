"""The settings of a mesa model."""

from __future__ import annotations

import difflib
import math
from dataclasses import fields
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN

from snellen.attention.caches import CACHE_NAMES
from snellen.errors import InputError

SOFTMAX, LINEAR, MESA = "softmax", "linear", "mesa"
LAYER_TYPES = (SOFTMAX, LINEAR, MESA)
FORMS = ("mesanet", "2023")
NORMS = ("rms", "none")
POSITIONS = ("rope", "learned", "none")


_FLAGS = ("normalize_qk", "decay", "gate", "attention_bias", "tie_word_embeddings", "use_cache", "read_in", "read_out")
_NUMBERS = ("ridge_floor", "ridge_init", "rms_norm_eps", "rope_theta", "residual_clip", "initializer_range")


_MAY_BE_LEFT_OUT = ("head_dim", "intermediate_size", "input_size", "output_size")  # what follows from the others


@strict
class MesaConfig(PreTrainedConfig):  # type: ignore[misc]  # transformers has no types
    """Settings of `MesaForCausalLM` and `MesaForPrediction`; docs/mesa.md has the table.

    `head_dim`, `intermediate_size` and `layer_types` are filled in where they are left None: hidden_size over heads,
    four times hidden_size, and one softmax layer before mesa layers only.

    Raises
    ------
    InputError
        Settings that make no model, with the field, its value and the mend.
    """

    model_type = "snellen_mesa"
    keys_to_ignore_at_inference: ClassVar[list[str]] = list(CACHE_NAMES)
    mlp_bias: ClassVar[bool] = False  # what transformers' gated MLP asks its configuration for

    vocab_size: int = 4096
    hidden_size: int = 256
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    head_dim: int | None = None
    intermediate_size: int | None = None
    hidden_act: str = "silu"
    layer_types: list[str] | None = None
    mesa_form: str = "mesanet"
    normalize_qk: bool = True
    ridge_floor: float = 0.25
    ridge_init: float = 1.0
    decay: bool = True
    gate: bool = True
    conv_size: int = 4
    norm: str = "rms"
    rms_norm_eps: float = 1e-6
    positions: str = "rope"
    rope_theta: float = 10_000.0
    rope_parameters: dict[str, Any] | None = None
    max_position_embeddings: int = 2048
    attention_bias: bool = False
    residual_clip: float | None = None
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    input_size: int | None = None
    output_size: int | None = None
    read_in: bool = True
    read_out: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        known = {field.name for field in fields(self)}
        for name in kwargs:  # transformers keeps what it does not know; a slip of the pen must not go unseen
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
            if near and not hasattr(type(self), name):
                raise InputError(f"{name}={kwargs[name]!r}: there is no such setting; do you mean {near[0]}?")
        self._check_types()
        if self.head_dim is None:
            if self.hidden_size % self.num_attention_heads:
                raise InputError(
                    f"hidden_size={self.hidden_size}: no multiple of num_attention_heads={self.num_attention_heads}; "
                    "make it one, or give head_dim"
                )
            self.head_dim = self.hidden_size // self.num_attention_heads
        if self.intermediate_size is None:
            self.intermediate_size = 4 * self.hidden_size
        if self.layer_types is None:
            self.layer_types = [SOFTMAX] + [MESA] * (self.num_hidden_layers - 1)
        self._check_choices()
        self._check_ranges()
        self._check_prediction()
        super().__post_init__(**kwargs)
        assert self.rope_parameters is not None
        self.rope_theta = float(self.rope_parameters["rope_theta"])

    def validate_layer_type(self) -> None:
        """In place of transformers' own, whose names are those of its architectures; `_check_choices` has ours."""

    @property
    def recurrent(self) -> bool:
        """Whether any layer carries a state of its own along the text."""
        return any(kind != SOFTMAX for kind in self.layer_types or ())

    def _check_types(self) -> None:
        # transformers' own checks look at no annotation that is a string, and would not name the mend.
        for name in _FLAGS:
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name}={getattr(self, name)!r}: must be True or False")
        for name in _NUMBERS:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                if value is None and name == "residual_clip":
                    continue
                raise InputError(f"{name}={value!r}: must be a number")
        if not isinstance(self.layer_types, list | tuple | None):
            raise InputError(f"layer_types={self.layer_types!r}: must be a list with one name for each layer")
        least = {"vocab_size": 1, "hidden_size": 1, "num_hidden_layers": 1, "num_attention_heads": 1, "head_dim": 1}
        least |= {"intermediate_size": 0, "conv_size": 0, "max_position_embeddings": 1}
        for name, smallest in (least | {"input_size": 1, "output_size": 1}).items():
            value = getattr(self, name)
            if value is None and name in _MAY_BE_LEFT_OUT:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < smallest:
                raise InputError(f"{name}={value!r}: must be a whole number of at least {smallest}")

    def _check_choices(self) -> None:
        assert self.layer_types is not None
        for i, kind in enumerate(self.layer_types):
            if kind not in LAYER_TYPES:
                raise InputError(f"layer_types[{i}]={kind!r}: must be one of {', '.join(LAYER_TYPES)}")
        if len(self.layer_types) != self.num_hidden_layers:
            raise InputError(
                f"layer_types has {len(self.layer_types)} entries, num_hidden_layers={self.num_hidden_layers}: "
                "give one for each layer"
            )
        for name, choices in (("mesa_form", FORMS), ("norm", NORMS), ("positions", POSITIONS)):
            if getattr(self, name) not in choices:
                raise InputError(f"{name}={getattr(self, name)!r}: must be one of {', '.join(choices)}")
        if not isinstance(self.hidden_act, str) or self.hidden_act not in ACT2FN:
            raise InputError(f"hidden_act={self.hidden_act!r}: transformers has no such activation; try 'silu'")
        assert self.head_dim is not None
        if self.positions == "rope" and SOFTMAX in self.layer_types and self.head_dim % 2:
            raise InputError(f"head_dim={self.head_dim}: positions='rope' turns pairs of entries; make it even")

    def _check_ranges(self) -> None:
        if not 0 < self.ridge_floor < math.inf:
            raise InputError(f"ridge_floor={self.ridge_floor}: must be over 0 and finite (no ridge, no regression)")
        if not self.ridge_floor < self.ridge_init < math.inf:
            raise InputError(
                f"ridge_init={self.ridge_init}: must be over ridge_floor={self.ridge_floor} and finite "
                "(the ridge is ridge_floor + softplus of a parameter)"
            )
        for name in ("rms_norm_eps", "rope_theta", "residual_clip"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                mend = " (None: no clipping)" if name == "residual_clip" else ""
                raise InputError(f"{name}={value}: must be over 0 and finite{mend}")
        if not 0 <= self.initializer_range < math.inf:
            raise InputError(f"initializer_range={self.initializer_range}: must be 0 or more, and finite")

    def _check_prediction(self) -> None:
        if not self.read_in and self.input_size not in (None, self.hidden_size):
            raise InputError(
                f"input_size={self.input_size}: with read_in=False the tokens are the residual stream, so make it "
                f"hidden_size={self.hidden_size}"
            )
        if not self.read_out and self.output_size is not None and self.output_size > self.hidden_size:
            raise InputError(
                f"output_size={self.output_size}: with read_out=False predictions are the residual stream's last "
                f"entries, so at most hidden_size={self.hidden_size}"
            )
