"""`snellen sweep mesa`: what it is told wrongly, in one line."""

from __future__ import annotations

import pytest

from snellen.cli import main
from snellen.studies.mesa.training import Plan


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--tasks", "fulll"], "tasks 'fulll': no such task; known are full, partial, contracting"),
        (["--only", "mesaa"], "only 'mesaa': no such variant; known are mesa, mesa-small"),
        (["--seeds", "0"], "seeds = 0: must be a whole number of at least 1"),
        (["--tasks", "text"], "texts: the task 'text' needs a text to train on; give --texts FOLDER"),
        (["--texts", "nowhere"], "texts 'nowhere': train.jsonl cannot be read (No such file or directory); give"),
        (["--tasks", "full", "--only", "softmax-linear"], "only softmax-linear: not trained on full"),
        (["--processes", "0"], "processes = 0"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, options, says):
    assert main(["sweep", "mesa", *options, "--out", str(tmp_path / "out"), "--quiet"]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_a_folder_of_something_else_is_left_alone(tmp_path, capsys):
    (tmp_path / "tuning").mkdir()
    rate = Plan().rates[0]
    (tmp_path / "tuning" / f"regression-mesa-{rate:g}.json").write_text("{}")
    assert main(["sweep", "mesa", "--tasks", "regression", "--out", str(tmp_path)]) == 2
    assert "is no result of this study; choose another folder" in capsys.readouterr().err


def test_a_text_that_is_none_is_refused(tmp_path, capsys):
    (tmp_path / "train.jsonl").write_text('{"texts": 1}\n')
    assert main(["sweep", "mesa", "--texts", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "must hold one JSON object with a field 'text' a line" in capsys.readouterr().err


def test_options_of_the_one_study_are_refused_by_the_other(capsys):
    assert main(["sweep", "stunting", "--tasks", "full"]) == 2
    assert "tasks: is an option of the study mesa" in capsys.readouterr().err


def test_help_tells_of_both(capsys):
    assert main(["sweep", "--help"]) == 0
    said = capsys.readouterr().out
    assert "--texts" in said
    assert "one mesa-layer against deep linear and softmax" in " ".join(said.replace("│", " ").split())
