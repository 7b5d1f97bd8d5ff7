"""Held-out loss of a saved model, a document and a genre at a time.

python scripts/pocket/evaluate.py [FOLDER]
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

POCKET = Path(__file__).resolve().parents[2] / "src" / "snellen" / "models" / "pocket"
WINDOW = 512


@dataclass
class Loss:
    nats: float = 0.0
    tokens: int = 0
    bytes: int = 0

    def __add__(self, other: Loss) -> Loss:
        return Loss(self.nats + other.nats, self.tokens + other.tokens, self.bytes + other.bytes)

    @property
    def nats_per_token(self) -> float:
        return self.nats / self.tokens

    @property
    def bits_per_byte(self) -> float:
        return self.nats / self.bytes / math.log(2)


def held_out_documents() -> dict[str, str]:
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted((POCKET / "held-out").glob("*.txt"))}


@torch.no_grad()
def document_loss(model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast, text: str) -> Loss:
    """Windows side by side, each after the start token: a token is scored once, with up to 510 before it."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    total = Loss(bytes=len(text.encode()))
    for at in range(0, len(ids), WINDOW - 1):
        window = torch.tensor([[tokenizer.bos_token_id, *ids[at : at + WINDOW - 1]]])
        log_probs = model(input_ids=window).logits[0, :-1].float().log_softmax(-1)
        total.nats -= log_probs.gather(-1, window[0, 1:, None]).sum().item()
        total.tokens += window.shape[1] - 1
    return total


def by_document(
    model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast, documents: Mapping[str, str]
) -> dict[str, Loss]:
    was_training = model.training
    model.eval()
    losses = {name: document_loss(model, tokenizer, text) for name, text in documents.items()}
    model.train(was_training)
    return losses


def held_out_loss(model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast, documents: Mapping[str, str]) -> Loss:
    return sum(by_document(model, tokenizer, documents).values(), Loss())


def main(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    losses = by_document(model, AutoTokenizer.from_pretrained(folder), held_out_documents())
    genres: dict[str, Loss] = {}
    for name, loss in losses.items():
        genre = name.split("-")[0]
        genres[genre] = genres.get(genre, Loss()) + loss
    rows = {**losses, **genres, "all": sum(losses.values(), Loss())}
    print(
        json.dumps(
            {
                name: {
                    "bytes": loss.bytes,
                    "tokens": loss.tokens,
                    "nats per token": round(loss.nats_per_token, 4),
                    "bits per byte": round(loss.bits_per_byte, 4),
                }
                for name, loss in rows.items()
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else POCKET)
