"""Text to tokens, and back: which characters each token covers, and which tokens begin a word.

Words and tokens are not the same thing, so `starts_word` states its rules, and where they are rough:

- A token continues a word when the first character that it adds after a letter is a letter, a digit or a
  combining mark. Everything else (white space, punctuation, symbols, special tokens, unused ids) starts a word
  or is no part of one; following a word, it ends it.
- An apostrophe continues the word when a letter follows it in the same token (the ``'t`` of "don't"); alone it
  ends the word, because it may be a closing quote. So "don't" is one word to GPT-2 and two to Gemma, which
  makes three tokens of it.
- A hyphen or an underscore ends the word.
- Scripts without spaces (Chinese, Japanese, Thai) have no word ends that a token shows: a sentence counts as
  one word up to its punctuation. Do not read word-mode results on them.
- A byte-level token that is only a part of a character is judged by its first byte: those that begin
  punctuation, symbols and emoji start a word, those that begin or continue letters do not.
"""

from __future__ import annotations

import functools
import hashlib
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snellen.errors import InputError
from snellen.texts.read import Document

_REFERENCES = "aeo10x"  # something to stand before a token, so that its leading space shows
_APOSTROPHES = "'\u2019\u02bc"
_AT_ONCE = 200_000  # characters that are encoded at once, unless a document has more
_SLOW_CONTEXT = 8  # tokens before, for decoding with a slow tokenizer


@dataclass(frozen=True)
class Encoded:
    """The tokens of a document, without any that are not in its text.

    Consecutive spans touch: token i covers the characters ``start[i]`` up to ``end[i]`` = ``start[i + 1]``, from 0
    (from behind the text's own first token, where it was left out) to the end of the text. A character that is split
    over several tokens belongs to the first of them; the others cover nothing.
    """

    ids: NDArray[np.int64]  # [n]
    start: NDArray[np.int32]  # [n] first character
    end: NDArray[np.int32]  # [n] one past the last
    own_bos: bool = False  # the text begins with the model's first token itself; it is none of these

    def __len__(self) -> int:
        return len(self.ids)


def without_bos(ids: Sequence[int], bos: int | None) -> Sequence[int]:
    """The tokens of a text that will be read behind `bos`, without one of its own at its beginning.

    Many a text begins with the model's first token (BOS) in words, as every chat template writes it: the model was
    trained to see it once. Another inside the text is the text's own, and so is a second one.
    """
    return ids[1:] if bos is not None and len(ids) > 0 and ids[0] == bos else ids


def encode(tokenizer: Any, document: Document, *, vocabulary: int | None = None, bos: int | None = None) -> Encoded:
    """The tokens of a document, whole however long it is, with the characters that each covers.

    No special tokens are added. One that stands in the text (``</s>``) becomes that special token, as everywhere
    in transformers.

    Parameters
    ----------
    tokenizer
        Of transformers. One without character offsets is accepted if its decoded tokens rebuild the text.
    document
        What to encode.
    vocabulary
        How many token ids the model knows; an id beyond is an error.
    bos
        The token that will be put in front. Where the text begins with it, that one is left out (`without_bos`);
        all other tokens, and their characters, are those of the text as it stands.

    Raises
    ------
    InputError
        If the text has no tokens, a token is unknown to the model, or the tokenizer gives neither offsets nor
        back the text.
    """
    text = document.text
    fast = bool(getattr(tokenizer, "is_fast", False))
    options = {"return_offsets_mapping": True} if fast else {}
    encoding = tokenizer(text, add_special_tokens=False, truncation=False, verbose=False, **options)
    ids = np.asarray(encoding["input_ids"], dtype=np.int64)
    own = _own(ids, document.name, vocabulary, bos)
    if fast:
        offsets = np.asarray(encoding["offset_mapping"], dtype=np.int64).reshape(-1, 2)
        ends = np.maximum.accumulate(offsets[:, 1])
    else:
        ends = _slow_ends(tokenizer, ids.tolist(), document)
    # Whatever a tokenizer leaves between two tokens (a trimmed space) goes to the later one; the rest to the last.
    ends[-1] = len(text)
    starts = np.concatenate([[0], ends[:-1]])
    return Encoded(
        ids=ids[own],
        start=starts[own].astype(np.int32),
        end=ends[own].astype(np.int32),
        own_bos=own.start > 0,
    )


