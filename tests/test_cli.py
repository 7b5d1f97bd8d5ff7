import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import snellen
from snellen import cli
from snellen.cli import main
from snellen.cli.progress import Console, duration
from snellen.errors import InputError, Refused

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "transformers", "pyarrow", "numpy", "scipy", "altair", "duckdb", "jinja2")


def python(code: str, **kwargs) -> subprocess.CompletedProcess:
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, **kwargs)


@pytest.mark.parametrize("arguments", [["--help"], ["exam", "--help"], ["--version"], ["exam", "--width", "x"]])
def test_nothing_heavy_is_imported_before_a_command_runs(arguments):
    found = python(
        f"import sys; from snellen.cli import main\n"
        f"try: main({arguments!r})\n"
        f"except SystemExit: pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    assert found.stderr.strip().splitlines()[-1] == "[]"


def test_help_is_quick():
    # Processor time, since other tests may run beside this one.
    before = os.times()
    found = python("from snellen.cli import main; main(['--help'])")
    after = os.times()
    assert found.returncode == 0
    assert "exam" in found.stdout
    assert after.children_user + after.children_system - before.children_user - before.children_system < 0.5


def test_importing_the_package_is_light_and_names_come_when_used():
    found = python(f"import sys, snellen; print([name for name in {HEAVY!r} if name in sys.modules])")
    assert found.stdout.strip() == "[]"
    assert snellen.InputError is InputError
    assert snellen.Refused is Refused
    assert set(snellen.__all__) <= set(dir(snellen))
    assert snellen.compare.__module__ == "snellen.results.compare"
    assert snellen.exam.__module__ == "snellen.runner"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = snellen.nothing


def test_the_first_line_comes_before_the_heavy_imports():
    code = (
        "import os, sys; from snellen.cli import main\n"
        "class Watch:\n"
        "    def write(self, text):\n"
        "        if 'loading' not in text: return\n"
        "        sys.__stdout__.write(str('torch' in sys.modules)); sys.__stdout__.flush(); os._exit(0)\n"
        "    def flush(self): pass\n"
        "    def isatty(self): return False\n"
        "sys.stderr = Watch()\n"
        "main(['exam', './no-such-model'])"
    )
    assert python(code).stdout == "False"


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        sys.exit(main(["--version"]))
    assert stop.value.code == 0
    assert capsys.readouterr().out.strip() == snellen.__version__


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["exam", "--width", "x"], "--width"), (["exam", "--width", "0"], "width 0"), (["exma"], "exam"),
     (["exam", "--widht", "3"], "Did you mean --width"), (["exam", "a", "b"], "b"), (["compare", "a"], "second"),
     (["compare", "no-a", "no-b"], "no-a is not a run folder"), (["report", "no-run"], "no-run is not a run folder"),
     (["exam", "--text", "no-such.txt"], "no-such.txt"), (["exam", "--measures", "nothing"], "lookahead-gain"),
     (["exam", "--memory", "lots"], "memory 'lots'"), (["exam", "./no-such-model"], "no-such-model")],
)  # fmt: skip
def test_what_is_wrong_is_one_line_and_exit_2(arguments, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    shown = capsys.readouterr()
    lines = [line for line in shown.err.splitlines() if not line.startswith("loading ")]
    assert len(lines) == 1
    assert lines[0].startswith("snellen: ")
    assert said.lower() in lines[0].lower()
    assert shown.out == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [("exam --text no-such.txt", "no such file"), ("exam --text bad.jsonl", "half of a surrogate pair"),
     ("exam --text good.txt --field x --measures nothing", "unknown measure"), ("exam --memory 1", "memory '1'"),
     ("exam ./nowhere", "no such folder"), ("exam --tokenizer ./nowhere", "no such folder"),
     ("exam empty", "no config.json"), ("exam --out good.txt", "is a file"), ("exam --out empty/../full", "not a run"),
     ("exam --out good.txt/below/run", "another --out"), ("exam --out other --width 3", "holds a run with other"),
     ("convert ./nowhere new", "no such folder"), ("convert pocket full", "not empty"),
     ("organisms --out good.txt/below", "make it first"), ("generate --prompt \udc80", "surrogate"),
     ("evolve --prompt \udc80", "surrogate")],
)  # fmt: skip
def test_what_needs_no_model_is_said_before_torch_is_imported(arguments, said, tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"text": "x"}\n{"text": "\\ud800"}')
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years of work")
    (tmp_path / "other").mkdir()
    key = {"snellen": snellen.__version__, "schema": 1, "width": 4}
    (tmp_path / "other" / "run.json").write_text(json.dumps({"schema": 1, "key": key}))
    code = (
        "import sys; from snellen.cli import main\n"
        f"code = main({arguments.split()!r})\n"
        "print(code, 'torch' in sys.modules, 'transformers' in sys.modules)"
    )
    found = python(code, cwd=tmp_path)
    assert found.stdout == "2 False False\n"
    assert said in found.stderr.splitlines()[-1]


