"""Texts that end what is written, whatever tokens they are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from snellen.errors import InputError

_MARGIN = 16  # characters: what the first token of a part looks like depends on whether others stand before it


class StopText:
    """A row ends where what was written behind the prompt contains one of some texts.

    A character may take several tokens and a token may stand for no character, so nothing is counted in tokens: as much
    of the row's end is decoded as holds enough characters.
    """

    def __init__(self, texts: Sequence[str], tokenizer: Any, prompt: int) -> None:
        if "" in texts:
            raise InputError("stop '': an empty text would end everything at once; leave it out")
        self.texts, self.tokenizer, self.prompt = list(texts), tokenizer, prompt
        self._reach = max(map(len, self.texts), default=0) + _MARGIN

    def __call__(self, input_ids: Int[Tensor, "batch pos"], scores: Any, **kwargs: Any) -> Bool[Tensor, "batch"]:
        over = [self.ended(row) for row in input_ids[:, self.prompt :].tolist()]
        return torch.tensor(over, device=input_ids.device)

    def ended(self, new: Sequence[int]) -> bool:
        """Whether these tokens, none of them the prompt's, hold a text that their last one completes."""
        size = self._reach
        while size < len(new):
            part = new[-size:]
            # Enough whole characters before the newest token: what it completes lies in this part.
            if len(self._text(part[:-1]).replace("\ufffd", "")) >= self._reach:
                if not self._holds(part):
                    return False
                break  # or so it seems: a part may begin inside a character
            size *= 2
        return self._holds(new)

    def cut(self, new: Sequence[int]) -> int:
        """How many of the tokens there are up to the one that completes a text; all of them where none does."""
        if not self.texts or not self._holds(new):
            return len(new)
        return next((n for n in range(1, len(new)) if self.ended(new[:n])), len(new))

    def _holds(self, tokens: Sequence[int]) -> bool:
        text = self._text(tokens)
        return any(one in text for one in self.texts)

    def _text(self, tokens: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text
