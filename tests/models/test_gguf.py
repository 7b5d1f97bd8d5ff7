"""GGUF files, and converting a model into a folder."""

import builtins
import json
import re
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers import Regex, pre_tokenizers
from transformers import AutoTokenizer

from snellen.errors import InputError
from snellen.models import conversion
from snellen.models.conversion import convert
from snellen.models.load import load_model
from tests.models import small

gguf = pytest.importorskip("gguf", reason="the extra `gguf` is not installed; `test_extras_missing` runs without")


def complaint(*parts: object) -> object:
    pattern = ".*".join(re.escape(str(part)) for part in parts)
    return pytest.raises(InputError, match=rf"^(?s:(?!.*\n)).*{pattern}")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return small.write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def test_a_gguf_file(file, capfd):
    loaded = load_model(file)
    identity = loaded.identity
    assert (identity.kind, identity.source, identity.class_name) == ("gguf", str(file), "LlamaForCausalLM")
    assert (identity.context, identity.vocabulary, identity.dtype) == (48, 259, "float32")
    assert {type(module).__name__ for module in loaded.model.modules()} & {"GgufLinear"} == set()
    assert capfd.readouterr() == ("", "")
    assert loaded.tokenizer.decode(loaded.tokenizer("the cat")["input_ids"]) == "the cat"
    assert load_model(file.parent).identity == replace(identity, source=str(file.parent))  # the only one in there


def test_conversion_loses_nothing(file, tmp_path, capfd):
    identity = convert(file, tmp_path / "deep" / "folder")
    loaded, before = load_model(tmp_path / "deep" / "folder"), load_model(file)
    assert loaded.identity == identity
    assert replace(identity, kind="gguf", source=str(file), tokenizer_class=before.identity.tokenizer_class) == (
        before.identity
    )
    ids = torch.arange(20)[None] * 11 % 259
    torch.testing.assert_close(loaded.model(ids).logits, before.model(ids).logits, rtol=0, atol=0)
    assert list((tmp_path / "deep").iterdir()) == [tmp_path / "deep" / "folder"]  # no drafts left
    assert (tmp_path / "deep" / "folder" / "model.safetensors").stat().st_mode & 0o400
    assert capfd.readouterr() == ("", "")


def test_conversion_of_a_folder_in_another_dtype(tmp_path):
    small.save(tmp_path / "m")
    (tmp_path / "empty").mkdir()
    assert convert(tmp_path / "m", tmp_path / "empty", dtype="bfloat16").dtype == "bfloat16"
    assert load_model(tmp_path / "empty").identity.dtype == "float32"


def test_where_conversion_must_not_write(file, tmp_path):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "thesis.tex").write_text("years of work")
    with complaint("folder", "used", "not empty", "name a new one"):
        convert(file, tmp_path / "used")
    with complaint("folder", "thesis.tex", "not empty", "name a new one"):
        convert(file, tmp_path / "used" / "thesis.tex")
    with complaint("folder", "cannot be written", "free space there or name another"):
        convert(file, tmp_path / "used" / "thesis.tex" / "below")
    assert [path.name for path in tmp_path.rglob("*")] == ["used", "thesis.tex"]


def test_conversion_that_loses_something_writes_nothing(file, tmp_path, monkeypatch):
    genuine = conversion.load_model

    def forgetful(source, **options):
        loaded = genuine(source, **options)
        if source != file:
            loaded = replace(loaded, identity=replace(loaded.identity, weights_sha256="other"))
        return loaded

    monkeypatch.setattr(conversion, "load_model", forgetful)
    with complaint("does not survive being written", "weights_sha256", "nothing was written"):
        convert(file, tmp_path / "folder")
    assert not list(tmp_path.iterdir())


def test_a_full_disk(file, tmp_path, monkeypatch):
    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", full)
    with complaint("folder", "cannot be written", "No space left on device", "free space"):
        convert(file, tmp_path / "folder")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("m.gguf", b"nonsense", ("not a GGUF file", "b'nons'", "give a GGUF file or a folder")),
        ("m.gguf", b"", ("not a GGUF file", "b''")),
        ("m.gguf", b"version https://git-lfs.github.com/spec/v1\n", ("Git LFS pointer", "git lfs pull")),
        ("model.safetensors", b"x", ("one file of a model", "give the folder")),
    ],
)
def test_files_that_are_no_gguf(tmp_path, name, content, parts):
    (tmp_path / name).write_bytes(content)
    with complaint("model", name, *parts):
        load_model(tmp_path / name)


