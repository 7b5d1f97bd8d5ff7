"""Prompts cut from the texts, continued by each decoding and scored: what measures read as `Generations`.

Work is done in batches of a fixed size, one file each, so that a run that was stopped goes on where it was, and so
that neither memory nor stopping changes what is written, rounding and ties apart: a batch's random numbers depend on
the run's seed, the decoding and the batch's first prompt alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from snellen.errors import InputError, Refused
from snellen.lookahead.preflight import writing_engine_for
from snellen.measures.base import Measure
from snellen.measures.generations import Continuations, Decoding, Generations, Writing
from snellen.models.body import context_of
from snellen.request import Request, in_proportion
from snellen.results.pieces import read_piece, write_piece
from snellen.results.statistics import REFUSED_BELOW
from snellen.runner import scoring
from snellen.runner.decodings import endless, write
from snellen.runner.naive import score_naive
from snellen.runner.progress import Progress
from snellen.runner.work import Text
from snellen.subject import Subject

BATCH = 8  # prompts; part of what the samples are, so no setting
HUMAN = "human"


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """Stretches of the texts: a prompt and what the human wrote next, no two of them overlapping."""

    document: NDArray[np.int32]  # [n]
    start: NDArray[np.int32]  # [n]
    tokens: NDArray[np.int64]  # [n, prompt + new]
    first: int | None  # the model's first token, in front of every prompt
    length: int  # of the prompt

    def __len__(self) -> int:
        return len(self.document)

    def ids(self, rows: slice, tokens: NDArray[np.integer]) -> torch.Tensor:
        """[rows, first token + prompt + tokens] as the model reads them."""
        own = self.tokens[rows, : self.length]
        front = np.full((len(own), 0 if self.first is None else 1), self.first or 0)
        return torch.from_numpy(np.concatenate([front, own, tokens], axis=1).astype(np.int64))


def cut_prompts(text: Text, writing: Writing, subject: Subject, share: float = 1.0) -> Prompts:
    """Evenly from all texts: every document is cut into stretches side by side, and every k-th of them is taken.

    share: of them, down to what an interval needs (`Request.share`: a low limit makes them fewer), where nobody has
        said how many they are to be.

    Raises
    ------
    InputError
        Prompt and continuation are longer than the model's context.
    Refused
        Too few for an interval.
    """
    first = subject.identity.bos.token_id
    size = writing.prompt_tokens + writing.new_tokens
    limit = context_of(subject.model)
    ahead = _ahead(writing)
    needed = size + (first is not None) + ahead - 1
    if limit is not None and needed > limit:
        raise InputError(
            f"prompt_tokens {writing.prompt_tokens} and new_tokens {writing.new_tokens}: with {ahead - 1} looked ahead "
            f"and the first token they take {needed} places, and the model has {limit}; set one of them lower"
        )
    places = [(d, k * size) for d, one in enumerate(text.encoded) for k in range(len(one) // size)]
    wanted = in_proportion(writing.prompts, share, least=REFUSED_BELOW) if writing.scaled else writing.prompts
    count = min(wanted, len(places))
    if count < REFUSED_BELOW:
        raise Refused(
            f"the texts give {len(places)} prompts of {writing.prompt_tokens} tokens with {writing.new_tokens} behind "
            f"them (at most {writing.prompts} were asked for), and an interval needs {REFUSED_BELOW}: give more text, "
            "or set prompt_tokens or new_tokens lower"
        )
    chosen = [places[(2 * i + 1) * len(places) // (2 * count)] for i in range(count)]
    return Prompts(
        document=np.array([d for d, _ in chosen], dtype=np.int32),
        start=np.array([at for _, at in chosen], dtype=np.int32),
        tokens=np.stack([text.encoded[d][at : at + size] for d, at in chosen]).astype(np.int64),
        first=first,
        length=writing.prompt_tokens,
    )


@dataclass(frozen=True, kw_only=True)
class Task:
    """What one measure wants written behind which prompts."""

    name: str
    writing: Writing
    prompts: Prompts

    @property
    def ahead(self) -> int:
        return _ahead(self.writing)


def planned(chosen: Mapping[str, Measure], text: Text, subject: Subject, request: Request) -> dict[str, Task]:
    """By the name of the measure; raises as `cut_prompts`."""
    return {
        name: Task(
            name=name, writing=measure.writing, prompts=cut_prompts(text, measure.writing, subject, request.share)
        )
        for name, measure in chosen.items()
        if "generations" in measure.needs and measure.writing is not None
    }


def generate_all(
    subject: Subject, tasks: Mapping[str, Task], folder: Path, mark: str, request: Request, tell: Progress
) -> dict[str, Generations]:
    """Everything that is to be written, from `folder/pieces` where it is there already and carries the run's `mark`."""
    return {name: _carry_out(subject, task, folder, mark, request, tell) for name, task in tasks.items()}


