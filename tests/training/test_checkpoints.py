"""A training that was killed, or whose checkpoints were damaged, ends as one that was not: bit by bit."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import EarlyStoppingCallback

from snellen.errors import InputError
from snellen.training import StuntingTrainer, checkpoints, manifest
from snellen.training.claim import claim
from tests.touched import touched
from tests.training.killed import CHECKPOINTS, refusal, train
from tests.training.tiny_training import config, model, rows

BEST = {
    "eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True, "metric_for_best_model": "eval_loss",
    "greater_is_better": False, "learning_rate": 0.3, "eval_on_start": True,
}  # fmt: skip


def same_weights(one, other):
    found = [load_file(folder / "model.safetensors") for folder in (one, other)]
    return found[0].keys() == found[1].keys() and all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def mark_of(folder):
    return json.loads((folder / "checkpoint-2" / "manifest.json").read_text())["run"]


def log_of(folder):
    """Of the last checkpoint: all of transformers' state but how long it took."""
    state = json.loads((folder / "checkpoint-6" / "trainer_state.json").read_text())
    state.pop("best_model_checkpoint")
    times = ("runtime", "per_second")
    state["log_history"] = [
        {name: value for name, value in row.items() if not any(part in name for part in times)}
        for row in state["log_history"]
    ]
    return state


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Uninterrupted, by kind of training."""
    made = {}

    def folder(method, **settings):
        key = (method, json.dumps(settings))
        if key not in made:
            made[key] = tmp_path_factory.mktemp("whole") / "run"
            assert train(made[key], method, **settings) == 0
        return made[key]

    return folder


KILLS = [
    ("a step", 4), ("half a file", 2), ("behind the weights", 3), ("before the manifest", 2),
    ("before the trained model", 1),
]  # fmt: skip
MORE = [
    ("a step", 2), ("before a checkpoint's first file", 2), ("behind the first manifest", 2), ("behind the weights", 1),
    ("half a file", 7), ("before the random state", 2), ("before the manifest", 1), ("before the manifest", 3),
    ("behind the manifest", 2), ("before the end is noted", 1),
]  # fmt: skip


@pytest.mark.parametrize(
    "kill",
    [*KILLS, *(pytest.param(kill, marks=pytest.mark.slow) for kill in MORE)],
    ids=lambda kill: " ".join(map(str, kill)),
)
def test_a_killed_training_ends_with_the_same_bits_and_the_same_record(tmp_path, whole, kill):
    """Weights, training loss, logged means, the run's own record: of dropout, of losses logged every fourth step."""
    method, settings = ("balance", {}) if kill[1] == 2 else ("ordinary", {"dropout": 0.2})
    reference = whole(method, **settings)
    folder = tmp_path / "run"
    assert train(folder, method, kill=kill, **settings) == -9
    assert train(folder, method, **settings) == 0
    assert same_weights(folder, reference)
    assert refusal(folder) == refusal(reference)  # what train() returned: steps and mean loss
    assert (folder / "training.json").read_bytes() == (reference / "training.json").read_bytes()
    assert log_of(folder) == log_of(reference)


@pytest.mark.slow
def test_killed_again_and_again(tmp_path, whole):
    reference, folder = whole("balance"), tmp_path / "run"
    for kill in (("a step", 3), ("half a file", 3), ("a step", 2), ("before the manifest", 2), ("a step", 1)):
        assert train(folder, "balance", kill=kill) == -9
    assert train(folder, "balance") == 0
    assert same_weights(folder, reference)
    assert refusal(folder) == refusal(reference)


@pytest.mark.parametrize("kill", [("a step", 5), ("before the trained model", 1)], ids=["a step", "the end"])
def test_the_best_model_is_the_same(tmp_path, whole, kill):
    """With a learning rate at which the last model is not the best."""
    reference, folder = whole("ordinary", **BEST), tmp_path / "run"
    state = json.loads((reference / "checkpoint-6" / "trainer_state.json").read_text())
    assert state["best_global_step"] < 6
    assert train(folder, kill=kill, **BEST) == -9
    moved = folder.with_name("moved")  # the best checkpoint is written down with its folder
    shutil.move(folder, moved)
    assert train(moved, **BEST) == 0
    assert same_weights(moved, reference)
    assert log_of(moved) == log_of(reference)


