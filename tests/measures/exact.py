"""`Scored` objects from exact tables: a model is a function from context to next-token distribution.

Contexts are tuples; `model` must depend on `key(context)` alone, so that few beams have to be searched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from snellen.measures.base import Beams, Scored

Context = tuple[int, ...]
Model = Callable[[Context], NDArray[np.float64]]
TAUS = (0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0)


def sample(author: Model, lengths: Sequence[int], seed: int) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    known: dict[Context, NDArray[np.float64]] = {}
    documents = []
    for length in lengths:
        text: list[int] = []
        for _ in range(length):
            context = tuple(text[-8:]) if len(text) >= 8 else tuple(text)
            if context not in known:
                known[context] = np.cumsum(author(context))
            text.append(int(np.searchsorted(known[context], rng.random() * known[context][-1], side="right")))
        documents.append(text)
    return documents


def search(model: Model, context: Context, width: int, horizon: int) -> tuple[list[list[int]], ...]:
    """Beam search as plainly as it can be said: all continuations of the kept ones, sorted."""
    kept: list[tuple[float, Context, int, float]] = [(0.0, (), 0, 0.0)]
    out: tuple[list[list[int]], ...] = ([], [], [])
    for depth in range(horizon):
        extended = []
        for slot, (total, path, _, _) in enumerate(kept):
            p = model(context + path)
            for token in np.argsort(-p, kind="stable")[: max(width, 2)]:
                if p[token] > 0:
                    step = float(np.log(p[token]))
                    extended.append((total + step, (*path, int(token)), slot if depth else -1, step))
        kept = sorted(extended, key=lambda entry: -entry[0])[:width]
        empty = width - len(kept)
        out[0].append([entry[1][-1] for entry in kept] + [-1] * empty)
        out[1].append([entry[2] for entry in kept] + [-1] * empty)
        out[2].append([entry[3] for entry in kept] + [-np.inf] * empty)
    return out


def score(
    model: Model,
    documents: Sequence[Sequence[int]],
    *,
    widths: Sequence[int] = (4,),
    horizon: int = 3,
    memory: int = 8,
    spellings: Sequence[str] | None = None,
    starts_word: Sequence[bool] | None = None,
    top: int = 8,
    taus: Sequence[float] = TAUS,
) -> Scored:
    """Score texts under a model that depends on the last `memory` tokens at most."""
    vocabulary = len(model(()))
    spelled = list(spellings or (f" {chr(97 + v)}" for v in range(vocabulary)))
    starts = np.asarray([True] * vocabulary if starts_word is None else starts_word)
    known: dict[Context, tuple[NDArray[np.float64], dict[int, tuple[list[list[int]], ...]]]] = {}
    rows: dict[str, list[object]] = {}
    beams: dict[int, tuple[list[object], ...]] = {w: ([], [], []) for w in widths}

    def add(**values: object) -> None:
        for name, value in values.items():
            rows.setdefault(name, []).append(value)

    for d, text in enumerate(documents):
        at = 0
        for i, token in enumerate(text):
            context = tuple(text[max(0, i - memory) : i])
            if context not in known:
                p = model(context)
                found = {w: search(model, context, w, horizon) for w in widths}
                known[context] = (p, found)
            p, found = known[context]
            with np.errstate(divide="ignore"):
                log_p = np.log(p)
            best = np.argsort(-p, kind="stable")[:top]
            some = log_p[p > 0]
            add(
                document=d, index=i, token=token, pieces=spelled[token], start=at, end=at + len(spelled[token]),
                context=i, log_prob=log_p[token], entropy=-(np.exp(some) * some).sum(),
                rank=int((p > p[token]).sum()), log_z=[np.log(np.exp(t * some).sum()) for t in taus],
                top_tokens=[*np.where(p[best] > 0, best, -1), *[-1] * (top - len(best))],
                top_log_probs=[*log_p[best], *[-np.inf] * (top - len(best))],
                log_word_start=np.log(p[starts].sum()) if p[starts].sum() > 0 else -np.inf,
            )  # fmt: skip
            at += len(spelled[token])
            for w in widths:
                for store, value in zip(beams[w], found[w], strict=True):
                    store.append(value)
    kinds = {"log_prob": np.float32, "entropy": np.float32, "log_z": np.float32}
    kinds |= {"top_log_probs": np.float32, "log_word_start": np.float32}
    pieces = [str(piece) for piece in rows.pop("pieces")]
    arrays = {name: np.asarray(values, dtype=kinds.get(name, np.int32)) for name, values in rows.items()}
    return Scored(
        pieces=pieces,
        temperatures=np.asarray(taus),
        beams={
            w: Beams(
                tokens=np.asarray(found[0], dtype=np.int32),
                parents=np.asarray(found[1], dtype=np.int16),
                log_probs=np.asarray(found[2], dtype=np.float32),
            )
            for w, found in beams.items()
        },
        horizon=horizon,
        starts_word=starts,
        documents=[f"document {d}" for d in range(len(documents))],
        **arrays,
    )


def sharpened(model: Model, tau: float) -> Model:
    def flat(context: Context) -> NDArray[np.float64]:
        p = model(context) ** tau
        return p / p.sum()

    return flat


def markov(vocabulary: int, seed: int, concentration: float = 0.4) -> Model:
    """An order-2 Markov text."""
    table = np.random.default_rng(seed).dirichlet(np.full(vocabulary, concentration), size=(vocabulary + 1,) * 2)

    def model(context: Context) -> NDArray[np.float64]:
        a, b = context[-2:] if len(context) >= 2 else (vocabulary,) * (2 - len(context)) + context
        return table[a, b] * 0.999 + 0.001 / vocabulary

    return model


def deciding(author: float | None, *, arms: int = 4, steps: int = 1, noise: int = 16) -> Model:
    """An author who decides: goal g, decision s0, `steps` states that follow from it, a verdict; then again.

    The verdict is OK if the decision fits the goal (s0 = g), else one of `noise` tokens. `author` is the probability
    of the fitting decision, the others sharing the rest; None decides without looking at the goal (planless). The
    states and OK are certain. Tokens: goals 0…arms−1, decisions, states, OK, noise. Nothing is exactly uniform, so
    that no beam is decided by ties.
    """
    decisions, states, fine = arms, 2 * arms, (2 + steps) * arms
    vocabulary = fine + 1 + noise
    rng = np.random.default_rng(0)
    goals, planless = rng.dirichlet(np.full(arms, 100.0)), rng.dirichlet(np.full(arms, 100.0), size=arms)
    dead = rng.dirichlet(np.full(noise, 20.0), size=arms)

    def model(context: Context) -> NDArray[np.float64]:
        p = np.zeros(vocabulary)
        last = context[-1] if context else fine
        if last >= fine:
            p[:arms] = goals
        elif last < arms:
            p[decisions : decisions + arms] = planless[last]
            if author is not None:
                p[decisions : decisions + arms] = (1 - author) / (arms - 1)
                p[decisions + last] = author
        elif last < states + (steps - 1) * arms:
            p[last + arms] = 1
        elif context[-2 - steps] == last % arms:
            p[fine] = 1
        else:
            p[fine + 1 :] = dead[last % arms]
        return p

    return model
