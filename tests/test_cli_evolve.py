"""`snellen evolve` from the outside."""

import json
import sys

import pytest

from snellen import cli
from snellen.cli import main
from snellen.cli.evolve import Watching
from tests.lookahead.masked_models import network, tokenizer
from tests.test_cli import HEAVY, python

FAST = ["--prompt", "ab", "--length", "5", "--population", "4", "--islands", "2", "--generations", "3"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("masked")
    network("roberta", places=26).save_pretrained(path)
    tokenizer().save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def causal(tmp_path_factory):
    from tests import tiny

    return str(tiny.model(tmp_path_factory.mktemp("causal")))


@pytest.mark.parametrize("arguments", [["evolve", "--help"], ["evolve", "--population", "1"]])
def test_nothing_heavy_is_imported_for_help_or_a_wrong_setting(arguments):
    found = python(
        f"import sys; from snellen.cli import main\n"
        f"try: main({arguments!r})\n"
        f"except SystemExit: pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    assert found.stderr.strip().splitlines()[-1] == "[]"


def test_help_shows_the_defaults_of_the_settings(capsys):
    from snellen.evolution_settings import Genetic, Metropolis

    with pytest.raises(SystemExit):
        sys.exit(main(["evolve", "--help"]))
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert f"genetic {Genetic.population}, metropolis {Metropolis.population}" in shown
    assert f"Mode genetic only. [default: {Genetic.mutation}]" in shown


def test_genetic(folder, capsys, tmp_path):
    out = tmp_path / "population.json"
    assert main(["evolve", folder, *FAST, "--out", str(out), "--top", "2"]) == 0
    shown = capsys.readouterr()
    assert "fitness" in shown.out
    assert "generation" in shown.out
    assert str(out) in shown.out
    assert "generation 3 of 3: best" in shown.err
    record = json.loads(out.read_text())
    assert record["settings"]["population"] == 4
    assert record["finished"] is True
    lines = [line for line in shown.out.splitlines() if "a b" in line]
    assert len(lines) == 2
    assert f"{record['members'][0]['fitness']:.3f}" in lines[0]
    # The same again, gone on from the file; as JSON and without a word besides.
    assert main(["evolve", folder, *FAST, "--from", str(out), "--json", "--quiet"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    again = json.loads(shown.out)
    assert again["trace"][0]["best"] == pytest.approx(record["trace"][-1]["best"])
    assert again["trace"][-1]["best"] >= record["trace"][-1]["best"]


def test_a_population_is_replaced_where_one_says_so_or_goes_on_from_it(folder, capsys, tmp_path, monkeypatch):
    out = tmp_path / "population.json"
    assert main(["evolve", folder, *FAST, "--out", str(out)]) == 0
    before = out.read_bytes()
    capsys.readouterr()
    monkeypatch.setattr("snellen.models.masked.load_masked", lambda *_, **__: pytest.fail("the model was loaded"))
    (tmp_path / "other.json").write_text("{}")
    _one_line(["evolve", folder, *FAST, "--out", str(out)], "is there already", capsys)
    _one_line(["evolve", folder, "--from", str(tmp_path / "other.json")], "no population", capsys)
    _one_line(["evolve", folder, "--memory", "lots"], "memory 'lots'", capsys)
    assert out.read_bytes() == before
    monkeypatch.undo()
    for more in (["--from", str(out)], ["--overwrite", "--seed", "4"]):
        assert main(["evolve", folder, *FAST, "--out", str(out), *more]) == 0
        assert out.read_bytes() != before
        before = out.read_bytes()


def test_metropolis(folder, capsys):
    arguments = ["evolve", folder, "--mode", "metropolis", "--length", "4", "--population", "3", "--steps", "40"]
    assert main([*arguments, "--thin", "5", "--seed", "3"]) == 0
    first = capsys.readouterr().out
    assert "effective samples" in first
    assert "acceptance" in first
    assert main([*arguments, "--thin", "5", "--seed", "3", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["settings"]["temperature"] == 1.0
    assert len(record["samples"]) == 4
    assert set(record["convergence"]) == {"r_hat", "effective_samples", "acceptance"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--population", "1"], "population 1: must be a whole number of at least 2"),
        (["--mode", "metropolis", "--population", "1"], "population 1"),
        (["--temperature", "0"], "temperature 0.0: must be above 0"),
        (["--mode", "metropolis", "--temperature", "-1"], "temperature -1.0"),
        (["--proposal-temperature", "1"], "proposal_temperature 1.0: no option of mode genetic"),
        (["--mode", "metropolis", "--islands", "2"], "islands 2: no option of mode metropolis"),
        (["--islands", "5"], "islands 5: a population of 32"),
        (["--mode", "evolution"], "--mode"),
        (["--top", "0"], "top 0"),
        (["--out", "no-such-folder/x.json"], "no folder"),
        (["--from", "none.json"], "none.json"),
        (["--prompt", "abcd" * 9], "prompt of 36 tokens"),
        (["--length", "40"], "more than the 24"),
        (["--prompt", "xyz"], "no ordinary token"),
        (["--length", "5", "--memory", "lots"], "memory 'lots'"),
        (["--populaton", "4"], "Did you mean --population"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_2(folder, arguments, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _one_line(["evolve", folder, *arguments], said, capsys)
    assert not list(tmp_path.iterdir())


def _one_line(arguments, said, capsys):
    assert main(arguments) == 2
    shown = capsys.readouterr()
    lines = [line for line in shown.err.splitlines() if not line.startswith("loading ")]
    assert len(lines) == 1
    assert lines[0].startswith("snellen: ")
    assert said.lower() in lines[0].lower()
    assert shown.out == ""


def test_models_of_the_wrong_kind(folder, causal, capsys, tmp_path):
    _one_line(["evolve", causal], "LlamaForCausalLM; a masked language model", capsys)
    _one_line(["exam", folder], "a masked one is for `snellen evolve`", capsys)
    _one_line(["evolve", "./no-such-model"], "no-such-model", capsys)
    network("roberta").save_pretrained(tmp_path / "bare")
    tokenizer(mask=False).save_pretrained(tmp_path / "bare")
    capsys.readouterr()  # transformers' bars
    _one_line(["evolve", str(tmp_path / "bare")], "no mask token", capsys)


def test_an_interruption_keeps_the_population(folder, capsys, monkeypatch, tmp_path):
    turn = Watching.turn

    def struck(self, state):
        turn(self, state)
        if state.trace[-1]["generation"] == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Watching, "turn", struck)
    monkeypatch.setattr("snellen.cli.evolve._SAVE_SECONDS", 0.0)
    out = tmp_path / "population.json"
    assert main(["evolve", folder, *FAST, "--out", str(out)]) == 130
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"generation 2 of 3 is kept in {out}" in said
    assert json.loads(out.read_text())["finished"] is False
    assert main(["evolve", folder, *FAST]) == 130
    assert "nothing is kept; with --out FILE" in capsys.readouterr().err.splitlines()[-1]
    assert isinstance(cli._console, Watching)


def test_a_bar_on_a_terminal(folder, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert main(["evolve", folder, *FAST]) == 0
    assert "generation" in capsys.readouterr().err
    assert cli._console._bar is None


def test_work_that_takes_long_within_a_generation_is_told(capsys):
    for quiet in (False, True):
        watching = Watching(quiet=quiet, out=None, total=3)
        watching.passes(32)
        assert capsys.readouterr().err == "", "a quick start needs no line"
        watching._heard -= 11
        watching.passes(64)
        watching.passes(96)
        assert capsys.readouterr().err == ("" if quiet else "the model has been run on 64 rows\n")
