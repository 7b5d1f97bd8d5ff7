"""What others wrote reaches a terminal as signs, and every stream."""

import errno
import io
import json
import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from snellen.cli import faults, main, terminal
from snellen.cli.progress import Console
from snellen.errors import InputError
from tests.results.test_compare import run as make_run

ROOT = Path(__file__).parents[1]
ESC, CSI, RLO = "\x1b[31m", "\x9b31m", "\u202e"
EVIL = f"m{ESC}{CSI}\x1b]0;title\x07{RLO}[red]x[/red]\r\x08"
ACTS = re.compile("[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]|\x1b(?!\\[[0-9;]*m)")


def python(code: str, *arguments: str, **kwargs) -> subprocess.CompletedProcess:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]), **kwargs.pop("env", {})}
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, env=env, **kwargs)


@pytest.fixture
def evil(tmp_path) -> Path:
    """A foreign run whose every text acts on a terminal."""
    folder = make_run(tmp_path / "evil", units=24)
    for name in ("run.json", "findings.json"):
        content = json.loads((folder / name).read_text())
        content.pop("sha256", None), content.pop("files", None)
        if name == "run.json":
            content["identity"] = {"source": EVIL}
            content["key"][f"k{ESC}"] = EVIL
        else:
            content["findings"][0] |= {"unit": EVIL, "verdict": EVIL, "reading": EVIL, "question": EVIL}
        (folder / name).write_text(json.dumps(content))
    return folder


@pytest.fixture
def on_a_terminal(monkeypatch):
    for stream in (sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)


def test_a_foreign_run_cannot_act_on_the_terminal(evil, tmp_path, capsys, on_a_terminal):
    from snellen.cli.show import show_run
    from snellen.results.store import Run

    other = make_run(tmp_path / "b", units=24)
    assert main(["compare", str(evil), str(other)]) == 0
    show_run(Run.read(evil))
    shown = capsys.readouterr().out
    assert not ACTS.search(shown)
    assert "⟨ESC⟩" in shown
    assert "⟨RLO⟩" in shown
    assert "[red]x[/red]" in re.sub("\x1b\\[[0-9;]*m", "", shown)
    assert main(["compare", str(evil), str(other), "--json"]) == 0
    text = capsys.readouterr().out
    assert not ACTS.search(text)
    assert json.loads(text)["runs"][0]["model"] == EVIL


def test_progress_and_errors_are_shown(capsys, on_a_terminal, tmp_path):
    Console().say(f"loading {EVIL}")
    assert main(["report", str(tmp_path / f"no{ESC}")]) == 2
    shown = capsys.readouterr().err
    assert not ACTS.search(shown)
    assert "[red]x[/red]" in shown
    assert shown.count("⟨ESC⟩") == 3


def test_generated_text_is_raw_in_a_pipe_and_shown_on_a_terminal(monkeypatch):
    assert terminal.written(EVIL, io.StringIO()) == EVIL
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    shown = terminal.written(f"a\tb\n{EVIL}")
    assert shown.startswith("a\tb\n")
    assert not ACTS.search(shown)
    assert "\x1b" not in shown


def test_a_speaker_on_a_real_terminal(tmp_path):
    code = (
        "import sys; from types import SimpleNamespace as N; from snellen.cli import writing\n"
        f"text = {EVIL!r}\n"
        "speaker = writing.Speaker(many=False); speaker.begin(text); speaker.end(N(text=text))"
    )
    master, slave = pty.openpty()
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONIOENCODING": "utf-8"}
    child = subprocess.Popen([sys.executable, "-c", code], stdout=slave, env=env)
    os.close(slave)
    heard = b""
    while True:
        try:
            block = os.read(master, 4096)
        except OSError:
            break
        if not block:
            break
        heard += block
    assert child.wait() == 0
    os.close(master)
    text = heard.decode().replace("\r\n", "\n")
    assert text.startswith("\x1b[2m")
    assert not ACTS.search(text)
    assert "⟨ESC⟩[31m" in text


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_of_few_characters(tmp_path, encoding):
    from snellen.results.compare import compare_runs

    first, second = make_run(tmp_path / "a", units=24), make_run(tmp_path / "bé☕", units=24)
    env = {"PYTHONIOENCODING": encoding}
    code = "import sys; from snellen.cli import main; sys.exit(main(sys.argv[1:]))"
    for arguments in (["--help"], ["exam", "--help"], ["compare", str(first), str(second)], ["compare", "nö", "☕"]):
        found = python(code, *arguments, env=env)
        assert b"Traceback" not in found.stderr
        assert found.returncode == (2 if "nö" in arguments else 0)
    found = python(code, "compare", str(first), str(second), "--json", env=env)
    content = json.loads(found.stdout.decode(encoding))
    assert content["runs"][1]["folder"] == compare_runs(first, second).runs[1]["folder"]


