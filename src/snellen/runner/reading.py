"""Passages that measures build for themselves, read by the model: what they find as `Readings`.

Work is done in batches of a fixed size, one file each, so that a run that was stopped goes on where it was.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from snellen.errors import Refused
from snellen.lookahead.engine import Body, Engine
from snellen.lookahead.head import first_tokens, rows_per_block
from snellen.lookahead.preflight import engine_for
from snellen.measures.base import Measure
from snellen.measures.readings import Material, Passage, Passages, Reading, Readings
from snellen.models.body import device_of
from snellen.request import Request, bytes_of
from snellen.results.pieces import read_piece, write_piece
from snellen.runner import scoring
from snellen.runner.forks import Forks
from snellen.runner.progress import Progress
from snellen.runner.work import Text
from snellen.subject import Subject
from snellen.texts.encode import without_bos

BATCH = 16  # passages of a piece


@dataclass(frozen=True, kw_only=True)
class Task:
    """What one measure wants read, and what it was made of."""

    material: Material
    passages: Passages
    front: tuple[int, ...]  # the model's first token, where it has one

    def ids(self, passage: Passage) -> Tensor:
        return torch.tensor([*self.front, *passage.tokens.tolist()])

    @property
    def tokens_run(self) -> int:
        """Of all passages: the text itself, once more up to where its layers are asked for, and the branches."""
        return sum(self.tokens_of(self.passages.items))

    def tokens_of(self, items: Sequence[Passage]) -> list[int]:
        nodes, front = Forks.of(self.passages.candidates).nodes, len(self.front)
        return [
            front + len(one.tokens) + (0 if one.state is None else front + one.state) + nodes * len(one.forks)
            for one in items
        ]


def planned(chosen: Mapping[str, Measure], text: Text, subject: Subject, request: Request) -> dict[str, Task]:
    """By the name of the measure."""
    first, tokenizer = subject.identity.bos.token_id, subject.tokenizer
    front = () if first is None else (first,)

    def encode(new: str) -> list[int]:
        ids = list(tokenizer(new, add_special_tokens=False, truncation=False, verbose=False)["input_ids"])
        return list(without_bos(ids, first))

    material = Material(
        documents=text.encoded, encode=encode, longest=text.window - len(front), share=request.share,
    )  # fmt: skip
    return {
        name: Task(material=material, passages=measure.passages(material, seed=request.seed), front=front)
        for name, measure in chosen.items()
        if "readings" in measure.needs
    }


def read_all(
    subject: Subject, tasks: Mapping[str, Task], folder: Path, mark: str, request: Request, tell: Progress
) -> dict[str, Readings]:
    """Everything that is to be read, from `folder/pieces` where it is there already and carries the run's `mark`."""
    return {name: _carry_out(name, subject, task, folder, mark, request, tell) for name, task in tasks.items()}


def _carry_out(
    name: str, subject: Subject, task: Task, folder: Path, mark: str, request: Request, tell: Progress
) -> Readings:
    items, found = task.passages.items, list[Reading]()
    costs = task.tokens_of(items)
    engine: Engine | None = None
    for at in range(0, len(items), BATCH):
        batch = items[at : at + BATCH]
        path = folder / "pieces" / f"read-{hashlib.sha256(name.encode()).hexdigest()[:12]}-{at:05d}.parquet"
        table = read_piece(path, mark, len(batch))
        if table is None:
            begun = sum(costs[:at]) / sum(costs)
            tell.stage(f"reading for {name}", begun, f"{at} of {len(items)} passages")
            with scoring.memory_errors(f"reading passages for {name}", "lower --window or the measure's settings"):
                engine = engine or _engine(subject, task, request)
                forks, budget = Forks.of(task.passages.candidates), bytes_of(request.memory)
                made = [read(engine, task.ids(one), one, len(task.front), forks, budget) for one in batch]
            table = _table(made)
            write_piece(path, table, mark)
        found += _readings(table, batch, task.passages)
    tell.stage(f"reading for {name}", 1.0, "")
    return Readings(material=task.material, found=found, tokens_run=task.tokens_run)


