"""GGUF files, and converting a model into a folder."""

import builtins
import re
import sys
from dataclasses import replace

import pytest
import torch

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
