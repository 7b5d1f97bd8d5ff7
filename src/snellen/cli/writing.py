"""The work of `snellen generate`: one text after another by one of the methods, told as it is written."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteriaList

from snellen.cli.terminal import written
from snellen.errors import InputError
from snellen.lookahead.decoding import Generated, Step, generate
from snellen.lookahead.generation_config import aside, config_of, held, only_ids
from snellen.lookahead.plans import check_ids, check_room
from snellen.lookahead.power_sampling import power_sample
from snellen.lookahead.preflight import writing_engine_for
from snellen.lookahead.stop_texts import StopText
from snellen.models.body import context_of, device_of, logit_columns
from snellen.subject import Subject
from snellen.texts.encode import without_bos


@dataclass(frozen=True, kw_only=True, eq=False)
class Text:
    """What was written behind one prompt."""

    prompt: str
    prompt_ids: list[int]
    tokens: list[int]  # with the one that ended it
    text: str  # without what ended it
    finish: str  # "length", "end" (a token of the model's), "stop" (a text asked for)
    steps: list[Step] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """What is to be written, and with which model."""

    subject: Subject
    method: str
    settings: dict[str, Any]
    max_new_tokens: int
    stops: list[str]
    details: bool
    settings_from: dict[str, Any] | None = None  # the file that some of the settings come from, and which
    follow: Mapping[str, Any] = field(
        default_factory=dict
    )  # settings of the model's generation config that are followed

    @property
    def ends(self) -> list[int]:
        """Tokens that end a text, of those that the model can write."""
        model = self.subject.model
        given = [config_of(model).eos_token_id, self.subject.tokenizer.eos_token_id]
        ids = [token for one in given for token in (one if isinstance(one, list) else [one]) if token is not None]
        predicted = logit_columns(model)
        return [token for token in dict.fromkeys(ids) if 0 <= token < predicted]

    @property
    def samples(self) -> bool:
        """Whether its tokens are drawn."""
        return self.method not in ("greedy", "beam") and self.settings.get("temperature") != 0

    @property
    def stop_text(self) -> StopText:
        """Of tokens behind a prompt."""
        return StopText(self.stops, self.subject.tokenizer, 0)

    def encoded(self, prompt: str) -> list[int]:
        """The prompt's tokens, with what the model wants in front; InputError where there is no token at all."""
        tokenizer, first = self.subject.tokenizer, self.subject.identity.bos
        ids = self._own(prompt)
        token = first.token_id
        if token is None and not ids and first.policy != "never":
            token = tokenizer.bos_token_id
        ids = ids if token is None else [token, *without_bos(ids, token)]
        if not ids:
            raise InputError("prompt '': the model has no first token (BOS) to begin with; write a prompt")
        return ids

    def own_bos(self, prompts: Sequence[str]) -> int:
        """How many of the prompts begin with the model's first token themselves; it is read once."""
        token = self.subject.identity.bos.token_id
        own = [self._own(prompt) for prompt in prompts]
        return sum(len(ids) > len(without_bos(ids, token)) for ids in own)

    def _own(self, prompt: str) -> list[int]:
        tokenizer = self.subject.tokenizer
        return list(tokenizer(prompt, add_special_tokens=False, verbose=False)["input_ids"]) if prompt else []

    def check(self, prompts: Sequence[str]) -> None:
        """Raises InputError for prompts without room, Refused for a model whose cache is wrong, before any is begun."""
        rows = [torch.tensor(self.encoded(prompt)) for prompt in prompts]
        check_ids(self.subject.model, "prompt: token", torch.cat(rows).tolist())
        longest, limit = max(map(len, rows)), context_of(self.subject.model)
        if limit is not None and longest >= limit:
            raise InputError(f"prompt of {longest} tokens: the model's context is {limit}; shorten it")
        check_room(
            self.subject.model,
            rows,
            new=self.max_new_tokens,
            horizon=self.settings.get("horizon", 1),
            name="max-new-tokens",
        )
        writing_engine_for(
            self.subject.model, length=longest + self.max_new_tokens - 1, horizon=self.settings.get("horizon", 1)
        )


