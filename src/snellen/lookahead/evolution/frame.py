"""What stays the same in every text of an evolution: prompt, suffix, and what the tokenizer puts around them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from snellen.errors import InputError
from snellen.models.masked import MaskedModel
from snellen.texts.read import check_characters

GAP = -1  # a place of a text that is to be written; the model sees its mask token there
Body = tuple[int, ...]  # the free tokens of a text, between prompt and suffix


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A row for the model is opening, prompt, body, suffix, closing."""

    opening: tuple[int, ...]
    prompt: tuple[int, ...]
    suffix: tuple[int, ...]
    closing: tuple[int, ...]
    mask: int

    @property
    def start(self) -> int:
        """Place of the body's first token in a row."""
        return len(self.opening) + len(self.prompt)

    @property
    def fixed(self) -> int:
        """Tokens of a row that are not free."""
        return self.start + len(self.suffix) + len(self.closing)

    def row(self, body: Sequence[int]) -> list[int]:
        """Token ids as the model reads them, gaps as the mask token."""
        free = [self.mask if token == GAP else token for token in body]
        return [*self.opening, *self.prompt, *free, *self.suffix, *self.closing]


def frame_of(model: MaskedModel, *, prompt: str, suffix: str, longest: int) -> Frame:
    """The frame of texts with `longest` free tokens at most.

    Raises
    ------
    InputError
        The prompt or the suffix holds what the tokenizer does not know, or a special token; or the whole is longer
        than the model's context.
    """
    parts = []
    for name, text in (("prompt", prompt), ("suffix", suffix)):
        check_characters(text, name)
        ids = tuple(model.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        strange = [token for token in ids if not bool(model.ordinary[token])]
        if strange:
            piece = model.tokenizer.convert_ids_to_tokens(strange[0])
            raise InputError(
                f"{name} {text[:40]!r}: the tokenizer of {model.identity.source!r} reads {piece!r} in it, which is "
                "no ordinary token: leave out special tokens and characters that the model does not know"
            )
        parts.append(ids)
    frame = Frame(opening=model.opening, prompt=parts[0], suffix=parts[1], closing=model.closing, mask=model.mask)
    if model.context is not None and frame.fixed + longest > model.context:
        room = model.context - frame.fixed
        mend = f"lower --length (at most {room} free tokens fit, growth included)" if room > 0 else "shorten the prompt"
        raise InputError(
            f"prompt of {len(parts[0])} tokens, suffix of {len(parts[1])} and up to {longest} free ones: more than the "
            f"{model.context} that {model.identity.source!r} takes: {mend}"
        )
    return frame