def test_text_takes_many_files_as_a_shell_gives_them(monkeypatch, tmp_path):
    from snellen import runner

    got = {}

    def examine(model, texts, request, **rest):
        got.update(model=model, texts=texts, request=request, **rest)
        raise Refused("enough")

    monkeypatch.setattr(runner, "examine", examine)
    monkeypatch.chdir(tmp_path)
    for name in "abc":
        Path(f"{name}.txt").write_text(f"text {name}")
    arguments = "exam gpt2 --text a.txt b.txt c.txt --widths 1 3 --width 4 --dtype bfloat16"
    arguments += " --measures in-context degeneration"
    assert main(arguments.split()) == 2
    assert got["model"] == "gpt2"
    assert [(document.name, document.text) for document in got["texts"]] == [
        ("a.txt", "text a"),
        ("b.txt", "text b"),
        ("c.txt", "text c"),
    ]
    assert got["request"].all_widths == (1, 3, 4)
    assert got["measures"] == ["in-context", "degeneration"]
    assert got["dtype"] == "bfloat16"
    assert main(["exam"]) == 2
    assert got["model"] == "pocket"
    assert got["texts"] is None
    assert got["measures"] == ["lookahead-gain"]


@pytest.mark.parametrize(("error", "code"), [(InputError("so\nso"), 2), (Refused("no"), 2), (KeyboardInterrupt(), 130)])
def test_exit_codes(monkeypatch, capsys, error, code):
    from snellen import runner

    def examine(*args, **kwargs):
        raise error

    monkeypatch.setattr(runner, "examine", examine)
    assert main(["exam"]) == code
    assert len(capsys.readouterr().err.strip().splitlines()) == 2  # "loading …" and what happened


def test_plain_progress_is_throttled_and_tells_the_time_left(capsys, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(cli.progress.time, "monotonic", lambda: clock[0])
    console = Console()
    for done in range(101):
        console.windows(Path("runs/x"), done, 100)
        clock[0] += 0.5
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "scored 0 of 100 windows"
    assert lines[-1] == "scored 100 of 100 windows"
    assert 15 <= len(lines) <= 25
    assert "left" in lines[2]
    assert "100 of 100 windows are kept in runs/x" in console.state()
    assert duration(3) == "3 s"
    assert duration(200) == "3 min 20 s"
    assert duration(7300) == "2 h 01 min"


def test_quiet_is_quiet(capsys):
    console = Console(quiet=True)
    console.say("x")
    console.windows(Path("x"), 0, 2)
    assert capsys.readouterr().err == ""


def test_a_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    console = Console()
    console.windows(Path("x"), 0, 2)
    console.say("beside the [bar]")
    console.windows(Path("x"), 1, 2)
    console.windows(Path("x"), 2, 2)
    assert console._bar is None
    assert "beside the [bar]" in capsys.readouterr().err


def test_compare_prints_a_table_and_json(tmp_path, capsys):
    from tests.results.test_compare import run

    first, second = run(tmp_path / "a"), run(tmp_path / "b", nats=-1.9, noise=2, width=8)
    assert main(["compare", str(first), str(second)]) == 0
    shown = capsys.readouterr().out
    assert "naive log-likelihood a byte" in shown
    assert "width: 4 | 8" in shown
    assert "no difference found" in shown
    assert main(["compare", str(first), str(second), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["schema"] == 1
    assert {"name", "unit", "first", "second", "difference"} <= content["rows"][0].keys()


def test_compare_says_why_tokens_of_two_tokenizers_have_no_difference(tmp_path, capsys):
    from tests.results.test_compare import letters, run

    first, second = run(tmp_path / "a"), run(tmp_path / "b", spans=letters)
    assert main(["compare", str(first), str(second)]) == 0
    shown = capsys.readouterr().out
    assert "lookahead-gain: the tokenizers differ: a token is another piece of text for each" in shown
    assert main(["compare", str(first), str(second), "--json"]) == 0
    gain = json.loads(capsys.readouterr().out)["rows"][0]
    assert gain["first"]["value"] == 0.01
    assert gain["difference"]["value"] is None
    assert "different characters" in gain["difference"]["reason"]


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path):
    from tests.results.test_compare import run

    folder = run(tmp_path / "a")
    code = (
        "import os, sys; from snellen.cli import main; reader, writer = os.pipe(); os.close(reader)\n"
        f"os.dup2(writer, 1); sys.exit(main(['compare', {str(folder)!r}, {str(folder)!r}]))"
    )
    found = python(code)
    assert (found.returncode, found.stderr) == (0, "")


def test_report_and_convert(tmp_path, capsys, monkeypatch):
    from tests.results.test_compare import run

    folder = run(tmp_path / "a")
    monkeypatch.setattr("snellen.report.html.write_report", lambda folder: folder / "report.html")
    assert main(["report", str(folder)]) == 0
    assert capsys.readouterr().out.strip() == str(folder / "report.html")
    got = []

    def convert(*args, **kwargs):
        got.append((args, kwargs))
        return SimpleNamespace(notes=("the file says nothing of it",))

    monkeypatch.setattr("snellen.models.conversion.convert", convert)
    file = tmp_path / "a.gguf"
    file.write_bytes(b"GGUF")
    assert main(["convert", str(file), str(tmp_path / "new"), "--dtype", "bfloat16"]) == 0
    assert capsys.readouterr().err.splitlines()[1:] == ["note: the file says nothing of it"]
    assert got[0][0] == (str(file), tmp_path / "new")
    assert got[0][1]["dtype"] == "bfloat16"


@pytest.mark.parametrize(
    "arguments",
    [
        "exam --horizon 1.5",
        "exam --widths 1 2.5",
        "exam --limit 4e2.0",
        "generate --count 2.5",
        "organisms --seeds 1.0",
    ],
)
def test_whole_numbers_are_not_rounded(arguments, capsys):
    assert main(arguments.split()) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "must be a whole number" in lines[0]
