"""One training of the experiment, and the looks at the model along the way."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel, PrinterCallback, TrainerCallback

from snellen.errors import InputError
from snellen.measures.lookahead_gain import LookaheadGain
from snellen.organisms.arms import Arms
from snellen.organisms.training import ROOM, log_probs
from snellen.studies.decisions import score_decisions
from snellen.studies.stunting import probe
from snellen.studies.stunting.variants import HORIZON, WIDTH, Variant
from snellen.training.config import StuntingConfig
from snellen.training.trainer import StuntingTrainer

LANGUAGE = Arms(states=5, permutations=4, planning=True)
TEXT, JUDGED = 7, 8  # streams of random numbers
LAYERS, MODEL, HEADS = 2, 64, 4
# Coarser grids than an exam's: a look takes a quarter of the time, and two gains came out as .616 instead of .617, and
# .698 instead of .699.
MEASURE = LookaheadGain(alphas=(0.0, 1.0, 2.0, 4.0), weights=(0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.95))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long and how closely: all runs of an experiment share it. particles: of the monitor."""

    steps: int = 1000
    batch: int = 64
    learning_rate: float = 3e-3
    warmup: int = 50
    looks: Sequence[int] = (150, 300, 500, 700, 1000)
    sequences: int = 2000
    units: int = 40
    particles: int = 16

    def __post_init__(self) -> None:
        if not self.looks or list(self.looks) != sorted(set(self.looks)) or self.looks[-1] != self.steps:
            raise InputError(f"looks = {tuple(self.looks)}: must rise, and end with the last step ({self.steps})")


@dataclass(frozen=True, kw_only=True)
class Look:
    """A model at a step. Losses in nats a token; gains in nats a decision, each value with the ends of its interval.

    amplified: the loss at the decision of the best fitted mix with the monitor's lookahead, and with the training
    amplifier's beam; probe: share of contexts whose right choice is read off each layer.
    """

    step: int
    losses: Mapping[str, float]
    monitor: Mapping[str, float | None]
    beam: Mapping[str, float | None]
    probe: Sequence[float]


def language_at(seed: int) -> Arms:
    return replace(LANGUAGE, rules=seed)


def fresh(seed: int) -> PreTrainedModel:
    """The untrained model that every variant of a seed begins with."""
    language = language_at(seed)
    config = GPT2Config(
        vocab_size=language.vocabulary, n_positions=language.length + ROOM, n_embd=MODEL, n_layer=LAYERS, n_head=HEADS,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=None, use_cache=False,
        activation_function="gelu_pytorch_tanh",  # GPT-2's own, fused
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1_000 + seed)
        return GPT2LMHeadModel(config)


def raise_one(variant: Variant, seed: int, plan: Plan) -> dict[str, Any]:
    """Train, look, and tell everything as JSON has it; `cost` is seconds of training, looks not counted."""
    torch.set_num_threads(1)
    language = language_at(seed)
    model = fresh(seed)
    text = language.sample(plan.steps * plan.batch, seed=[seed, TEXT])
    looks: list[Look] = []
    with tempfile.TemporaryDirectory() as folder:
        config = StuntingConfig(
            output_dir=folder, method=variant.method, amplifier=variant.amplifier, **variant.settings,
            max_steps=plan.steps, per_device_train_batch_size=plan.batch, learning_rate=plan.learning_rate,
            lr_scheduler_type="constant_with_warmup", warmup_steps=plan.warmup, adam_beta2=0.99, weight_decay=0.01,
            seed=seed, save_strategy="no", logging_strategy="no", disable_tqdm=True, use_cpu=True,
            log_level="error",
        )  # fmt: skip
        looking = Looking(language, seed, plan, looks)
        trainer = StuntingTrainer(model, config, list(text), callbacks=[looking])
        trainer.remove_callback(PrinterCallback)
        began = time.perf_counter()
        trainer.train()
        cost = time.perf_counter() - began - looking.seconds
    held_out = language.sample(plan.sequences, seed=[seed, JUDGED])
    return {
        "variant": variant.name,
        "seed": seed,
        "cost": cost,
        "author": language.losses(language.log_probs(held_out)),
        "untrained_probe": probe.accuracy(fresh(seed), language),
        "looks": [vars(look) for look in looks],
    }


class Looking(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """Looks at the model at the plan's steps; nothing random is drawn from streams that training reads."""

    def __init__(self, language: Arms, seed: int, plan: Plan, looks: list[Look]) -> None:
        self._language, self._seed, self._plan, self._looks = language, seed, plan, looks
        self.seconds = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, model: PreTrainedModel, **kwargs: Any) -> None:
        if state.global_step not in self._plan.looks:
            return
        began = time.perf_counter()
        model.eval()
        self._looks.append(look_at(model, self._language, self._seed, self._plan, state.global_step))
        model.train()
        self.seconds += time.perf_counter() - began


def look_at(model: PreTrainedModel, language: Arms, seed: int, plan: Plan, step: int) -> Look:
    """Everything that is measured of a model."""
    text = language.sample(plan.sequences, seed=[seed, JUDGED])
    scored = score_decisions(
        model, language, text, widths=(WIDTH,), horizon=HORIZON, units=plan.units, particles=plan.particles, seed=seed
    )
    found = MEASURE.measure(scored, seed=seed)
    arms = found.tables["arms"].to_pylist()
    rows = {row["search"]: row for row in found.finding.details["by_width"]}
    return Look(
        step=step,
        losses=language.losses(log_probs(model, text)),
        monitor=_gain(rows["particles"], arms),
        beam=_gain(rows["beam"], arms),
        probe=probe.accuracy(model, language),
    )


def _gain(row: Mapping[str, Any], arms: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    mixed = next(
        one for one in arms
        if (one["search"], one["horizon"], one["arm"]) == (row["search"], HORIZON, "lookahead")
    )  # fmt: skip
    placebo = row["placebo"]
    return {
        "gain": row["value"], "low": row["low"], "high": row["high"], "placebo": placebo["value"],
        "placebo_low": placebo["low"], "placebo_high": placebo["high"], "amplified": -mixed["log_likelihood"],
    }  # fmt: skip


__all__ = ["LANGUAGE", "Look", "Plan", "look_at", "raise_one"]
