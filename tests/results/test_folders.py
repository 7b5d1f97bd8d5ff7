import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from snellen.errors import InputError
from snellen.results.files import json_text, parse_json, read_json, refusal, replacing, write_json
from snellen.results.folders import LOCK, alone, contents, locked, refuse_foreign, refuse_overlap

MEND = "name another"


def write(path: Path, content: bytes = b"new") -> None:
    with replacing(path) as file:
        file.write(content)


def test_a_new_and_an_old_file_are_written_whole(tmp_path):
    write(tmp_path / "a")
    write(tmp_path / "a", b"newer")
    assert (tmp_path / "a").read_bytes() == b"newer"
    assert os.listdir(tmp_path) == ["a"]


def test_the_permissions_of_a_file_stay(tmp_path):
    write(tmp_path / "a")
    (tmp_path / "a").chmod(0o600)
    write(tmp_path / "a")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600


def test_a_link_is_written_through_to_its_target(tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("below/real")
    (tmp_path / "to come").symlink_to("below/new")
    write(tmp_path / "link")
    write(tmp_path / "to come")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "to come").is_symlink()
    assert (tmp_path / "below" / "real").read_bytes() == (tmp_path / "below" / "new").read_bytes() == b"new"


@pytest.mark.parametrize("what", ["fifo", "socket", "folder", "link to a fifo", "a link to itself"])
def test_only_regular_files_are_replaced(tmp_path, what):
    path = tmp_path / "x"
    if what in ("fifo", "link to a fifo"):
        os.mkfifo(tmp_path / "fifo")
        path = tmp_path / "fifo"
        if what == "link to a fifo":
            path = tmp_path / "x"
            path.symlink_to("fifo")
    elif what == "socket":
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(os.path.relpath(path))
    elif what == "folder":
        path.mkdir()
    else:
        path.symlink_to("x")
    before = os.lstat(path)
    with pytest.raises(InputError, match="cannot write"):
        write(path)
    assert os.path.samestat(before, os.lstat(path))
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize("device", ["/dev/null", "/dev/full"])
def test_devices_stay_devices(device):
    with pytest.raises(InputError, match="it is a device, which is not replaced"):
        write(Path(device))
    assert stat.S_ISCHR(os.stat(device).st_mode)


def test_what_the_command_prints_to_is_not_replaced(tmp_path):
    code = "from pathlib import Path; from snellen.results.files import write_json; write_json(Path('/dev/stdout'), {})"
    with open(tmp_path / "out", "wb") as out:
        found = subprocess.run([sys.executable, "-c", code], stdout=out, stderr=subprocess.PIPE, text=True)
    assert "InputError: cannot write /dev/stdout: what the command prints goes there" in found.stderr
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "it is a pipe, which is not replaced" in found.stderr


def test_the_longest_names_can_be_written(tmp_path):
    for name in ("x" * 255, "é" * 127):
        write(tmp_path / name)
    with pytest.raises(InputError, match="File name too long"):
        write(tmp_path / ("x" * 256))
    assert len(os.listdir(tmp_path)) == 2


def test_a_planted_link_under_the_name_of_the_draft_is_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"dear")
    (tmp_path / f".a.{os.getpid()}.tmp").symlink_to(victim)
    write(tmp_path / "a")
    assert victim.read_bytes() == b"dear"


@pytest.mark.parametrize("error", [OSError(28, "x"), PermissionError(13, "y"), OSError(24, "z"), OSError(36, "w")])
def test_errors_are_told_by_their_number(error):
    assert refusal(error)[0] == {28: "the disk is full", 24: "too many open files"}.get(
        error.errno, os.strerror(error.errno)
    )
    assert refusal(OSError("the disk is full, says nobody")) is None
    assert refusal(BrokenPipeError(32, "x")) is None
    assert refusal(ConnectionResetError(104, "x")) is None


def test_json_of_names_that_are_no_text(tmp_path):
    content = {"name": "caf\udce9 ☕", "list": [1, None]}
    write_json(tmp_path / "x.json", content)
    assert read_json(tmp_path / "x.json") == content
    assert "☕" in json_text(content)
    for wrong in (b'{"a": NaN}', b"\xff", b"[" * 200_000, b"1" * 5000):
        with pytest.raises((ValueError, RecursionError)):
            parse_json(wrong)


def test_one_lock_for_a_folder_made_and_taken_away(tmp_path):
    folder = tmp_path / "a" / "b"
    with (
        locked(folder),
        pytest.raises(InputError, match=f"written by process {os.getpid()}; wait for it"),
        locked(folder),
    ):
        pass
    assert not folder.exists()  # nothing was written
    with locked(folder):
        (folder / "x").touch()
    assert contents(folder, mend=MEND) == ["x"]


@pytest.mark.parametrize("what", ["link", "fifo", "folder"])
def test_a_lock_that_is_no_file_is_refused_and_nothing_behind_it_touched(tmp_path, what):
    victim = tmp_path / "victim"
    victim.write_bytes(b"dear")
    folder = tmp_path / "run"
    folder.mkdir()
    path = folder / LOCK
    {"link": lambda: path.symlink_to(victim), "fifo": lambda: os.mkfifo(path), "folder": path.mkdir}[what]()
    with pytest.raises(InputError, match=r"\.lock is a"), locked(folder):
        pass
    assert victim.read_bytes() == b"dear"


def test_whose_a_folder_is(tmp_path):
    def mine(folder: Path) -> bool:
        return refuse_foreign(folder, ours=lambda name: name == "mine", what="is not mine", mend=MEND)

    assert not mine(tmp_path / "none")
    (tmp_path / LOCK).touch()
    (tmp_path / ".x.1.tmp").touch()
    assert not mine(tmp_path)
    (tmp_path / "mine").touch()
    assert mine(tmp_path)
    (tmp_path / "letter").touch()
    with pytest.raises(InputError, match="is not empty and is not mine \\(there is 'letter'\\); name another"):
        mine(tmp_path)
    for path in (tmp_path / "letter", tmp_path / "letter" / "below"):
        with pytest.raises(InputError, match="file"):
            mine(path)
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(InputError, match="leads nowhere"):
        mine(tmp_path / "link")


def test_work_that_is_alone(tmp_path):
    seen = []

    @alone(ours=lambda name: name.endswith(".json"), what="holds other things")
    def work(folder: Path, number: int) -> int:
        seen.append((folder / LOCK).exists())
        (folder / "x.json").touch()
        return number

    assert work(tmp_path / "a", 3) == 3
    assert seen == [True]
    (tmp_path / "a" / "letter").touch()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match="letter"):
        work(tmp_path / "a", 3)
    assert before == sorted(tmp_path.rglob("*"))


@pytest.mark.parametrize("place", ["model", "model/below/it", "above", ".", "link", "model/../model"])
def test_a_models_folder_is_no_place_to_write(tmp_path, place):
    source = tmp_path / "above" / "model"
    source.mkdir(parents=True)
    (tmp_path / "above" / "link").symlink_to("model")
    with pytest.raises(InputError, match=f"the model is read from, .*; {MEND}"):
        refuse_overlap(tmp_path / "above" / place if place != "above" else tmp_path / "above", source, mend=MEND)
    refuse_overlap(tmp_path / "above" / "model-2", source, mend=MEND)
    refuse_overlap(tmp_path / "other", source, mend=MEND)
