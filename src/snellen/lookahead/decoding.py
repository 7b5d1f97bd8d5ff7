"""Generation from the amplified distribution, token by token, with the search kept between tokens (`growing`).

Called directly, or as `model.generate(..., custom_generate=snellen.lookahead.generate, width=4, …)`. Two facts save
most of the searches where nobody asked to see them. To sample from the linear mix (1 − w) p + w q is to sample from q
with probability w and from p otherwise, so that only a share w of the tokens needs a search at all. And the most
probable token of the mix is that of p wherever p leads by more than w / (1 − w). The draws are the same either way:
what is asked for besides changes no text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LogitsProcessorList, PreTrainedModel, StoppingCriteriaList

from snellen.errors import InputError
from snellen.kinds import checked
from snellen.lookahead.amplification import Amplification, log_power, mixed
from snellen.lookahead.growing import Branch, Growing, rollouts_of
from snellen.lookahead.plans import Plan, check_ids, check_room, direct_plan, prompts_of, transformers_plan
from snellen.lookahead.preflight import writing_engine_for
from snellen.lookahead.rollouts import Rollouts
from snellen.lookahead.settings import check_batch
from snellen.lookahead.stem import stem_of
from snellen.models.body import device_of
from snellen.request import bytes_of

SHOWN = 10  # candidates that a step keeps of each distribution


@dataclass(frozen=True, kw_only=True, eq=False)
class Step:
    """One generated token. Probabilities are those before temperature, top-p and other processors.

    The rest is None where no search was needed and none was asked for (`details`).
    """

    row: int
    token: int
    log_prob: float  # under the model's own distribution p, nats
    amplified_log_prob: float | None = None
    naive: list[tuple[int, float]] | None = None  # most probable tokens of p, with probabilities
    amplified: list[tuple[int, float]] | None = None  # of the mix
    lookahead: dict[int, float] | None = None  # all of q
    probs: dict[int, tuple[float, float]] | None = None  # p and mix of every token named here
    rollouts: Rollouts | None = None  # the beams, one text and one position


@dataclass(frozen=True, kw_only=True, eq=False)
class Generated:
    """What `generate` returns when asked for details."""

    sequences: Int[Tensor, "batch pos"]
    steps: list[list[Step]]  # of each row, its new tokens
    passes: int  # forward passes behind the prompts
    ran: int  # tokens that went through them

    @property
    def log_probs(self) -> Float[Tensor, "batch new"]:
        """log p of the chosen tokens, nats; NaN behind a row's end."""
        return self._table("log_prob")

    @property
    def amplified_log_probs(self) -> Float[Tensor, "batch new"]:
        """Their log-probability under the amplified distribution, nats; NaN behind a row's end."""
        return self._table("amplified_log_prob")

    def _table(self, name: str) -> Tensor:
        longest = max(len(row) for row in self.steps)
        rows = [[getattr(s, name) for s in row] + [math.nan] * (longest - len(row)) for row in self.steps]
        return torch.tensor(rows, dtype=torch.float32)


