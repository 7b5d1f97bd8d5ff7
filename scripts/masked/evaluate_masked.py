"""Pseudo-log-likelihood of the held-out texts under a masked model, beside the loss of `pocket` on the same tokens.

    python scripts/masked/evaluate_masked.py [FOLDER] [--windows N]     # N windows of a document; 0: all of them

Windows of 128 side by side, each after the start token; every token is masked alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from snellen.lookahead.evolution import Conditionals
from snellen.lookahead.evolution.frame import frame_of
from snellen.models.bundled import MASKED, pocket_folder
from snellen.models.masked import load_masked

sys.path.append(str(Path(__file__).resolve().parents[1] / "pocket"))
from evaluate import held_out_documents

BODY = 127


def windows(ids: list[int], count: int) -> list[tuple[int, ...]]:
    cut = [tuple(ids[at : at + BODY]) for at in range(0, len(ids), BODY)]
    return cut[:count] if count else cut


@torch.inference_mode()
def causal(model: torch.nn.Module, start: int, bodies: list[tuple[int, ...]]) -> float:
    """Nats, summed."""
    total = 0.0
    for body in bodies:
        row = torch.tensor([[start, *body]])
        log_probs = model(input_ids=row).logits[0, :-1].float().log_softmax(-1)
        total -= log_probs.gather(-1, row[0, 1:, None]).sum().item()
    return total


def held_out(folder: Path | str, count: int) -> dict[str, dict[str, float]]:
    """By document, by genre and of all: tokens, nats a token masked alone, and nats a token of `pocket`."""
    model = load_masked(folder)
    left_to_right = AutoModelForCausalLM.from_pretrained(pocket_folder(), dtype=torch.float32).eval()
    scorer = Conditionals(model, frame_of(model, prompt="", suffix="", longest=BODY))
    sums: dict[str, np.ndarray] = {}
    for name, text in held_out_documents().items():
        bodies = windows(model.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], count)
        masked = -sum(float(scores.sum()) for scores in scorer.log_likelihoods(bodies))
        row = np.array([sum(map(len, bodies)), masked, causal(left_to_right, model.opening[0], bodies)])
        for key in (name, name.split("-")[0], "all"):
            sums[key] = sums.get(key, 0) + row
        print(f"{name}: {masked / row[0]:.3f} masked, {row[2] / row[0]:.3f} left to right", file=sys.stderr, flush=True)
    return {
        name: {
            "tokens": int(tokens),
            "nats per token": round(masked / tokens, 4),
            "pocket, nats per token": round(left / tokens, 4),
        }
        for name, (tokens, masked, left) in sums.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", default=MASKED)
    parser.add_argument("--windows", type=int, default=1)
    settings = parser.parse_args()
    print(json.dumps(held_out(settings.folder, settings.windows), indent=1))


if __name__ == "__main__":
    main()
