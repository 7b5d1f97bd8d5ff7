"""Every file of a run folder, damaged in every way: the reader says what is wrong in one line, or reads the same."""

import json
import os
import random
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from snellen.cli import main
from snellen.errors import InputError
from snellen.report import data
from snellen.results import files
from snellen.results.compare import compare_runs
from snellen.results.store import Run
from tests.results.test_compare import run as make_run

DAMAGES = 320


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("run") / "a", units=10)


@pytest.fixture(scope="module")
def truth(whole):
    return read(whole, whole)


def read(folder: Path, other: Path):
    """What the commands read of a run."""
    found = compare_runs(folder, other).as_dict()
    rows, notes = found["rows"], found["notes"]
    evidence = data.read(folder)
    return json.dumps([rows, found["settings"], notes, [repr(f) for f in evidence.findings]], sort_keys=True)


def paths(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.name != ".lock")


def damage(path: Path, dice: random.Random) -> str:
    content = bytearray(path.read_bytes())
    how = dice.choice(["cut", "empty", "garbage", "nul", "flip", "flip", "flip", "deep", "utf", "gone", "folder",
                       "fifo", "append", "other", "digit", "device", "unreadable link"])  # fmt: skip
    if how == "cut":
        path.write_bytes(content[: dice.randrange(len(content))])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "garbage":
        path.write_bytes(dice.randbytes(dice.randrange(1, 400)))
    elif how == "nul":
        path.write_bytes(bytes(len(content)))
    elif how == "flip":
        for _ in range(dice.choice([1, 1, 5])):
            content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
        path.write_bytes(content)
    elif how == "deep":
        path.write_bytes(b'{"schema": 1, "findings": ' + b"[" * 100_000)
    elif how == "utf":
        content[dice.randrange(len(content))] = 0xFF
        path.write_bytes(content)
    elif how == "append":
        path.write_bytes(bytes(content) + dice.randbytes(5))
    elif how == "other":
        files.write_table(path, pa.table({"document": ["a"], "log_prob": [None], "value": [float("inf")]}))
    elif how == "digit":
        places = [i for i, byte in enumerate(content) if 0x30 <= byte <= 0x39]
        content[dice.choice(places or [0])] = 0x30 + dice.randrange(10)
        path.write_bytes(content)
    else:
        path.unlink()
        if how == "folder":
            path.mkdir()
        elif how == "fifo":
            os.mkfifo(path)
        elif how == "device":
            path.symlink_to("/dev/zero")
        elif how == "unreadable link":
            path.symlink_to(path.name)
    return how


def test_no_damage_is_a_traceback_or_another_number(whole, truth, tmp_path):
    said = {}
    for seed in range(DAMAGES):
        dice = random.Random(seed)
        folder = tmp_path / str(seed)
        shutil.copytree(whole, folder)
        name = dice.choice(paths(folder))
        how = damage(folder / name, dice)
        line = found = None
        try:
            found = read(folder, whole)
        except InputError as error:
            line = said[how] = str(error)
        assert found == truth if line is None else str(folder) in line and "\n" not in line, (seed, name, how)
        shutil.rmtree(folder)
    assert len(said) >= 14


FOREIGN = {
    "run.json": [
        {}, [], {"schema": 1}, {"key": []}, {"progress": 3}, {"text": {"documents": 3}}, {"text": {"documents": [3]}},
        {"identity": [1]}, {"text": []}, {"key": {"made by": 3}}, {"identity": {"name": {"a": 1}}},
        {"preflight": {"x": {"passed": 1, "value": "y"}}}, {"settings": {"width": []}}, {"timings": None},
    ],
    "findings.json": [
        {}, [], {"schema": 1}, {"schema": 1, "findings": 3}, {"schema": 1, "findings": [3]},
        *({"value": value} for value in ("a", [1], True, {"x": 1}, 1e999)), {"level": "x"}, {"level": 2.0},
        {"level": None},
        {"n": 3}, {"n": {"units": "x"}}, {"unit": None}, {"details": [1]}, {"reason": 4}, {"further": 1}, {"low": "x"},
        {"verdict": {"a": 1}}, {"settings": "x"},
    ],
}  # fmt: skip


@pytest.mark.parametrize(("name", "change"), [(name, change) for name in FOREIGN for change in FOREIGN[name]])
def test_a_folder_of_other_making_is_one_line(whole, truth, tmp_path, capsys, name, change):
    """Without digests, as of older versions or by another hand."""
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    about = json.loads((folder / "run.json").read_text())
    about.pop("sha256"), about.pop("files")
    (folder / "run.json").write_text(json.dumps(about))
    content = json.loads((folder / name).read_text())
    whole_file = not isinstance(change, dict) or not change or "findings" in change or change == {"schema": 1}
    if whole_file:
        content = change
    elif name == "run.json":
        content |= change
    else:
        content["findings"][0] |= change
    (folder / name).write_text(json.dumps(content))
    for command in (["compare", str(folder), str(whole)], ["report", str(folder)]):
        code = main(command)
        shown = capsys.readouterr().err
        assert code in (0, 2), shown
        assert code == 0 or len(shown.strip().splitlines()) == 1


COLUMNS = {
    "start": pa.array(["x"]), "end": pa.array([2**62]), "log_prob": pa.array([float("nan")]),
    "document": pa.array([-1]), "piece": pa.array([3]), "unit": pa.array([None], pa.int32()), "token": pa.array([0.5]),
}  # fmt: skip


@pytest.mark.parametrize("name", COLUMNS)
def test_columns_of_the_wrong_kind_are_refused(whole, tmp_path, name):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    about = json.loads((folder / "run.json").read_text())
    about.pop("sha256"), about.pop("files")
    (folder / "run.json").write_text(json.dumps(about))
    table = Run.read(folder).tokens
    column = pa.concat_arrays([COLUMNS[name]] * len(table))
    files.write_table(folder / "tokens.parquet", table.set_column(table.column_names.index(name), name, column))
    if name == "piece":  # a number is a text, and a short one: the characters are then other ones
        column = pa.concat_arrays([pa.array([b"\xff"])] * len(table))
        files.write_table(folder / "tokens.parquet", table.set_column(table.column_names.index(name), name, column))
    with pytest.raises(InputError, match="cannot be read"):
        compare_runs(folder, whole)


def test_a_run_under_a_folder_with_an_equals_sign_has_its_own_columns_only(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "unit=7" / "run")
    assert Run.read(tmp_path / "unit=7" / "run").tokens.equals(Run.read(whole).tokens)
