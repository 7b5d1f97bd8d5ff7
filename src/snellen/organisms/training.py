"""Tiny models trained on a language by a plain loop, and stopped by what they have learned, not by the clock.

A model is wanted in a known state: one that can check but not yet choose, say. Steps do not name such a state, since
another seed reaches it at another step; losses do. So training runs through *stages*, each with gates on the losses
of named regions of the language, and what passes them is a copy of the model at that moment.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from snellen.errors import InputError, Refused
from snellen.organisms.language import Floats, Language, at_least

ROOM = 16  # places beyond the language's own length, for branches that look further than its end
_TEXT, _HELD_OUT, _INIT = 1, 2, 3  # streams of random numbers


@dataclass(frozen=True, kw_only=True)
class Gate:
    """A bound on the held-out loss of a region (nats a token), counted from zero or from the language's own loss."""

    region: str
    below: float | None = None
    above: float | None = None
    counted_from: Literal["zero", "the author"] = "zero"

    def __post_init__(self) -> None:
        if (self.below is None) == (self.above is None):
            raise InputError(f"gate on {self.region!r}: give one of below and above")

    def passes(self, losses: Mapping[str, float], author: Mapping[str, float]) -> bool:
        loss = losses[self.region] - (author[self.region] if self.counted_from == "the author" else 0.0)
        return loss < self.below if self.below is not None else self.above is not None and loss > self.above

    def __str__(self) -> str:
        bound = f"< {self.below:g}" if self.below is not None else f"> {self.above:g}"
        return f"{self.region} {bound}{' over the author' if self.counted_from == 'the author' else ''}"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A state in which the model is wanted: the first check at which all gates are passed."""

    name: str
    gates: tuple[Gate, ...]


@dataclass(frozen=True, kw_only=True)
class Training:
    """Shape of the model (GPT-2) and its optimisation. A `most_steps` without all stages passed is a failed attempt."""

    stages: tuple[Stage, ...]
    layers: int = 1
    width: int = 64
    heads: int = 4
    batch: int = 256
    learning_rate: float = 3e-3
    warmup: int = 50
    weight_decay: float = 0.01
    check_every: int = 25
    held_out: int = 2048
    most_steps: int = 1500
    attempts: int = 3

    def __post_init__(self) -> None:
        for name in ("layers", "width", "heads", "batch", "check_every", "held_out", "most_steps", "attempts"):
            at_least(name, getattr(self, name), 1)
        at_least("warmup", self.warmup, 0)
        if self.width % self.heads:
            raise InputError(f"width = {self.width}: must be a multiple of heads = {self.heads}")
        if not self.stages or len({stage.name for stage in self.stages}) < len(self.stages):
            raise InputError("stages: give at least one, each with a name of its own")


@dataclass(frozen=True, kw_only=True)
class Moment:
    """A model as it was when it passed a stage. Losses are held out, nats a token; `author` are the least possible."""

    stage: str
    step: int
    attempt: int
    losses: Mapping[str, float]
    author: Mapping[str, float]
    model: PreTrainedModel


def train(
    language: Language,
    training: Training,
    *,
    seed: int,
    tell: Callable[[str], None] = lambda line: None,
    watch: Callable[[int, Mapping[str, float]], None] = lambda step, losses: None,
) -> list[Moment]:
    """The model at each stage, in order. `tell` is told of failed attempts, `watch` every check.

    The text is fresh in every step, so that nothing is seen twice but by chance. A window that is missed (a gate
    `above` that fails before the others pass) is not waited for: `most_steps` ends the attempt, and the next one
    starts from other weights and other text. Which attempt it was is recorded with the model.

    Raises
    ------
    InputError
        A gate on a region that the language does not have.
    Refused
        No attempt passed all stages: there is no model in the state that was asked for.
    """
    for stage in training.stages:
        for gate in stage.gates:
            if gate.region not in language.regions:
                known = ", ".join(language.regions)
                raise InputError(f"stage {stage.name!r}: gate on {gate.region!r}; the language has {known}")
    said = ""
    for attempt in range(training.attempts):
        moments, said = _attempt(language, training, seed, attempt, watch)
        if len(moments) == len(training.stages):
            return moments
        tell(f"attempt {attempt + 1} of {training.attempts} failed: {said}")
    raise Refused(f"no model in the wanted state after {training.attempts} attempts; the last: {said}")


def build(language: Language, training: Training, *, seed: int = 0) -> GPT2LMHeadModel:
    """An untrained model; torch's global generator is left as it was."""
    config = GPT2Config(
        vocab_size=language.vocabulary, n_positions=language.length + ROOM, n_embd=training.width,
        n_layer=training.layers, n_head=training.heads, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        bos_token_id=0, eos_token_id=None, use_cache=False,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GPT2LMHeadModel(config).eval()


def _attempt(
    language: Language,
    training: Training,
    seed: int,
    attempt: int,
    watch: Callable[[int, Mapping[str, float]], None],
) -> tuple[list[Moment], str]:
    model = build(language, training, seed=int(np.random.SeedSequence([seed, attempt, _INIT]).generate_state(1)[0]))
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=training.learning_rate, betas=(0.9, 0.99), weight_decay=training.weight_decay
    )
    held_out = language.sample(training.held_out, seed=[seed, attempt, _HELD_OUT])
    author = language.losses(language.log_probs(held_out))
    moments: list[Moment] = []
    losses: dict[str, float] = {}
    for step in range(1, training.most_steps + 1):
        for group in optimiser.param_groups:
            group["lr"] = training.learning_rate * min(1.0, step / max(1, training.warmup))
        text = language.sample(training.batch, seed=[seed, attempt, _TEXT, step])
        loss = -_log_probs(model, torch.from_numpy(text))[:, 1:].mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if step % training.check_every and step != training.most_steps:
            continue
        losses = language.losses(log_probs(model, held_out))
        watch(step, losses)
        while len(moments) < len(training.stages):
            stage = training.stages[len(moments)]
            if not all(gate.passes(losses, author) for gate in stage.gates):
                break
            moments.append(
                Moment(
                    stage=stage.name, step=step, attempt=attempt, losses=losses, author=author,
                    model=copy.deepcopy(model).requires_grad_(False),
                )
            )  # fmt: skip
        if len(moments) == len(training.stages):
            break
    return moments, _shortfall(training, moments, losses, author)


