"""Shapes are checked in tests: jaxtyping's annotations by beartype, in the rooms where tensors live."""

from jaxtyping import install_import_hook

_hook = install_import_hook(["snellen.attention", "snellen.lookahead"], "beartype.beartype")