def test_damaged_gguf(file, tmp_path):
    whole = file.read_bytes()
    for length in (20, 200, len(whole) // 2, len(whole) - 100):
        (tmp_path / "m.gguf").write_bytes(whole[:length])
        with complaint("model", "m.gguf", "GGUF file is cut short or damaged", "fetch it again"):
            load_model(tmp_path / "m.gguf")
    with complaint("model", "m.gguf", "1 of its parameters are not in the weights", "up_proj"):
        load_model(small.write_gguf(tmp_path / "m.gguf", broken=True))


def test_several_files_in_a_folder(file, tmp_path):
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(file.read_bytes())
    with complaint("2 GGUF files", "name one", "a.gguf"):
        load_model(tmp_path)


TRICKY = "I'll pay 12345 dollars: DON'T!\n\n  the cat\tsat"


@pytest.mark.parametrize("pre", ["starcoder", "falcon", "command-r", "bloom", "deepseek-v3", "invented-tomorrow", None])
def test_a_way_of_splitting_that_would_be_read_as_gpt2_s(tmp_path, pre):
    path = small.write_gguf(tmp_path / "m.gguf", pre=pre)
    said = "does not say how its tokenizer splits" if pre is None else f"splits texts as {pre!r}"
    with complaint("model", "m.gguf", said, "would read as GPT-2's way", "--tokenizer"):
        load_model(path)
    # So it is, without a word: the digits of this one are to be split, and are not.
    read = AutoTokenizer.from_pretrained(tmp_path, gguf_file="m.gguf").backend_tokenizer.pre_tokenizer
    pieces = [piece for piece, _ in read.pre_tokenize_str(TRICKY)]
    assert "\u012012345" in pieces
    loaded = load_model(path, tokenizer=small.tokenizer())
    assert loaded.identity.notes == ()


GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


@pytest.mark.parametrize("pre", ["gpt-2", "olmo", "mpt", "jais", "phi-2", "exaone4"])
def test_ways_of_splitting_that_are_gpt2_s(tmp_path, pre):
    loaded = load_model(small.write_gguf(tmp_path / "m.gguf", pre=pre))
    own = loaded.tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(TRICKY)
    by_rule = pre_tokenizers.Split(Regex(GPT2), behavior="isolated").pre_tokenize_str(TRICKY)
    assert [span for _, span in own] == [span for _, span in by_rule]
    assert loaded.identity.notes == ()


@pytest.mark.parametrize("pre", ["llama-bpe", "qwen2", "gpt-4o"])
def test_ways_of_splitting_that_transformers_knows(tmp_path, pre):
    loaded = load_model(small.write_gguf(tmp_path / "m.gguf", pre=pre, more=lambda w: w.add_add_bos_token(False)))
    own = loaded.tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(TRICKY)
    pieces = [TRICKY[first:last] for _, (first, last) in own]
    assert ("123" in pieces, "1" in pieces) == (pre != "qwen2", pre == "qwen2")
    assert loaded.identity.notes == ()


def test_whole_words_go_before_merges_where_the_file_asks_for_it(tmp_path, monkeypatch):
    def add_word(writer):
        tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "th", "cat", "<s>", "</s>"]
        writer.kv_data[0]["tokenizer.ggml.tokens"].value[:] = tokens
        writer.kv_data[0]["tokenizer.ggml.token_type"].value[:] = [1] * 258 + [3, 3]
        writer.kv_data[0]["llama.vocab_size"].value = len(tokens)
        for key, value in (("bos", 258), ("eos", 259)):
            writer.kv_data[0][f"tokenizer.ggml.{key}_token_id"].value = value
        writer.add_add_bos_token(False)

    for pre, expected in (("llama-bpe", ["cat"]), ("qwen2", ["c", "a", "t"])):  # no merges lead to "cat"
        path = small.write_gguf(tmp_path / "m.gguf", pre=pre, more=add_word, tokens=260)
        loaded = load_model(path)
        assert loaded.tokenizer.tokenize("cat") == expected
        assert [note[:37] for note in loaded.identity.notes] == (
            ["1 tokens that no merges lead to are ta"[:37]] if pre == "llama-bpe" else []
        )