def _carry_out(subject: Subject, task: Task, folder: Path, mark: str, request: Request, tell: Progress) -> Generations:
    prompts, writing, new = task.prompts, task.writing, task.writing.new_tokens
    batches = [slice(at, min(at + BATCH, len(prompts))) for at in range(0, len(prompts), BATCH)]
    longest = prompts.tokens.shape[1] + (prompts.first is not None)
    # Checked once for all of it, as the model that it is, before it is kept from ending.
    writing_engine_for(subject.model, length=longest, horizon=task.ahead, engine=request.engine)

    def piece(name: str, rows: slice, make: Callable[[], NDArray[np.integer]]) -> pa.Table:
        path = folder / "pieces" / f"written-{_hash(f'{name} {writing}')}-{rows.start:05d}.parquet"
        found = read_piece(path, mark, rows.stop - rows.start)
        if found is None:
            found = _scored(subject, task, rows, make(), request)
            write_piece(path, found, mark)
        return found

    costs = {HUMAN: 1, **{decoding.name: decoding.cost + 1 for decoding in writing.decodings}}
    done, total = 0, sum(costs.values()) * len(prompts)

    def told(name: str, rows: slice, make: Callable[[], NDArray[np.integer]]) -> pa.Table:
        nonlocal done
        tell.stage(f"writing for {task.name}", done / total, f"{name} behind {rows.start} of {len(prompts)} prompts")
        found = piece(name, rows, make)
        done += costs[name] * (rows.stop - rows.start)
        return found

    human, written = list[pa.Table](), dict[str, list[pa.Table]]()
    with endless(subject, keep=prompts.tokens[:, prompts.length :]):
        for rows in batches:
            own = prompts.tokens[rows, prompts.length :]
            human.append(told(HUMAN, rows, lambda own=own: own))  # type: ignore[misc]
        for decoding in writing.decodings:
            written[decoding.name] = [
                told(decoding.name, rows, _writer(subject, task, decoding, rows, request)) for rows in batches
            ]
    tell.stage(f"writing for {task.name}", 1.0, "")
    read = _reader(subject.tokenizer, len(prompts), new)
    return Generations(
        document=prompts.document,
        start=prompts.start,
        prompt=_decode(subject.tokenizer, prompts.tokens[:, : prompts.length]),
        human=read(human),
        written={name: read(tables) for name, tables in written.items()},
    )


def _writer(
    subject: Subject, task: Task, decoding: Decoding, rows: slice, request: Request
) -> Callable[[], NDArray[np.integer]]:
    def make() -> NDArray[np.integer]:
        prompts, new = task.prompts, task.writing.new_tokens
        ids = prompts.ids(rows, prompts.tokens[rows, :0])
        own = hashlib.sha256(f"{request.seed} {decoding.name} {rows.start}".encode()).digest()
        what = f"writing {new} tokens behind {len(ids)} prompts ({decoding.name})"
        with scoring.memory_errors(what, "set new_tokens or the widths lower"):
            return write(
                subject.model, ids, decoding, new=new, seed=int.from_bytes(own[:6], "big"), memory=request.memory,
                engine=request.engine,
            ).numpy()  # fmt: skip

    return make


def _scored(subject: Subject, task: Task, rows: slice, tokens: NDArray[np.integer], request: Request) -> pa.Table:
    ids = task.prompts.ids(rows, tokens)
    first = ids.shape[1] - tokens.shape[1]
    options: dict[str, Any] = {"horizon": task.ahead, "memory": request.memory, "engine": request.engine}
    own = [score_naive(subject.model, row, first=first, **options) for row in ids]
    return pa.table({
        "prompt": np.arange(rows.start, rows.stop, dtype=np.int32),
        "tokens": scoring.lists(tokens.astype(np.int32)),
        "log_prob": scoring.lists(np.stack([one.log_prob for one in own]).astype(np.float32)),
        "entropy": scoring.lists(np.stack([one.entropy for one in own]).astype(np.float32)),
    })  # fmt: skip


def _reader(tokenizer: Any, prompts: int, new: int) -> Callable[[Iterable[pa.Table]], Continuations]:
    def read(tables: Iterable[pa.Table]) -> Continuations:
        # Without their marks, which do not belong to what follows.
        joined = pa.concat_tables([table.replace_schema_metadata(None) for table in tables])
        arrays: Mapping[str, NDArray[Any]] = {
            name: scoring.arrays(joined[name]) for name in ("tokens", "log_prob", "entropy")
        }
        if arrays["tokens"].shape != (prompts, new):
            raise ValueError(f"continuations of the shape {arrays['tokens'].shape}, not {(prompts, new)}")
        return Continuations(**arrays, text=_decode(tokenizer, arrays["tokens"]))

    return read


def _decode(tokenizer: Any, ids: NDArray[np.integer]) -> list[str]:
    return [
        tokenizer.decode(row, skip_special_tokens=False, clean_up_tokenization_spaces=False) for row in ids.tolist()
    ]


def _ahead(writing: Writing) -> int:
    """Tokens that are looked at together: power sampling takes the whole continuation for one completion."""
    depths = [writing.new_tokens if one.kind == "power" else one.horizon or 1 for one in writing.decodings]
    return max(depths)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
