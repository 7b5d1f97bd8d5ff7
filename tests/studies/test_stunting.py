"""The stunting experiment: probe, masked model, tables with known answers, and that it goes on where it stopped."""

from __future__ import annotations

import json

import numpy as np
import pytest
import scipy.stats
import torch

from snellen.cli import main
from snellen.errors import InputError
from snellen.organisms.arms import Arms
from snellen.studies.stunting import experiment as module
from snellen.studies.stunting import masked, picture, probe, tables
from snellen.studies.stunting.raising import JUDGED, Plan, fresh, language_at, look_at
from snellen.studies.stunting.variants import VARIANTS, variant
from snellen.training.config import StuntingConfig

PLAN = Plan(steps=4, batch=8, looks=(4,), sequences=400, units=20, particles=2)


def test_every_variant_is_a_training_that_can_be_had(tmp_path):
    for one in VARIANTS:
        settings = {"output_dir": str(tmp_path), "use_cpu": True, "method": one.method, "amplifier": one.amplifier}
        assert StuntingConfig(**settings, **one.settings).method == one.method
        assert one.control_of is None or variant(one.control_of).method == one.method
    with pytest.raises(InputError, match="variant 'x': known are ordinary"):
        variant("x")


def test_contexts_are_all_there_are_and_know_their_right_choice():
    language = language_at(3)
    prefixes, best = probe.contexts(language)
    assert len(prefixes) == language.permutations**language.depth * language.states
    for prefix, choice in zip(prefixes[:20].tolist(), best[:20].tolist(), strict=True):
        author = language.predict(prefix)
        assert int(author.argmax()) == 3 + language.permutations + choice


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [("planted", 0.95, 1.0), ("absent", 0.05, 0.40), ("memorable", 0.0, 0.25)],
)
def test_the_probe_reads_what_contexts_share_and_nothing_that_can_only_be_memorised(kind, low, high):
    rng = np.random.default_rng(0)
    labels = rng.integers(5, size=200)
    features = rng.normal(size=(200, 32))
    if kind == "planted":
        features = features + np.eye(32)[labels] * 6
    if kind == "memorable":
        features = np.eye(200)  # each context its own direction
    assert low <= probe.cross_validated(features, labels, 5) <= high


def test_a_masked_model_is_judged_without_the_future():
    language = language_at(0)
    model = masked.build(language, 0)
    text = language.sample(20, seed=1)
    other = text.copy()
    other[:, language.decisions[0] + 1 :] = language.sample(20, seed=2)[:, language.decisions[0] + 1 :]
    place = language.decisions[0]
    one, changed = (masked._losses(model, language, x)["decision"] for x in (text, other))
    assert one == pytest.approx(changed, abs=1e-6)
    later = text.copy()
    later[:, place] = 3 + language.permutations + (text[:, place] + 1) % language.states
    assert masked._losses(model, language, later)["decision"] != pytest.approx(one, abs=1e-3)


