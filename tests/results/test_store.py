import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest

from snellen.errors import InputError
from snellen.results import files
from snellen.results.findings import Finding
from snellen.results.pieces import read_piece
from snellen.results.store import Run, Writer, fingerprint, read_run_json, refuse_other

KEY = {"model weights": "abc", "width": 4, "texts": [["a.txt", "12"]]}


def finding(value: float = 0.25) -> Finding:
    return Finding(
        measure="m", question="?", value=value, unit="nats", low=0.0, high=1.0, level=0.95, n={"units": 9},
        excluded={}, control={}, verdict="a gain", reading="so so", settings={},
    )  # fmt: skip


def piece(number: int, rows: int = 3) -> pa.Table:
    return pa.table({"token": pa.array([number] * rows, pa.int32()), "log_prob": pa.array([-1.0] * rows, pa.float32())})


def writer(folder: Path, windows: int = 3, key: dict = KEY) -> Writer:
    return Writer(folder, key=key, content={"settings": {"width": 4}}, windows=[3] * windows)


def finished(folder: Path) -> Run:
    with writer(folder) as w:
        for number in range(3):
            w.write_piece(number, piece(number))
        w.finish(w.pieces(), {"arms": pa.table({"x": [1]})}, [finding()])
    return Run.read(folder)


def times(folder: Path) -> dict[Path, int]:
    files = [entry for entry in folder.rglob("*") if entry.is_file() and entry.name != ".lock"]
    return {entry: entry.stat().st_mtime_ns for entry in files}


def test_pieces_become_a_run(tmp_path):
    run = finished(tmp_path / "runs" / "a")
    assert run.tokens["token"].to_pylist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert run.findings == [finding()]
    assert run.table("arms").to_pylist() == [{"x": 1}]
    assert run.table("none") is None
    assert run.report is None
    assert run.content["progress"] == {"windows": 3, "done": 3, "finished": True}
    assert sorted(entry.name for entry in run.folder.iterdir()) == [
        ".lock", "findings.json", "run.json", "tables", "tokens.parquet",
    ]  # fmt: skip


def test_resumes_what_is_whole(tmp_path):
    with writer(tmp_path) as w:
        w.write_piece(0, piece(0))
        w.write_piece(2, piece(2))
    with writer(tmp_path) as w:
        assert w.done == {0, 2}
        assert not w.finished
        assert w.content["progress"]["done"] == 2


PIECE_HARMS = ["truncate", "zeros", "flip", "empty", "rows", "other run", "other piece", "no digest", "name"]