@checked
@torch.no_grad()
def generate(
    model: PreTrainedModel,
    input_ids: Int[Tensor, "batch pos"],
    logits_processor: LogitsProcessorList | None = None,
    stopping_criteria: StoppingCriteriaList | None = None,
    generation_config: Any = None,
    synced_gpus: bool = False,
    streamer: Any = None,
    *,
    width: int = 4,
    horizon: int = 4,
    alpha: float = 2.0,
    weight: float = 0.2,
    mix: str = "linear",
    seed: int | torch.Generator | None = None,
    stop: int | str | Sequence[int | str] = (),
    tokenizer: Any = None,
    details: bool = False,
    on_token: Callable[[Step], None] | None = None,
    reuse: bool = True,
    memory: int | str = "1GB",
    engine: str = "auto",
    **kwargs: Any,
) -> Int[Tensor, "batch longer"] | Generated:
    """Continue each prompt with tokens of the amplified distribution.

    Parameters
    ----------
    model
        Any causal language model of transformers, in eval mode.
    input_ids
        Prompts, padded on the left where `attention_mask` says so.
    logits_processor, stopping_criteria, generation_config, synced_gpus, streamer
        As transformers' `generate` hands them to a `custom_generate`; processors see the amplified log-probabilities.
        (It keeps a streamer to itself: use `on_token` there.) Without a `generation_config` the options of
        `plans.Sampling` apply: `max_new_tokens`, `min_new_tokens`, `do_sample`, `temperature`, `top_p`, `top_k`,
        `eos_token_id`, `pad_token_id`, and `attention_mask`.
    width, horizon, alpha, weight, mix
        See `amplification.Amplification`.
    seed
        Of the samples, or a generator that it is drawn from; else torch's own. Row i's text depends on the seed, its
        prompt and i, not on the other rows.
    stop
        Further tokens (ids) and texts (with `tokenizer`) that end a row; they are part of it.
    details
        Return `Generated`: each token's probabilities, and its tree. Changes no token.
    on_token
        Called with each `Step` when it is chosen.
    reuse, memory, engine
        Keep the search between tokens; bytes for logits; see `beam`. They change results by rounding alone.

    Returns
    -------
    ids, [batch, prompt + new], padded on the right; or `Generated`

    Raises
    ------
    InputError
        Settings out of range, unknown options or stop tokens, prompts without tokens, padded on the right, or so long
        that with the new tokens and the horizon they exceed the model's context: all before any work.
    Refused
        The model's numbers cannot be vouched for (see `preflight`).
    """
    check_batch(input_ids)
    how = Amplification(width=width, horizon=horizon, alpha=alpha, weight=weight, mix=mix)
    budget = bytes_of(memory)
    if generation_config is None:
        plan = direct_plan(model, input_ids, logits_processor, stopping_criteria, stop, tokenizer, kwargs)
    else:
        plan = transformers_plan(
            model, input_ids, logits_processor, stopping_criteria, generation_config, stop, tokenizer, kwargs
        )
        details = details or bool(generation_config.return_dict_in_generate)
    input_ids = input_ids.to(device_of(model))
    prompts = prompts_of(input_ids, plan.attention_mask)
    check_room(model, prompts, new=plan.max_new_tokens, horizon=horizon)
    check_ids(model, "input_ids", torch.cat(prompts).tolist())
    longest = max(len(prompt) for prompt in prompts) + plan.max_new_tokens - 1
    trusted = writing_engine_for(model, length=longest, horizon=horizon, engine=engine)
    rows = [
        _Row(
            number=number,
            search=Growing(
                stem_of(trusted),
                prompt,
                width=width,
                horizon=horizon,
                room=plan.max_new_tokens,
                budget=budget,
                reuse=reuse,
            ),
            random=generator,
        )
        for number, (prompt, generator) in enumerate(zip(prompts, _generators(seed, len(prompts)), strict=True))
    ]
    if streamer is not None and generation_config is None:
        streamer.put(input_ids.cpu())
    sequences = _write(input_ids, rows, plan, how, streamer=streamer, details=details, on_token=on_token)
    if not details:
        return sequences
    return Generated(
        sequences=sequences,
        steps=[row.steps for row in rows],
        passes=sum(row.search.passes for row in rows),
        ran=sum(row.search.ran for row in rows),
    )


@dataclass(kw_only=True, eq=False)
class _Row:
    """One prompt and what has been written behind it."""

    number: int
    search: Growing
    random: torch.Generator
    steps: list[Step] = field(default_factory=list)
    finished: bool = False


@dataclass(kw_only=True, eq=False)
class _Prediction:
    """What is known of one row's next token; the search is made when something asks for it."""

    row: _Row
    how: Amplification
    logits: Float[Tensor, "vocab"]
    levels: list[list[Branch]] | None = None

    def log_q(self) -> dict[int, float]:
        if self.levels is None:
            self.levels = self.row.search.survivors()
        return log_power(self.levels[-1], self.how.alpha)

    def amplified(self) -> Float[Tensor, "vocab"]:
        return mixed(self.logits, self.log_q(), self.how)

    def choose(self, *, sample: bool) -> int:
        """The next token where no processor changes the distribution."""
        weight = self.how.weight
        if not sample:
            if self.how.mix == "linear" and len(self.logits) > 1:
                (first, second), (best, _) = (x.tolist() for x in self.logits.softmax(-1).topk(2))
                if (1 - weight) * (first - second) > weight:
                    return int(best)
            return int(self.amplified().argmax())
        choice, noise = _drawn(self.row.random, self.logits)
        if self.how.mix != "linear":
            return _first(self.amplified(), noise)
        if choice >= weight:
            return _first(self.logits, noise)
        log_q = self.log_q()
        tokens = list(log_q)
        return tokens[_first(noise.new_tensor(list(log_q.values())), noise[tokens])]

    def step(self, token: int, *, details: bool) -> Step:
        log_p = self.logits.log_softmax(-1)
        if not details:
            return Step(row=self.row.number, token=token, log_prob=float(log_p[token]))
        log_q, amplified = self.log_q(), self.amplified()
        assert self.levels is not None
        naive, best = _best(log_p), _best(amplified)
        named = list(dict.fromkeys([token, *log_q, *(t for t, _ in naive), *(t for t, _ in best)]))
        return Step(
            row=self.row.number,
            token=token,
            log_prob=float(log_p[token]),
            amplified_log_prob=float(amplified[token]),
            naive=naive,
            amplified=best,
            probs=dict(
                zip(named, zip(log_p[named].exp().tolist(), amplified[named].exp().tolist(), strict=True), strict=True)
            ),
            lookahead={candidate: math.exp(value) for candidate, value in log_q.items()},
            rollouts=rollouts_of(self.levels, self.how.width),
        )


