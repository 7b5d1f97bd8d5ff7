"""A model that has been examined on arrival: `snellen.load`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from snellen.kinds import checked
from snellen.lookahead.preflight import Preflight, preflight
from snellen.models.body import context_of
from snellen.models.identity import Identity
from snellen.models.load import Reading, load_model

# Enough to reach past short windows; `exam` checks again at the longest window that it scores.
_LENGTH = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """A causal language model in eval mode, gradients off, with its tokenizer, identity and preflight."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    identity: Identity
    preflight: Preflight

    @property
    def reading(self) -> Reading:
        """How it takes texts."""
        own = self.identity
        return Reading(tokenizer=self.tokenizer, bos=own.bos, context=own.context, vocabulary=own.vocabulary)


@checked
def load(
    source: str | Path | PreTrainedModel,
    *,
    tokenizer: PreTrainedTokenizerBase | str | Path | None = None,
    revision: str | None = None,
    dtype: str = "float32",
    device: str = "auto",
    trust_remote_code: bool = False,
    bos: bool | str = "auto",
    before: Callable[[Reading], None] | None = None,
) -> Subject:
    """Load a causal language model and check that its numbers can be vouched for.

    Parameters
    ----------
    source
        A hub id ("gpt2"), a local folder, a GGUF file, "pocket" (the model that ships in the package), or a
        transformers model that is already loaded (then with its `tokenizer`).
    revision, dtype, device, trust_remote_code, bos, before
        As in `snellen.models.load.load_model`.

    Raises
    ------
    InputError
        The model cannot be found or loaded, or the settings do not fit it.
    Refused
        It failed the preflight: see `snellen.lookahead.preflight`.
    """
    arguments: dict[str, Any] = {"revision": revision, "dtype": dtype, "device": device, "bos": bos}
    loaded = load_model(source, tokenizer=tokenizer, trust_remote_code=trust_remote_code, before=before, **arguments)
    limit = context_of(loaded.model)
    length = _LENGTH if limit is None else max(1, min(_LENGTH, limit - 3))
    return Subject(
        model=loaded.model,
        tokenizer=loaded.tokenizer,
        identity=loaded.identity,
        preflight=preflight(loaded.model, length=length, horizon=4 if limit is None else min(4, limit - length + 1)),
    )
