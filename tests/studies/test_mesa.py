"""The comparison of mesa-layers: sizes, tokens, references, tables with known answers; going on where it stopped."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial

import numpy as np
import pytest
import scipy.stats
import torch
from transformers import AutoTokenizer

from snellen.errors import InputError, Refused
from snellen.measures.mesa import rivals
from snellen.models.bundled import pocket_folder
from snellen.studies.mesa import experiment as module
from snellen.studies.mesa import judging, keeping, looking, looks, picture, tables, text, training
from snellen.studies.mesa.experiment import REFERENCES, Results, Settings, experiment
from snellen.studies.mesa.tasks import TEXT, setup, setups, stream
from snellen.studies.mesa.training import Plan, train_on_task
from snellen.studies.mesa.variants import TEXT_VARIANTS, VARIANTS, parameters, variant
from tests.touched import touched

PLAN = Plan(steps=3, batch=4, warmup=1, rates=(1e-3, 3e-3))
SETTINGS = Settings(tasks=PLAN, regression=PLAN, text=Plan(steps=2, batch=2, warmup=1, rates=(1e-3,)), judged=64)


@pytest.fixture(autouse=True)
def no_looks(monkeypatch):
    """What the measures find has tests of its own, and takes longer than all else here."""
    monkeypatch.setattr(module, "look_at", lambda *arguments, **options: {})


@pytest.fixture
def texts(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    documents = [
        {"text": f"Chapter {i}. It was a dark and stormy night, and the rain fell in torrents. " * 30} for i in range(4)
    ]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, documents)))
    return folder


@pytest.mark.parametrize("name", [one.name for one in setups()])
def test_all_variants_of_a_task_have_as_many_parameters(name):
    one = setup(name)
    sizes = {v: parameters(training.fresh(variant(v), one, 0)) for v in one.variants if v != "mesa-small"}
    assert max(sizes.values()) / min(sizes.values()) < 1.02, sizes
    assert abs(sizes["softmax-6"] / one.parameters - 1) < 0.01
    if "mesa-small" in one.variants:
        assert 4 < sizes["mesa"] / parameters(training.fresh(variant("mesa-small"), one, 0)) < 6


def test_all_variants_of_the_text_have_as_many_parameters(texts, tmp_path):
    corpus = text.corpus(texts, tmp_path)
    models = [text.fresh(one, corpus, 0) for one in TEXT_VARIANTS]
    sizes = [parameters(model) - model.get_input_embeddings().weight.numel() for model in models]
    assert max(sizes) / min(sizes) < 1.02


def test_a_name_that_is_none_is_refused():
    with pytest.raises(InputError, match="variant 'x': known are mesa, mesa-small"):
        variant("x")
    with pytest.raises(InputError, match="tasks 'x': no such task; known are full, partial"):
        setup("x")
    with pytest.raises(InputError, match="steps = 0"):
        Plan(steps=0)
    with pytest.raises(InputError, match="rates = "):
        Plan(rates=(0.0,))


def test_a_constructed_token_holds_what_was_before_it():
    one = setup("partial")
    drawn = one.task.draw(3, seed=1).inputs
    tokens = one.tokens(drawn, variant("mesa"))
    assert tokens.shape[-1] == one.input_size(variant("mesa")) == (1 + one.lags) * drawn.shape[-1]
    for t in (0, 1, 7, 49):
        for lag in range(1 + one.lags):
            part = tokens[:, t, lag * 5 : (lag + 1) * 5]
            assert torch.equal(part, drawn[:, t - lag] if t >= lag else torch.zeros_like(part))
    assert one.tokens(drawn, variant("hybrid")) is drawn
    pairs = setup("regression")
    drawn = pairs.task.draw(2, seed=1).inputs
    assert pairs.tokens(drawn, variant("mesa")) is drawn


def test_seeds_of_streams_differ():
    assert len({stream(a, b, c) for a in range(4) for b in range(4) for c in range(4)}) == 64
    assert stream(1, 2) == stream(1, 2)
    assert 0 <= stream(0) < 2**63


def test_variants_of_a_seed_see_the_same_sequences(monkeypatch):
    seen = {}
    monkeypatch.setattr(training, "train", lambda model, draw, plan, **_: seen.setdefault(len(seen), draw(2)))
    for name, seed in (("softmax-6-plain", 0), ("hybrid", 0), ("hybrid", 1), ("mesa", 0)):
        train_on_task(variant(name), setup("full"), PLAN, rate=1e-3, seed=seed)
    assert torch.equal(seen[0]["inputs"], seen[1]["inputs"])
    assert not torch.equal(seen[0]["inputs"], seen[2]["inputs"])
    assert torch.equal(seen[0]["inputs"], seen[3]["inputs"][..., :10])


def test_a_training_learns_and_gives_the_same_numbers_again():
    plan = Plan(steps=60, batch=16, warmup=5)
    one, other = (train_on_task(variant("mesa-small"), setup("fixed"), plan, rate=1e-2, seed=3) for _ in range(2))
    assert one.curve == other.curve
    assert one.curve[-1] < 0.5 * one.curve[0]


def test_a_training_that_diverges_is_refused():
    with pytest.raises(Refused, match=r"diverged with the learning rate|not finite"):
        train_on_task(
            variant("softmax-1"), setup("full"), Plan(steps=8, batch=4, warmup=0, clip=1e9), rate=1e30, seed=0
        )


def test_references_are_what_they_say():
    one = setup("full")
    found = judging.references(one, 256, seed=0)
    judged = judging.held_out(one, 256, seed=0)
    curves = found["positions"]
    assert curves["zero"] == pytest.approx((judged.targets.double().square().sum(-1) / 2).mean(0).tolist(), rel=1e-5)
    assert judging.late(curves["known"]) == pytest.approx(0.5 * 10 * one.task.noise**2, rel=0.1)
    assert judging.late(curves["known"]) < judging.late(curves["ridge"]) < judging.late(curves["step"]) < 1.6
    assert curves["ridge"][0] == pytest.approx(curves["zero"][0], rel=1e-5)  # nothing to go by yet
    assert found["ridge"] in judging.RIDGES
    # The regression's own solution, with the λ that was chosen.
    x, y = one.task.pairs(judged)
    A = x[:, :49].double().mT @ x[:, :49].double() + found["ridge"] * torch.eye(10)
    W = torch.linalg.solve(A, x[:, :49].double().mT @ y[:, :49].double())
    last = ((x[:, 49:].double() @ W)[:, 0] - y[:, 49]).square().sum(-1).mean() / 2
    assert curves["ridge"][49] == pytest.approx(float(last), rel=1e-3)


def test_only_positions_that_count_are_judged():
    one = setup("regression")
    judged = judging.held_out(one, 32, seed=0)
    perfect = judging.judge(lambda inputs: judged.targets, judged)["positions"]
    assert perfect == [0.0]
    assert len(judging.references(one, 64, seed=0)["positions"]["ridge"]) == 1


def test_losses_of_a_text_are_those_of_its_windows_one_by_one():
    class Model:
        def __call__(self, input_ids):
            logits = torch.nn.functional.one_hot((input_ids * 7 + 1) % 11, 11).float()
            return type("Out", (), {"logits": logits})

    windows = [torch.tensor([0, 1, 8, 3]), torch.tensor([0, 5]), torch.tensor([0, 2, 4, 6]), torch.tensor([0])]
    nats, count = text.losses(Model(), windows)
    assert count == [3, 2, 2]
    wrong, right = np.log(10 + np.e), np.log(10 + np.e) - 1
    # The model says 1 after 0, 8 after 1 and 4 after 2; all else is wrong.
    assert nats == pytest.approx([right + wrong + wrong, right + right, wrong + wrong], rel=1e-6)


def made(name, seed, curve, *, task="full", refused=None):
    return {
        "task": task, "variant": name, "seed": seed, "positions": curve, "parameters": 41_600, "refused": refused,
        "rate": 1e-3, "curve": [1.0], "seconds": 1.0, "look": {},
    }  # fmt: skip


def made_results():
    trained = [made("mesa", s, [1.0 + s] * 40 + [0.1] * 10) for s in range(3)]
    trained += [made("softmax-6", s, [1.0 + s] * 40 + [0.4 + 0.1 * s] * 10) for s in range(3)]
    trained += [made("linear-6", 0, None, refused="training diverged")]
    trained += [
        {
            "task": TEXT, "variant": v, "seed": s, "nats": [5.0 + s] * 128 + [4.0 + s + gain] * 128, "count": [1] * 256,
            "parameters": 1_300_000, "refused": None,
        }
        for v, gain in (("softmax", 0.25), ("softmax-mesa", 0.0))
        for s in range(3)
    ]  # fmt: skip
    references = [
        {"task": "full", "variant": REFERENCES, "seed": s, "positions": {"zero": [2.0] * 50, "ridge": [0.5] * 50}}
        for s in range(3)
    ]
    tuning = [
        {"task": "full", "variant": "mesa", "rate": rate, "loss": loss} for rate, loss in ((1e-3, 0.5), (3e-3, None))
    ]
    return Results(trained=trained, references=references, tuning=tuning)


def test_differences_are_paired_by_seed():
    found = {row.name: row for row in tables.rows(made_results(), "full")}
    assert list(found) == ["ridge", "zero", "mesa", "linear-6", "softmax-6"]
    assert found["mesa"].difference is None
    assert found["mesa"].error.value == pytest.approx((40 * 2.0 + 1.0) / 50)
    gap = found["softmax-6"].late_difference
    low, high = scipy.stats.t.interval(0.95, 2, loc=0.4, scale=scipy.stats.sem([0.3, 0.4, 0.5]))
    assert (gap.value, gap.low, gap.high) == pytest.approx((0.4, low, high))
    assert found["softmax-6"].difference.value == pytest.approx(0.4 * 10 / 50)
    assert found["linear-6"].error is None
    assert found["linear-6"].refused == ("training diverged",)
    assert tables.rows(made_results(), "nonlinear") == []


def test_text_is_compared_by_seed_and_by_place():
    softmax, mesa = tables.text_rows(made_results())
    assert (softmax.name, mesa.name) == ("softmax", "softmax-mesa")
    assert mesa.loss.value == pytest.approx(5.5)
    assert softmax.difference.value == pytest.approx(0.125)
    assert mesa.context.value == pytest.approx(1.0)
    assert softmax.context_difference.value == pytest.approx(-0.25)
    assert mesa.difference is None


def test_the_document_has_every_table():
    document = tables.document(made_results())
    assert "| `softmax-6`: six softmax layers | 41,600 |" in document
    assert "(1 refused: training diverged)" in document
    assert "+0.40000 [0.15159, 0.64841]" in document
    assert "| full | mesa | **0.5000** | diverged |" in document
    assert "### Text" in document


def test_rates_at_the_edge_of_what_was_tried_are_said():
    def tried(task, name, losses):
        return [{"task": task, "variant": name, "rate": rate, "loss": loss} for rate, loss in losses.items()]

    inside = tried("full", "mesa", {1e-3: 2.0, 3e-3: 1.0, 1e-2: 3.0})
    assert tables.at_the_edge(inside) == "None of the 1 chosen rates is at the edge of what was tried."
    edges = [
        *tried("full", "linear-6", {1e-3: 2.0, 1e-2: 1.0, 3e-3: 3.0}),
        *tried("full", "softmax-6", {1e-2: None, 1e-3: 2.0}),  # the largest that was tried diverged
        *tried("partial", "hybrid", {3e-3: 1.0}),
        *tried("partial", "mesa", {3e-3: None}),
    ]
    assert tables.at_the_edge([*inside, *edges]) == (
        "3 of the 5 chosen rates are at the edge of what was tried, and a better one may lie beyond. "
        "full, the largest (0.01): `linear-6`; full, the least (0.001): `softmax-6`; "
        "partial, the only one (0.003): `hybrid`."
    )


def test_pictures_are_drawn_of_what_there_is(tmp_path):
    written = picture.draw(made_results(), tmp_path / "mesa.svg")
    assert [path.name for path in written] == ["mesa.svg", "mesa-text.svg"]
    assert all(path.read_text().startswith("<svg") for path in written)
    assert picture.points(made_results())[0] == {
        "task": "full", "predictor": "mesa", "position": 1, "error": 2.0,
        "low": pytest.approx(2 - 2.4841, abs=1e-3), "high": pytest.approx(2 + 2.4841, abs=1e-3),
    }  # fmt: skip
    with pytest.raises(InputError, match="there are no results by position"):
        picture.draw(Results(trained=[], references=[], tuning=[]), tmp_path / "none.svg")


def test_the_study_goes_on_where_it_stopped(tmp_path, texts, monkeypatch):
    options = {
        "seeds": 2, "only": ["mesa-small", "softmax"], "tasks": ["regression", TEXT], "texts": texts,
        "settings": SETTINGS, "processes": 1,
    }  # fmt: skip
    few = text.held_out(AutoTokenizer.from_pretrained(pocket_folder()))[:6]
    monkeypatch.setattr(text, "held_out", lambda tokenizer: few)
    told = []
    first = experiment(tmp_path / "out", **options, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (9, 9)  # 2 + 1 rates; 2 seeds of references, a task and the text
    assert [(one["task"], one["variant"], one["seed"]) for one in first.trained] == [
        ("regression", "mesa-small", 0), (TEXT, "softmax", 0), ("regression", "mesa-small", 1), (TEXT, "softmax", 1),
    ]  # fmt: skip
    assert {one["rate"] for one in first.tuning} == {1e-3, 3e-3}
    by_rate = {one["rate"]: one["loss"] for one in first.tuning if one["task"] == "regression"}
    assert {one["rate"] for one in first.trained if one["task"] == "regression"} == {min(by_rate, key=by_rate.get)}
    model = keeping.load_trained(tmp_path / "out" / "trained" / "regression-mesa-small-0", "regression")
    judged = judging.held_out(setup("regression"), SETTINGS.judged, seed=0)
    predict = judging.as_predictor(model, setup("regression"), variant("mesa-small"))
    assert judging.judge(predict, judged)["positions"] == first.trained[0]["positions"]

    # A measurement that is gone is made again from the weights; nothing is trained.
    monkeypatch.setattr(module._Study, "_train", lambda *_: pytest.fail("trained again"))
    (tmp_path / "out" / "measured" / "text-softmax-1.json").unlink()
    assert json.dumps(asdict(experiment(tmp_path / "out", **options))) == json.dumps(asdict(first))
    # Nor by other measures; but another training is another study.
    other = Settings(regression=PLAN, text=SETTINGS.text, judged=32)
    assert len(experiment(tmp_path / "out", **options | {"settings": other}).trained) == 4
    changed = Settings(regression=Plan(steps=4, batch=4, rates=(1e-3, 3e-3)), text=SETTINGS.text)
    with pytest.raises(InputError, match="was made with other settings, code or libraries"):
        experiment(tmp_path / "out", **options | {"settings": changed})


def test_a_training_that_is_refused_is_a_result(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise Refused("cannot be vouched for")

    monkeypatch.setattr(module, "train_on_task", refuse)
    for _ in range(2):
        found = experiment(tmp_path, seeds=1, only=["mesa"], tasks=["regression"], settings=SETTINGS, processes=1)
        assert found.trained[0]["refused"] == "cannot be vouched for"
        assert "positions" not in found.trained[0]


def test_every_variant_is_trained_somewhere_and_has_a_colour():
    assert {one.name for one in VARIANTS} <= set(picture._COLOURS)
    assert {one.name for one in TEXT_VARIANTS} == set(picture._TEXT_COLOURS)
    assert {name for one in setups() for name in one.variants} == {one.name for one in VARIANTS}


def test_a_look_says_what_a_model_does_and_does_not(monkeypatch):
    """Trained on one system for all, a model uses no context: it is no optimiser, however well it predicts."""
    few = partial(looking.optimiser_finding, families=(rivals.RIDGE, *rivals.OTHERS[:2]))  # the others take long to fit
    monkeypatch.setattr(looking, "optimiser_finding", few)
    plan = Plan(steps=40, batch=16, warmup=4)
    trained = train_on_task(variant("mesa-small"), setup("fixed"), plan, rate=1e-2, seed=0)
    small = looking.Looking(compared=16, inside=100, resamples=100)
    found = looking.look_at(trained.model, setup("fixed"), variant("mesa-small"), seed=0, looking=small)
    assert found["optimiser"]["verdict"] == "no"
    assert "probes" not in found
    fresh = training.fresh(variant("hybrid"), setup("full"), 0)
    found |= looking._inside(fresh, setup("full"), variant("hybrid"), 0, small)
    assert found["binding"]["verdict"].startswith("does not copy")
    assert list(found["linear"]["layers"]) == ["0"]
    results = Results(
        trained=[made("hybrid", seed, [1.0] * 50) | {"look": json.loads(json.dumps(found))} for seed in range(3)],
        references=[], tuning=[],
    )  # fmt: skip
    document = looks.document(results)
    assert "| `hybrid` | no 3 |" in document
    assert "does not copy the previous input beyond the controls 3" in document
    assert "input, 1 back" in document


def test_results_depend_on_all_code_that_makes_them():
    """A change where tasks are drawn or models trained trains anew; one where intervals are made measures anew."""
    trained = {
        task: lambda task=task: keeping.training_key(task, "mesa", training.Plan(), 1e-3, 0, None)
        for task in ("full", "text")
    }
    keys = {**trained, "measured": lambda: keeping.measuring_key("trained", 1)}
    before = {name: key() for name, key in keys.items()}
    for name, moved in {
        "organisms.systems": {"full", "text", "measured"}, "attention.mesa.layer": {"full", "text", "measured"},
        "studies.mesa.text": {"text", "measured"}, "results.estimates": {"measured"},
        "results.statistics": {"measured"}, "studies.mesa.judging": {"measured"}, "report.html": set(),
    }.items():  # fmt: skip
        with touched(f"snellen.{name}"):
            assert {one for one, key in keys.items() if key() != before[one]} == moved, name
