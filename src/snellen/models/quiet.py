"""Keeps what transformers writes while it loads off the console."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr

from huggingface_hub.utils.tqdm import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)
from transformers.utils import logging as transformers_logging


@contextmanager
def quiet(*, downloads: bool = False, standard_error: bool = False) -> Iterator[None]:
    """No progress bars and no load report inside; all as it was on exit, also after an exception.

    Parameters
    ----------
    downloads
        Leave the hub's download bars on: a download of gigabytes in silence looks like a hang.
    standard_error
        Swallow standard error too, for the GGUF reader, whose bar has no switch. Errors still raise.
    """
    hub_logger = logging.getLogger("huggingface_hub")
    verbosity, hub_level = transformers_logging.get_verbosity(), hub_logger.level
    bars = transformers_logging.is_progress_bar_enabled()
    hub = not are_progress_bars_disabled()
    transformers_logging.set_verbosity_error()
    hub_logger.setLevel(logging.ERROR)
    if bars:
        transformers_logging.disable_progress_bar()  # the hub's bars too
    if hub and downloads:
        enable_progress_bars()
    elif hub:
        disable_progress_bars()
    try:
        with redirect_stderr(io.StringIO()) if standard_error else nullcontext():
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        hub_logger.setLevel(hub_level)
        if bars:
            transformers_logging.enable_progress_bar()
        if hub:
            enable_progress_bars()
        else:
            disable_progress_bars()
