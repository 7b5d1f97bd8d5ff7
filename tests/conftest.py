"""Shapes are checked in tests: jaxtyping's annotations by beartype, in the rooms where tensors live."""

import os

# Tiny models gain nothing from a second thread, and threads that wait for one another on a busy machine cost minutes.
# Set before torch is imported, and for the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from jaxtyping import install_import_hook

_hook = install_import_hook(["snellen.attention", "snellen.lookahead"], "beartype.beartype")
