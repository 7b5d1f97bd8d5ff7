"""Settings that transformers takes as they come, or answers with a traceback: one line, before any work."""

from __future__ import annotations

import dataclasses
import math

import pytest
from transformers import (
    BertConfig,
    BertLMHeadModel,
    GPT2Config,
    GPT2LMHeadModel,
    MixtralConfig,
    MixtralForCausalLM,
    TrainingArguments,
)

from snellen.attention import make_myopic
from snellen.errors import InputError, Refused
from snellen.training import StuntingConfig, StuntingTrainer
from tests.training.tiny_training import VOCABULARY, config, model, rows


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size = 0: must be at least 1"),
        ({"per_device_eval_batch_size": 0}, "per_device_eval_batch_size = 0: must be at least 1"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps = 0: must be at least 1"),
        ({"max_steps": 2.5}, "max_steps = 2.5: must be a whole number"),
        ({"max_steps": 0}, "max_steps = 0: must be at least 1, or -1"),
        ({"max_steps": True}, "max_steps = True: must be a whole number"),
        ({"lr_scheduler_type": "nonsense"}, "lr_scheduler_type = 'nonsense': must be one of linear, cosine"),
        ({"optim": "nonsense"}, "optim = 'nonsense': must be one of adamw_torch"),
        ({"report_to": "nonsense"}, "report_to = 'nonsense': must be of none, all"),
        ({"report_to": ["flyte", "nonsense"]}, "report_to = "),
        ({"log_level": "loud"}, "log_level = 'loud': must be one of"),
        ({"adam_beta2": 1.0}, "adam_beta2 = 1.0: must be from 0 to below 1"),
        ({"seed": -1}, "seed = -1: must be from 0 to"),
        ({"bf16": "yes"}, "bf16 = 'yes': must be true or false"),
        ({"output_dir": 5}, "output_dir = 5: must be a word"),
        ({"accelerator_config": {"x": 1}}, "accelerator_config = {'x': 1}: "),
        ({"debug": "x"}, "debug = 'x': "),
        ({"fp16": True, "bf16": True}, "fp16 and bf16"),
        ({"eval_steps": 3}, "eval_steps = 3: nothing is evaluated"),
        ({"resume_from_checkpoint": "x"}, "resume_from_checkpoint = 'x': the same run goes on by itself"),
        ({"remove_unused_columns": True}, "remove_unused_columns = True: "),
        ({"label_names": ["targets"]}, "label_names = "),
        ({"monitor_every": 7}, "monitor_every = 7: there is no monitor"),
        ({"lookahead_engine": "fast"}, "lookahead_engine = 'fast': must be one of auto, columns, plain"),
        ({"average_tokens_across_devices": False}, "average_tokens_across_devices = False: not with method 'balance'"),
        ({"method": "penalty", "strength": -1.0}, "strength = -1.0: must be above 0"),
        ({"against": "x"}, "against = 'x': must be one of"),
        ({"method": "myopic", "myopic_mode": "x"}, "myopic_mode = 'x': must be one of hidden, kv"),
        ({"method": "myopic", "myopic_beta": 1.5}, "myopic_beta = 1.5: must be from 0 to 1"),
    ],
)
def test_a_setting_is_refused_with_its_name(tmp_path, settings, said):
    with pytest.raises(InputError) as caught:
        StuntingConfig(**{"output_dir": str(tmp_path), "use_cpu": True, **settings})
    assert said in str(caught.value)


NUMBERS = [one.name for one in dataclasses.fields(StuntingConfig) if type(one.default) in (int, float) and one.init]


@pytest.mark.parametrize("name", NUMBERS)
def test_no_number_may_be_none(tmp_path, name):
    for value in (math.nan, math.inf, "1"):
        with pytest.raises(InputError, match=name):
            StuntingConfig(output_dir=str(tmp_path), use_cpu=True, **{name: value})