@pytest.mark.slow
def test_early_stopping_goes_on_counting(tmp_path, whole):
    """transformers' own default begins to count anew at each resumption."""
    settings = {**BEST, "eval_steps": 1, "save_steps": 1, "learning_rate": 1.0, "max_steps": 12}
    ends = []
    for name, kills in (("whole", []), ("killed", [2, 1, 1, 1])):
        folder = tmp_path / name
        for step in kills:
            train(folder, kill=("a step", step), callbacks=[EarlyStoppingCallback(2)], **settings)
        assert train(folder, callbacks=[EarlyStoppingCallback(2)], **settings) == 0
        ends.append(refusal(folder))
    assert ends[0] == ends[1]
    assert ends[0][0] < 12
    assert same_weights(tmp_path / "whole", tmp_path / "killed")


# ---- damage


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """Killed at its fifth step, with the checkpoints of the second and the fourth."""
    folder = tmp_path_factory.mktemp("begun") / "run"
    assert train(folder, "adversarial", kill=("a step", 5)) == -9
    return folder


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 4
    path.write_bytes(content)


def copy(path):
    shutil.copy(path.parents[1] / "checkpoint-2" / path.name, path)


DAMAGES = {"deleted": lambda path: path.unlink(), "cut": cut, "flipped": flip, "copied": copy}
FILES = [
    "config.json", "generation_config.json", "manifest.json", "model.safetensors", "optimizer.pt", "rng_state.pth",
    "scheduler.pt", "stunting.pt", "sums.json", "trainer_state.json", "training_args.bin",
]  # fmt: skip


def test_every_file_is_known_here(begun):
    assert sorted(path.name for path in (begun / "checkpoint-4").iterdir()) == FILES
    needed = json.loads((begun / "checkpoint-4" / "manifest.json").read_text())["resume"]
    assert {*FILES} - {*needed} == {"manifest.json", "training_args.bin"}


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_checkpoint_is_passed_over_and_named(begun, tmp_path, name, how):
    folder = tmp_path / "run"
    shutil.copytree(begun, folder)
    path = folder / "checkpoint-4" / name
    before = path.read_bytes()
    DAMAGES[how](path)
    found = checkpoints.newest(folder)
    if path.exists() and path.read_bytes() == before:  # the configuration is the same in both
        assert found.checkpoint.step == 4
        return
    assert found.checkpoint.path == folder / "checkpoint-2"
    assert name in found.line or (name, how) == ("manifest.json", "copied")
    shutil.rmtree(folder / "checkpoint-2")
    with pytest.raises(InputError, match=r"none of its checkpoints can be resumed: checkpoint-4 \(") as refused:
        checkpoints.resumable(checkpoints.newest(folder), folder)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "how"), [("optimizer.pt", "deleted"), ("rng_state.pth", "copied"), ("model.safetensors", "flipped")]
)
def test_a_training_goes_on_from_the_older_one(begun, whole, tmp_path, name, how):
    folder = tmp_path / "run"
    shutil.copytree(begun, folder)
    DAMAGES[how](folder / "checkpoint-4" / name)
    assert train(folder, "adversarial") == 0
    assert same_weights(folder, whole("adversarial"))
    assert manifest.examine(folder / "checkpoint-4").step == 4  # written anew


def test_none_is_whole(begun, tmp_path):
    """The training does not begin anew by itself."""
    folder = tmp_path / "run"
    shutil.copytree(begun, folder)
    for step in (2, 4):
        (folder / f"checkpoint-{step}" / "rng_state.pth").unlink()
    assert train(folder, "adversarial") == 2
    assert "none of its checkpoints can be resumed: checkpoint-4 (rng_state.pth is missing) and" in refusal(folder)
    assert not (folder / "model.safetensors").exists()


def test_whole_checkpoints_in_the_wrong_place(begun, whole, tmp_path):
    """One under another's number, and one of another run under its own number: all their files are as written."""
    folder = tmp_path / "run"
    shutil.copytree(begun, folder)
    shutil.copytree(folder / "checkpoint-2", folder / "checkpoint-5")
    assert "checkpoint-5 (it is that of step 2)" in checkpoints.newest(folder).line
    shutil.rmtree(folder / "checkpoint-5")
    shutil.copytree(whole("balance") / "checkpoint-6", folder / "checkpoint-6")
    assert "checkpoint-6 (another run wrote it)" in checkpoints.newest(folder, run=mark_of(folder)).line
    assert train(folder, "adversarial") == 0
    assert same_weights(folder, whole("adversarial"))