def test_arguments_that_are_no_utf_8():
    code = "import sys; from snellen.cli import main; sys.exit(main())"
    for arguments in ([b"exam", b"caf\xe9"], [b"compare", b"\xff", b"b"], [b"generate", b"--prompt", b"\xff"]):
        found = python(code, *arguments)
        assert found.returncode == 2
        assert found.stderr.startswith(b"snellen: argument ")
        assert b"is not UTF-8" in found.stderr
        assert len(found.stderr.splitlines()) == 1


def broken(monkeypatch, error: BaseException) -> None:
    from snellen import runner

    def examine(*args, **kwargs):
        raise error

    monkeypatch.setattr(runner, "examine", examine)


def test_a_fault_of_ours_is_said_and_its_traceback_kept(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(faults.tempfile, "tempdir", str(tmp_path))
    broken(monkeypatch, ZeroDivisionError("one by\nzero"))
    assert main(["exam"]) == 1
    _, line = capsys.readouterr().err.splitlines()
    assert line.startswith("snellen: this is a fault of Snellen, not of yours (ZeroDivisionError: one by zero)")
    (kept,) = tmp_path.glob("snellen-*")
    assert str(kept) in line
    assert "Traceback (most recent call last)" in kept.read_text()
    monkeypatch.setenv(faults.SHOW, "1")
    assert main(["exam"]) == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err
    assert len(list(tmp_path.glob("snellen-*"))) == 1
    monkeypatch.delenv(faults.SHOW)
    monkeypatch.setattr(faults.tempfile, "tempdir", str(tmp_path / "none"))
    assert main(["exam"]) == 1
    assert "SNELLEN_TRACEBACK=1" in capsys.readouterr().err


NUMBERS = [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EMFILE, errno.EDQUOT,
           errno.EISDIR, errno.ENOENT, errno.ELOOP]  # fmt: skip


@pytest.mark.parametrize("number", NUMBERS)
def test_what_the_file_system_refuses_is_one_line_and_2(monkeypatch, capsys, number):
    broken(monkeypatch, OSError(number, "another text", "some/file"))
    assert main(["exam"]) == 2
    _, line = capsys.readouterr().err.splitlines()
    assert line.startswith("snellen: some/file: ")
    assert "another text" not in line


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [(MemoryError(), 2, "out of memory"), (OSError("disk full"), 1, "fault"),
     (ConnectionResetError(104, "x"), 1, "fault"),
     (RecursionError(), 1, "fault"), (BrokenPipeError(32, "of a pool"), 1, "fault"), (InputError("x"), 2, "snellen: x"),
     (KeyboardInterrupt(), 130, "interrupted")],
)  # fmt: skip
def test_what_is_whose_fault(monkeypatch, capsys, tmp_path, error, code, said):
    monkeypatch.setattr(faults.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(faults, "readers_stay", lambda: True)
    broken(monkeypatch, error)
    assert main(["exam"]) == code
    assert said in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full; the twin above runs")
@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_full_disk_behind_standard_output(tmp_path, more):
    folder = make_run(tmp_path / "a", units=10)
    code = "import sys; from snellen.cli import main; sys.exit(main(sys.argv[1:]))"
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-c", code, "compare", str(folder), str(folder), *more]
    with open("/dev/full", "wb") as full:
        found = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=env)
    assert found.returncode == 2
    assert found.stderr.startswith("snellen: the disk is full")
    assert len(found.stderr.splitlines()) == 1


def test_a_damaged_run_leaves_the_other_commands_alone(tmp_path, capsys):
    folder = make_run(tmp_path / "a", units=10)
    shutil.copytree(folder, tmp_path / "b")
    (tmp_path / "b" / "tokens.parquet").write_bytes(b"PAR1")
    assert main(["compare", str(folder), str(tmp_path / "b")]) == 2
    assert "it is not what the run wrote" in capsys.readouterr().err
    assert main(["compare", str(folder), str(folder)]) == 0


def test_a_name_makes_no_line_of_its_own(capsys):
    from snellen.cli.terminal import rich_text, say

    say("po\ncket")
    assert capsys.readouterr().out == "po⟨LF⟩cket\n"
    assert rich_text("po\ncket").plain == "po⟨LF⟩cket"
