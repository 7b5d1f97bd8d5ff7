"""Tokens with their characters, and which of them begin a word."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from snellen.errors import InputError
from snellen.texts.encode import encode, pieces, starts_word
from snellen.texts.read import Document
from tests.texts.tokenizers_here import CORPUS, byte_level, metaspace, word_piece

BYTES, TRIMMED, SPACES = byte_level(), byte_level(trim_offsets=True), metaspace()


@pytest.mark.parametrize("tokenizer", [BYTES, TRIMMED, SPACES], ids=["bytes", "trimmed", "metaspace"])
@settings(max_examples=60, deadline=None)
@given(text=st.text(min_size=1, max_size=40) | st.sampled_from(CORPUS))
def test_pieces_are_the_text(tokenizer, text):
    document = Document("d", text)
    encoded = encode(tokenizer, document)
    assert "".join(pieces(document, encoded)) == text
    assert encoded.ids.dtype == np.int64
    assert encoded.start.dtype == encoded.end.dtype == np.int32
    assert encoded.start[0] == 0
    assert encoded.end[-1] == len(text)
    assert (encoded.start <= encoded.end).all()
    assert (encoded.start[1:] == encoded.end[:-1]).all()
    assert encoded.ids.tolist() == tokenizer(text, add_special_tokens=False)["input_ids"]


def test_a_split_character_belongs_to_its_first_token():
    document = Document("d", "x\u4e00y")
    encoded = encode(BYTES, document)
    assert len(encoded) == 5
    assert pieces(document, encoded) == ["x", "\u4e00", "", "", "y"]


def test_trimmed_spaces_go_to_the_word_behind_them():
    document = Document("d", "the cat ")
    assert pieces(document, encode(TRIMMED, document))[:2] == ["the", " cat"]


def test_no_special_tokens_and_no_length_warning(caplog):
    tokenizer = byte_level(model_max_length=8)
    encoded = encode(tokenizer, Document("d", "the cat and " * 50))
    assert len(encoded) > 100
    assert tokenizer.bos_token_id not in encoded.ids
    assert not caplog.records


def test_an_id_that_the_model_lacks():
    with pytest.raises(InputError, match=r"^text 'd': token 3 has the id \d+, and the model knows 260 ids: use the"):
        encode(BYTES, Document("d", "a.b the"), vocabulary=260)


def test_a_text_without_tokens():
    tokenizer = byte_level()
    tokenizer.backend_tokenizer.normalizer = normalizers.Strip()
    with pytest.raises(InputError, match=r"^text 'blank': the tokenizer finds no token in it: leave it out"):
        encode(tokenizer, Document("blank", "  "))


class Slow:
    """A tokenizer without offsets: characters, with `~` for upper case unless it loses them."""

    is_fast = False

    def __init__(self, *, lossy: bool = False):
        self.lossy = lossy

    def __call__(self, text, **options):
        return {"input_ids": [ord(c) for c in (text.lower() if self.lossy else text)]}

    def decode(self, ids, **options):
        return "".join(map(chr, ids))


def test_slow_tokenizers_must_rebuild_the_text():
    document = Document("d", "Ab é🙂")
    assert pieces(document, encode(Slow(), document)) == list(document.text)
    with pytest.raises(InputError, match=r"^text 'd': the tokenizer Slow gives no .*fast tokenizer"):
        encode(Slow(lossy=True), document)


def ends_a_word(tokenizer, text: str) -> dict[str, bool]:
    """By the piece of each token in the text (the last of the same kind wins)."""
    document = Document("d", text)
    encoded = encode(tokenizer, document)
    table = starts_word(tokenizer, len(tokenizer))
    return {p: bool(table[i]) for p, i in zip(pieces(document, encoded), encoded.ids.tolist(), strict=True) if p}


def test_word_starts_byte_level():
    found = ends_a_word(BYTES, "Don't say the well-known\n\n\tcat, 'yes' 12(_")
    assert found["'t"] is False  # the word "don't" goes on
    assert found[" the"] is True
    for mark in ("-", ",", "'", "(", "_", "\n", "\t"):
        assert found[mark] is True, mark
    for piece, true in found.items():
        if piece.isalnum():
            assert true is False, piece


def test_word_starts_metaspace():
    found = ends_a_word(SPACES, "don't the then, x")
    assert found["'"] is True  # alone it may be a closing quote
    assert found["t"] is False
    assert found[" the"] is True
    assert found["n"] is False
    assert found[","] is True
    table = starts_word(SPACES, len(SPACES))
    assert not table[SPACES.convert_tokens_to_ids("the")]  # without the space it goes on


def test_word_starts_word_piece():
    tokenizer = word_piece()
    table = starts_word(tokenizer, 9)
    names = {tokenizer.convert_ids_to_tokens(i): bool(table[i]) for i in range(9)}
    assert names == {
        "[UNK]": True, "the": True, "cat": True, "##s": False, "sat": True, ",": True, "'": True, "a": True,
        "##t": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("character", "starts"),
    [("é", False), ("ж", False), ("“", True), ("\U0001f9d0", True), ("«", True), ("字", False), ("\u3002", False)],
)
def test_parts_of_characters_go_by_their_first_bytes(character, starts):
    for tokenizer in (byte_level_of_single_bytes(), SPACES):
        first, *rest = encode(tokenizer, Document("d", "x" + character)).ids[-len(character.encode()) :]
        table = starts_word(tokenizer, len(tokenizer))
        assert table[first] == starts
        assert not table[rest].any()


def byte_level_of_single_bytes():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {c: i for i, c in enumerate(alphabet)} | {"ãĢ": 256}
    backend = Tokenizer(models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def test_two_bytes_tell_more_than_one():
    tokenizer = byte_level_of_single_bytes()
    assert starts_word(tokenizer, 257)[256]  # E3 80, the block of CJK punctuation; E3 alone does not tell


def test_special_and_unused_ids_are_no_part_of_a_word():
    table = starts_word(BYTES, len(BYTES) + 7)
    assert table[BYTES.bos_token_id]
    assert table[len(BYTES) :].all()
    assert table.dtype == np.bool_
    assert 0.1 < table[: len(BYTES)].mean() < 0.9


def test_without_any_letter():
    backend = Tokenizer(models.WordLevel({"?": 0, "e2": 1, "e4": 2}, unk_token="?"))
    assert starts_word(PreTrainedTokenizerFast(tokenizer_object=backend), 3).tolist() == [True, False, False]


@pytest.mark.parametrize("kind", ["bytes", "trimmed", "metaspace"])
@pytest.mark.parametrize("text", ["<s>the cat", "<s> the cat", "<s><s>the", "a <s> cat", "<s>漢字 <s>x", "the cat"])
def test_a_text_that_begins_with_the_first_token_has_it_once(kind, text):
    tokenizer = {"bytes": BYTES, "trimmed": TRIMMED, "metaspace": SPACES}[kind]
    plain = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, bos, document = plain["input_ids"], tokenizer.bos_token_id, Document("d", text)
    found = encode(tokenizer, document, bos=bos)
    own = text.startswith("<s>")
    assert found.own_bos == own
    assert [bos, *found.ids.tolist()] == (ids if own else [bos, *ids])
    assert "".join(pieces(document, found)) == (text[3:] if own else text)
    assert found.start[0] == (3 if own else 0)
    assert found.end.tolist() == np.maximum.accumulate([end for _, end in plain["offset_mapping"]])[own:].tolist()
    # Where nothing is put in front, the text is read as the tokenizer reads it.
    assert encode(tokenizer, document).ids.tolist() == ids
    assert not encode(tokenizer, document).own_bos


def test_nothing_but_a_first_token_is_no_text():
    with pytest.raises(InputError, match=r"^text 'd': nothing but the model's first token"):
        encode(BYTES, Document("d", "<s>"), bos=BYTES.bos_token_id)
    assert encode(BYTES, Document("d", "<s>")).ids.tolist() == [BYTES.bos_token_id]