@pytest.mark.parametrize("harm", PIECE_HARMS)
def test_a_damaged_piece_is_done_again(tmp_path, harm):
    with writer(tmp_path) as w:
        w.write_piece(0, piece(0))
        w.write_piece(1, piece(1, rows=2 if harm == "rows" else 3))
    path = tmp_path / "pieces" / "00001.parquet"
    whole = path.read_bytes()
    if harm == "truncate":
        path.write_bytes(whole[: len(whole) // 2])
    elif harm == "zeros":
        path.write_bytes(bytes(len(whole)))
    elif harm == "empty":
        path.write_bytes(b"")
    elif harm == "flip":
        at = 60  # inside the first page's data
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
    elif harm == "other run":
        files.write_table(path, piece(1))
    elif harm == "other piece":  # whole, and of as many rows
        for name in ("0000{}.parquet", "0000{}.sha256"):
            shutil.copy(path.with_name(name.format(0)), path.with_name(name.format(1)))
    elif harm == "no digest":
        path.with_suffix(".sha256").unlink()
    elif harm == "name":  # of a column, behind the pages, which no checksum of Parquet guards
        column = piece(1).column_names[0].encode()
        path.write_bytes(whole.replace(column, bytes([column[0] ^ 1]) + column[1:]))
    with writer(tmp_path) as w:
        assert w.done == {0}


def test_two_pieces_that_were_exchanged_are_done_again(tmp_path):
    with writer(tmp_path) as w:
        for number in range(3):
            w.write_piece(number, piece(number))
    for suffix in ("parquet", "sha256"):
        first, second = (tmp_path / "pieces" / f"0000{number}.{suffix}" for number in (0, 1))
        mine, theirs = first.read_bytes(), second.read_bytes()
        first.write_bytes(theirs)
        second.write_bytes(mine)
    with writer(tmp_path) as w:
        assert w.done == {2}


def test_a_finished_run_is_found_complete_and_pieces_are_cleared(tmp_path):
    finished(tmp_path)
    before = times(tmp_path)
    (tmp_path / "pieces").mkdir()  # as after a kill between the last two steps
    (tmp_path / "pieces" / "00000.parquet").write_bytes(b"")
    with writer(tmp_path) as w:
        assert w.finished
    assert before == times(tmp_path)


def test_other_settings_are_refused_by_name_and_nothing_is_touched(tmp_path):
    finished(tmp_path)
    before = {entry: entry.read_bytes() for entry in tmp_path.rglob("*") if entry.is_file()}
    other = {**KEY, "width": 8, "texts": [["a.txt", "13"]]}
    with pytest.raises(InputError, match=r"width 4, now 8.*texts .*choose another --out"):
        writer(tmp_path, key=other)
    assert before == {entry: entry.read_bytes() for entry in tmp_path.rglob("*") if entry.is_file()}
    refuse_other(tmp_path, read_run_json(tmp_path), {"width": 4})
    assert fingerprint(KEY) != fingerprint(other)
    assert fingerprint(KEY) == fingerprint(dict(reversed(KEY.items())))


def test_what_is_no_run_is_left_alone(tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match="not empty and not a run"):
        writer(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["letter.txt"]
    with pytest.raises(InputError, match="is a file"):
        writer(tmp_path / "letter.txt")
    with pytest.raises(InputError, match="cannot write"):
        writer(tmp_path / "letter.txt" / "below")
    with pytest.raises(InputError, match="not a run folder"):
        Run.read(tmp_path / "nowhere")


@pytest.mark.parametrize("content", ["", "[]", '{"schema": 99}', "\x00\x00"])
def test_an_unreadable_run_json_is_said(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(InputError, match=r"run\.json"):
        writer(tmp_path)


def test_an_unfinished_or_damaged_run_is_not_read(tmp_path):
    with writer(tmp_path / "a") as w:
        w.write_piece(0, piece(0))
    with pytest.raises(InputError, match="not finished \\(1 of 3 windows\\)"):
        Run.read(tmp_path / "a")
    finished(tmp_path / "b")
    (tmp_path / "b" / "findings.json").unlink()
    with pytest.raises(InputError, match=r"lacks findings\.json"):
        Run.read(tmp_path / "b")


def test_only_one_process_writes(tmp_path):
    with writer(tmp_path), pytest.raises(InputError, match=f"written by process {os.getpid()}"):
        writer(tmp_path)
    writer(tmp_path).close()


def test_the_lock_dies_with_its_holder(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from snellen.results.folders import lock;"
        "held = lock(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    with child:
        assert child.stdout.readline() == b"held\n"
        with pytest.raises(InputError, match=f"process {child.pid}"):
            writer(tmp_path)
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert (tmp_path / ".lock").exists()
    writer(tmp_path).close()


def test_left_over_temporary_files_are_cleared(tmp_path):
    (tmp_path / ".run.json.1.tmp").write_text("{")
    with writer(tmp_path) as w:
        w.write_piece(0, piece(0))
        (tmp_path / "pieces" / ".00001.parquet.1.tmp").write_text("x")
    with writer(tmp_path):
        pass
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_line_and_the_run_resumes(tmp_path, monkeypatch, number):
    with writer(tmp_path) as w:
        w.write_piece(0, piece(0))
        with monkeypatch.context() as patch:

            def full(_: int) -> None:
                raise OSError(number, os.strerror(number))

            patch.setattr(os, "fsync", full)
            with pytest.raises(InputError, match="the disk is full; free some space; the same command then resumes"):
                w.write_piece(1, piece(1))
    assert not list(tmp_path.rglob("*.tmp"))
    with writer(tmp_path) as w:
        assert w.done == {0}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounts need root; the twin above runs")
def test_a_really_full_disk(tmp_path):
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", tmp_path], capture_output=True).returncode:
        pytest.skip("no mounts in this container; the twin above runs")
    try:
        import numpy as np

        noise = pa.table({"x": pa.array(np.random.default_rng(0).random(30_000))})
        with Writer(tmp_path, key=KEY, content={}, windows=[30_000] * 5) as run:
            with pytest.raises(InputError, match="the disk is full"):
                run.write_piece(0, noise)
            assert run.done == set()
        assert not list(tmp_path.rglob("*.tmp"))
        assert json.loads((tmp_path / "run.json").read_text())["progress"]["windows"] == 5
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_json_has_no_nan(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(tmp_path / "x.json", {"value": float("nan")})
    assert not list(tmp_path.iterdir())


def test_killed_while_writing_leaves_no_half_file(tmp_path):
    code = (
        "import sys, pyarrow as pa, numpy as np; from pathlib import Path\n"
        "from snellen.results.files import write_table\n"
        "table = pa.table({'x': np.random.default_rng(0).random(200_000)})\n"
        "print('go', flush=True)\n"
        "while True: write_table(Path(sys.argv[1]) / 'x.parquet', table)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    with child:
        child.stdout.readline()
        time.sleep(0.3)
        child.kill()
    if (tmp_path / "x.parquet").exists():
        assert files.read_table(tmp_path / "x.parquet").num_rows == 200_000


def test_no_turned_bit_of_a_piece_is_believed(tmp_path):
    """Parquet itself reads some of them as other columns: its checksums are of values alone."""
    with writer(tmp_path) as w:
        w.write_piece(0, piece(0))
    path = tmp_path / "pieces" / "00000.parquet"
    whole = path.read_bytes()
    assert read_piece(path, w._mark, 3) is not None
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert read_piece(path, w._mark, 3) is None
