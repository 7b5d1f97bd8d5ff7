"""The weights of a model are safetensors files of its own folder, whatever an index says."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from snellen.cli import main
from snellen.errors import InputError
from snellen.models.load import load_model
from snellen.models.remote import check_remote_weights
from snellen.models.sources import Place, check_apart, check_files, resolve
from tests.models.small import gpt2, save

INDEX = "model.safetensors.index.json"


def sharded(folder: Path) -> Path:
    save(folder)
    gpt2().save_pretrained(folder, max_shard_size="10KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    assert (folder / INDEX).exists()
    return folder


def rename(folder: Path, name: object) -> None:
    """Let the index name another file for the first of its shards."""
    content = json.loads((folder / INDEX).read_text())
    first = next(iter(content["weight_map"].values()))
    content["weight_map"] = {key: name if file == first else file for key, file in content["weight_map"].items()}
    (folder / INDEX).write_text(json.dumps(content))


def test_a_sharded_model_is_read(tmp_path):
    loaded = load_model(sharded(tmp_path / "m"))
    assert torch.equal(loaded.model.transformer.wte.weight, gpt2().transformer.wte.weight)


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["weights.bin", "../other/model.safetensors", "/etc/x.safetensors", 3,
                                  "a/../../x.safetensors",
                                  "none.safetensors", "..\\x.safetensors", "fifo.safetensors"])  # fmt: skip
def test_an_index_names_safetensors_of_its_own_folder_alone(tmp_path, name):
    folder = sharded(tmp_path / "m")
    save(tmp_path / "other")
    torch.save(Bomb(tmp_path / "boom"), folder / "weights.bin")
    shutil.copy(tmp_path / "other" / "model.safetensors", folder / "decoy.safetensors")
    os.mkfifo(folder / "fifo.safetensors")
    rename(folder, name)
    with pytest.raises(InputError, match=r"m'?: |index\.json cannot be read|it is a pipe"):
        load_model(folder)
    assert not (tmp_path / "boom").exists()


def test_a_configuration_names_safetensors_alone(tmp_path):
    folder = save(tmp_path / "m")
    path = folder / "config.json"
    whole = json.loads(path.read_text())
    for name in ("adapter_model.bin", "../m2/model.safetensors", "weights.bin", 3):
        path.write_text(json.dumps({**whole, "transformers_weights": name}))
        with pytest.raises(InputError, match=r"config\.json"):
            check_files(resolve(folder))
    shutil.move(folder / "model.safetensors", folder / "other.safetensors")
    path.write_text(json.dumps({**whole, "transformers_weights": "other.safetensors"}))
    load_model(folder)


def test_links_lead_to_the_blobs_of_a_cache_and_nowhere_else(tmp_path):
    plain = sharded(tmp_path / "plain")
    cache = tmp_path / "models--a--b"
    snapshot = cache / "snapshots" / "0123"
    (cache / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(plain.iterdir())):
        shutil.copy(path, cache / "blobs" / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    assert load_model(snapshot).identity.weights_sha256 == load_model(plain).identity.weights_sha256
    shard = next(plain.glob("model-*.safetensors"))
    shutil.move(shard, tmp_path / "elsewhere.safetensors")
    shard.symlink_to("../elsewhere.safetensors")
    with pytest.raises(InputError, match="outside the model's folder"):
        load_model(plain)


def test_an_adapter_in_the_folder_is_refused(tmp_path):
    folder = save(tmp_path / "m")
    (folder / "adapter_config.json").write_text("{}")
    torch.save(Bomb(tmp_path / "boom"), folder / "adapter_model.bin")
    with pytest.raises(InputError, match="an adapter lies in its folder"):
        load_model(folder)


def test_an_index_of_the_hub_is_looked_at_before_the_weights(tmp_path, monkeypatch):
    cache = tmp_path / "hub" / "models--a--b"
    snapshot = cache / "snapshots" / ("0" * 40)
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text("0" * 40)
    sharded(snapshot)
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    place = Place(source="a/b", kind="hub", location="a/b", revision="0" * 40)
    check_remote_weights(place, gpt2().config)
    rename(snapshot, "weights.bin")
    with pytest.raises(InputError, match=r"'weights\.bin' for weights, which is no safetensors file"):
        check_remote_weights(place, gpt2().config)


def test_nothing_is_written_where_a_model_is_read(tmp_path):
    folder = save(tmp_path / "above" / "m")
    loaded = load_model(folder)
    for model in (folder, str(folder), loaded, loaded.model):
        for place in (folder, folder / "run", tmp_path / "above"):
            with pytest.raises(InputError, match="the model is read from"):
                check_apart(model, place, name="--out")
        check_apart(model, tmp_path / "above" / "other", name="--out")
    check_apart("pocket", tmp_path, name="--out")
    check_apart("gpt2", tmp_path, name="--out")


def test_convert_and_exam_leave_a_models_folder_alone(tmp_path, capsys):
    folder = save(tmp_path / "above" / "m")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    for command in (["convert", str(folder), str(folder / "new")], ["exam", str(folder), "--out", str(folder / "run")]):
        assert main(command) == 2
        assert "lies inside" in capsys.readouterr().err.splitlines()[-1]
    assert main(["convert", str(folder), str(folder)]) == 2
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
