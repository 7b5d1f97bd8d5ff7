"""What rows say of themselves (labels, masks) is what is learnt, looked at and deployed: beside independent truths."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import Trainer, TrainingArguments

from snellen.errors import InputError
from snellen.lookahead.batch import beams_of
from snellen.lookahead.beam_search import beam
from snellen.lookahead.particle_filter import particles
from snellen.training import Beam, StuntingTrainer
from snellen.training.columns import IGNORED, read_row
from snellen.training.data import Rows, fingerprint, rows_of
from snellen.training.deployment import fitted
from snellen.training.looking import place_keys
from snellen.training.monitoring.gain import measure_gain
from snellen.training.monitoring.held_out import HeldOut
from snellen.training.objectives import Amplified, Places, objective_for
from tests.training.tiny_training import AMPLIFIERS, LENGTH, VOCABULARY, config, model, rows, trained, weights

SGD = {"optim": "sgd", "learning_rate": 0.5, "max_grad_norm": 0.0}


def masked(number=16, *, seed=0, share=0.4):
    """Rows with labels, some tokens of which are no targets."""
    rng = np.random.default_rng(seed + 100)
    found = []
    for ids in rows(number, seed=seed):
        labels = np.where(rng.random(len(ids)) < share, IGNORED, ids)
        labels[0], labels[-1] = IGNORED, ids[-1]  # one target at least
        found.append({"input_ids": ids, "labels": labels.tolist()})
    return found


def padded(row, side, length=LENGTH + 2):
    """The row with places before or behind it whose tokens are no text."""
    more = length - len(row["input_ids"])

    def beside(values, filling):
        own, pad = list(values), [filling] * more
        return pad + own if side == "left" else own + pad

    mask = beside([1] * len(row["input_ids"]), 0)
    return {
        "input_ids": beside(row["input_ids"], 7), "labels": beside(row["labels"], IGNORED), "attention_mask": mask,
    }  # fmt: skip


def as_transformers(folder, data, **settings):
    """transformers' own Trainer on rows whose columns it is given as they are, filled up on the right."""

    def collate(batch):
        most = max(len(row["input_ids"]) for row in batch)
        fill = {"input_ids": 0, "labels": IGNORED, "attention_mask": 0}
        whole = [{"attention_mask": [1] * len(row["input_ids"]), **row} for row in batch]
        return {
            name: torch.tensor([list(row[name]) + [one] * (most - len(row[name])) for row in whole])
            for name, one in fill.items()
        }

    args = TrainingArguments(
        output_dir=str(folder), max_steps=2, lr_scheduler_type="constant", save_strategy="no", disable_tqdm=True,
        use_cpu=True, seed=3, remove_unused_columns=False, **settings,
    )  # fmt: skip
    trainer = Trainer(model(), args, train_dataset=data, data_collator=collate)
    trainer.train()
    return weights(trainer)


def assert_close(one, other, tolerance):
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=0, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("side", ["ragged", "left", "right"])
def test_an_ordinary_training_is_that_of_transformers(tmp_path, side, accumulation):
    data = masked() if side == "ragged" else [padded(row, side) for row in masked()]
    settings = {**SGD, "per_device_train_batch_size": 4, "gradient_accumulation_steps": accumulation}
    ours = weights(trained(tmp_path / "a", "ordinary", data=data, max_steps=2, **settings))
    assert_close(ours, as_transformers(tmp_path / "b", data, **settings), 2e-6)
    whole = [{"input_ids": row["input_ids"]} for row in masked()]  # the control: labels matter
    other = weights(trained(tmp_path / "c", "ordinary", data=whole, max_steps=2, **settings))
    assert max(float((ours[name] - other[name]).abs().max()) for name in ours) > 1e-2


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("method", AMPLIFIERS)
def test_a_padded_row_is_the_row(tmp_path, method, side):
    plain = trained(tmp_path / "a", method, data=masked(8), max_steps=2, **SGD)
    other = trained(tmp_path / "b", method, data=[padded(row, side) for row in masked(8)], max_steps=2, **SGD)
    assert_close(weights(plain), weights(other), 0)