def _own(ids: NDArray[np.int64], name: str, vocabulary: int | None, bos: int | None) -> slice:
    """Which of the tokens are the text's: all but a first token of its own. Raises InputError as `encode`."""
    if not len(ids):
        raise InputError(f"text {name!r}: the tokenizer finds no token in it: leave it out")
    if vocabulary is not None and int(ids.max()) >= vocabulary:
        at = int(np.argmax(ids >= vocabulary))
        raise InputError(
            f"text {name!r}: token {at} has the id {ids[at]}, and the model knows {vocabulary} ids: "
            "use the tokenizer that the model was trained with"
        )
    own = slice(len(ids[:1]) - len(without_bos(ids[:1].tolist(), bos)), None)
    if own.start == len(ids):
        raise InputError(f"text {name!r}: nothing but the model's first token (BOS) in it: leave it out")
    return own


@dataclass(frozen=True, slots=True)
class Counted:
    """What planning needs of a document's tokens.

    digest: of their ids, the same for the same tokens
    encoded: the tokens themselves, of a document so long that encoding it twice would take long
    """

    tokens: int
    own_bos: bool
    digest: bytes
    encoded: Encoded | None = None


def count(
    tokenizer: Any, documents: Iterable[Document], *, vocabulary: int | None = None, bos: int | None = None
) -> Iterator[Counted]:
    """How many tokens `encode` finds in each document, without the characters that each covers, which take longer.

    Several documents are encoded at once, and none is held. Raises InputError as `encode`.
    """
    fast = bool(getattr(tokenizer, "is_fast", False))
    for some in _batches(documents):
        if fast and (len(some) > 1 or len(some[0].text) < _AT_ONCE):
            found = tokenizer(
                [document.text for document in some], add_special_tokens=False, truncation=False, padding=False,
                verbose=False, return_attention_mask=False, return_token_type_ids=False,
            )["input_ids"]  # fmt: skip
            for document, tokens in zip(some, found, strict=True):
                ids = np.asarray(tokens, dtype=np.int64)
                own = _own(ids, document.name, vocabulary, bos)
                yield Counted(len(ids[own]), own.start > 0, _digest(ids[own]))
            continue
        for document in some:  # whether a slow tokenizer gives back the text is seen by doing it
            encoded = encode(tokenizer, document, vocabulary=vocabulary, bos=bos)
            yield Counted(len(encoded), encoded.own_bos, _digest(encoded.ids), encoded)


def _digest(ids: NDArray[np.int64]) -> bytes:
    return hashlib.sha256(ids.tobytes()).digest()


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """So many that the tokenizer's own records of them stay small, about 200 bytes a character."""
    some, size = list[Document](), 0
    for document in documents:
        if some and size + len(document.text) > _AT_ONCE:
            yield some
            some, size = [], 0
        some.append(document)
        size += len(document.text)
    if some:
        yield some


def pieces(document: Document, encoded: Encoded) -> list[str]:
    """The characters that each token covers; together they are the text, but for a first token that was left out."""
    text = document.text
    return [text[start:end] for start, end in zip(encoded.start.tolist(), encoded.end.tolist(), strict=True)]


