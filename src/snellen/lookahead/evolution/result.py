"""What an evolution comes to, and the file that it can be gone on from."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from snellen.errors import InputError
from snellen.evolution_settings import Genetic, Metropolis
from snellen.lookahead.evolution.fitness import Individual
from snellen.lookahead.evolution.frame import Body, Frame
from snellen.models.identity import Identity
from snellen.models.masked import MaskedModel
from snellen.results.files import UNREADABLE, json_text, read_json, replacing

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What was spent."""

    passes: int  # rows that the model was run on
    token_passes: int  # tokens in them
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Member:
    """A text of the population, with its scores."""

    text: str  # prompt and suffix included; tokens that are no valid text together show as �
    tokens: Body  # the free ones
    log_likelihood: float  # pseudo-log-likelihood, nats a free token
    repetition: float  # share of free tokens that end a repeated pair
    fitness: float  # log-likelihood less the repetition term; of a chain: the log-likelihood
    group: int  # island or chain

    @classmethod
    def of(cls, model: MaskedModel, frame: Frame, individual: Individual, *, group: int) -> Member:
        return cls(
            text=text_of(model, frame, individual.body),
            tokens=individual.body,
            log_likelihood=individual.log_likelihood,
            repetition=individual.repetition,
            fitness=individual.fitness,
            group=group,
        )


@dataclass(frozen=True, kw_only=True)
class Evolved:
    """The state of an evolution; `members` are best first."""

    mode: Literal["genetic", "metropolis"]
    prompt: str
    suffix: str
    settings: Genetic | Metropolis
    identity: Identity
    members: tuple[Member, ...]
    trace: tuple[dict[str, int | float], ...]  # one row a generation or kept step
    cost: Cost
    finished: bool
    samples: tuple[tuple[Body, ...], ...] = ()  # metropolis: the states of all chains at each kept step
    convergence: dict[str, float | None] | None = None  # metropolis: see `convergence.summary`

    def as_dict(self) -> dict[str, Any]:
        """A JSON-able copy."""
        return {"schema": SCHEMA, **asdict(self)}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as JSON, whole or not at all."""
        with replacing(Path(path)) as file:
            file.write((json_text(self.as_dict(), indent=1) + "\n").encode())


def text_of(model: MaskedModel, frame: Frame, body: Body) -> str:
    """Prompt, body and suffix as text."""
    text: str = model.tokenizer.decode([*frame.prompt, *body, *frame.suffix])
    return text


def read_population(path: str | os.PathLike[str], model: MaskedModel) -> list[Body]:
    """The texts of a file that `Evolved.save` wrote, best first.

    Raises
    ------
    InputError
        No such file, or of another kind, or its tokens are those of another tokenizer.
    """
    return population_of(read_record(path), model, str(path))


def read_record(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What `Evolved.save` wrote, as far as it can be checked without the model. Raises as `read_population`."""
    name = f"from {str(path)!r}"
    try:
        record: dict[str, Any] = read_json(Path(path))
        _bodies(record)
        _, schema = record["identity"]["tokenizer_sha256"], record["schema"]
    except InputError as error:  # a pipe, a device
        raise InputError(f"{name}: {error}; name a file that --out wrote") from error
    except OSError as error:
        raise InputError(f"{name}: cannot be read: {error.strerror}") from error
    except UNREADABLE as error:
        raise InputError(f"{name}: no population as `snellen evolve --out` writes it") from error
    if schema != SCHEMA:
        raise InputError(f"{name}: written in format {schema!r}, this version of Snellen reads {SCHEMA}")
    return record


def population_of(record: dict[str, Any], model: MaskedModel, path: str) -> list[Body]:
    """The texts of such a record, best first. Raises as `read_population`."""
    name, bodies, tokenizer = f"from {path!r}", _bodies(record), record["identity"]["tokenizer_sha256"]
    if tokenizer != model.identity.tokenizer_sha256:
        raise InputError(
            f"{name}: evolved with {record['identity'].get('source')!r}, whose tokenizer is not that of "
            f"{model.identity.source!r}: its tokens mean something else"
        )
    size = len(model.ordinary)
    if not bodies or any(not body or any(not 0 <= t < size or not model.ordinary[t] for t in body) for body in bodies):
        raise InputError(f"{name}: a text in it is empty or holds a token that no text can hold")
    return bodies


def _bodies(record: dict[str, Any]) -> list[Body]:
    """Raises what is in `UNREADABLE`."""
    bodies = [tuple(member["tokens"]) for member in record["members"]]
    if not all(type(token) is int for body in bodies for token in body):
        raise ValueError("a token is no whole number")
    return bodies
