"""Loading from every kind of source, and the line that is said when it cannot be."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertLMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
)

from snellen.errors import InputError
from snellen.models import bundled
from snellen.models.load import load_model, pick_device
from tests.models import small


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    return small.save(tmp_path_factory.mktemp("saved") / "model")


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


@pytest.fixture
def offline(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def complaint(*parts: object) -> object:
    """The error holds all parts, in this order, on one line."""
    pattern = ".*".join(re.escape(str(part)) for part in parts)
    return pytest.raises(InputError, match=rf"^(?s:(?!.*\n)).*{pattern}")


def test_a_folder(saved, capfd):
    loaded = load_model(str(saved))
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    identity = loaded.identity
    assert (identity.source, identity.kind, identity.revision) == (str(saved), "folder", None)
    assert (identity.model_type, identity.class_name) == ("gpt2", "GPT2LMHeadModel")
    assert identity.parameters == sum(p.numel() for p in small.gpt2().parameters())
    assert (identity.vocabulary, identity.context) == (260, 32)
    assert (identity.dtype, identity.attention) == ("float32", "sdpa")
    assert identity.device == ("cuda:0" if torch.cuda.is_available() else "cpu")
    assert (identity.bos.policy, identity.bos.token_id) == ("tokenizer", None)
    assert json.loads(json.dumps(identity.as_dict())) == identity.as_dict()
    assert capfd.readouterr() == ("", "")
    logits = loaded.model(torch.tensor([[1, 2, 3]], device=loaded.model.device)).logits.cpu()
    torch.testing.assert_close(logits, small.gpt2().eval()(torch.tensor([[1, 2, 3]])).logits)


def test_paths_and_homes(saved, monkeypatch):
    monkeypatch.setenv("HOME", str(saved.parent))
    assert load_model("~/model").identity.weights_sha256 == load_model(saved).identity.weights_sha256


def test_dtype_on_request(saved):
    loaded = load_model(saved, dtype="bfloat16")
    assert loaded.identity.dtype == "bfloat16"
    assert {p.dtype for p in loaded.model.parameters()} == {torch.bfloat16}
    assert loaded.identity.weights_sha256 != load_model(saved).identity.weights_sha256


def test_the_bundled_model(saved, monkeypatch):
    monkeypatch.setattr(bundled.resources, "files", lambda package: saved.parent / "package")
    with complaint("bundled model 'pocket' is missing", "config.json", "reinstall"):
        load_model("pocket")
    shutil.copytree(saved, saved.parent / "package" / "models" / "pocket")
    identity = load_model("pocket").identity
    assert (identity.source, identity.kind) == ("pocket", "bundled")


def test_a_model_in_memory(saved):
    model = small.gpt2().train()
    loaded = load_model(model, tokenizer=saved)
    assert loaded.model is model
    assert not model.training
    assert all(parameter.requires_grad for parameter in model.parameters())  # its flags are its owner's
    assert (loaded.identity.kind, loaded.identity.source) == ("memory", "GPT2LMHeadModel")
    assert loaded.identity.weights_sha256 == load_model(saved).identity.weights_sha256
    tokenizer = small.tokenizer()
    assert load_model(model, tokenizer=tokenizer).tokenizer is tokenizer
    bare = load_model(model)
    assert bare.tokenizer is None
    assert (bare.identity.tokenizer_sha256, bare.identity.bos.token_id) == (None, None)
    assert load_model(small.gpt2().bfloat16()).identity.dtype == "bfloat16"
    with complaint("dtype 'float16'", "in memory is float32", "model.to()"):
        load_model(model, dtype="float16")
    with complaint("device 'meta'", "must be"):
        load_model(model, device="meta")
    with complaint("bos=True", "no tokenizer was given", "bos='auto' or False"):
        load_model(model, bos=True)
    with complaint("revision 'x'", "leave the revision out"):
        load_model(model, revision="x")
    with complaint("model of type Linear", "PreTrainedModel"):
        load_model(torch.nn.Linear(2, 2))
    with complaint("tokenizer of type int", "must be"):
        load_model(model, tokenizer=3)


class Boundary:
    """Stands in for transformers' three `from_pretrained`, and remembers what they were asked."""

    commit = "0123456789abcdef0123456789abcdef01234567"

    def __init__(self, monkeypatch, saved: Path):
        self.calls = []
        for auto in (AutoConfig, AutoTokenizer, AutoModelForCausalLM):
            monkeypatch.setattr(auto, "from_pretrained", self._stand_in(auto, auto.from_pretrained, saved))

    def _stand_in(self, auto, genuine, saved):
        def from_pretrained(name, **options):
            if name == saved:  # transformers calling itself
                return genuine(name, **options)
            self.calls.append((auto.__name__, name, dict(options)))
            for option in ("revision", "gguf_file", "quantization_config"):
                options.pop(option, None)
            result = genuine(saved, **options)
            if auto is AutoConfig:
                result._commit_hash = self.commit
            return result

        return from_pretrained