def test_the_first_token_that_a_file_is_silent_about(tmp_path, capsys):
    path = small.write_gguf(tmp_path / "m.gguf", pre="llama-bpe")
    (note,) = load_model(path).identity.notes
    assert "says nothing of a first token (BOS), and llama.cpp puts one" in note
    assert load_model(path, bos=True).identity.notes == load_model(path, bos=False).identity.notes == ()
    assert convert(path, tmp_path / "folder").notes == (note,)
    assert json.loads(json.dumps(load_model(path).identity.as_dict()))["notes"] == [note]


@pytest.mark.parametrize(
    ("more", "lost"),
    [
        (lambda w: w.add_rope_scaling_type(gguf.RopeScalingType.YARN), "llama.rope.scaling.type = 'yarn'"),
        (lambda w: w.add_rope_scaling_factor(4.0), "llama.rope.scaling.factor = 4"),
        (lambda w: w.add_tensor("rope_freqs.weight", np.full(4, 2, np.float32)), "the tensor rope_freqs.weight"),
        (lambda w: w.add_attn_logit_softcapping(50.0), "llama.attn_logit_softcapping = 50"),
        (lambda w: w.add_logit_scale(0.25), "llama.logit_scale = 0.25"),
        (lambda w: w.add_sliding_window(16), "llama.attention.sliding_window = 16"),
    ],
)
def test_arithmetic_that_would_be_passed_over(tmp_path, more, lost):
    with complaint("model", "m.gguf", "does not read", lost, "use the original weights"):
        load_model(small.write_gguf(tmp_path / "m.gguf", more=more))


def test_arithmetic_that_changes_nothing(tmp_path):
    def more(writer):
        writer.add_rope_scaling_type(gguf.RopeScalingType.NONE)
        writer.add_rope_scaling_factor(1.0)
        writer.add_sliding_window(48)  # the whole context
        writer.add_rope_freq_base(5000.0)

    loaded = load_model(small.write_gguf(tmp_path / "m.gguf", more=more))
    assert loaded.model.config.rope_parameters["rope_theta"] == 5000.0
    assert loaded.identity.notes == ()


def sentencepiece(writer):
    tokens = ["<unk>", "<s>", "</s>", "\u2581", "a", "\u2581a", "t", "c"]
    tokens += [f"<x{i}>" for i in range(259 - len(tokens))]
    data = writer.kv_data[0]
    data["tokenizer.ggml.model"].value = "llama"
    data["tokenizer.ggml.tokens"].value[:] = tokens
    data["tokenizer.ggml.token_type"].value[:] = [2, 3, 3] + [1] * 256
    data["tokenizer.ggml.bos_token_id"].value, data["tokenizer.ggml.eos_token_id"].value = 1, 2
    del data["tokenizer.ggml.merges"]
    writer.add_token_scores([-float(i) for i in range(259)])
    writer.add_unk_token_id(0)


@pytest.mark.parametrize("space", [True, False, None])
def test_the_space_in_front_of_a_text(tmp_path, space):
    def more(writer):
        sentencepiece(writer)
        if space is not None:
            writer.add_add_space_prefix(space)

    path = small.write_gguf(tmp_path / "m.gguf", pre="default", more=more)
    if space is False:
        with complaint("asks for no space in front of a text", "add_space_prefix", "--tokenizer"):
            load_model(path)
    else:
        assert load_model(path).tokenizer.tokenize("a")[0] == "\u2581a"


def test_a_sentencepiece_tokenizer_with_a_byte_level_splitting(tmp_path):
    with complaint("has a 'llama' tokenizer with the splitting 'llama-bpe' of another kind", "--tokenizer"):
        load_model(small.write_gguf(tmp_path / "m.gguf", pre="llama-bpe", more=sentencepiece))


def test_extras_missing(file, monkeypatch):
    genuine = builtins.__import__

    def without(name, *args, **options):
        if name.split(".")[0] == "gguf":
            raise ImportError("No module named 'gguf'", name="gguf")
        return genuine(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    for name in [name for name in sys.modules if name.split(".")[0] == "gguf"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr("transformers.utils.import_utils.is_gguf_available", lambda *args: False)
    monkeypatch.setattr("transformers.modeling_gguf_pytorch_utils.is_gguf_available", lambda *args: False)
    with complaint("model", "tiny.gguf", "pip install 'snellen[gguf]'"):
        load_model(file)
