"""`snellen generate`, from the command line to texts, trees and errors."""

import dataclasses
import json
import subprocess
import sys

import pytest
import torch

import snellen
from snellen.cli import main
from snellen.cli.generate import METHODS, unescaped
from snellen.cli.writing import Job, Speaker, _settled, pieces
from snellen.lookahead import generate
from snellen.models.identity import Bos

PROMPT = r"Mozzarella is white\nSo you can see it at night\nCheddar is"
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*:UserWarning", "ignore:.*:DeprecationWarning", "ignore:.*:FutureWarning"
)


@pytest.fixture(scope="module")
def subject():
    return snellen.load("pocket")


@pytest.fixture(autouse=True)
def loaded_once(subject, monkeypatch):
    monkeypatch.setattr("snellen.subject.load", lambda *_, **__: subject)


@pytest.fixture
def run(capsys):
    def run(*arguments):
        code = main(["generate", "pocket", *map(str, arguments)])
        out, err = capsys.readouterr()
        assert code == 0, err
        return out

    return run


def test_line_breaks_are_written_as_in_a_shell():
    assert unescaped(r"a\nb\tc\\n\x") == "a\nb\tc\\n\\x"


def test_text_goes_on_from_the_prompt_and_a_seed_gives_it_again(run):
    first = run("--prompt", PROMPT, "--max-new-tokens", 7, "--seed", 4)
    assert first.startswith("Mozzarella is white\nSo you can see it at night\nCheddar is")
    assert first == run("--prompt", PROMPT, "--max-new-tokens", 7, "--seed", 4)
    assert first != run("--prompt", PROMPT, "--max-new-tokens", 7, "--seed", 5)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_tells_its_texts_as_json(method, run, subject):
    few = {"power": ["--particles", 4], "beam": ["--width", 3]}.get(method, [])
    found = json.loads(run("--prompt", "So", "To be", "--method", method, "--max-new-tokens", 6, "--json", *few))
    assert found["method"] == method
    assert found["settings"].keys() >= METHODS[method].keys()
    assert [text["prompt"] for text in found["texts"]] == ["So", "To be"]
    for text in found["texts"]:
        assert 1 <= len(text["tokens"]) <= 6
        assert text["finish"] in ("length", "end")
        assert len(text["log_probs"]) == len(text["tokens"]) == len(text["pieces"])
        if text["finish"] == "length":
            assert "".join(text["pieces"]) == text["text"]
        bos = subject.identity.bos.token_id
        start = [bos, *subject.tokenizer(text["prompt"], add_special_tokens=False)["input_ids"]]
        log_p = subject.model(torch.tensor([start + text["tokens"]])).logits[0].log_softmax(-1)
        expected = [float(log_p[len(start) - 1 + i, token]) for i, token in enumerate(text["tokens"])]
        assert text["log_probs"] == pytest.approx(expected, abs=1e-4)
        assert (text["amplified_log_probs"] is not None) == (method == "amplified")


def test_greedy_and_best_without_weight_agree_and_trees_change_no_text(run, tmp_path):
    options = ("--prompt", PROMPT, "--max-new-tokens", 10)
    assert run(*options, "--method", "greedy") == run(*options, "--temperature", 0, "--weight", 0)
    bare = run(*options, "--seed", 2)
    page = tmp_path / "page.html"
    assert run(*options, "--seed", 2, "--tree", page) == bare + f"page    {page}\n"
    assert page.read_text(encoding="utf-8").count('class="choice"') == 10


def test_count_gives_different_texts_and_they_are_told_apart(run):
    found = run("--prompt", "So", "--count", 3, "--max-new-tokens", 8, "--method", "sample")
    assert [line for line in found.splitlines() if line.startswith("── ")] == ["── 1 ──", "── 2 ──", "── 3 ──"]
    texts = json.loads(run("--prompt", "So", "--count", 3, "--max-new-tokens", 8, "--method", "sample", "--json"))
    assert len({text["text"] for text in texts["texts"]}) == 3


def test_stop_texts_end_it_and_are_left_out(run):
    for method in ("amplified", "greedy", "beam", "nucleus", "power"):
        found = json.loads(
            run("--prompt", PROMPT, "--method", method, "--stop", r"\n", "e", "--max-new-tokens", 12, "--json")
        )["texts"][0]
        assert found["finish"] == "stop"
        assert "\n" not in found["text"]
        assert "e" not in found["text"]


def test_the_tree_is_shown_and_written_beside(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = run("--prompt", PROMPT, "--show-tree", "--max-new-tokens", 3, "--horizon", 3, "--width", 2)
    assert "The first token" in found
    assert "◂ taken" in found
    tree = [line for line in found.splitlines() if "──" in line]
    assert 3 <= len(tree) <= 6
    assert found.endswith("page    generate.html\n")
    assert (tmp_path / "generate.html").is_file()


def test_no_file_is_replaced_unasked(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "generate.html").write_text("mine")
    options = ("--prompt", "So", "--max-new-tokens", 2)
    for number in (2, 3):
        assert run(*options, "--show-tree").endswith(f"page    generate-{number}.html\n")
    assert (tmp_path / "generate.html").read_text() == "mine"
    monkeypatch.setattr("snellen.subject.load", lambda *_, **__: pytest.fail("the model was loaded"))
    (tmp_path / "folder").mkdir()
    for more, what in (
        (["--tree", "generate.html"], "tree 'generate.html': is there already"),
        (["--tree", "folder"], "is a folder"),
        (["--overwrite"], "no file is named"),
        (["--method", "power", "--alpha", "inf"], "alpha inf"),
        (["--weight", "2"], "weight 2.0"),
    ):
        assert main(["generate", "pocket", *map(str, options), *more]) == 2
        assert what in capsys.readouterr().err.splitlines()[-1]
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)