def _write(
    sequences: Int[Tensor, "batch pos"],
    rows: list[_Row],
    plan: Plan,
    how: Amplification,
    *,
    streamer: Any,
    details: bool,
    on_token: Callable[[Step], None] | None,
) -> Int[Tensor, "batch longer"]:
    """All rows go forward together, since processors and criteria are called with the whole batch."""
    for _ in range(plan.max_new_tokens):
        predictions = {
            row.number: _Prediction(row=row, how=how, logits=row.search.logits()) for row in rows if not row.finished
        }
        scores = None
        if plan.logits_processor:
            own = {number: prediction.amplified() for number, prediction in predictions.items()}
            blank = torch.zeros_like(next(iter(own.values())))  # of rows that are finished
            scores = torch.stack([own.get(row.number, blank) for row in rows])
            scores = plan.logits_processor(sequences, scores)
        chosen = sequences.new_full((len(rows),), plan.pad_token_id)
        for number, prediction in predictions.items():
            if scores is None:
                token = prediction.choose(sample=plan.do_sample)
            else:
                token = _processed(scores[number], rows[number].random, sample=plan.do_sample)
            chosen[number] = token
            if details or on_token is not None:
                step = prediction.step(token, details=details)
                rows[number].steps.append(step)
                if on_token is not None:
                    on_token(step)
        sequences = torch.cat([sequences, chosen[:, None]], dim=1)
        if streamer is not None:
            streamer.put(chosen.cpu())
        over = plan.stopping_criteria(sequences, scores)
        for number in predictions:
            rows[number].finished = bool(over[number])
            rows[number].search.advance(int(chosen[number]))
        if all(row.finished for row in rows):
            break
    if streamer is not None:
        streamer.end()
    return sequences


def _processed(scores: Float[Tensor, "vocab"], random: torch.Generator, *, sample: bool) -> int:
    if not bool((scores > -torch.inf).any()):
        raise InputError("logits_processor: it leaves no token that could come next")
    return _first(scores, _drawn(random, scores)[1]) if sample else int(scores.argmax())


def _drawn(random: torch.Generator, like: Float[Tensor, "vocab"]) -> tuple[float, Float[Tensor, "vocab"]]:
    """Which of p and q is drawn from, in [0, 1), and an exponential variable for each token."""
    choice = float(torch.rand((), generator=random, dtype=torch.float64))
    return choice, torch.empty(len(like)).exponential_(generator=random).to(like.device)


def _first(scores: Float[Tensor, "outcomes"], noise: Float[Tensor, "outcomes"]) -> int:
    """A sample of softmax(scores): the outcome whose clock, exponential with its probability as rate, rings first.

    Not by cumulated probabilities: rounding moves all of their thousands of bounds, here it decides only ties.
    """
    return int((scores.float() - noise.log()).argmax())


def _best(log_probs: Float[Tensor, "vocab"]) -> list[tuple[int, float]]:
    values, ids = log_probs.topk(min(SHOWN, len(log_probs)))
    return list(zip(ids.tolist(), values.exp().tolist(), strict=True))


def _generators(seed: int | torch.Generator | None, count: int) -> Iterable[torch.Generator]:
    """One for each row."""
    if isinstance(seed, bool) or not (seed is None or isinstance(seed, int | torch.Generator)):
        raise InputError(f"seed {seed!r}: must be a whole number or a torch.Generator")
    if isinstance(seed, int) and not -(2**63) <= seed < 2**63:
        raise InputError(f"seed {seed}: must be from −2^63 to 2^63 − 1")
    source = torch.Generator().manual_seed(seed) if isinstance(seed, int) else seed
    return [
        torch.Generator().manual_seed(number)
        for number in torch.randint(2**62, (count,), generator=source, dtype=torch.long).tolist()
    ]