def _shortfall(
    training: Training, moments: list[Moment], losses: Mapping[str, float], author: Mapping[str, float]
) -> str:
    if len(moments) == len(training.stages):
        return ""
    stage = training.stages[len(moments)]
    failed = "; ".join(
        f"{gate} (the model: {losses[gate.region]:.3f}, the author: {author[gate.region]:.3f})"
        for gate in stage.gates
        if not gate.passes(losses, author)
    )
    return f"stage {stage.name!r} not reached in {training.most_steps} steps: {failed or 'its gates never all at once'}"


def _log_probs(model: PreTrainedModel, sequences: Tensor) -> Tensor:
    """[number, length] log-probability of each token; the first has no prediction and gets 0."""
    logits = model(input_ids=sequences[:, :-1], use_cache=False).logits.float()
    given = logits.log_softmax(-1).gather(-1, sequences[:, 1:, None])[..., 0]
    return F.pad(given, (1, 0))


@torch.no_grad()
def log_probs(model: PreTrainedModel, sequences: Any) -> Floats:
    """[number, length] log-probability of each token of `sequences`, 0 for the first."""
    text = torch.from_numpy(sequences).to(model.device)
    parts = [_log_probs(model, text[start : start + 512]).cpu() for start in range(0, len(text), 512)]
    out: Floats = torch.cat(parts).double().numpy()
    return out
