import json
import sys

import pytest

from snellen import cli
from snellen.cli import main
from snellen.errors import InputError
from snellen.organisms import chart
from snellen.studies import self_test as module
from snellen.studies.examinations import EXAMINATIONS
from snellen.studies.names import slug
from snellen.studies.organisms import Estimate, Point, SeedResult
from snellen.studies.self_test import chosen, self_test


def as_expected(one, seed, tell=lambda line: None):
    tell(f"{one.name} {seed}")
    points = []
    for width in one.widths:
        for horizon in range(2, one.horizon + 1):
            value = 0.7 if one.expects == "gain" and horizon == one.horizon and width == one.widths[-1] else 0.0
            gain = Estimate(value=value, low=value - 0.01, high=value + 0.01)
            if one.expects == "dose":
                gain = Estimate(value=one.dose(seed), low=1e-6, high=0.02)
            points.append(Point(width=width, horizon=horizon, gain=gain, placebo=Estimate(value=0, low=0, high=0)))
    return SeedResult(examination=one.name, seed=seed, points=points, losses={}, training={}, seconds=0.1)


@pytest.fixture
def _quick(monkeypatch, tmp_path):
    monkeypatch.setenv("SNELLEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "examine", as_expected)
    monkeypatch.setattr(module.pool, "_cores", lambda: 1)


def test_organisms_are_chosen_by_either_name():
    assert chosen(()) == list(EXAMINATIONS)
    assert [one.name for one in chosen(["markov, too flat", "planless"])] == [
        "pair, planning text", "pair, own text", "markov, too flat",
    ]  # fmt: skip
    assert chosen(["markov-too-flat", "planless"]) == chosen(["markov, too flat", "planless"])
    with pytest.raises(InputError, match="only 'unicorn': no such organism; known are planless, planner") as refused:
        chosen(["planner", "unicorn"])
    names = str(refused.value).partition("known are ")[2].split(", ")
    assert chosen(names) == list(EXAMINATIONS)  # each can be typed as it is listed
    for name in names:
        assert chosen([name])


def test_the_names_are_listed_as_they_are_typed(capsys):
    assert main(["organisms", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for one in EXAMINATIONS:
        (line,) = (line for line in lines if line.split()[:1] == [slug(one.name)])
        assert chosen([line.split()[0]])
        assert one in chosen([line.split()[1]])
        assert line.rstrip().endswith(one.says)


@pytest.mark.usefixtures("_quick")
def test_a_whole_self_test_is_filed_for_the_reports():
    told, said = [], []
    outcome = self_test(progress=lambda *at: told.append(at), tell=said.append)
    assert outcome.passed
    assert outcome.complete
    assert told[0] == (0, 21)
    assert told[-1] == (21, 21)
    assert [row.name for row in outcome.rows] == [one.name for one in EXAMINATIONS]
    assert [[r.seed for r in row.seeds] for row in outcome.rows] == [[0, 1, 2]] * len(EXAMINATIONS)
    assert "exact table 2" in said
    recorded = chart.recorded()
    assert recorded["examined"] is True
    assert recorded["passed"] is True
    assert [row["name"] for row in recorded["organisms"]] == [one.name for one in EXAMINATIONS]


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize("part", [{"only": ["markov"]}, {"seeds": 2}])
def test_a_part_of_it_is_not(part):
    assert not self_test(**part).complete
    assert chart.recorded()["examined"] is False


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize("wrong", [{"seeds": 0}, {"seeds": True}, {"processes": 0}])
def test_wrong_settings_are_named(wrong):
    with pytest.raises(InputError, match=f"{next(iter(wrong))} = "):
        self_test(**wrong)


@pytest.mark.usefixtures("_quick")
def test_a_record_that_cannot_be_written_is_said(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SNELLEN_CACHE", str(tmp_path / "file"))
    said = []
    assert self_test(tell=said.append).passed
    assert "cannot write" in said[-1]


@pytest.mark.usefixtures("_quick")
def test_the_command_prints_what_was_expected_and_what_was_found(capsys, tmp_path):
    assert main(["organisms", "--out", str(tmp_path / "found.json")]) == 0
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    (pair,) = (line for line in lines if line.startswith("pair, planning text") and "as expected" in line)
    assert "+0.700" in pair
    assert "NOT" not in shown.out
    assert any("3:  0.000   8:  0.000   96: +0.700" in line for line in lines)
    assert any("2:  0.000   3:  0.000   4: +0.700" in line for line in lines)
    assert lines[-1].startswith("the chart is in order (14 examinations, 3 seeds")
    assert "21 of 21 models examined" in shown.err
    assert json.loads((tmp_path / "found.json").read_text())["passed"] is True
    assert main(["organisms", "--json", "--only", "markov", "--quiet"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["complete"] is False
    assert shown.err == ""


@pytest.mark.usefixtures("_quick")
def test_what_is_not_as_expected_is_seen_and_exits_with_3(capsys, monkeypatch):
    def blind(one, seed, tell=lambda line: None):
        found = as_expected(one, seed)
        if one.name != "planner":
            return found
        nothing = [Point(width=p.width, horizon=p.horizon, gain=p.placebo, placebo=p.placebo) for p in found.points]
        return SeedResult(**{**vars(found), "points": nothing})

    monkeypatch.setattr(module, "examine", blind)
    with pytest.raises(SystemExit) as stop:
        sys.exit(main(["organisms", "--quiet"]))
    assert stop.value.code == 3
    out = capsys.readouterr().out
    assert "NOT as expected" in next(line for line in out.splitlines() if line.startswith("planner"))
    assert "planner: horizon 4: the gain's interval [+0.000, +0.000] is not above 0.3" in out
    assert "1 of 14 NOT as expected" in out
    assert chart.recorded()["passed"] is False


@pytest.mark.usefixtures("_quick")
def test_wrong_input_is_one_line_and_an_interruption_says_what_is_kept(capsys, monkeypatch):
    assert main(["organisms", "--only", "unicorn", "--quiet"]) == 2
    assert "no such organism" in capsys.readouterr().err

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "examine", stop)
    assert main(["organisms", "--quiet"]) == 130
    assert "are kept" in capsys.readouterr().err
    assert cli._console is not None


@pytest.mark.slow
def test_numbers_do_not_depend_on_the_number_of_processes(tmp_path, monkeypatch):
    monkeypatch.setenv("SNELLEN_CACHE", str(tmp_path))
    one, two = (self_test(seeds=2, only=["exact table"], processes=n) for n in (1, 2))
    assert [r.points for r in one.rows[0].seeds] == [r.points for r in two.rows[0].seeds]
