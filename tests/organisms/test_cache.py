from dataclasses import replace
from pathlib import Path

import pytest
import torch

from snellen.organisms import cache, folders, training
from snellen.organisms.catalogue import Organism
from snellen.organisms.training import Gate, Stage, Training
from tests.organisms.tiny import ARMS
from tests.touched import touched

STAGES = tuple(
    Stage(name=name, gates=(Gate(region="states", below=below),)) for name, below in (("a", 2.2), ("b", 1.8))
)
TINY = Organism(
    name="tiny one", about="", language=ARMS,
    training=Training(stages=STAGES, width=16, heads=2, batch=16, check_every=10, held_out=128, most_steps=300),
)  # fmt: skip


@pytest.fixture
def trained(monkeypatch, tmp_path):
    """How often something was trained, with an empty cache."""
    monkeypatch.setenv("SNELLEN_CACHE", str(tmp_path / "cache"))
    count, train = [], cache.train
    monkeypatch.setattr(cache, "train", lambda *args, **kwargs: count.append(1) or train(*args, **kwargs))
    return count


def test_what_was_raised_comes_back_as_it_was(trained, tmp_path):
    first, second = cache.raised(TINY, 3), cache.raised(TINY, 3)
    assert len(trained) == 1
    ids = torch.from_numpy(ARMS.sample(5, seed=0))
    for one, again in zip(first, second, strict=True):
        assert {**vars(one), "model": None} == {**vars(again), "model": None}
        assert torch.equal(one.model(input_ids=ids).logits, again.model(input_ids=ids).logits)
        assert not any(p.requires_grad for p in again.model.parameters())
        assert not again.model.training
    assert not torch.equal(*(m.model(input_ids=ids).logits for m in second))  # the stages are not one model
    assert [path.name for path in (tmp_path / "cache" / "organisms").iterdir()] == [
        f"tiny-one-3-{cache.key(TINY, 3)}.safetensors"
    ]


@pytest.mark.parametrize("damage", ["cut", "flipped", "garbage", "empty", "another"])
def test_a_damaged_file_is_trained_again_with_a_message(trained, damage):
    cache.raised(TINY, 0)
    (path,) = (folders.folder() / "organisms").iterdir()
    content = path.read_bytes()
    flipped = bytearray(content)
    flipped[-7] ^= 1
    if damage == "another":
        alone = replace(TINY, training=replace(TINY.training, stages=STAGES[1:]))
        cache.raised(alone, 0)
        (other,) = (p for p in path.parent.iterdir() if p != path)
        path.write_bytes(other.read_bytes())
        other.unlink()
    else:
        path.write_bytes(
            {"cut": content[:-100], "flipped": bytes(flipped), "garbage": b"x" * 999, "empty": b""}[damage]
        )
    before, said = len(trained), []
    found = cache.raised(TINY, 0, said.append)
    assert len(trained) == before + 1
    assert len(said) == 1
    assert "is damaged (" in said[0]
    assert [m.stage for m in found] == ["a", "b"]
    cache.raised(TINY, 0, said.append)
    assert (len(trained), len(said)) == (before + 1, 1)


def test_a_folder_that_cannot_be_written_costs_the_cache_only(trained, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SNELLEN_CACHE", str(tmp_path / "file"))
    said = []
    assert len(cache.raised(TINY, 0, said.append)) == 2
    assert "cannot write" in said[0]
    assert "is not kept" in said[0]


def test_an_interrupted_writing_leaves_nothing(tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(folders.os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        folders.write(tmp_path / "x" / "file", b"content")
    assert list((tmp_path / "x").iterdir()) == []


def test_the_key_knows_everything_that_the_weights_depend_on(monkeypatch):
    keys = {
        cache.key(one, seed)
        for one in (
            TINY,
            replace(TINY, language=replace(ARMS, planning=True)),
            replace(TINY, training=replace(TINY.training, width=32)),
            replace(TINY, training=replace(TINY.training, stages=STAGES[:1])),
        )
        for seed in (0, 1)
    }
    assert len(keys) == 8
    before = cache.key(TINY, 0)
    assert before == cache.key(TINY, 0)
    for name in (training.__name__, "snellen.organisms.language", "snellen.organisms.arms"):
        with touched(name):
            assert cache.key(TINY, 0) != before
    monkeypatch.setattr(cache, "versions", lambda: {"torch": "another"})
    assert cache.key(TINY, 0) != before


def test_the_folder_is_the_users(monkeypatch, tmp_path):
    monkeypatch.delenv("SNELLEN_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert folders.folder() == tmp_path / "snellen"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert folders.folder() == Path.home() / ".cache" / "snellen"
    monkeypatch.setenv("SNELLEN_CACHE", str(tmp_path / "own"))
    assert folders.folder() == tmp_path / "own"