def step_by_hand(lm, objective, data, amplifier, seed):
    """One step of gradient descent from the formulas: row after row, each alone, every position searched."""
    found, losses = [], []
    for row in data:
        ids = torch.tensor(row["input_ids"])
        wanted = torch.tensor([*(label != IGNORED for label in row["labels"][1:]), False])
        logits, where, targets = lm(ids[None]).logits[0], wanted[None], ids.roll(-1)[wanted]
        with torch.no_grad():
            if objective.method == "adversarial":
                branches = beams_of(lm, ids[None], width=amplifier.width, horizon=amplifier.horizon, states=True)
                ahead = objective.amplify(branches, lm.get_input_embeddings().weight, targets, where)
            elif objective.method == "particle":
                own = {"particles": amplifier.particles, "horizon": amplifier.horizon, "alpha": amplifier.alpha}
                ahead = Amplified.of_particles(particles(lm, ids[None], seed=seed, **own), where=where)
            else:
                rolled = beam(lm, ids[None], width=amplifier.width, horizon=amplifier.horizon)
                ahead = Amplified.of_rollouts(rolled, amplifier.alpha, where)
        keys = place_keys(seed, ids[None], torch.ones_like(ids[None], dtype=torch.bool))[0, wanted]
        found.append(Places(logits=logits[wanted], targets=targets, amplified=ahead, keys=keys))
    every = objective.weights(
        torch.cat([objective.signal(one) for one in found]), torch.cat([one.keys for one in found])
    )
    for one, share in zip(found, every.split([len(one.targets) for one in found]), strict=True):
        loss = share.float() * F.cross_entropy(one.logits, one.targets, reduction="none")
        penalty = objective.penalty(one)
        losses.append(loss if penalty is None else loss + penalty)
    torch.cat(losses).mean().backward()
    objective.learn()
    with torch.no_grad():
        for parameter in lm.parameters():
            parameter -= SGD["learning_rate"] * parameter.grad
            parameter.grad = None


@pytest.mark.parametrize("method", AMPLIFIERS)
def test_masked_rows_are_stunted_as_the_formulas_say(tmp_path, method):
    data = masked(6)
    args = config(tmp_path, method, per_device_train_batch_size=6, max_steps=2, **SGD)
    trainer = StuntingTrainer(model(), args, data)
    trainer.train()
    lm, objective = model().eval(), objective_for(method, **args.objective())
    for step in range(2):
        step_by_hand(lm, objective, data, args.amplifier, args.seed * 1_000_003 + step)
    assert_close(weights(trainer), {name: one.detach() for name, one in lm.named_parameters()}, 1e-5)


@pytest.mark.parametrize("form", ["gradient", "step"])
def test_what_stands_behind_the_last_target_projects_nothing(tmp_path, form):
    """Of a causal model: a row whose end is no target is the row without its end."""
    short = rows(8)
    long = [
        {"input_ids": [*ids, 3, 4], "completion_mask": [1] * len(ids) + [0, 0], "length": len(ids) + 2} for ids in short
    ]
    one, other = (
        trained(tmp_path / name, data=data, balance_form=form, max_steps=2, **SGD)
        for name, data in (("a", short), ("b", long))
    )
    assert_close(weights(one), weights(other), 1e-5)


def loss_by_hand(lm, data):
    losses = []
    for row in data:
        ids = torch.tensor(row["input_ids"])
        log_probs = lm(ids[None]).logits[0].double().log_softmax(-1)
        losses += [-log_probs[t - 1, ids[t]] for t in range(1, len(ids)) if row["labels"][t] != IGNORED]
    return float(torch.stack(losses).mean()), len(losses)


@torch.no_grad()
def test_the_monitor_and_what_is_deployed_look_at_targets_alone():
    lm, data = model().eval(), masked(120)
    expected, number = loss_by_hand(lm, data)
    looks = []
    for given in (data, [padded(row, "left") for row in data], [padded(row, "right") for row in data]):
        text = HeldOut.of(given, lm, horizon=2, tokens=None)
        looks.append(measure_gain(lm, text, Beam(width=2, horizon=2)))
        assert text.tokens == looks[-1].tokens == number
        assert looks[-1].naive_loss == pytest.approx(expected, abs=1e-5)
    assert len({(look.gain, look.low, look.high, look.placebo) for look in looks}) == 1
    found = fitted(
        lm, HeldOut.of([padded(row, "left") for row in data], lm, horizon=2, tokens=None), Beam(width=2, horizon=2)
    )
    assert found.fitted["tokens"] == number
    assert found.fitted["naive_loss"] == pytest.approx(expected, abs=1e-5)
    whole = HeldOut.of([row["input_ids"] for row in data], lm, horizon=2, tokens=None)  # the control
    assert whole.tokens > number
    assert whole.sha256 != text.sha256


def test_a_sample_of_held_out_text_counts_targets():
    lm, data = model(), masked(200, share=0.7)
    text = HeldOut.of(data, lm, horizon=2, tokens=400)
    assert text.tokens == 400
    for window in text.windows:
        row, last = data[window.document], window.index + len(window.ids) - window.first
        assert window.ids.tolist() == row["input_ids"][last - len(window.ids) : last]
        own = [label != IGNORED for label in row["labels"][window.index : last]]
        assert own == (own if window.targets is None else window.targets.tolist())
        assert window.targets is not None or all(own)