def test_a_file_is_replaced_where_one_says_so(run, tmp_path):
    page = tmp_path / "page.html"
    page.write_text("old")
    run("--prompt", "So", "--max-new-tokens", 2, "--tree", page, "--overwrite")
    assert page.read_text(encoding="utf-8").startswith("<!")


def test_what_power_writes_behind_a_stop_text_is_no_part_of_it(run, subject):
    options = ("--prompt", PROMPT, "--method", "power", "--particles", 4, "--max-new-tokens", 12, "--json")
    whole = json.loads(run(*options))["texts"][0]
    found = json.loads(run(*options, "--stop", "e"))["texts"][0]
    assert found["tokens"] == whole["tokens"][: len(found["tokens"])]
    decode = subject.tokenizer.decode
    assert "e" in decode(found["tokens"], clean_up_tokenization_spaces=False)
    assert "e" not in decode(found["tokens"][:-1], clean_up_tokenization_spaces=False)
    assert len(found["log_probs"]) == len(found["tokens"])


def test_a_prompt_from_a_file_stands_as_it_is(run, tmp_path):
    file = tmp_path / "prompt.txt"
    file.write_text("A line \\n of it\n", encoding="utf-8")
    assert run("--prompt-file", file, "--max-new-tokens", 2, "--method", "greedy").startswith("A line \\n of it\n")


def test_without_a_prompt_it_begins_with_the_first_token(run, subject):
    found = json.loads(run("--temperature", 0, "--max-new-tokens", 4, "--json"))["texts"][0]
    ids = torch.tensor([[subject.identity.bos.token_id]])
    assert found["tokens"] == generate(subject.model, ids, max_new_tokens=4)[0, 1:].tolist()


def test_on_a_terminal_it_is_told_as_it_comes(subject, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    job = Job(subject=subject, method="greedy", settings={}, max_new_tokens=9, stops=["ab!"], details=False)
    speaker = Speaker(many=False)
    speaker._live = True
    speaker.begin("P")
    heard = []
    for token in subject.tokenizer("x ab? abra", add_special_tokens=False)["input_ids"]:
        speaker.hear(job, token)
        heard.append(capsys.readouterr().out)
    assert "".join(heard).endswith("P\x1b[22mx ab? abr")  # the last letter may yet begin "ab!"
    assert sum(map(bool, heard)) > 2


def test_parts_of_characters_and_of_stops_are_held_back(subject):
    assert _settled("so\ufffd", []) == 2
    assert _settled("one st", ["stop"]) == 4
    assert _settled("one stop more", ["stop"]) == 4
    assert _settled("one stay", ["stop"]) == 8
    job = Job(subject=subject, method="greedy", settings={}, max_new_tokens=9, stops=[], details=False)
    for text in ("naïve café — 中文 🙂 end", "plain"):
        ids = subject.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert "".join(pieces(job, ids)) == text
        assert len(pieces(job, ids)) == len(ids)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--alpha", "-1"], "alpha -1"),
        (["--alpha", "nan"], "alpha nan"),
        (["--weight", "1.5"], "weight 1.5"),
        (["--width", "0"], "width 0"),
        (["--max-new-tokens", "0"], "max-new-tokens 0"),
        (["--max-new-tokens", "511"], "exceeds the model's context of 512"),
        (["--temperature", "-1"], "temperature -1"),
        (["--top-p", "0"], "top-p 0"),
        (["--count", "0"], "count 0"),
        (["--stop", ""], "stop ''"),
        (["--seed", "-4"], "seed -4"),
        (["--mix", "geometric", "--alpha", "inf"], "alpha inf"),
        (["--temperature", "0", "--count", "2"], "count 2"),
        (["--method", "greedy", "--width", "4"], "width 4: no option of method greedy"),
        (["--method", "nucleus", "--alpha", "2"], "alpha 2.0: no option of method nucleus"),
        (["--method", "beam", "--count", "9"], "count 9: method beam has 4"),
        (["--method", "greedy", "--show-tree"], "show-tree"),
        (["--method", "power", "--particles", "0"], "particles 0"),
        (["--method", "power", "--alpha", "-2"], "alpha -2"),
        (["--tree", "/nowhere/page.html"], "no folder /nowhere"),
        (["--prompt-file", "/nowhere.txt"], "prompt-file '/nowhere.txt'"),
        (["--prompt", "So so so " * 400], "the model's context is 512"),
    ],
)
def test_wrong_input_is_one_line_and_code_2(arguments, what, capsys):
    given = ["--prompt", "So"] if "--prompt" not in arguments and "--prompt-file" not in arguments else []
    assert main(["generate", "pocket", *given, *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    line = err.splitlines()[-1]
    assert line.startswith("snellen: ")
    assert what in line


def test_an_empty_prompt_without_a_first_token(subject, monkeypatch, capsys):
    bare = dataclasses.replace(subject.identity, bos=Bos(policy="never", token_id=None))
    nothing = dataclasses.replace(subject, identity=bare)
    monkeypatch.setattr("snellen.subject.load", lambda *_, **__: nothing)
    assert main(["generate", "pocket", "--prompt", ""]) == 2
    assert "no first token (BOS)" in capsys.readouterr().err


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from snellen.cli import main\n"
        "try: main(['generate', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = ('torch', 'transformers', 'numpy', 'rich.tree', 'jinja2')\n"
        "print([name for name in heavy if name in sys.modules], file=sys.stderr)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stderr.splitlines()[-1] == "[]"
    assert r"\n" in found.stdout
