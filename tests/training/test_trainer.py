"""The engine: what transformers' Trainer gives works with every objective, and changes nothing but rounding."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import EarlyStoppingCallback, GPT2Config, GPT2LMHeadModel, TrainerCallback

from snellen.errors import InputError, Refused
from snellen.lookahead.batch import dropout_of
from snellen.training import StuntingConfig, StuntingTrainer
from snellen.training.config import METHODS, PLAIN
from tests.training.tiny_training import AMPLIFIERS, VOCABULARY, config, model, rows, trained, weights

STUNTING = [name for name in METHODS if name not in PLAIN]
SCRIPT = Path(__file__).with_name("tiny_training.py")


def run(*arguments, processes=1, check=True):
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    if processes > 1:
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        command = [sys.executable, *torchrun, *command[1:]]
    root = Path(__file__).parents[2]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(root), str(root / "src")])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert not check or done.returncode == 0, done.stderr[-3000:]
    return done


def assert_close(one, other, tolerance):
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=0, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


def moved(before, after):
    return max(float((before[name] - after[name]).abs().max()) for name in before)


@pytest.mark.parametrize("method", [*METHODS, "balance, gradient", "balance, step"])
def test_eight_micro_batches_are_one_batch_of_eight(tmp_path, method):
    method, _, form = method.partition(", ")
    form = {"balance_form": form} if form else {}
    settings = {"max_steps": 2, "optim": "sgd", "learning_rate": 0.5, **form}  # Adam's first steps are signs
    one = trained(tmp_path / "one", method, **settings)
    many = trained(tmp_path / "many", method, per_device_train_batch_size=1, gradient_accumulation_steps=8, **settings)
    before = {name: tensor.detach() for name, tensor in model().named_parameters()}
    assert moved(before, weights(one)) > 1e-2
    assert_close(weights(one), weights(many), 2e-5)  # float32, on whatever processor


@pytest.mark.parametrize("method", STUNTING)
def test_stunting_changes_the_training(tmp_path, method):
    """The control of all equivalences: an objective that did nothing would pass them."""
    settings = {"optim": "sgd", "learning_rate": 0.5}
    stunted, ordinary = trained(tmp_path / "a", method, **settings), trained(tmp_path / "b", "ordinary", **settings)
    assert moved(weights(stunted), weights(ordinary)) > 1e-3


@pytest.mark.parametrize("method", ["skip", "penalty", "balance", "particle"])
def test_a_horizon_of_one_stunts_nothing(tmp_path, method):
    """What is stunted is the lookahead alone: with D = 1 there is none, and the training is the ordinary one."""
    stunted = trained(tmp_path / "a", method, amplifier=replace(AMPLIFIERS[method], horizon=1))
    assert_close(weights(stunted), weights(trained(tmp_path / "b", "ordinary")), 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ordinary", "balance", "balance, step", "adversarial"])
def test_two_processes_are_one(tmp_path, method):
    method, _, form = method.partition(", ")
    # Few steps: a rounding that turns the sign of a movement turns a weight from 1 to 0, and grows from step to step.
    settings = {"max_steps": 2, "optim": "sgd", "learning_rate": 0.5} | ({"balance_form": form} if form else {})
    one, two = tmp_path / "one", tmp_path / "two"
    halves = {"per_device_train_batch_size": 4, "ddp_backend": "gloo"}
    run(one, method, "--settings", json.dumps({**settings, "per_device_train_batch_size": 8}))
    run(two, method, "--settings", json.dumps({**settings, **halves}), processes=2)
    assert_close(load_file(one / "model.safetensors"), load_file(two / "model.safetensors"), 1e-5)


@pytest.mark.slow
def test_two_processes_are_killed_and_go_on(tmp_path):
    """The first of them holds the folder for both; each has its random state in the checkpoint."""
    both = {"save_strategy": "steps", "save_steps": 2, "logging_steps": 3}
    settings = json.dumps({**both, "per_device_train_batch_size": 4, "ddp_backend": "gloo"})
    run(tmp_path / "whole", "balance", "--settings", settings, processes=2)
    killed = run(tmp_path / "killed", "balance", "--settings", settings, "--kill", 3, processes=2, check=False)
    assert "SIGKILL" in killed.stderr, killed.stderr[-3000:]
    assert not (tmp_path / "killed" / "model.safetensors").exists()
    files = json.loads((tmp_path / "killed" / "checkpoint-2" / "manifest.json").read_text())["files"]
    assert {"rng_state_0.pth", "rng_state_1.pth", "sums.json"} <= {*files}
    alone = run(tmp_path / "killed", "balance", "--settings", json.dumps(both), check=False)
    assert "the random states of 2 processes are in it, and here are 1" in alone.stderr
    run(tmp_path / "killed", "balance", "--settings", settings, processes=2)
    whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    records = [(tmp_path / name / "training.json").read_bytes() for name in ("whole", "killed")]
    assert records[0] == records[1]


@pytest.mark.slow
def test_two_processes_evaluate_every_row_once(tmp_path):
    """23 rows, 3 at a time: the last batches are filled up with rows that were evaluated before."""
    losses = []
    for processes, size in ((1, 23), (1, 1), (2, 3)):
        settings = {"per_device_eval_batch_size": size} | ({"ddp_backend": "gloo"} if processes > 1 else {})
        folder = tmp_path / f"{processes} {size}"
        run(folder, "ordinary", "--evaluate", 23, "--settings", json.dumps(settings), processes=processes)
        losses.append(float((folder / "eval_loss").read_text()))
    assert losses == pytest.approx([losses[0]] * 3, abs=5e-6)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["particle", "adversarial"])
def test_a_killed_run_goes_on_as_if_it_had_not_been(tmp_path, method):
    settings = json.dumps({"save_strategy": "steps", "save_steps": 2, "max_steps": 6})
    run(tmp_path / "whole", method, "--settings", settings)
    killed = run(tmp_path / "killed", method, "--settings", settings, "--kill", 5, check=False)
    assert killed.returncode == -9
    assert not (tmp_path / "killed" / "model.safetensors").exists()
    run(tmp_path / "killed", method, "--settings", settings)
    whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_checkpoint_that_was_not_finished_is_passed_over(tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 2, "save_total_limit": 5}
    whole = trained(tmp_path / "whole", **settings)
    folder = tmp_path / "cut"
    trained(folder, **settings)
    (folder / "model.safetensors").unlink()
    (folder / "checkpoint-4" / "trainer_state.json").write_text('{"global_step": 4, "best')
    again = StuntingTrainer(model(), config(folder, **settings), rows())
    again.train()
    assert_close(weights(whole), weights(again), 0)


@pytest.mark.parametrize("settings", [{}, {"save_strategy": "steps", "save_steps": 2}])
def test_a_run_that_is_complete_is_not_trained_on(tmp_path, settings):
    first = trained(tmp_path, **settings)
    again = StuntingTrainer(model(), config(tmp_path, **settings), rows())
    result = again.train()
    assert result.global_step == again.state.global_step == 4
    assert result.training_loss == first.state.log_history[-1]["train_loss"]
    assert_close(weights(first), weights(again), 0)
    (
        tmp_path / "model.safetensors"
    ).unlink()  # killed before it was written: trained again, or from the last checkpoint
    third = trained(tmp_path, **settings)
    assert_close(weights(first), weights(third), 0)
    assert (tmp_path / "model.safetensors").exists()


class Full(TrainerCallback):
    """From a step on no file can be written whole."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **_):
        if state.global_step == self.step:
            import resource
            import signal

            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, resource.RLIM_INFINITY))