@pytest.mark.parametrize(
    ("row", "ids", "targets"),
    [
        ([3, 4, 5], [3, 4, 5], [0, 1, 1]),
        ({"input_ids": [3, 4, 5], "attention_mask": [0, 1, 1]}, [4, 5], [0, 1]),
        ({"input_ids": [3, 4, 5], "attention_mask": [1, 1, 0], "labels": [3, 4, 5]}, [3, 4], [0, 1]),
        ({"input_ids": [3, 4, 5], "labels": [IGNORED, IGNORED, 5]}, [3, 4, 5], [0, 0, 1]),
        ({"input_ids": [3, 4, 5], "labels": None, "completion_mask": [0, 1, 0]}, [3, 4, 5], [0, 1, 0]),
        ({"input_ids": [3, 4, 5, 6], "completion_mask": [0, 1, 1, 1], "assistant_masks": [1, 1, 0, 1]}, [3, 4, 5, 6],
         [0, 1, 0, 1]),
        ({"input_ids": [9, 4, 5], "attention_mask": [0, 1, 1], "position_ids": [1, 0, 1]}, [4, 5], [0, 1]),
        ({"input_ids": [3, 4], "token_type_ids": [0, 0], "special_tokens_mask": [1, 0], "text": "ab"}, [3, 4], [0, 1]),
    ],
)  # fmt: skip
def test_a_row_is_read(row, ids, targets):
    found = read_row(row, "row")
    assert found.ids.tolist() == ids
    assert found.targets.tolist() == [bool(one) for one in targets]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"loss_mask": [1, 1, 0]}, "has the column 'loss_mask', which could change what is learnt"),
        ({"weights": [1.0, 1.0, 2.0]}, "has the column 'weights'"),
        ({"labels": [4, 5, IGNORED]}, r"label 4 at place 0, where the token is 3.*not shifted"),
        ({"labels": [3, 4]}, r"labels of shape \(2,\)"),
        ({"attention_mask": [1, 0, 1]}, "hides tokens between others"),
        ({"attention_mask": [1, 2, 2]}, "attention_mask holds 2; must be 0 and 1"),
        ({"position_ids": [0, 1, 0]}, "give each a row of its own"),
        ({"token_type_ids": [0, 0, 1]}, "token_type_ids are not all 0"),
        ({"completion_mask": [0.0, 0.5, 1.0]}, "completion_mask of shape"),
        ({"labels": [IGNORED] * 3}, "no token is a target"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(tmp_path, more, said):
    data = [{"input_ids": [3, 4, 5], **more}] * 2
    with pytest.raises(InputError, match=said):
        StuntingTrainer(model(), config(tmp_path, "ordinary"), data)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([{"text": "abc", "labels": [1]}], "row 0: has the column 'labels'"),
        ({"input_ids": [[1, 2]]}, "a mapping of input_ids; give rows"),
        (
            [{"input_ids": [1, 2], "labels": [1, 2]}, {"input_ids": [1, 2]}],
            "row 1: differs from row 0 in having labels",
        ),
    ],
)
def test_data_whose_columns_do_not_agree(data, said):
    with pytest.raises(InputError, match=said):
        rows_of(data, tokenizer=None, max_length=9, vocabulary=VOCABULARY, bos=None, name="train_dataset")


def test_rows_without_a_target_are_left_out_and_said(caplog):
    data = [
        {"input_ids": [1, 2], "labels": [IGNORED] * 2, "length": 2},
        {"input_ids": [3, 4], "labels": [3, 4], "length": 2},
    ]
    found = rows_of(data, tokenizer=None, max_length=9, vocabulary=VOCABULARY, bos=None, name="rows")
    assert len(found) == 1
    assert found[0]["row"] == 1
    assert "1 of 2 rows have no target" in caplog.text
    assert "not read, since they say nothing of what is learnt: length" in caplog.text


def test_a_fingerprint_tells_targets_apart():
    ids = rows(4)
    assert fingerprint(Rows(ids)) == fingerprint(Rows([{"input_ids": one, "labels": one} for one in ids]))
    assert fingerprint(Rows(ids)) != fingerprint(
        Rows([{"input_ids": one, "labels": [IGNORED, *one[1:-1], IGNORED]} for one in ids])
    )


@pytest.mark.parametrize("method", ["ordinary", "balance"])
def test_the_loss_of_an_evaluation_is_the_mean_over_tokens(tmp_path, method):
    data = masked(23, seed=5, share=0.6)
    with torch.no_grad():
        expected, _ = loss_by_hand(model().eval(), data)
    for size in (1, 7):
        trainer = StuntingTrainer(
            model(), config(tmp_path / str(size), method, per_device_eval_batch_size=size), rows(), data
        )
        assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, abs=2e-6)
        assert trainer.evaluate([padded(row, "left") for row in data])["eval_loss"] == pytest.approx(expected, abs=2e-6)
        assert trainer.predict(data).metrics["test_loss"] == pytest.approx(expected, abs=2e-6)


def test_smoothed_labels_are_evaluated_as_transformers_does(tmp_path):
    data = masked(5)
    trainer = StuntingTrainer(
        model(), config(tmp_path, "ordinary", label_smoothing_factor=0.2, per_device_eval_batch_size=5), rows(), data
    )
    batch = trainer.data_collator([trainer.eval_dataset[i] for i in range(5)])
    with torch.no_grad():
        logits = model()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    expected = trainer.label_smoother({"logits": logits}, batch["labels"], shift_labels=True)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(float(expected), abs=2e-6)
