"""Language models on the text and the tokenizer of the bundled one, judged on the texts that ship in the package."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoTokenizer

from snellen.architectures import MesaForCausalLM
from snellen.errors import InputError
from snellen.models.bundled import pocket_folder
from snellen.results.files import read_bytes, replacing
from snellen.results.provenance import code_hash, versions
from snellen.studies.mesa.tasks import stream
from snellen.studies.mesa.training import Plan, Trained, train
from snellen.studies.mesa.variants import TextVariant, text_config

CORPUS = "train.jsonl"
WINDOW = 256  # tokens, the start token included
PLAN = Plan(steps=150, batch=8, warmup=20, rates=(2e-3, 4e-3, 8e-3), tuning=60, weight_decay=0.05)
_ORDER, _WEIGHTS = 3, 4  # streams of random numbers
_SHUFFLE = 20261121  # of the documents, as in the bundled model's recipe
_AT_ONCE = 8  # windows scored together


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Tokens to train on, all documents one after another. identity: of the text and the tokenizer."""

    tokens: NDArray[np.uint16]
    start: int
    vocabulary: int
    identity: str


def corpus(texts: Path | None, cache: Path) -> Corpus:
    """Tokens of TEXTS/train.jsonl, kept in the folder `cache` once they are known.

    Raises
    ------
    InputError
        There is no such file, or a line of it is no document.
    """
    mend = "give --texts FOLDER, the corpus of the bundled model (docs/pocket.md: scripts/pocket/prepare.py makes it)"
    if texts is None:
        raise InputError(f"texts: the task 'text' needs a text to train on; {mend}")
    path = texts / CORPUS
    try:
        content = read_bytes(path)
    except OSError as error:
        raise InputError(f"texts {str(texts)!r}: {CORPUS} cannot be read ({error.strerror}); {mend}") from error
    folder = pocket_folder()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    made_by = json.dumps([code_hash(__name__), versions("tokenizers")]).encode()
    identity = hashlib.sha256(made_by + content + (folder / "tokenizer.json").read_bytes()).hexdigest()[:16]
    kept = cache / f"tokens-{identity}.npy"
    if not kept.is_file():
        try:
            documents = [json.loads(line)["text"] for line in content.decode("utf-8").splitlines()]
            encoded = tokenizer.backend_tokenizer.encode_batch(documents)
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: must hold one JSON object with a field 'text' a line; {mend}") from error
        random.Random(_SHUFFLE).shuffle(encoded)
        ids = np.concatenate([np.array(one.ids, dtype=np.uint16) for one in encoded])
        with replacing(kept) as file:
            np.save(file, ids)
    tokens = np.load(kept, mmap_mode="r")
    if len(tokens) < WINDOW:
        raise InputError(f"{path}: {len(tokens)} tokens: give at least {WINDOW}")
    return Corpus(tokens=tokens, start=int(tokenizer.bos_token_id), vocabulary=len(tokenizer), identity=identity)


def fresh(variant: TextVariant, text: Corpus, seed: int) -> MesaForCausalLM:
    """The untrained model; torch's global generator is left as it was."""
    config = text_config(variant, vocabulary=text.vocabulary, length=WINDOW, start=text.start)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(seed, _WEIGHTS))
        return MesaForCausalLM(config)


def train_on_text(variant: TextVariant, text: Corpus, plan: Plan, *, rate: float, seed: int) -> Trained:
    """Variants of a seed see the same windows in the same order; another seed sees others."""
    page = WINDOW - 1  # the start token opens every window
    pages = len(text.tokens) // page
    needed = plan.steps * plan.batch
    generator = np.random.default_rng(stream(seed, _ORDER))
    order = np.concatenate([generator.permutation(pages) for _ in range(-(-needed // pages))])

    def draw(step: int) -> dict[str, Tensor]:
        mine = order[step * plan.batch : (step + 1) * plan.batch]
        rows = np.stack([text.tokens[at * page : (at + 1) * page] for at in mine]).astype(np.int64)
        windows = torch.from_numpy(np.insert(rows, 0, text.start, axis=1))
        return {"input_ids": windows, "labels": windows}

    return train(fresh(variant, text, seed), draw, plan, rate=rate, seed=seed)


def held_out(tokenizer: Any, length: int = WINDOW) -> list[Tensor]:
    """The texts that ship in the package, cut into windows side by side, each after the start token."""
    page, windows = length - 1, []
    for path in sorted((pocket_folder() / "held-out").glob("*.txt")):
        ids = tokenizer(path.read_text(encoding="utf-8"), add_special_tokens=False, verbose=False)["input_ids"]
        windows += [torch.tensor([tokenizer.bos_token_id, *ids[at : at + page]]) for at in range(0, len(ids), page)]
    return windows


@torch.no_grad()
def losses(model: MesaForCausalLM, windows: Sequence[Tensor]) -> tuple[list[float], list[int]]:
    """Nats summed over windows, and how many tokens that is, by the number of tokens before one in its window."""
    longest = max(map(len, windows)) - 1
    nats, count = torch.zeros(longest, dtype=torch.float64), torch.zeros(longest, dtype=torch.int64)
    by_length: dict[int, list[Tensor]] = {}
    for window in windows:
        by_length.setdefault(len(window), []).append(window)
    for length, same in by_length.items():
        if length < 2:
            continue
        for at in range(0, len(same), _AT_ONCE):
            ids = torch.stack(same[at : at + _AT_ONCE])
            log_probs = model(input_ids=ids).logits[:, :-1].float().log_softmax(-1)
            lost = -log_probs.gather(-1, ids[:, 1:, None]).squeeze(-1)
            nats[: length - 1] += lost.double().sum(0)
            count[: length - 1] += len(ids)
    return nats.tolist(), count.tolist()
