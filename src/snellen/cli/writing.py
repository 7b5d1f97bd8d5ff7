"""The work of `snellen generate`: one text after another by one of the methods, told as it is written."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteriaList

from snellen.cli.terminal import written
from snellen.errors import InputError
from snellen.lookahead.amplification import Amplification
from snellen.lookahead.decoding import Generated, Step, generate
from snellen.lookahead.plans import StopText, check_room
from snellen.lookahead.power_sampling import power_sample
from snellen.lookahead.settings import context_of
from snellen.subject import Subject


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

    @property
    def ends(self) -> list[int]:
        """Tokens that end a text."""
        config = self.subject.model.generation_config
        given = [config.eos_token_id, self.subject.tokenizer.eos_token_id]
        ids = [token for one in given for token in (one if isinstance(one, list) else [one]) if token is not None]
        return list(dict.fromkeys(ids))

    def encoded(self, prompt: str) -> list[int]:
        """The prompt's tokens, with what the model wants in front; InputError where there is no token at all."""
        tokenizer, first = self.subject.tokenizer, self.subject.identity.bos
        ids = list(tokenizer(prompt, add_special_tokens=False)["input_ids"]) if prompt else []
        token = first.token_id
        if token is None and not ids and first.policy != "never":
            token = tokenizer.bos_token_id
        ids = ids if token is None else [token, *ids]
        if not ids:
            raise InputError("prompt '': the model has no first token (BOS) to begin with; write a prompt")
        return ids

    def check(self, prompts: Sequence[str]) -> None:
        """Raises InputError for prompts that leave no room, before any of them is begun."""
        if self.method == "amplified":
            Amplification(**{n: self.settings[n] for n in ("width", "horizon", "alpha", "weight", "mix")})
        rows = [torch.tensor(self.encoded(prompt)) for prompt in prompts]
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
        ids = torch.tensor([job.encoded(prompt)], device=job.subject.model.device)
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
    sampling: dict[str, Any] = {"do_sample": job.settings["temperature"] > 0}
    if sampling["do_sample"]:
        sampling |= {name: job.settings[name] for name in ("temperature", "top_p")}
    found = generate(
        job.subject.model,
        ids,
        **{name: job.settings[name] for name in ("width", "horizon", "alpha", "weight", "mix")},
        **sampling,
        max_new_tokens=job.max_new_tokens,
        seed=random,
        eos_token_id=job.ends,
        stop=job.stops,
        tokenizer=job.subject.tokenizer,
        details=job.details,
        on_token=lambda step: hear(step.token),
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
    options: dict[str, Any] = {"do_sample": False}
    if job.method != "greedy":
        options = {"do_sample": True, "top_k": 0, "temperature": job.settings["temperature"]}
        options["top_p"] = job.settings.get("top_p", 1.0)
        torch.manual_seed(int(torch.randint(2**62, (), generator=random)))
    sequences = _transformers(job, ids, streamer=_Ear(hear), **options)
    return _finished(job, prompt, ids, sequences[0, ids.shape[1] :].tolist(), {})


def _together(job: Job, ids: Tensor, count: int) -> list[tuple[list[int], dict[str, Any]]]:
    """Texts that are found at once, and what is known of each."""
    model, width = job.subject.model, ids.shape[1]
    if job.method == "beam":
        found = _transformers(job, ids, do_sample=False, num_beams=job.settings["width"], num_return_sequences=count)
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
def _transformers(job: Job, ids: Tensor, **options: Any) -> Tensor:
    criteria = StoppingCriteriaList()
    if job.stops:
        criteria.append(StopText(job.stops, job.subject.tokenizer, ids.shape[1]))
    found: Tensor = job.subject.model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=job.max_new_tokens,
        eos_token_id=job.ends or None,
        pad_token_id=job.ends[0] if job.ends else 0,
        stopping_criteria=criteria,
        **options,
    )
    return found


def _finished(
    job: Job, prompt: str, ids: Tensor, new: list[int], more: dict[str, Any], steps: list[Step] | None = None
) -> Text:
    """Cut at the first token or text that ends it."""
    end = next((place for place, token in enumerate(new) if token in job.ends), None)
    tokens = new if end is None else new[: end + 1]
    text = _decoded(job, tokens if end is None else tokens[:-1])
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
    ids = torch.tensor([[*text.prompt_ids, *text.tokens]], device=job.subject.model.device)
    logits = job.subject.model(input_ids=ids, use_cache=False).logits[0, len(text.prompt_ids) - 1 : -1].float()
    own = logits.log_softmax(-1).gather(-1, ids[0, len(text.prompt_ids) :, None])
    values: list[float] = own[:, 0].tolist()
    return values