def test_every_field_takes_its_default(tmp_path):
    """The annotations are read: none of transformers' own defaults is refused, nor what a configuration has become."""
    whole = {one.name: one.default for one in dataclasses.fields(TrainingArguments) if one.init}
    given = {name: value for name, value in whole.items() if value is not dataclasses.MISSING}
    own = {"remove_unused_columns": False, "output_dir": str(tmp_path), "use_cpu": True}
    once = StuntingConfig(**{**given, **own})
    assert dataclasses.replace(once, max_steps=3).max_steps == 3


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"optim": "lomo"}, "optim = 'lomo': "),
        ({"optim": "adamw_bnb_8bit"}, "optim = 'adamw_bnb_8bit': "),
        ({"optim": "adamw_torch", "optim_args": "wrong=1"}, "optim_args = 'wrong=1': optim 'adamw_torch' reads none"),
        ({"optim": "sgd", "optim_args": "momentum"}, "optim = 'sgd', optim_args = 'momentum': "),
        ({"lr_scheduler_type": "constant", "warmup_steps": 5}, "warmup_steps = 5: lr_scheduler_type 'constant' has no"),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, "lr_scheduler_type = 'cosine_with_min_lr'"),
        (
            {"lr_scheduler_kwargs": {"wrong": 1}},
            "lr_scheduler_kwargs = {'wrong': 1}: lr_scheduler_type 'constant' reads",
        ),
        ({"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"wrong": 1}}, "lr_scheduler_kwargs = {'wrong': 1}: "),
        ({"eval_strategy": "steps", "eval_steps": 1}, "eval_dataset"),
    ],
)
def test_optimiser_and_schedule_are_built_before_the_training(tmp_path, settings, said):
    with pytest.raises(InputError) as caught:
        StuntingTrainer(model(), config(tmp_path, "ordinary", **settings), rows())
    assert said in str(caught.value)


def test_a_projected_step_wants_a_known_optimiser(tmp_path):
    with pytest.raises(Refused, match="Adagrad: its preconditioner is not known"):
        StuntingTrainer(model(), config(tmp_path, balance_form="step", optim="adagrad"), rows())


@pytest.mark.parametrize("method", ["ordinary", "myopic", "balance"])
def test_a_model_that_sees_what_comes_is_refused(tmp_path, method):
    shape = BertConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=32, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, initializer_range=0.5,
    )  # fmt: skip
    with pytest.raises(Refused, match="BertLMHeadModel"):
        StuntingTrainer(BertLMHeadModel(shape), config(tmp_path, method), rows())
    shape.is_decoder = True
    if method == "ordinary":  # the control: the same shape, left to right
        StuntingTrainer(BertLMHeadModel(shape), config(tmp_path, method), rows())


def test_what_takes_no_gradient_is_not_trained(tmp_path):
    for method in ("ordinary", "balance", "myopic"):
        with pytest.raises(InputError, match=r"none of its parameters takes a gradient.*requires_grad_\(True\)"):
            StuntingTrainer(model().requires_grad_(False), config(tmp_path, method), rows())
    lm = model().requires_grad_(False)
    with pytest.raises(InputError, match=r"none of its parameters takes a gradient.*requires_grad_\(True\)"):
        make_myopic(lm)
    with make_myopic(lm.requires_grad_(True)):
        lm(
            input_ids=lm.dummy_inputs["input_ids"] % VOCABULARY, labels=lm.dummy_inputs["input_ids"] % VOCABULARY
        ).loss.backward()
    assert lm.lm_head.weight.grad is not None


def test_dropout_names_the_setting_that_mends_it(tmp_path):
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=1, n_head=2, n_positions=32))
    with pytest.raises(InputError, match=r"attn_pdrop = 0.1: .*--set model.config.attn_pdrop=0"):
        StuntingTrainer(gpt2, config(tmp_path, "myopic"), rows())


def test_a_loss_that_would_be_left_out_is_refused(tmp_path):
    shape = MixtralConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, num_local_experts=2, max_position_embeddings=32, output_router_logits=True,
    )  # fmt: skip
    with pytest.raises(InputError, match="output_router_logits = True"):
        StuntingTrainer(MixtralForCausalLM(shape), config(tmp_path), rows())


@pytest.mark.parametrize("name", ["data_collator", "compute_loss_func", "model_init"])
def test_arguments_that_are_the_trainers_own(tmp_path, name):
    with pytest.raises(InputError, match=f"{name}: rows, loss and model are this trainer's own"):
        StuntingTrainer(model(), config(tmp_path), rows(), **{name: lambda *_: None})