class Speaker:
    """Tells a text on standard output: on a terminal as it comes, elsewhere when it is done."""

    def __init__(self, *, many: bool) -> None:
        self._many, self._live = many, sys.stdout.isatty()
        self._said = ""
        self._written: list[int] = []
        self._number = 0

    def begin(self, prompt: str) -> None:
        self._said, self._written, self._number = "", [], self._number + 1
        if self._many:
            print(f"{'' if self._number == 1 else chr(10)}── {self._number} ──")
        if self._live:
            sys.stdout.write(f"\x1b[2m{written(prompt)}\x1b[22m")
            sys.stdout.flush()
        else:
            sys.stdout.write(prompt)

    def hear(self, job: Job, token: int) -> None:
        if not self._live or token in job.ends:
            return
        self._written.append(token)
        text = _decoded(job, self._written)
        self._say(text[: _settled(text, job.stops)])

    def end(self, text: Text) -> None:
        self._say(text.text)
        print(flush=True)

    def _say(self, text: str) -> None:
        if not text.startswith(self._said):  # a tokenizer that takes back what it said: the rest as it is now
            self._said = text[: len(self._said)]
        sys.stdout.write(written(text[len(self._said) :]))
        sys.stdout.flush()
        self._said = text


def write(job: Job, prompts: Sequence[str], count: int, *, speak: Speaker | None) -> Iterator[Text]:
    """`count` texts for each prompt, in this order."""
    random = torch.Generator().manual_seed(job.settings.get("seed", 0))
    for prompt in prompts:
        ids = torch.tensor([job.encoded(prompt)], device=device_of(job.subject.model))
        together = _together(job, ids, count) if job.method in ("beam", "power") else None
        for number in range(count):
            if speak is not None:
                speak.begin(prompt)

            def hear(token: int) -> None:
                if speak is not None:
                    speak.hear(job, token)

            if together is not None:
                text = _finished(job, prompt, ids, *together[number])
            elif job.method == "amplified":
                text = _amplified(job, prompt, ids, random, hear)
            else:
                text = _ordinary(job, prompt, ids, random, hear)
            if speak is not None:
                speak.end(text)
            yield text


def _amplified(job: Job, prompt: str, ids: Tensor, random: torch.Generator, hear: Callable[[int], None]) -> Text:
    sampling = {name: job.settings[name] for name in ("temperature", "top_p")} if job.samples else {}
    options: dict[str, Any] = {
        **{name: job.settings[name] for name in ("width", "horizon", "alpha", "weight", "mix")},
        "seed": random,
        "details": job.details,
        "on_token": lambda step: hear(step.token),
    }
    if job.follow:  # transformers makes processors of them, as for the other methods, and hands these over
        options["custom_generate"] = generate
        found = _transformers(job, ids, options=options, do_sample=job.samples, **sampling)
    else:
        found = generate(
            job.subject.model,
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=job.max_new_tokens,
            eos_token_id=job.ends,
            stop=job.stops,
            tokenizer=job.subject.tokenizer,
            do_sample=job.samples,
            **sampling,
            **options,
        )
    sequences, steps = (found.sequences, found.steps[0]) if isinstance(found, Generated) else (found, [])
    return _finished(job, prompt, ids, sequences[0, ids.shape[1] :].tolist(), {}, steps)


class _Ear:
    """A streamer of transformers; it hears the prompt first."""

    def __init__(self, hear: Callable[[int], None]) -> None:
        self._hear, self._prompt = hear, True

    def put(self, value: Tensor) -> None:
        if not self._prompt:
            for token in value.flatten().tolist():
                self._hear(token)
        self._prompt = False

    def end(self) -> None:
        pass


def _ordinary(job: Job, prompt: str, ids: Tensor, random: torch.Generator, hear: Callable[[int], None]) -> Text:
    """Greedy decoding and sampling by transformers."""
    options: dict[str, Any] = {"do_sample": job.samples}
    if job.samples:
        options |= {name: job.settings[name] for name in ("temperature", "top_p") if name in job.settings}
        torch.manual_seed(int(torch.randint(2**62, (), generator=random)))
    sequences = _transformers(job, ids, options={"streamer": _Ear(hear)}, **options)
    return _finished(job, prompt, ids, sequences[0, ids.shape[1] :].tolist(), {})


def _together(job: Job, ids: Tensor, count: int) -> list[tuple[list[int], dict[str, Any]]]:
    """Texts that are found at once, and what is known of each."""
    model, width = job.subject.model, ids.shape[1]
    if job.method == "beam":
        beams = {"num_beams": job.settings["width"], "num_return_sequences": count}
        found = _transformers(job, ids, do_sample=False, **beams)
        return [(row[width:].tolist(), {}) for row in found]
    samples = power_sample(
        model,
        ids,
        alpha=job.settings["alpha"],
        particles=job.settings["particles"],
        max_new_tokens=job.max_new_tokens,
        stop_tokens=job.ends,
        seed=job.settings["seed"],
    )
    chosen = samples.chosen(count, seed=job.settings["seed"])[0].tolist()
    rows = [[token for token in samples.tokens[0, which].tolist() if token >= 0] for which in chosen]
    return [
        (row, {"log_weight": float(samples.log_weights[0, which])}) for row, which in zip(rows, chosen, strict=True)
    ]