def test_a_full_disk_leaves_the_last_checkpoint_good(tmp_path):
    import resource
    import signal

    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)
    settings = {"save_strategy": "steps", "save_steps": 2}
    trainer = StuntingTrainer(model(), config(tmp_path, **settings), rows(), callbacks=[Full(3)])
    try:
        with pytest.raises(InputError, match=r"checkpoint of step 4 could not be.*last good checkpoint is .*-2"):
            trainer.train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-2"]
    StuntingTrainer(model(), config(tmp_path, **settings), rows()).train()
    assert (tmp_path / "model.safetensors").exists()


class Poison(TrainerCallback):
    def on_step_end(self, args, state, control, model, **_):
        if state.global_step == 3:
            with torch.no_grad():
                model.lm_head.weight[0, 0] = torch.nan


@pytest.mark.parametrize("method", ["ordinary", "balance"])
def test_a_loss_that_is_no_number_stops_the_run(tmp_path, method):
    settings = {"save_strategy": "steps", "save_steps": 2}
    trainer = StuntingTrainer(model(), config(tmp_path, method, **settings), rows(), callbacks=[Poison()])
    with pytest.raises(Refused, match=r"(nan|NaN).* at step 4, training rows \d+, .*good checkpoint is .*-2"):
        trainer.train()
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]


