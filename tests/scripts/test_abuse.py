"""The judge of scripts/abuse can fail: what is planted (tracebacks, silent differences, lost writes) is found."""

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from scripts.abuse import __main__ as program
from scripts.abuse import commands, disk, kills, trials, world
from scripts.abuse.trials import Trial


def outcome(tmp_path, act, check=None, seconds=20.0):
    trial = Trial(name="planted.", act=act, shown="planted", check=check, seconds=seconds)
    (verdict,) = trials.run([trial], tmp_path, processes=1)
    return verdict.outcome


def said(line: str, code: int):
    def act(folder: Path) -> int:
        sys.stderr.write(line)
        return code

    return act


def failing(folder: Path) -> int:
    raise AttributeError("'list' object has no attribute 'shape'")


@pytest.mark.parametrize(
    ("act", "found"),
    [
        (failing, trials.TRACEBACK),
        (said("snellen: this is a fault of Snellen, not of yours (KeyError)\n", 1), trials.TRACEBACK),
        (said("Traceback (most recent call last):\n  …\nsnellen: x\n", 2), trials.TRACEBACK),
        (said("snellen: width 0: must be 1\nwarning: more\n", 2), trials.TRACEBACK),
        (said("no word of ours\n", 2), trials.TRACEBACK),
        (said("", 7), trials.TRACEBACK),
        (lambda folder: os.kill(os.getpid(), signal.SIGSEGV) or 0, trials.TRACEBACK),
        (said("snellen: model '\x1b]0;x\x07': no such folder\n", 2), trials.SILENT),
        (said("", 0), trials.SILENT),  # accepted, and had to be refused
        (said("loading …\nsnellen: width 0: must be at least 1\n", 2), trials.REFUSED),
        (said("snellen: interrupted\n", 130), trials.INTERRUPTED),
    ],
)
def test_outcomes(tmp_path, act, found):
    assert outcome(tmp_path, act) == found


def test_what_neither_ends_nor_is_refused_is_found(tmp_path):
    assert outcome(tmp_path, lambda folder: time.sleep(60) or 0, seconds=0.5) == trials.HANGS


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("generation 3 of 100000: best -4.1\n", trials.AT_WORK),
        ("the model has been run on 5120 rows\n", trials.AT_WORK),
        ("loading pocket …\n", trials.HANGS),
    ],
)
def test_long_work_has_to_say_how_far_it_is(tmp_path, line, found):
    def act(folder: Path) -> int:
        sys.stderr.write(line)
        sys.stderr.flush()
        time.sleep(60)
        return 0

    trial = Trial(name="planted.", act=act, shown="planted", check=trials.unchecked, seconds=1.0, long=True)
    (verdict,) = trials.run([trial], tmp_path, processes=1)
    assert verdict.outcome == found


def test_another_result_is_a_silent_difference(tmp_path):
    def writing(text: str):
        return lambda folder: 0 * (folder / "numbers").write_text(text)

    def check(folder, ended):
        return world.differing({"numbers": world.digest(folder / "numbers")}, {"numbers": known})

    (tmp_path / "known").write_text("1.0")
    known = world.digest(tmp_path / "known")
    assert outcome(tmp_path, writing("1.0"), check) == trials.SAME
    assert outcome(tmp_path, writing("1.1"), check) == trials.SILENT


def _halves(folder: Path) -> int:
    """Writes in two goes under the final name, and takes what stands there for whole."""
    if not (folder / "numbers").exists():
        with open(folder / "numbers", "w") as file:
            file.write("1")
            file.flush()
            os.fsync(file.fileno())
            file.write("2")
    return 0


def _careless(folder: Path) -> int:
    with contextlib.suppress(OSError):
        (folder / "numbers").write_text("12")
    return 0


def _careful(folder: Path) -> int:
    try:
        (folder / ".draft").write_text("12")
        os.replace(folder / ".draft", folder / "numbers")
    except OSError as error:
        sys.stderr.write(f"snellen: cannot write: {error.strerror}\n")
        return 2
    return 0


def _prints(folder: Path) -> dict[str, str]:
    return {"numbers": world.digest(folder / "numbers")}


@pytest.mark.parametrize(("work", "found"), [(_halves, trials.SILENT), (_careful, trials.SAME)])
def test_a_kill_between_two_writes_is_found(tmp_path, work, found):
    one = commands.Command(name="planted", act=work, again=work, prints=_prints, share=1.0)
    peace = commands.Undisturbed(prints={"numbers": "6b51d431df5d7f14"}, changes=2, sizes=(2,), seconds=0.1)
    act = kills._killed(one, [1], signal.SIGKILL)
    assert outcome(tmp_path, act, peace.check(_prints)) == found


@pytest.mark.parametrize(("work", "found"), [(_careless, trials.SILENT), (_careful, trials.SAME)])
def test_a_write_that_is_lost_without_a_word_is_found(tmp_path, work, found):
    one = commands.Command(name="planted", act=work, again=work, prints=_prints, share=1.0)
    peace = commands.Undisturbed(prints={"numbers": "6b51d431df5d7f14"}, changes=2, sizes=(2,), seconds=0.1)
    trial = disk._trial(one, peace, "ENOSPC at change 0 of 2", disk._raising(0, 28))
    (verdict,) = trials.run([trial], tmp_path, processes=1)
    assert verdict.outcome == found


def test_the_program_tells_and_fails(tmp_path, monkeypatch, capsys):
    def planned(made, *, seed, short):
        yield Trial(name="planted bug.", act=failing, shown="snellen planted")
        yield Trial(name="planted line.", act=said("snellen: no\n", 2), shown="snellen refused")

    monkeypatch.setattr(program.world, "prepare", lambda: None)
    monkeypatch.setattr(program.world, "build", lambda root: world.World(root))
    monkeypatch.setattr(program, "STAGES", {"inputs": planned})
    assert program.main(["--short", "--seed", "3"]) == 1
    told = capsys.readouterr().out
    assert "--short --seed 3 --case 'planted bug.'" in told
    assert "AttributeError" in told
    monkeypatch.setattr(program, "STAGES", {"inputs": lambda *_, **__: list(planned(0, seed=0, short=True))[1:]})
    assert program.main([]) == 0
