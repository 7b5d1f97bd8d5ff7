"""Settings and data that are wrong are one clear line, before any work."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from snellen.errors import InputError, Refused
from snellen.texts.read import Document
from snellen.training import Beam, Learned, Particles, StuntingConfig, StuntingTrainer
from snellen.training.data import IGNORED, Rows, collate, fingerprint, rows_of
from tests.training.tiny_training import LENGTH, VOCABULARY, config, model, rows


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"method": "stunt"}, r"method = 'stunt': must be one of ordinary, myopic, .*skip"),
        ({"method": "balance", "amplifier": Particles()}, r"'balance' takes Beam; method \"particle\" takes Particles"),
        ({"method": "particle", "amplifier": Beam()}, "'particle' takes Particles"),
        ({"method": "adversarial", "amplifier": Beam()}, "'adversarial' takes Learned"),
        ({"method": "ordinary", "amplifier": Beam()}, "'ordinary' trains against none"),
        ({"method": "balance", "monitor": Beam(width=9)}, r"monitor = Beam.*same kind"),
        ({"method": "particle", "monitor": Particles()}, r"monitor = Particles.*same kind"),
        ({"method": "skip", "strength": 2.0}, "strength = 2.0: belongs to method 'penalty'"),
        ({"method": "myopic", "against": "naive"}, "against = 'naive': belongs to method "),
        ({"method": "balance", "balance_form": "token"}, "balance_form = 'token': must be one of tokens"),
        ({"method": "balance", "monitor_stop": True}, "there is no monitor"),
        ({"method": "balance", "torch_compile": True}, "torch_compile = True: not with method 'balance'"),
        ({"method": "balance", "label_smoothing_factor": 0.1}, "label_smoothing_factor = 0.1"),
        ({"method": "balance", "max_length": 1}, "max_length = 1: must be at least 2"),
        ({"method": "balance", "monitor_every": 0}, "monitor_every = 0"),
        ({"method": "balance", "lookahead_memory": "much"}, "memory 'much': not a size"),
    ],
)
def test_settings_that_contradict(tmp_path, settings, said):
    with pytest.raises(InputError, match=said):
        StuntingConfig(output_dir=str(tmp_path), use_cpu=True, **settings)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Particles(alpha=1.0), r"alpha = 1.0 with particles.*q = p.*no lookahead to stunt"),
        (lambda: Particles(alpha=float("inf")), "needs a finite exponent"),
        (lambda: Beam(width=0), "width = 0: must be a whole number"),
        (lambda: Beam(alpha=-1.0), "alpha = -1.0"),
        (lambda: Learned(learning_rate=0.0), "learning_rate = 0.0"),
    ],
)
def test_amplifiers_that_amplify_nothing(make, said):
    with pytest.raises(InputError, match=said):
        make()


def test_a_monitor_of_the_same_kind_can_be_forced(tmp_path):
    settings = {"method": "balance", "monitor": Beam(width=9, horizon=4), "monitor_forced": True}
    assert StuntingConfig(output_dir=str(tmp_path), use_cpu=True, **settings).monitor == Beam(width=9, horizon=4)


def trainer(folder, data, **settings):
    return StuntingTrainer(model(), config(folder, **settings), data)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (None, "train_dataset: there are no data"),
        ([], "there is no row in it"),
        ([{"words": [1]}], "rows have words; needed is input_ids or text"),
        (["a text"], "texts need a tokenizer"),
        ([None, None], "texts need a tokenizer"),
        ([[1, 2, 99]], "row 0: has the id 99, and the model knows 0…30"),
        ([list(range(31)) * 2], r"row 0: 62 tokens, and at most 30 fit"),
        ([[1], [2]], "no row has two tokens"),
        ([[1.5, 2.5]], "a row is a sequence of ids"),
        ([{"input_ids": [1, 2], "position_ids": [0, 0]}], "give each a row of its own"),
        ("texts.txt", "give a list of texts"),
        (iter([[1, 2]]), "cannot be counted and indexed"),
    ],
)
def test_data_that_cannot_be_trained_on(tmp_path, data, said):
    with pytest.raises(InputError, match=said):
        trainer(tmp_path, data)


def test_a_row_longer_than_the_places_that_a_horizon_leaves(tmp_path):
    with pytest.raises(InputError, match=r"max_length = 31: the model has 32 places, and a horizon of 3 needs 2"):
        trainer(tmp_path, rows(), max_length=31)


def test_a_monitor_needs_held_out_text(tmp_path):
    with pytest.raises(InputError, match="monitor: it looks at held-out text; give eval_dataset"):
        trainer(tmp_path, rows(), monitor=Particles(particles=4, horizon=3))


def test_another_run_in_the_folder_is_not_written_over(tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 2}
    trainer(tmp_path, rows(), **settings).train()
    kept = (tmp_path / "model.safetensors").read_bytes()
    for other, said in (
        ({"learning_rate": 1e-3}, "learning_rate: 0.01 there, 0.001 here"),
        ({"method": "skip", "amplifier": Beam(width=3, horizon=3)}, 'method: "balance" there, "skip" here'),
    ):
        with pytest.raises(InputError, match=said):
            trainer(tmp_path, rows(), **{**settings, **other}).train()
    with pytest.raises(InputError, match="data: "):
        trainer(tmp_path, rows(seed=5), **settings).train()
    assert (tmp_path / "model.safetensors").read_bytes() == kept
    trainer(tmp_path, rows(), **settings, logging_first_step=True, lookahead_memory="2GB").train()  # no other run


class Letters:
    """A tokenizer of single letters."""

    is_fast = True

    def __call__(self, text, **_):
        return {"input_ids": [ord(c) % 30 for c in text], "offset_mapping": [(i, i + 1) for i in range(len(text))]}


def test_texts_are_cut_into_windows_behind_the_first_token():
    texts = ["abcdefg", "  ", Document(name="two", text="hi"), "abcde"]
    found = rows_of(texts, tokenizer=Letters(), max_length=4, vocabulary=40, bos=33, name="texts")
    ids = ["".join(chr(i + 90) if i != 33 else "^" for i in found.ids(n)) for n in range(len(found))]
    assert ids == ["^abc", "^def", "^g", "^hi", "^abc", "^de"]
    bare = rows_of(texts, tokenizer=Letters(), max_length=4, vocabulary=40, bos=None, name="texts")
    assert [len(bare.ids(n)) for n in range(len(bare))] == [4, 3, 2, 4]  # the last letter alone has no target


def test_rows_are_padded_on_the_right_and_padding_is_no_target():
    whole = {"input_ids": [5, 6, 7], "targets": [False, True, True], "row": 0}
    batch = collate([whole, {"input_ids": [8], "targets": [False], "row": 4}])
    assert batch["input_ids"].tolist()[1][0] == 8
    assert batch["labels"].tolist() == [[IGNORED, 6, 7], [IGNORED] * 3]  # nothing predicts the first
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["rows"].tolist() == [0, 4]
    assert "attention_mask" not in collate([whole])


def test_a_fingerprint_tells_data_apart():
    one = fingerprint(Rows(rows()))
    assert one == fingerprint(Rows([torch.tensor(row) for row in rows()]))
    changed = rows()
    changed[0][0] = (changed[0][0] + 1) % VOCABULARY
    assert len({one, fingerprint(Rows(changed)), fingerprint(Rows(rows(63)))}) == 3


def test_ids_are_taken_as_arrays_tensors_or_mappings():
    data = [np.array([1, 2, 3]), torch.tensor([1, 2]), [4, 5]]
    options = {"tokenizer": None, "max_length": LENGTH, "vocabulary": VOCABULARY, "bos": 0, "name": "rows"}
    assert [len(rows_of(data, **options).ids(n)) for n in range(3)] == [3, 2, 2]
    assert rows_of([{"input_ids": [1, 2]}], **options).ids(0).tolist() == [1, 2]


def test_rows_without_any_text_are_refused():
    with pytest.raises(InputError, match="texts: there is no text in its 2 rows"):
        rows_of(["  ", "\n"], tokenizer=Letters(), max_length=4, vocabulary=40, bos=None, name="texts")


def test_a_model_that_fails_the_preflight_is_refused(tmp_path):
    """A prediction that depends on later tokens is none that could be looked ahead for."""

    class Leaky(LlamaForCausalLM):
        def forward(self, *args, **kwargs):
            out = super().forward(*args, **kwargs)
            out.logits = out.logits + 3 * out.logits.mean(1, keepdim=True)
            return out

    torch.manual_seed(0)
    with pytest.raises(Refused, match="Leaky"):
        StuntingTrainer(Leaky(model().config), config(tmp_path), rows())