def _engine(subject: Subject, task: Task, request: Request) -> Engine:
    """Checked once for the longest passage. Raises `Refused` where the model's numbers cannot be vouched for."""
    longest = len(task.front) + max(len(one.tokens) for one in task.passages.items)
    return engine_for(subject.model, length=longest, horizon=task.passages.depth, engine=request.engine)


@torch.no_grad()
def read(engine: Engine, ids: Tensor, passage: Passage, front: int, forks: Forks, budget: int) -> Reading:
    """One passage; `ids` is what the model reads, the first `front` of which the passage does not count.

    Raises
    ------
    Refused
        The model gives NaN, infinity, or no probability at all to a token that is there.
    """
    body, text = engine.body, ids.to(device_of(engine.body.model))
    hidden = engine.read(text)
    log_prob, first = np.zeros(0, dtype=np.float32), front + passage.first
    if first < len(text):
        block = rows_per_block(body, budget)
        _, scores = first_tokens(body, hidden[first - 1 : -1], text[first:], count=1, block=block)
        log_prob = scores.float().cpu().numpy()
        if not np.isfinite(log_prob).all():
            raise Refused(
                f"the model gives token {int(np.argmin(np.isfinite(log_prob)))} of a passage no finite "
                "log-probability: its weights or its dtype overflow there; try --dtype float32, or another checkpoint"
            )
    weighed = forks.weigh(engine, hidden, [front + place for place in passage.forks])
    states = None if passage.state is None else layers(body, text[: front + passage.state])
    return Reading(log_prob=log_prob, candidates=weighed.numpy(), states=states)


def layers(body: Body, text: Tensor) -> NDArray[np.float32] | None:
    """[layers + 1, model] the residual stream at the end of a text, from the embedding on; None where none is given."""
    known = inspect.signature(body.body.forward).parameters.values()
    if not any(one.name == "output_hidden_states" or one.kind is inspect.Parameter.VAR_KEYWORD for one in known):
        return None
    output = body.body(input_ids=text[None], use_cache=False, return_dict=True, output_hidden_states=True)
    states: Sequence[Tensor] | None = getattr(output, "hidden_states", None)
    if not states or len({one.shape for one in states}) > 1:
        return None
    found: NDArray[np.float32] = torch.stack([one[0, -1] for one in states]).float().cpu().numpy()
    if not np.isfinite(found).all():
        raise Refused("the model's hidden states hold NaN or infinity; try --dtype float32, or another checkpoint")
    return found


def _table(made: Sequence[Reading]) -> pa.Table:
    """Lists of one number after another; their shapes are known from what was asked for."""

    def column(values: Sequence[NDArray[np.float32] | None]) -> pa.Array:
        rows = [None if one is None else one.ravel() for one in values]
        return pa.array(rows, pa.list_(pa.float32()))

    return pa.table({
        "log_prob": column([one.log_prob for one in made]),
        "candidates": column([one.candidates for one in made]),
        "states": column([one.states for one in made]),
        "layers": pa.array([0 if one.states is None else len(one.states) for one in made], pa.int32()),
    })  # fmt: skip


def _readings(table: pa.Table, batch: Sequence[Passage], passages: Passages) -> list[Reading]:
    found = []
    for number, passage in enumerate(batch):
        log_prob, candidates, states = (table[name][number].values for name in ("log_prob", "candidates", "states"))
        found.append(
            Reading(
                log_prob=log_prob.to_numpy().reshape(len(passage.tokens) - passage.first),
                candidates=candidates.to_numpy().reshape(len(passage.forks), len(passages.candidates)),
                states=None if states is None else states.to_numpy().reshape(table["layers"][number].as_py(), -1),
            )
        )
    return found