def test_the_trained_model_is_written_again_where_it_was_damaged(whole, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole("balance"), folder)
    flip(folder / "model.safetensors")
    assert train(folder, "balance") == 0
    assert same_weights(folder, whole("balance"))
    assert refusal(folder) == refusal(whole("balance"))
    flip(folder / "model.safetensors")
    for path in folder.glob("checkpoint-*"):
        shutil.rmtree(path)
    assert train(folder, "balance") == 2
    assert "the run is complete, but model.safetensors is not what was written" in refusal(folder)


@pytest.mark.parametrize("how", ["cut", "flipped"])
def test_a_damaged_record_is_refused(begun, tmp_path, how):
    folder = tmp_path / "run"
    shutil.copytree(begun, folder)
    DAMAGES[how](folder / "training.json")
    assert train(folder, "adversarial") == 2
    assert "training.json cannot be read" in refusal(folder)


# ---- what cannot be resumed


def test_rows_that_a_resumption_would_read_again_are_refused(tmp_path):
    with pytest.raises(InputError, match="ignore_data_skip = True: a resumed training would read other rows"):
        config(tmp_path, ignore_data_skip=True)


def test_the_model_alone_cannot_be_resumed(tmp_path, whole):
    folder = tmp_path / "run"
    assert train(folder, "balance", save_only_model=True, kill=("a step", 5)) == -9
    assert train(folder, "balance", save_only_model=True) == 2
    assert "checkpoint-4 holds the model alone (save_only_model)" in refusal(folder)
    for path in folder.glob("checkpoint-*"):
        shutil.rmtree(path)
    assert train(folder, "balance", save_only_model=True, kill=("before the end is noted", 1)) == -9
    assert train(folder, "balance", save_only_model=True) == 0  # there is nothing left to train
    assert same_weights(folder, whole("balance"))
    assert refusal(folder) == refusal(whole("balance"))


@pytest.mark.parametrize("module", ["snellen.training.objectives.movement", "snellen.lookahead.search"])
def test_other_code_does_not_go_on(begun, tmp_path, module):
    """As an exam's key does; the report and the command line are no part of it."""
    folder = tmp_path / "run"
    shutil.copytree(begun, folder)
    settings = {name: value for name, value in CHECKPOINTS.items() if name != "save_steps"}
    trainer = StuntingTrainer(model(attention_dropout=0.0), config(folder, "adversarial", **settings), rows())
    with touched(module), pytest.raises(InputError, match=r"made by other code \(code: .* go on with the code that"):
        claim(trainer, folder)
    with touched("snellen.cli.train"):
        claim(trainer, folder)
    shutil.rmtree(folder)
    shutil.copytree(begun, folder)
    with torch.no_grad():
        trainer.model.lm_head.weight[0, 0] += 1
    other = StuntingTrainer(trainer.model, config(folder, "adversarial", **settings), rows())
    with pytest.raises(InputError, match=r"weights before training: .* there, .* here"):
        claim(other, folder)


def test_another_number_of_processes_does_not_go_on(begun):
    """Each process has its own random state."""
    found = checkpoints.newest(begun, processes=2)
    assert found.checkpoint is None
    assert "the random states of 1 processes are in it, and here are 2" in found.line


def test_a_checkpoint_of_transformers_own_must_be_complete(begun, tmp_path):
    """It has no manifest; without a file transformers would go on all the same."""
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"):
        folder = tmp_path / name / "checkpoint-4"
        shutil.copytree(begun / "checkpoint-4", folder)
        (folder / "manifest.json").unlink()
        checkpoints.check_given(folder, processes=1)
        (folder / name).unlink()
        with pytest.raises(InputError, match=f"{name} is missing"):
            checkpoints.check_given(folder, processes=1)


def test_what_torch_says_of_a_full_disk_is_told_in_words(tmp_path):
    """Its files are zip archives written by C++, whose error names no system's one."""
    folder = tmp_path / "checkpoint-2"
    folder.mkdir()
    said = r"checkpoint of step 2 could not be written .*only in part, as on a full disk\); there is no earlier one"
    with pytest.raises(InputError, match=said), checkpoints.writing(folder, what="the checkpoint of step 2"):
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 5312 vs 5204")
    assert not folder.exists()
