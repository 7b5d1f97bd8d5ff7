"""Lookahead from every position of a batch of texts at once, over the forward pass that a training step makes anyway.

`beam` and `particles` take texts one by one and run each of them; here the whole batch is searched together, and where
its forward pass was run under `attention.keeping` nothing of it is run again. So a training step with lookahead costs
3 + W(D − 1) forward passes, three of them those of an ordinary step. Nothing here has a gradient, and results stay on
the model's device.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, overload

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from snellen.attention.keeping import Kept, keeping
from snellen.errors import InputError
from snellen.lookahead import counter_noise as noise
from snellen.lookahead import race, without_replacement
from snellen.lookahead.engine import Body, ColumnEngine, Engine, PlainEngine
from snellen.lookahead.head import First, first_tokens, rows_per_block
from snellen.lookahead.preflight import ENGINES, engine_for
from snellen.lookahead.rollouts import Rollouts
from snellen.lookahead.search import search
from snellen.lookahead.settings import check_search
from snellen.lookahead.weighted import Particles, check_alpha
from snellen.models.body import device_of
from snellen.request import bytes_of


@dataclass(frozen=True, kw_only=True, eq=False)
class Branches:
    """Beams with the hidden states behind them.

    Attributes
    ----------
    rollouts
        As without states.
    states: Float [batch, pos, depth − 1, width, model]
        The last hidden state, before the head, behind the newest token of each survivor (of `step_tokens` at all depths
        but the last, whose tokens are not run); 0 where empty.
    context: Float [batch, pos, model]
        The texts' own hidden states.
    """

    rollouts: Rollouts
    states: Float[Tensor, "batch pos depth_less_1 width model"]
    context: Float[Tensor, "batch pos model"]


@overload
def beams_of(
    model: PreTrainedModel, input_ids: Tensor, *, width: int, horizon: int, wanted: Tensor | None = None,
    kept: Kept | None = None, logits: Tensor | None = None, memory: int | str = "1GB", engine: str = "auto",
    states: Literal[False] = False,
) -> Rollouts: ...  # fmt: skip


@overload
def beams_of(
    model: PreTrainedModel, input_ids: Tensor, *, width: int, horizon: int, wanted: Tensor | None = None,
    kept: Kept | None = None, logits: Tensor | None = None, memory: int | str = "1GB", engine: str = "auto",
    states: Literal[True],
) -> Branches: ...  # fmt: skip


@torch.no_grad()
def beams_of(
    model: PreTrainedModel,
    input_ids: Int[Tensor, "batch pos"],
    *,
    width: int,
    horizon: int,
    wanted: Bool[Tensor, "batch pos"] | None = None,
    kept: Kept | None = None,
    logits: Float[Tensor, "batch pos vocab"] | None = None,
    memory: int | str = "1GB",
    engine: str = "auto",
    states: bool = False,
) -> Rollouts | Branches:
    """The `width` best completions of length `horizon` after each wanted position of each text, as `beam` gives them.

    Parameters
    ----------
    model
        Any causal language model of transformers, without its wrappers. In training mode only without dropout.
    input_ids
        Texts of equal length, or padded on the right with ids of the vocabulary, at places that are not wanted.
    width, horizon
        W branches kept at each depth, D tokens deep; both at least 1.
    wanted
        The positions to search from (None: all). The others have empty slots (−1, −∞) and NaN in `naive`.
    kept
        What `attention.keeping` kept of the forward pass of these very texts. None: they are run here, unmasked.
    logits
        Of that forward pass, for the first tokens. None: the head is run again on its hidden states.
    memory
        What the search may hold beside the weights and what was kept, in bytes or as "512MB", "2GB". It changes
        results by rounding alone.
    engine
        "columns" or "plain": so it is, unchecked. For who has run the preflight on this model before training (there
        is nothing in it that depends on the weights' values) and asks for its `engine` at each step. "auto": as in
        `beam`, the preflight is run first where none was run at this length (in evaluation mode, without autocast).
    states
        Also the hidden states: returns `Branches`. No branch is pruned then.

    Raises
    ------
    InputError
        A setting out of range, a text beyond the model's context, dropout in training mode, `kept` of something else
        (see `Kept.check`), logits or wanted of other shapes.
    Refused
        The model's numbers cannot be vouched for: a failed check, or NaN in its logits.
    """
    with _undisturbed(model, kept):
        batch = _Batch(model, input_ids, (width, horizon), ("width", "horizon"), wanted, kept, logits, memory, engine)
        return _beams(batch, width=width, horizon=horizon, states=states)


def _beams(batch: _Batch, *, width: int, horizon: int, states: bool) -> Rollouts | Branches:
    input_ids = batch.input_ids
    own, naive = batch.first(width)
    where = slice(0, input_ids.shape[1])
    context = batch.hidden if states else None
    found = search(
        batch.engine, batch.findable, own, where, widths=(width,), horizon=horizon, budget=batch.budget,
        wanted=batch.wanted, context=context, device=input_ids.device,
    )[width]  # fmt: skip
    shape = input_ids.shape
    rollouts = Rollouts(
        step_tokens=found.tokens.view(*shape, *found.tokens.shape[1:]),
        step_parents=found.parents.view(*shape, *found.parents.shape[1:]),
        step_log_probs=found.log_probs.view(*shape, *found.log_probs.shape[1:]),
        naive=naive,
        positions=torch.arange(shape[1], device=input_ids.device),
    )
    if context is None:
        return rollouts
    assert found.states is not None
    return Branches(rollouts=rollouts, states=found.states.view(*shape, *found.states.shape[1:]), context=context)


@torch.no_grad()
def particles_of(
    model: PreTrainedModel,
    input_ids: Int[Tensor, "batch pos"],
    *,
    particles: int,
    horizon: int,
    alpha: float,
    seed: int,
    wanted: Bool[Tensor, "batch pos"] | None = None,
    kept: Kept | None = None,
    logits: Float[Tensor, "batch pos vocab"] | None = None,
    memory: int | str = "1GB",
    engine: str = "auto",
) -> Particles:
    """`particles` completions without replacement after each wanted position, as `particles` gives them by default.

    The noise depends on `seed` and each context alone: another step wants another seed. Parameters and errors as in
    `beams_of`.
    """
    settings = (particles, horizon), ("particles", "horizon")
    alpha = check_alpha(alpha)
    with _undisturbed(model, kept):
        batch = _Batch(model, input_ids, *settings, wanted, kept, logits, memory, engine)
        return _particles(batch, particles=particles, horizon=horizon, alpha=alpha, seed=seed)


def _particles(batch: _Batch, *, particles: int, horizon: int, alpha: float, seed: int) -> Particles:
    input_ids = batch.input_ids
    keys = torch.stack([
        noise.as_tensor(noise.context_keys(seed, text), input_ids.device) for text in input_ids.tolist()
    ])  # fmt: skip
    _, naive = batch.first(1)
    exponent = without_replacement.ADAPTIVE
    options: dict[str, Any] = {"count": particles + 1, "exponent": exponent, "budget": batch.budget}

    def draw(hidden: Tensor, at: Tensor) -> race.Draws:
        return race.without_replacement(batch.engine.body, hidden, at, **options)

    at = keys.flatten()
    own = race.joined([
        race.without_replacement(head, states, at[rows], **options) for head, states, rows in batch.predictions()
    ])  # fmt: skip
    found = without_replacement.sample_texts(
        batch.engine, batch.findable, keys, batch.spread(own), slice(0, input_ids.shape[1]), draw=draw,
        particles=particles, horizon=horizon, budget=batch.budget, wanted=batch.wanted, device=input_ids.device,
    )  # fmt: skip
    shape = input_ids.shape
    return Particles(
        step_tokens=found.tokens.view(*shape, *found.tokens.shape[1:]),
        step_parents=found.parents.view(*shape, *found.parents.shape[1:]),
        step_log_probs=found.log_probs.view(*shape, *found.log_probs.shape[1:]),
        step_log_weights=found.log_weights.view(*shape, *found.log_weights.shape[1:]),
        naive=naive,
        positions=torch.arange(shape[1], device=input_ids.device),
        alpha=alpha,
    )


class _Batch:
    """What both kinds of lookahead begin with: checked settings, an engine that has the texts, first predictions."""

    def __init__(
        self,
        model: PreTrainedModel,
        input_ids: Tensor,
        sizes: tuple[int, int],
        names: tuple[str, str],
        wanted: Tensor | None,
        kept: Kept | None,
        logits: Tensor | None,
        memory: int | str,
        engine: str,
    ) -> None:
        check_search(model, input_ids, width=sizes[0], horizon=sizes[1], names=names)
        if wanted is not None and (wanted.shape != input_ids.shape or wanted.dtype != torch.bool):
            raise InputError(f"wanted {tuple(wanted.shape)}, {wanted.dtype}: must be bool {tuple(input_ids.shape)}")
        if logits is not None and logits.shape[:2] != input_ids.shape:
            raise InputError(f"logits {tuple(logits.shape)}: must be [batch, pos, vocab] for {tuple(input_ids.shape)}")
        _check_dropout(model)
        self.budget = bytes_of(memory)
        self.engine = _engine(model, length=input_ids.shape[1], horizon=sizes[1], engine=engine)
        if kept is None:
            with keeping(model) as kept:
                self.engine.body.hidden(input_ids)
        kept.check(input_ids, wanted)
        assert kept.hidden is not None
        self.engine.adopt(input_ids, kept)
        self.hidden, self.input_ids, self.wanted, self._logits = kept.hidden, input_ids, wanted, logits
        # With padding on the right, what stands before a wanted position is text, and what stands behind the last one
        # may be none: its states are of no use to a branch, even if that has the same token.
        self.real = torch.ones_like(input_ids, dtype=torch.bool)
        if wanted is not None:
            self.real = wanted.flip(1).cummax(1).values.flip(1)
        self.findable = input_ids if wanted is None else input_ids.masked_fill(~self.real, -1)

    def predictions(self) -> Iterator[tuple[Body, Float[Tensor, "rows states"], Int[Tensor, "rows"]]]:
        """A head, states that it turns into logits, and whose they are: the `real` positions, in blocks."""
        every = self.real.flatten().nonzero()[:, 0]
        ready = None if self._logits is None else _Ready(self.engine.body)
        states = (self.hidden if self._logits is None else self._logits.detach()).flatten(0, 1)
        for rows in torch.split(every, rows_per_block(self.engine.body, self.budget)):
            yield ready or self.engine.body, states[rows], rows

    def first(self, count: int) -> tuple[First, Float[Tensor, "batch next"]]:
        """The most probable first tokens of each position, text by text, and log p of the texts' own; NaN: unwanted."""
        following = torch.cat([self.input_ids[:, 1:], torch.full_like(self.input_ids[:, :1], -1)], dim=1).flatten()
        size = self.real.numel()
        tokens = following.new_full((size, count), -1)
        log_probs = torch.full((size, count), -torch.inf, device=following.device)
        naive = torch.full((size,), torch.nan, device=following.device)
        for head, states, rows in self.predictions():
            own, naive[rows] = first_tokens(head, states, following[rows], count=count, block=len(rows))
            tokens[rows], log_probs[rows] = own.tokens, own.log_probs
        if self.wanted is not None:
            naive = naive.masked_fill(~self.wanted.flatten(), torch.nan)
        return First(tokens=tokens, log_probs=log_probs), naive.view(self.real.shape)[:, :-1]

    def spread(self, own: race.Draws) -> race.Draws:
        """What was drawn at the `real` positions, at its place among all."""
        if self.wanted is None:
            return own
        whole = race.Draws.empty(self.real.numel(), like=own)
        whole.put((self.real.flatten(),), own)
        return whole


class _Ready(Body):
    """Of logits that are there already: what it takes for hidden states are copies of them."""

    def __init__(self, body: Body) -> None:
        self.model, self.vocabulary = body.model, body.vocabulary

    def logits(self, hidden: Float[Tensor, "rows vocab"]) -> Float[Tensor, "rows vocab"]:
        return hidden


def _engine(model: PreTrainedModel, *, length: int, horizon: int, engine: str) -> Engine:
    if engine not in ENGINES:
        raise InputError(f"engine {engine!r}: must be one of {', '.join(ENGINES)}")
    if engine != "auto":
        return (ColumnEngine if engine == "columns" else PlainEngine)(model)
    with torch.autocast(device_of(model).type, enabled=False):
        return engine_for(model, length=length, horizon=horizon)


@contextlib.contextmanager
def _undisturbed(model: PreTrainedModel, kept: Kept | None) -> Iterator[None]:
    """What is run within is neither kept in its turn nor prepared for a second run in a backward pass."""
    checkpointed = [m for m in model.modules() if getattr(m, "gradient_checkpointing", False)]
    with contextlib.nullcontext() if kept is None else kept.pause():
        try:
            for module in checkpointed:
                module.gradient_checkpointing = False
            yield
        finally:
            for module in checkpointed:
                module.gradient_checkpointing = True


def dropout_of(model: PreTrainedModel) -> str | None:
    """The first part of a model that drops out in training mode, with its rate; None: a forward pass is not random.

    Of its modules, not of its configuration, which has rates that no language model uses (GPT-2's summary).
    """
    for name, module in model.named_modules():
        found = {"p": module.p} if isinstance(module, nn.modules.dropout._DropoutNd) else vars(module)
        for field, rate in found.items():
            if isinstance(rate, float) and rate > 0 and (field == "p" or "drop" in field):
                return f"{name}.{field} = {rate}"
    return None


def _check_dropout(model: PreTrainedModel) -> None:
    """Refuses a model whose forward passes are random: branches would be continuations of other texts."""
    found = dropout_of(model) if model.training else None
    if found is not None:
        raise InputError(
            f"{found}: with dropout each pass is of another model; set it to 0, or search in evaluation mode "
            "(model.eval(), kept=None) before or after the training forward"
        )