@torch.no_grad()
def _transformers(job: Job, ids: Tensor, *, options: Mapping[str, Any] | None = None, **settings: Any) -> Any:
    """transformers' `generate` with these settings and those of the model's own config that are to be followed."""
    criteria = StoppingCriteriaList()
    if job.stops:
        criteria.append(StopText(job.stops, job.subject.tokenizer, ids.shape[1]))
    own = {
        "max_new_tokens": job.max_new_tokens,
        "eos_token_id": job.ends or None,
        "pad_token_id": job.ends[0] if job.ends else 0,
    }
    model = job.subject.model
    whole = {"top_k": 0} if job.samples else {}  # 50 there unless one says otherwise
    try:
        config = only_ids(model, **{**whole, **job.follow, **own, **settings})
        config.validate()
    except (ValueError, TypeError) as error:
        raise InputError(f"generation-config: {' '.join(str(error).split())}") from error
    with aside(model, config):
        return model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            generation_config=config,
            stopping_criteria=criteria,
            **(options or {}),
        )


def _finished(
    job: Job, prompt: str, ids: Tensor, new: list[int], more: dict[str, Any], steps: list[Step] | None = None
) -> Text:
    """Cut at the first token or text that ends it."""
    end = next((place for place, token in enumerate(new) if token in job.ends), None)
    written = new[:end]
    tokens = new if end is None else new[: end + 1]
    if (stopped := job.stop_text.cut(written)) < len(written):  # what writes whole texts does not stop at one
        written = tokens = written[:stopped]
    text = _decoded(job, written)
    places = [place for stop in job.stops if (place := text.find(stop)) >= 0]
    return Text(
        prompt=prompt,
        prompt_ids=ids[0].tolist(),
        tokens=tokens,
        text=text[: min(places)] if places else text,
        finish="stop" if places else "end" if end is not None else "length",
        steps=steps or [],
        more=more,
    )


def _decoded(job: Job, tokens: Sequence[int]) -> str:
    text: str = job.subject.tokenizer.decode(
        list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    return text


def _settled(text: str, stops: Sequence[str]) -> int:
    """How much of it can be told already: no part of a character, and nothing that may become a stop."""
    end = len(text.rstrip("\ufffd"))
    for stop in stops:
        if (place := text.find(stop)) >= 0:
            return min(end, place)
        held = max((n for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
        end = min(end, len(text) - held)
    return end


def pieces(job: Job, tokens: Sequence[int]) -> list[str]:
    """What each token adds to the text; together they are the text."""
    found, said = [], ""
    for place in range(1, len(tokens) + 1):
        text = _decoded(job, tokens[:place])
        settled = text if place == len(tokens) else text[: len(text.rstrip("\ufffd"))]
        found.append(settled[len(said) :] if settled.startswith(said) else _decoded(job, tokens[place - 1 : place]))
        said = settled
    return found


def as_json(job: Job, texts: Sequence[Text]) -> dict[str, Any]:
    """All that is known of the texts, for machines."""
    return {
        "schema": 1,
        "model": job.subject.identity.source,
        "weights_sha256": job.subject.identity.weights_sha256,
        "method": job.method,
        "settings": {
            **{name: value if value != math.inf else "inf" for name, value in job.settings.items()},
            "max_new_tokens": job.max_new_tokens,
            "stop": job.stops,
        },
        "settings_from": job.settings_from,
        "generation_config": {"settings": held(job.subject.model), "followed": list(job.follow)},
        "texts": [
            {
                "prompt": text.prompt,
                "text": text.text,
                "finish": text.finish,
                "tokens": text.tokens,
                "pieces": pieces(job, text.tokens),
                "log_probs": _log_probs(job, text),
                "amplified_log_probs": [step.amplified_log_prob for step in text.steps] or None,
                **text.more,
            }
            for text in texts
        ],
    }


@torch.no_grad()
def _log_probs(job: Job, text: Text) -> list[float]:
    """log p of each token under the model alone, nats."""
    if text.steps:
        return [step.log_prob for step in text.steps]
    ids = torch.tensor([[*text.prompt_ids, *text.tokens]], device=device_of(job.subject.model))
    logits = job.subject.model(input_ids=ids, use_cache=False).logits[0, len(text.prompt_ids) - 1 : -1].float()
    own = logits.log_softmax(-1).gather(-1, ids[0, len(text.prompt_ids) :, None])
    values: list[float] = own[:, 0].tolist()
    return values