def test_hub_ids_are_passed_on_with_the_commit_pinned(saved, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    boundary = Boundary(monkeypatch, saved)
    identity = load_model("someone/some-model", revision="v1").identity
    assert (identity.kind, identity.source, identity.revision) == ("hub", "someone/some-model", boundary.commit)
    (config, name, options), (tokenizer, _, tokenizer_options), (model, _, model_options) = boundary.calls
    assert (config, tokenizer, model) == ("AutoConfig", "AutoTokenizer", "AutoModelForCausalLM")
    assert {call[1] for call in boundary.calls} == {name} == {"someone/some-model"}
    assert options["revision"] == "v1"
    assert tokenizer_options["revision"] == model_options["revision"] == boundary.commit
    assert model_options["use_safetensors"] is True
    assert not any(call[2]["trust_remote_code"] for call in boundary.calls)
    boundary.calls.clear()
    load_model("gpt2", trust_remote_code=True, tokenizer="someone/tokenizer")
    assert [call[1] for call in boundary.calls] == ["gpt2", "someone/tokenizer", "gpt2"]
    assert boundary.calls[1][2]["revision"] is None  # the model's commit says nothing about another repository
    assert all(call[2]["trust_remote_code"] for call in boundary.calls)


def test_gguf_files_on_the_hub(saved, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    boundary = Boundary(monkeypatch, saved)
    checked = []
    monkeypatch.setattr("snellen.models.load.check_gguf", lambda *given: checked.append(given[0]) or ("a note",))
    identity = load_model("someone/quants:model.Q4_K_M.gguf").identity
    assert [(place.location, place.gguf, place.revision) for place in checked] == [
        ("someone/quants", "model.Q4_K_M.gguf", boundary.commit)
    ]
    assert identity.notes == ("a note",)
    assert (identity.kind, identity.revision) == ("gguf", boundary.commit)
    assert {(call[1], call[2]["gguf_file"]) for call in boundary.calls} == {("someone/quants", "model.Q4_K_M.gguf")}
    assert "use_safetensors" not in boundary.calls[2][2]


def test_an_existing_folder_wins_over_the_hub(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert load_model("model").identity.kind == "folder"


@pytest.mark.parametrize("name", ["gpt2", "someone/some-model"])
def test_unreachable_hub(name, offline, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with complaint(f"model '{name}'", "no such folder here, not in the hub's cache", "cannot be reached", "'pocket'"):
        load_model(name)


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        ("RepositoryNotFoundError", ("no such folder here, and no such model on the hub", "check the spelling")),
        ("GatedRepoError", ("gated", "https://huggingface.co/some/model", "hf auth login")),
        ("RevisionNotFoundError", ("no revision 'v9'", "see its page")),
    ],
)
def test_what_the_hub_says(kind, parts, tmp_path, monkeypatch):
    from huggingface_hub import errors

    monkeypatch.chdir(tmp_path)
    cause = getattr(errors, kind).__new__(getattr(errors, kind))  # the constructor wants an HTTP response

    def refuse(*args, **options):
        raise OSError("a message\nof several lines") from cause

    monkeypatch.setattr(AutoConfig, "from_pretrained", refuse)
    with complaint("model 'some/model'", *parts):
        load_model("some/model", revision="v9")


@pytest.mark.parametrize("name", ["./gone", "/gone/model", "~/gone", "a/b/c", "gone.gguf", "../gone"])
def test_paths_that_do_not_exist(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    with complaint(f"model {name!r}", "no such file" if name.endswith("gguf") else "no such folder", "looked in"):
        load_model(name)
    with complaint("no such"):
        load_model(Path("gone"))


@pytest.mark.parametrize("name", ["two words", "a:b", "a/b:model.bin", "ünknown"])
def test_impossible_names(name):
    with complaint(f"model {name!r}", "no possible hub id", "OWNER/NAME"):
        load_model(name)


def test_an_empty_name():
    with complaint("name is empty", "'pocket'"):
        load_model(" ")


def test_folders_that_lack_something(folder, tmp_path):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    with complaint(str(folder), "no tokenizer in the folder", "--tokenizer"):
        load_model(folder)
    with complaint(str(folder), "no tokenizer in the folder", "tokenizer.json"):
        load_model(folder, tokenizer=folder)
    assert load_model(folder, tokenizer=small.tokenizer()).tokenizer is not None
    (folder / "model.safetensors").rename(folder / "elsewhere")
    with complaint(str(folder), "no weights in the folder", "*.safetensors", "save the model again"):
        load_model(folder)
    torch.save({}, folder / "pytorch_model.bin")
    with complaint(str(folder), "pickles (pytorch_model.bin)", "never read", "save_pretrained("):
        load_model(folder)
    (folder / "config.json").unlink()
    with complaint(str(folder), "no config.json", "save_pretrained"):
        load_model(folder)
    (folder / "adapter_config.json").write_text("{}")
    with complaint(str(folder), "adapter only", "merge_and_unload"):
        load_model(folder)


@pytest.mark.parametrize(
    ("config", "parts"),
    [
        ("{broken", ("cannot be loaded", "not a valid JSON")),
        ("{}", ("Unrecognized model", "Check config.json")),
        ('{"model_type": "novel"}', ("`novel`", "upgrade transformers")),
        ('{"model_type": "x", "auto_map": {"AutoConfig": "c.C"}}', ("code of its own", "--trust-remote-code")),
        ('{"model_type": "vit"}', ("vit has no causal language model class", "left-to-right")),
    ],
)
def test_wrong_configurations(folder, config, parts):
    (folder / "config.json").write_text(config)
    with complaint(str(folder), *parts):
        load_model(folder)


def test_damaged_weights(folder):
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-20])
    with complaint(str(folder), "cannot be read", "damaged"):
        load_model(folder)
    tensors = load_file(shutil.copy(_write(folder / "whole", whole), folder / "copy"))
    del tensors["transformer.h.1.mlp.c_fc.weight"]
    save_file(tensors, weights, metadata={"format": "pt"})
    with complaint(str(folder), "1 of its parameters are not in the weights", "h.1.mlp.c_fc.weight", "incomplete"):
        load_model(folder)


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_weights_of_another_size(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"n_embd": 32}))
    with complaint(str(folder), "other sizes than config.json says"):
        load_model(folder)


