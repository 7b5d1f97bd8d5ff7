"""What training leaves behind as it goes: the loss curve, and a usable folder at every point of it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from evaluate import held_out_documents, held_out_loss
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback


class Curve(TrainerCallback):
    """Held-out loss at every save, both losses as CSV, and a finished folder of each checkpoint."""

    def __init__(self, out: Path, tokenizer: PreTrainedTokenizerFast, every: int, batch_tokens: int) -> None:
        self.out, self.tokenizer, self.every, self.batch_tokens = out, tokenizer, every, batch_tokens
        self.documents = held_out_documents()
        self.began = time.monotonic()
        self.recent: list[float] = []
        self.file = out / "loss.csv"
        if self.file.exists():  # a resumed run goes on counting
            self.began -= 60 * float(self.file.read_text().splitlines()[-1].split(",")[2])
        else:
            self.file.write_text("step,tokens,minutes,learning_rate,training,held_out\n")

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        if "loss" in logs:
            self.recent.append(logs["loss"])
            self.lr = logs["learning_rate"]

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
        if state.global_step % self.every and state.global_step != state.max_steps:
            return
        loss = held_out_loss(getattr(model, "_orig_mod", model), self.tokenizer, self.documents).nats_per_token
        minutes = (time.monotonic() - self.began) / 60
        training = sum(self.recent) / len(self.recent) if self.recent else float("nan")
        row = (
            state.global_step,
            state.global_step * self.batch_tokens,
            minutes,
            getattr(self, "lr", 0.0),
            training,
            loss,
        )
        with self.file.open("a") as out:
            out.write("{},{},{:.2f},{:.6f},{:.4f},{:.4f}\n".format(*row))
        self.recent.clear()
        save(getattr(model, "_orig_mod", model), self.tokenizer, self.out / "latest")


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """As bfloat16, without touching the float32 weights that go on training."""
    state = {name: weight.to(torch.bfloat16) for name, weight in model.state_dict().items() if name != "lm_head.weight"}
    model.save_pretrained(folder, state_dict=state)
    tokenizer.save_pretrained(folder)