def test_a_look_leaves_the_model_as_it_was():
    language, model = Arms(states=5, permutations=4, planning=True), fresh(0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    look = look_at(model, language, 0, PLAN, 7)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    text = language.sample(PLAN.sequences, seed=[0, JUDGED])
    assert look.losses["decision"] == pytest.approx(-torch.log_softmax(
        model(torch.from_numpy(text)).logits[:, language.decisions[0] - 1], -1
    ).gather(1, torch.from_numpy(text)[:, language.decisions[0], None]).mean().item(), abs=1e-5)  # fmt: skip
    assert look.monitor["low"] <= look.monitor["gain"] <= look.monitor["high"]
    assert len(look.probe) == 3


def test_means_have_t_intervals():
    values = [0.1, 0.4, 0.3, 0.2, 0.6]
    mean = tables.Mean.of(values)
    low, high = scipy.stats.t.interval(0.95, 4, loc=np.mean(values), scale=scipy.stats.sem(values))
    assert (mean.value, mean.low, mean.high) == pytest.approx((0.32, low, high))
    assert tables.Mean.of([0.5]).low is None
    assert tables.Mean.of([0.5, 0.6]).low is None


def test_a_plan_looks_at_the_end():
    with pytest.raises(InputError, match=r"looks = \(2, 4\): must rise, and end with the last step \(5\)"):
        Plan(steps=5, looks=(2, 4))


def result(name, seed, decision, gain=0.1):
    monitor = {"gain": gain, "low": 0.0, "high": 0.2, "placebo": 0.0, "amplified": decision - gain + 1.0}
    look = {"step": 4, "losses": {"decision": decision + 1.0, "states": 0.1, "verdict": 0.2}, "probe": [0.2, 0.3, 0.4]}
    return {
        "variant": name, "seed": seed, "cost": 2.0, "author": {"decision": 1.0, "states": 0.0, "verdict": 0.0},
        "untrained_probe": [0.0, 0.0, 0.1], "looks": [look | {"monitor": monitor, "beam": monitor}],
    }  # fmt: skip


def test_differences_are_paired_by_seed():
    results = [result("ordinary", seed, 0.1 * seed) for seed in range(3)]
    results += [result("balance", seed, 0.1 * seed + 0.5, gain=0.4) for seed in range(3)]
    ordinary, balance = tables.rows(results)
    assert (ordinary.variant, balance.variant) == ("ordinary", "balance")
    assert balance.difference["decision"].value == pytest.approx(0.5)
    assert balance.difference["decision"].low == pytest.approx(0.5)  # the same in every seed
    assert ordinary.difference["decision"] is None
    assert balance.means["gain"].value == pytest.approx(0.4)
    assert balance.means["amplified"].value == pytest.approx(0.2)
    text = tables.markdown(results, ["decision", "gain"])
    assert "| balance | 0.600 [0.352, 0.848] | 0.400 [0.400, 0.400] |" in text


def test_the_experiment_goes_on_where_it_stopped(tmp_path, monkeypatch):
    only = ["balance", "masked"]
    first = module.experiment(tmp_path, seeds=1, only=only, plan=PLAN, processes=1)
    assert [one["variant"] for one in first] == ["balance", "masked"]
    assert [look["step"] for look in first[0]["looks"]] == [4]
    (tmp_path / "masked-0.json").unlink()
    trained = []
    monkeypatch.setattr(module, "_work", lambda job, plan: trained.append(job.name) or {**first[1]})
    again = module.experiment(tmp_path, seeds=1, only=only, plan=PLAN, processes=1)
    assert trained == ["masked"]
    assert json.dumps(again[0]["looks"]) == json.dumps(first[0]["looks"])
    with pytest.raises(InputError, match="made with other settings, code"):
        module.experiment(tmp_path, seeds=1, only=only, plan=Plan(steps=5, looks=(5,)), processes=1)
    picture.draw(again, tmp_path / "picture.svg")
    assert (tmp_path / "picture.svg").read_text().startswith("<svg")


def test_a_training_gives_the_same_numbers_again():
    one, other = (module._work(module.Job(name="particle", seed=1), PLAN) for _ in range(2))
    assert [look["losses"] for look in one["looks"]] == [look["losses"] for look in other["looks"]]


def test_bad_input_is_one_line(tmp_path, capsys):
    assert main(["sweep", "stunting", "--only", "balanced", "--out", str(tmp_path)]) == 2
    assert "only 'balanced': no such variant; known are ordinary, myopic" in capsys.readouterr().err
    assert main(["sweep", "stunting", "--only", "balance-D3", "skip", "balance, naive, D = 1 or so"]) == 2
    assert "balance-naive-D1, particle, " in capsys.readouterr().err
    assert main(["sweep", "stunting", "--seeds", "0", "--out", str(tmp_path)]) == 2
    assert "seeds = 0" in capsys.readouterr().err
    (tmp_path / "x.json").write_text("{}")
    assert main(["sweep", "stunting", "--out", str(tmp_path)]) == 2
    assert "is no result of this experiment" in capsys.readouterr().err


@pytest.mark.parametrize("study", ["stunting", "mesa"])
def test_a_sweep_writes_into_no_folder_of_others_and_alone(tmp_path, capsys, study):
    from snellen.cli import main
    from snellen.results.folders import locked

    (tmp_path / "letter.txt").write_text("dear")
    assert main(["sweep", study, "--out", str(tmp_path)]) == 2
    assert "there is 'letter.txt'" in capsys.readouterr().err.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]
    with locked(tmp_path / "a"):
        assert main(["sweep", study, "--out", str(tmp_path / "a")]) == 2
    assert "is being written by process" in capsys.readouterr().err.splitlines()[-1]


def test_a_mean_of_shares_ends_at_one():
    from snellen.studies.stunting.tables import Mean

    found = Mean.of([0.9, 1.0, 1.0])
    assert found.high > 1
    assert found.within(0, 1).high == 1
    assert Mean.of([0.9, 1.0]).within(0, 1).low is None