@pytest.mark.parametrize(("value", "word"), [(float("nan"), "NaN"), (float("inf"), "infinite")])
def test_weights_that_are_no_numbers(tmp_path, value, word):
    model = small.gpt2()
    with torch.no_grad():
        model.transformer.h[1].mlp.c_fc.weight[3, 5] = value
    folder = small.save(tmp_path / "m", model)
    with complaint(str(folder), word, "transformer.h.1.mlp.c_fc.weight", "(float32)", "fetch them again"):
        load_model(folder)


def test_weights_too_large_for_half_precision(tmp_path):
    model = small.gpt2()
    with torch.no_grad():
        model.transformer.h[0].mlp.c_fc.weight[0, 0] = 1e6
    with complaint("infinite", "h.0.mlp.c_fc.weight (float16)", "float32"):
        load_model(small.save(tmp_path / "m", model), dtype="float16")


def test_models_that_are_not_causal(tmp_path):
    size = {
        "vocab_size": 260,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    masked = small.save(tmp_path / "masked", BertForMaskedLM(BertConfig(**size)))
    with complaint("BertForMaskedLM", "causal (left-to-right)"):
        load_model(masked)
    # A causal class by name that looks both ways: only the model itself tells.
    torch.manual_seed(0)
    both_ways = small.save(
        tmp_path / "both", BertLMHeadModel(BertConfig(**size, is_decoder=False, initializer_range=0.5))
    )
    with complaint(str(both_ways), "depend on tokens that come later", "left-to-right"):
        load_model(both_ways)
    one_way = small.save(tmp_path / "one", BertLMHeadModel(BertConfig(**size, is_decoder=True)))
    assert load_model(one_way).identity.class_name == "BertLMHeadModel"
    t5 = T5ForConditionalGeneration(T5Config(vocab_size=260, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2))
    with complaint("t5", "encoder-decoder", "left-to-right"):
        load_model(small.save(tmp_path / "t5", t5))


def test_tokenizers_that_do_not_fit(tmp_path):
    folder = small.save(tmp_path / "m", small.gpt2(vocab_size=200, bos_token_id=0, eos_token_id=0))
    with complaint("tokenizer does not fit", str(folder), "ids up to 255", "200 rows", "trained with"):
        load_model(folder)
    with complaint("tokenizer does not fit", "ids up to 255", "200 rows"):
        load_model(small.gpt2(vocab_size=200, bos_token_id=0, eos_token_id=0), tokenizer=small.tokenizer())
    # An added token that no text contains may lie outside, unless it is put in front of every text.
    folder = small.save(tmp_path / "n", small.gpt2(vocab_size=256, bos_token_id=0, eos_token_id=0))
    assert load_model(folder).identity.vocabulary == 256
    with complaint("first token 256", "256 embedding rows", "bos=False"):
        load_model(folder, bos=True)


def test_an_empty_tokenizer(folder):
    (folder / "tokenizer.json").unlink()  # transformers then builds one of nothing from tokenizer_config.json
    with complaint("tokenizer of", str(folder)):
        load_model(folder)


@pytest.mark.parametrize(
    ("tokenizer", "wish", "policy", "token"),
    [
        ({"bos_in_front": True}, "auto", "tokenizer", 256),
        ({"bos_in_front": True}, False, "never", None),
        ({"bos_in_front": True}, True, "always", 256),
        ({}, "auto", "tokenizer", None),
        ({}, True, "always", 256),
        ({"prefix": "$A </s>"}, "auto", "tokenizer", None),
        ({"prefix": "<s> $A </s>"}, "auto", "tokenizer", 256),
        ({"prefix": "</s> $A"}, "auto", "tokenizer", 257),
    ],
)
def test_the_token_in_front(tokenizer, wish, policy, token):
    bos = load_model(small.gpt2(), tokenizer=small.tokenizer(**tokenizer), bos=wish).identity.bos
    assert (bos.policy, bos.token_id) == (policy, token)


def test_tokens_in_front_that_cannot_be():
    with complaint("puts 2 tokens in front", "bos=True or bos=False"):
        load_model(small.gpt2(), tokenizer=small.tokenizer(prefix="<s> </s> $A"))
    without = small.tokenizer()
    without.bos_token = None
    with complaint("bos=True", "no BOS token", "bos='auto' or False"):
        load_model(small.gpt2(), tokenizer=without, bos=True)
    with complaint("bos 'sometimes'", "'auto', True or False"):
        load_model(small.gpt2(), tokenizer=without, bos="sometimes")


def test_settings_come_before_files():
    with complaint("dtype 'int8'", "float32, bfloat16, float16"):
        load_model("./gone", dtype="int8")
    with complaint("device 'gpu'", "auto, cpu, cuda"):
        load_model("./gone", device="gpu")
    with complaint("revision 'v1'", "only models on the hub", "leave the revision out"):
        load_model(Path(__file__).parent, revision="v1")


def test_devices(monkeypatch):
    assert pick_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick_device("auto") == torch.device("cpu")
    with complaint("device 'cuda'", "no CUDA device", "'cpu' or 'auto'"):
        pick_device("cuda")
    with complaint("device 'mps'", "no Metal device", "'cpu' or 'auto'"):
        pick_device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_device("mps").type == "mps"
    assert pick_device("auto").type == "cpu"  # MPS only when asked
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("auto").type == "cuda"
    assert pick_device("cuda:1") == torch.device("cuda:1")
    with complaint("device 'cuda:2'", "2 CUDA devices"):
        pick_device("cuda:2")


def test_no_room(saved, monkeypatch):
    def full(*args, **options):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", full)
    with complaint("does not fit into the memory of cpu", "dtype='bfloat16'"):
        load_model(saved, device="cpu")


def test_what_cannot_be_loaded_says_so_in_one_line(saved, monkeypatch):
    def fail(*args, **options):
        raise ValueError("something\nof several\nlines")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", fail)
    with complaint(str(saved), "cannot be loaded", "ValueError: something of several lines"):
        load_model(saved)


def test_transformers_logging_is_as_before(saved):
    from huggingface_hub.utils import are_progress_bars_disabled
    from transformers.utils import logging

    before = (logging.get_verbosity(), logging.is_progress_bar_enabled(), are_progress_bars_disabled())
    load_model(saved)
    with pytest.raises(InputError):
        load_model(saved.parent)
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled(), are_progress_bars_disabled()) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_an_unreadable_file(tmp_path):
    path = _write(tmp_path / "m.gguf", b"GGUF")
    path.chmod(0)
    with complaint("cannot read the file", "Permission denied"):
        load_model(path)


def test_layers_that_the_configuration_does_not_have(tmp_path):
    model = small.gpt2()
    model.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    assert content["n_layer"] > 1
    (tmp_path / "config.json").write_text(json.dumps(content | {"n_layer": 1}))
    with pytest.raises(InputError, match=r"of layers that config\.json does not have, the first"):
        load_model(tmp_path, tokenizer=small.tokenizer())


@pytest.mark.parametrize("wrong", [{"n_head": 0}, {"n_embd": "x"}, {"layer_norm_epsilon": None}])
def test_a_configuration_of_no_model_is_one_line(wrong, tmp_path):
    small.gpt2().save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(content | wrong))
    with pytest.raises(InputError):
        load_model(tmp_path, tokenizer=small.tokenizer())


@pytest.mark.parametrize("content", ['{"eos_token_id": 3, "tempera', "[1, 2]"])
def test_a_damaged_generation_config_is_not_taken_for_none(content, tmp_path):
    folder = small.save(tmp_path / "m")
    (folder / "generation_config.json").write_text(content)
    with pytest.raises(InputError, match=r"generation_config\.json cannot be read"):
        load_model(folder)