def starts_word(tokenizer: Any, vocabulary: int) -> NDArray[np.bool_]:
    """For every token id: does it, after a word, end that word?

    True where the token begins a new word or is no part of a word. The rules stand at the head of this module.

    Parameters
    ----------
    tokenizer
        Of transformers.
    vocabulary
        Size of the model's logits; ids that the tokenizer does not know are True.

    Returns
    -------
    NDArray[np.bool_]
        [vocabulary]
    """
    starts = np.ones(vocabulary, dtype=np.bool_)
    special = set(tokenizer.all_special_ids)
    special.update(token for token, added in tokenizer.added_tokens_decoder.items() if added.special)
    known = sorted(token for token in set(tokenizer.get_vocab().values()) if token < vocabulary)
    ordinary = [token for token in known if token not in special]
    for token, text in zip(ordinary, _after_a_letter(tokenizer, ordinary), strict=True):
        if "\ufffd" in text[:1]:
            lead = _lead_bytes(tokenizer.convert_ids_to_tokens(token))
            starts[token] = _bytes_start(lead)
        else:
            starts[token] = _text_starts(text)
    return starts


def _text_starts(text: str) -> bool:
    """Whether a token that adds this text after a letter ends the word there."""
    if not text:
        return True
    if text[0] in _APOSTROPHES:
        return not text[1:2].isalpha()
    return not (text[0].isalnum() or unicodedata.category(text[0]).startswith("M"))


def _bytes_start(lead: bytes) -> bool:
    """The same for a part of a character, by its UTF-8 bytes.

    C2 leads Latin-1 punctuation; E2 punctuation, arrows, mathematics; E3 80 CJK punctuation; EF full-width forms
    and marks; F0 and above emoji. All others lead letters; 80 to BF continue a character.
    """
    if not lead:
        return False
    return lead[0] in (0xC2, 0xE2, 0xEF) or lead[0] >= 0xF0 or lead[:2] == b"\xe3\x80"


def _after_a_letter(tokenizer: Any, tokens: list[int]) -> list[str]:
    """The text that each token adds when it follows a letter."""
    for letter in _REFERENCES:
        found = tokenizer(letter, add_special_tokens=False)["input_ids"]
        alone = _decode(tokenizer, [[found[-1]]])[0] if found else ""
        if alone.strip() == letter:
            pairs = _decode(tokenizer, [[found[-1], token] for token in tokens])
            return [
                pair.removeprefix(alone) if pair.startswith(alone) else _decode(tokenizer, [[token]])[0]
                for token, pair in zip(tokens, pairs, strict=True)
            ]
    return _decode(tokenizer, [[token] for token in tokens])


def _decode(tokenizer: Any, sequences: list[list[int]]) -> list[str]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        decoded: list[str] = backend.decode_batch(sequences, skip_special_tokens=False)
        return decoded
    return [
        tokenizer.decode(sequence, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        for sequence in sequences
    ]


def _lead_bytes(token: str) -> bytes:
    """The bytes of a byte-level token (``âĢ``) or a byte-fallback one (``<0xE2>``); none where it is neither."""
    if token.startswith("<0x") and token.endswith(">"):
        return bytes([int(token[3:-1], 16)])
    table = _byte_table()
    return bytes(table[character] for character in token[:2] if character in table)


@functools.cache
def _byte_table() -> dict[str, int]:
    """GPT-2's printable stand-ins for the 256 bytes."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


def _slow_ends(tokenizer: Any, ids: list[int], document: Document) -> NDArray[np.int64]:
    """Where each token ends, by decoding with and without it; the pieces must rebuild the text."""
    rebuilt: list[str] = []
    ends = np.empty(len(ids), dtype=np.int64)
    total = 0
    for i in range(len(ids)):
        before = ids[max(0, i - _SLOW_CONTEXT) : i]
        without, with_it = _decode(tokenizer, [before, [*before, ids[i]]])
        piece = with_it.rstrip("\ufffd")[len(without.rstrip("\ufffd")) :]
        rebuilt.append(piece)
        total += len(piece)
        ends[i] = total
    if "".join(rebuilt) != document.text:
        raise InputError(
            f"text {document.name!r}: the tokenizer {type(tokenizer).__name__} gives no character offsets and does "
            "not decode to the text that it read: use a fast tokenizer (tokenizer.json)"
        )
    return ends
