"""scripts/compat.py: which releases are admitted, which pins stay, and what is told of failures."""

import importlib
import subprocess
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[2]
ASKED = "numpy>=2\ntokenizers<0.23,>=0.22; python_version > '3'\npytest<8; extra == 'dev'\nregex"
TOLD = """FAILED tests/attention/test_a.py::test_one[x-y] - FutureWarning: `a` is deprecated
FAILED tests/attention/test_a.py::test_two - assert 1 == 2
ERROR tests/training/test_b.py
2 failed, 30 passed, 1 error in 3.21s
"""


@pytest.fixture
def compat(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    module = importlib.import_module("compat")
    (tmp_path / "pyproject.toml").write_text(
        '[project]\ndependencies = ["torch>=2.8", "transformers>=5.2,<5.24"]\n'
        '[project.optional-dependencies]\ndev = ["pytest>=8,<10"]\n'
    )
    (tmp_path / "constraints.txt").write_text(
        "torch==2.13.0\ntransformers==5.23.0\nnumpy==2.3.1  # arrays\n\ntokenizers==0.23.1\npytest==8.4.0\n"
    )
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module.pins, "ROOT", tmp_path)
    monkeypatch.setattr(module.pins, "CONSTRAINTS", tmp_path / "constraints.txt")
    return module


def test_the_range_is_that_of_the_project(compat: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    told = "transformers (5.24.0)\nAvailable versions: 5.25.0rc1, 5.24.0, 5.23.0, 5.10.1, 5.2.0, 5.1.0, 4.57.0\n"
    monkeypatch.setattr(compat, "run", lambda *_, **__: SimpleNamespace(stdout=told))
    assert [compat.named(wish) for wish in ("oldest", "newest", "latest")] == ["5.2.0", "5.23.0", "5.24.0"]
    assert compat.named("5.10.1") == "5.10.1"


def test_the_lower_ends_are_those_of_all_ranges(compat: ModuleType, tmp_path: Path) -> None:
    assert compat.pins.oldest() == {"torch": "2.8", "transformers": "5.2", "pytest": "8"}
    (tmp_path / "pyproject.toml").write_text('[project]\ndependencies = ["torch"]\n[project.optional-dependencies]\n')
    with pytest.raises(SystemExit, match="torch: must have one lower end"):
        compat.pins.oldest()


def test_the_pinned_release_is_not_tested_twice(
    compat: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compat, "released", lambda: ["5.2.0", "5.23.0", "5.24.0"])
    monkeypatch.setattr("sys.argv", ["compat.py", "newest"])
    assert compat.main() == 0
    assert "is the pinned one" in capsys.readouterr().out


def test_pins_that_the_release_does_not_go_with_are_left_out(
    compat: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compat, "run", lambda *_, **__: SimpleNamespace(stdout=ASKED))
    compat.install("5.20.0", tmp_path, compat.pins.pinned())
    kept = (tmp_path / "compat-constraints.txt").read_text().split()
    assert kept == ["transformers==5.20.0", "torch==2.13.0", "numpy==2.3.1", "pytest==8.4.0"]
    assert "tokenizers==0.23.1" in capsys.readouterr().out


@pytest.mark.parametrize(("output", "code"), [(TOLD, 1), ("30 passed in 3.00s\n", 0), ("no tests ran\n", 5)])
def test_what_breaks_is_told_by_file(
    compat: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], output: str, code: int
) -> None:
    monkeypatch.setattr(compat, "install", lambda release, folder, pins: folder / "bin" / "python")
    done = subprocess.CompletedProcess([], code, stdout=output, stderr="")
    monkeypatch.setattr(compat, "run", lambda *_, **__: done)
    monkeypatch.setattr(compat, "released", lambda: ["5.2.0", "5.23.0"])
    monkeypatch.setattr("sys.argv", ["compat.py", "5.20.0"])
    assert compat.main() == int(code != 0)
    said = capsys.readouterr().out
    if code == 1:
        assert "tests/attention/test_a.py: 2\n  test_one[x-y] - FutureWarning: `a` is deprecated\n" in said
        assert "tests/training/test_b.py: 1\n  cannot be imported" in said
    assert ("transformers 5.20.0: " + (output.splitlines()[-1] if code < 5 else "pytest ended with 5")) in said