@pytest.mark.parametrize("method", ["ordinary", "balance", "adversarial"])
def test_bfloat16(tmp_path, method):
    trainer = trained(tmp_path, method, bf16=True)
    assert all(torch.isfinite(tensor).all() for tensor in weights(trainer).values())
    assert trainer.model.dtype == torch.float32
    # Of the first step: later ones part ways, since a token weighs 1 or 0.
    name = "loss" if method == "ordinary" else "stunting/naive loss, nats per token"
    short, exact = (one.state.log_history[0][name] for one in (trainer, trained(tmp_path / "exact", method)))
    assert short == pytest.approx(exact, abs=0.05)
    assert short != exact


def test_activation_checkpointing_changes_nothing(tmp_path):
    prefix = "activation" if hasattr(StuntingConfig, "activation_checkpointing") else "gradient"  # transformers' names
    settings = {f"{prefix}_checkpointing": True, f"{prefix}_checkpointing_kwargs": {"use_reentrant": False}}
    assert_close(weights(trained(tmp_path / "a", **settings)), weights(trained(tmp_path / "b")), 1e-6)


def test_early_stop(tmp_path):
    args = config(
        tmp_path, max_steps=12, learning_rate=1.0, eval_strategy="steps", eval_steps=1, save_strategy="steps",
        save_steps=1, load_best_model_at_end=True, metric_for_best_model="eval_loss", greater_is_better=False,
    )  # fmt: skip
    trainer = StuntingTrainer(model(), args, rows(), rows(seed=1), callbacks=[EarlyStoppingCallback(2)])
    trainer.train()
    assert 3 <= trainer.state.global_step < 12
    assert (tmp_path / "model.safetensors").exists()


def test_dropout_is_left_out_of_the_search(tmp_path):
    """What is searched is the model without dropout; a step is reproducible nevertheless."""

    def once(folder):
        trainer = StuntingTrainer(model(attention_dropout=0.2), config(folder), rows())
        trainer.train()
        return weights(trainer)

    assert_close(once(tmp_path / "a"), once(tmp_path / "b"), 0)
    assert moved(once(tmp_path / "c"), weights(trained(tmp_path / "d"))) > 1e-3


@pytest.mark.parametrize("form", ["gradient", "step"])
def test_projections_change_the_training(tmp_path, form):
    projected_ = trained(tmp_path / "a", balance_form=form)
    assert moved(weights(projected_), weights(trained(tmp_path / "b", "ordinary"))) > 1e-3


def test_gpt2_without_dropout_shares_its_forward_pass():
    """Its configuration has a rate of .1 for a summary that a language model does not make."""
    config_ = GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=1, n_head=2, n_positions=32)
    assert dropout_of(GPT2LMHeadModel(config_)) == "transformer.drop.p = 0.1"
    for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop"):
        setattr(config_, name, 0.0)
    assert config_.summary_first_dropout > 0
    assert dropout_of(GPT2LMHeadModel(config_)) is None


class Heard(TrainerCallback):
    def __init__(self):
        self.logs = []

    def on_log(self, args, state, control, logs, **_):
        self.logs.append(dict(logs))


def test_loggers_hear_what_the_objective_did(tmp_path):
    heard = Heard()
    StuntingTrainer(model(), config(tmp_path), rows(), callbacks=[heard]).train()
    steps = [logs for logs in heard.logs if "loss" in logs]
    assert len(steps) == 4
    for logs in steps:
        assert abs(logs["stunting/movement left after balancing, mean"]) < 1e-7
        assert 0 < logs["stunting/share of tokens trained on"] < 1
        assert logs["stunting/naive loss, nats per token"] > logs["loss"]


def test_evaluation_is_of_the_ordinary_loss(tmp_path):
    stunted = StuntingTrainer(model(), config(tmp_path / "a"), rows(), rows(seed=1))
    plain = StuntingTrainer(model(), config(tmp_path / "b", "ordinary"), rows(), rows(seed=1))
    assert stunted.evaluate()["eval_loss"] == pytest.approx(plain.evaluate()["eval_loss"], abs=2e-3)


@pytest.mark.parametrize("amplifier", AMPLIFIERS.values(), ids=AMPLIFIERS)
def test_a_row_of_padding_changes_no_weight(tmp_path, amplifier):
    """Rows of different lengths in one batch, and each alone: the same tokens get the same weights."""
    method = next(name for name, one in AMPLIFIERS.items() if one is amplifier)
    data = [rows()[0], rows()[1][:4]]
    settings = {"optim": "sgd", "learning_rate": 0.5, "max_steps": 1}
    together = trained(tmp_path / "a", method, data=data, per_device_train_batch_size=2, **settings)
    apart = trained(
        tmp_path / "b", method, data=data, per_device_train_batch_size=1, gradient_accumulation_steps=2, **settings
    )
    assert_close(weights(together), weights(apart), 1e-6)
