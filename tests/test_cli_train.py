"""`snellen train` as a user runs it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from snellen.cli import main
from tests import tiny

SETTINGS = """
model = "{model}"

[data]
train = ["{folder}/text0.txt", "{folder}/text1.txt"]
held_out = "{folder}/text2.txt"

[training]
output_dir = "{folder}/run"
method = "balance"
max_steps = 4
per_device_train_batch_size = 4
learning_rate = 1e-2
max_length = 32
logging_steps = 2
save_steps = 2
use_cpu = true

[amplifier]
kind = "beam"
width = 2
horizon = 3

[monitor]
kind = "particles"
particles = 4
horizon = 3
every = 4
tokens = 2048
"""


@pytest.fixture
def settings(tmp_path) -> Path:
    model = tiny.model(tmp_path / "model")
    tiny.texts(tmp_path, words=2500)
    path = tmp_path / "train.toml"
    path.write_text(SETTINGS.format(model=model, folder=tmp_path))
    return path


def test_train_exam_and_the_same_command_again(settings, tmp_path, capfd):
    assert main(["train", str(settings), "--quiet"]) == 0
    said = capfd.readouterr()
    trained, model = said.out.splitlines()
    assert re.fullmatch(r"trained 4 steps, mean loss \d+\.\d{4}", trained)
    assert model == f"model   {tmp_path}/run"
    assert said.err == ""
    run = tmp_path / "run"
    looks = [json.loads(line) for line in (run / "monitor.jsonl").read_text().splitlines()]
    assert [look["step"] for look in looks if "step" in look] == [0, 4]
    before = load_file(run / "model.safetensors")
    assert main(["train", str(settings), "--quiet", "--deploy", "--json"]) == 0
    after = load_file(run / "model.safetensors")
    noted = json.loads((run / "training.json").read_text())["finished"]["files"]
    assert noted == {"model.safetensors": hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()}
    assert all((before[name] == after[name]).all() for name in before)
    outcome = json.loads(capfd.readouterr().out)
    assert (outcome["steps"], outcome["model"], outcome["lookahead"]["width"]) == (4, f"{tmp_path}/run", 2)
    assert main(["generate", str(run), "--prompt", "the cat", "--max-new-tokens", "3", "--json", "--quiet"]) == 0
    assert json.loads(capfd.readouterr().out)["settings"]["width"] == 2
    text = str(tmp_path / "text2.txt")
    options = ["--text", text, "--limit", "600", "--window", "48", "--width", "2", "--horizon", "2", "--particles", "0"]
    assert main(["exam", str(run), *options, "--out", str(tmp_path / "exam"), "--quiet"]) == 0


def test_what_is_told_is_one_line_after_another(settings, tmp_path, capfd):
    """Step, losses, the monitor's gain and the time left; no dict, no bar, nothing of it on standard output."""
    short = sets("training.eval_strategy=steps", "training.eval_steps=2", "monitor.tokens=450", "monitor.horizon=2")
    assert main(["train", str(settings), *short]) == 0
    said = capfd.readouterr()
    assert [line.split()[0] for line in said.out.splitlines()] == ["trained", "model"]
    lines = [line for line in said.err.splitlines() if line.startswith("step ")]
    assert re.fullmatch(r"step 2 of 4, loss [\d.]+, learning rate [\d.e-]+, about \d+ s left", lines[1])
    assert re.fullmatch(r"step 2 of 4, held-out loss [\d.]+, about \d+ s left", lines[2])
    assert [line.split(":")[0] for line in lines if "lookahead gain" in line] == ["step 0", "step 4"]
    assert "training 4 steps" in said.err.splitlines()
    assert "{" not in said.err + said.out
    assert "%|" not in said.err
    assert main(["train", str(settings), *short]) == 0
    assert not [line for line in capfd.readouterr().err.splitlines() if line.startswith("step ")]


def test_the_models_own_configuration_is_changed(settings, tmp_path, capfd):
    model, tokenizer = gpt2_with_dropout(), AutoTokenizer.from_pretrained(tmp_path / "model")
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "gpt2")
    settings.write_text(settings.read_text().partition("[amplifier]")[0])
    plain = sets(f"model={tmp_path}/gpt2", "training.method=myopic", "training.max_steps=1")
    assert main(["train", str(settings), "--quiet", *plain]) == 2
    said = capfd.readouterr().err
    assert "attn_pdrop = 0.1" in said
    (mend,) = re.findall(r"--set (model\.config\.\S+=0)", said)  # the line says what works
    assert main(["train", str(settings), "--quiet", *plain, *sets(mend)]) == 0
    trained = json.loads((tmp_path / "run" / "config.json").read_text())
    assert trained["attn_pdrop"] == 0.0
    assert trained["resid_pdrop"] == 0.1
    shape = sets("model.from_scratch=true", "model.config.n_layer=2", f"training.output_dir={tmp_path}/other")
    assert main(["train", str(settings), "--quiet", *plain, *sets(mend), *shape]) == 0
    assert json.loads((tmp_path / "other" / "config.json").read_text())["n_layer"] == 2


def gpt2_with_dropout():
    return GPT2LMHeadModel(GPT2Config(vocab_size=300, n_embd=16, n_layer=1, n_head=2, n_positions=64))


def sets(*changes):
    return [part for change in changes for part in ("--set", change)]


