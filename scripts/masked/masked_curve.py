"""What training leaves behind as it goes: the loss curve, and a usable folder at every point of it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from evaluate import held_out_documents
from transformers import ModernBertForMaskedLM, PreTrainedTokenizerFast, TrainerCallback

WINDOW = 128
PLACES = 16  # of each held-out document's first window, each masked alone


class MaskedCurve(TrainerCallback):
    """Held-out pseudo-log-likelihood on fixed places, both losses as CSV, and a finished folder of each checkpoint."""

    def __init__(
        self, out: Path, tokenizer: PreTrainedTokenizerFast, every: int, batch_tokens: int, first: int
    ) -> None:
        self.out, self.tokenizer, self.every, self.batch_tokens, self.first = out, tokenizer, every, batch_tokens, first
        self.documents = held_out_documents()
        self.began = time.monotonic()
        self.recent: list[float] = []
        self.file = out / "loss.csv"
        self.file.write_text("step,tokens,minutes,learning_rate,training,held_out\n")

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        if "loss" in logs:
            self.recent.append(float(logs["loss"]))
            self.lr = float(logs["learning_rate"])

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
        if state.global_step % self.every and state.global_step != state.max_steps:
            return
        loss = self.held_out(model)
        minutes = (time.monotonic() - self.began) / 60
        training = sum(self.recent) / len(self.recent) if self.recent else float("nan")
        step = self.first + state.global_step
        row = (step, step * self.batch_tokens, minutes, getattr(self, "lr", 0.0), training, loss)
        with self.file.open("a") as out:
            out.write("{},{},{:.2f},{:.6f},{:.4f},{:.4f}\n".format(*row))
        self.recent.clear()
        save(model, self.tokenizer, self.out / "latest")

    @torch.no_grad()
    def held_out(self, model: Any) -> float:
        """Minus the log-probability of a masked token that is masked alone: nats a token, over a few places."""
        was_training = model.training
        model.eval()
        losses = []
        for text in self.documents.values():
            ids = self.tokenizer(text, add_special_tokens=False)["input_ids"][: WINDOW - 1]
            places = np.linspace(1, len(ids), PLACES).round().astype(int)
            rows = torch.tensor([[self.tokenizer.bos_token_id, *ids]]).repeat(PLACES, 1)
            labels = torch.full_like(rows, -100)
            for row, place in enumerate(places):
                labels[row, place] = rows[row, place]
                rows[row, place] = self.tokenizer.mask_token_id
            losses.append(model(input_ids=rows, labels=labels).loss.item())
        model.train(was_training)
        return float(np.mean(losses))


def save(model: ModernBertForMaskedLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """As bfloat16, without touching the float32 weights that go on training."""
    state = {name: weight.to(torch.bfloat16) for name, weight in model.state_dict().items() if name != "decoder.weight"}
    model.save_pretrained(folder, state_dict=state)
    tokenizer.save_pretrained(folder)