def test_a_shape_alone_is_trained_from_scratch(settings, tmp_path):
    settings.write_text(settings.read_text().partition("[monitor]")[0])
    short = ["training.max_steps=1", "training.save_strategy=no", "training.learning_rate=0.0"]
    changes = [part for change in short for part in ("--set", change)]
    weights = []
    for seed in (1, 1, 2):
        run = tmp_path / f"run{len(weights)}"
        more = ["model.from_scratch=true", f"training.seed={seed}", f"training.output_dir='{run}'"]
        arguments = [*changes, *(part for change in more for part in ("--set", change))]
        assert main(["train", str(settings), "--quiet", *arguments]) == 0
        weights.append(load_file(run / "model.safetensors")["model.layers.0.mlp.up_proj.weight"])
    shipped = load_file(tmp_path / "model" / "model.safetensors")["model.layers.0.mlp.up_proj.weight"]
    assert (weights[0] == weights[1]).all()
    assert (weights[0] != weights[2]).any()
    assert (weights[0] != shipped).any()


def test_check_trains_nothing(settings, tmp_path, capfd):
    assert main(["train", str(settings), "--check", "--quiet"]) == 0
    assert capfd.readouterr().out == f"{settings}: in order\n"
    assert not list((tmp_path / "run").glob("*.safetensors"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("training.max_stesp=3", "training.max_stesp is unknown (do you mean max_steps?)"),
        ("training.method=balanced", "method = 'balanced': must be one of ordinary, myopic"),
        ("amplifier.kind=beams", "amplifier.kind = 'beams': must be one of beam, particles, learned"),
        ("amplifier.depth=3", "amplifier.depth is unknown (do you mean width?); known are horizon, width, alpha"),
        ("monitor.kind=beam", "monitor.particles is unknown"),
        ("trainig.max_steps=3", "'trainig' is unknown (do you mean training?)"),
        ("data.train=[]", "data.train: name the texts to train on"),
        ('data.train="missing.txt"', "missing.txt"),
        ("training.max_length=64", "max_length = 64: the model has 64 places, and a horizon of 3 needs 2"),
        ("monitor.tokens=10", "monitor tokens 10"),
        ("max_steps=3", "write TABLE.NAME=VALUE"),
        ("model.source=nowhere/at/all", "nowhere/at/all"),
        ("monitor.alpha=1.0", "no lookahead to stunt or to watch"),
        ("training.per_device_train_batch_size=0", "training.per_device_train_batch_size = 0: must be at least 1"),
        ("training.max_steps=2.5", "training.max_steps = 2.5: must be a whole number"),
        ("training.learning_rate=nan", "training.learning_rate = nan: must be a finite number"),
        ("training.report_to=nonsense", "report_to = 'nonsense': must be of none, all"),
        ("training.optim=lomo", "optim = 'lomo': "),
        ("training.lr_scheduler_type=x", "training.lr_scheduler_type = 'x': must be one of linear"),
        ("training.lr_scheduler_kwargs.wrong=1", "lr_scheduler_kwargs = {'wrong': 1}"),
        ("training.max_steps.deep=1", "max_steps = 4 is a value, not a table"),
        ("data.train=[1]", "data.train = [1]: must be a list"),
        ("monitor.every=0", "monitor.every = 0: must be at least 1"),
        ("model.attn_pdrop=0", "what the model's own config has is set as model.config.attn_pdrop"),
        ("model.config.attn_pdrop=0", "model.config.attn_pdrop = 0: llama has no such attribute"),
        ("model.config.atention_dropout=0", "(do you mean attention_dropout?)"),
        ("model.config.attention_dropout=much", "model.config.attention_dropout = 'much': must be like 0.0"),
        ("model.config.model_type=gpt2", "model.config.model_type = 'gpt2': is not changed this way"),
        ("training.learning_rate=fast", "training.learning_rate = 'fast': must be a number"),
    ],
)
def test_what_is_wrong_is_one_line(settings, capfd, change, said):
    assert main(["train", str(settings), "--quiet", "--set", change]) == 2
    captured = capfd.readouterr()
    assert said in captured.err
    assert len(captured.err.splitlines()) == 1
    assert captured.out == ""


@pytest.mark.parametrize(("text", "said"), [("[data", "no TOML"), (None, "No such file")])
def test_settings_that_cannot_be_read(tmp_path, capfd, text, said):
    path = tmp_path / "bad.toml"
    if text is not None:
        path.write_text(text)
    assert main(["train", str(path)]) == 2
    assert said in capfd.readouterr().err


@pytest.mark.slow
def test_an_interrupted_training_goes_on(settings, tmp_path):
    command = [sys.executable, "-m", "snellen", "train", str(settings), "--set", "training.max_steps=400"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    for _ in range(600):
        if list((tmp_path / "run").glob("checkpoint-*/trainer_state.json")) or running.poll() is not None:
            break
        time.sleep(0.1)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130, said
    assert "interrupted" in said.splitlines()[-1]
    assert "Traceback" not in said
    assert list((tmp_path / "run").glob("checkpoint-*"))


def test_no_folder_of_others_is_written_to(settings, tmp_path, capsys):
    """Its own model's above all: the weights would be gone."""
    model = tmp_path / "model"
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "letter.txt").write_text("dear")
    before = {path: path.read_bytes() for folder in (model, tmp_path / "letters") for path in folder.iterdir()}
    wrong = {
        model: "is not empty and holds no training of ours", tmp_path / "letters": "there is 'letter.txt'",
        model / "run": "lies inside", tmp_path: "is not empty", settings: "is a file", settings / "below": "a file",
    }  # fmt: skip
    for folder, said in wrong.items():
        assert main(["train", str(settings), "--set", f"training.output_dir={folder}"]) == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert said in line, line
        assert "choose another output_dir" in line
    now = {path: path.read_bytes() for folder in (model, tmp_path / "letters") for path in folder.iterdir()}
    assert now == before


def test_two_trainings_do_not_write_into_one_folder(settings, tmp_path, capsys):
    from snellen.results.folders import locked

    with locked(tmp_path / "run"):
        assert main(["train", str(settings)]) == 2
        assert "is being written by process" in capsys.readouterr().err.splitlines()[-1]
        assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
