"""Corpus -> `pocket-masked`, a masked language model with pocket's vocabulary, and its loss curve.

OMP_NUM_THREADS=1 python scripts/masked/train_masked.py CORPUS OUT [--steps N] [--compile]

CORPUS is what `scripts/pocket/prepare.py` wrote: the same texts, in the same order, with the same held-out documents
left out as for the causal model.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch.utils.data import Dataset, SequentialSampler
from transformers import AutoTokenizer, ModernBertConfig, ModernBertForMaskedLM, Trainer, TrainingArguments

sys.path.append(str(Path(__file__).resolve().parents[1] / "pocket"))
from evaluate import POCKET
from masked_curve import MaskedCurve
from optimizer import MuonWithAdamW
from train import stream

MASK = "<|mask|>"
CONTEXT = 256
LENGTHS = (32, 64, 128, 256)  # of the windows of a step, the start token included; short ones, since short texts evolve
LENGTH_SHARES = (0.15, 0.25, 0.4, 0.2)
MASKED = (0.03, 0.40)  # share of a window that is masked: drawn anew for each step, uniformly between these
BATCH_TOKENS = 4096
SEED = 20261122
MODEL = {
    "hidden_size": 192,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "layer_types": ["full_attention"] * 4,
    "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10_000.0}},
}


@dataclass
class MaskedBatches(Dataset):  # type: ignore[type-arg]
    """Item i is the whole batch of step i; all of it is decided by the seed.

    A step's tokens are consecutive chunks of the corpus, drawn without replacement until all are used. Each window
    opens with the start token, which is never masked; a masked token is always shown as the mask (never as itself or
    as another token), since sampling and scoring never show the model anything else.
    """

    tokens: np.ndarray
    steps: int
    start: int
    mask: int
    first: int = 0  # steps that an earlier run has done

    def __post_init__(self) -> None:
        self.chunk = max(LENGTHS) - 1
        self.chunks_a_step = BATCH_TOKENS // max(LENGTHS)
        self.chunks = len(self.tokens) // self.chunk
        generator = np.random.default_rng(SEED)
        epochs = -(-self.steps * self.chunks_a_step // self.chunks)
        self.order = np.concatenate([generator.permutation(self.chunks) for _ in range(epochs)])
        self.lengths = generator.choice(LENGTHS, size=self.steps, p=LENGTH_SHARES)
        self.shares = generator.uniform(*MASKED, size=self.steps)

    def __len__(self) -> int:
        return self.steps - self.first

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        step = index + self.first
        mine = self.order[step * self.chunks_a_step : (step + 1) * self.chunks_a_step]
        flat = np.concatenate([self.tokens[at * self.chunk : (at + 1) * self.chunk] for at in mine]).astype(np.int64)
        body = int(self.lengths[step]) - 1
        rows = len(flat) // body
        windows = np.full((rows, body + 1), self.start)
        windows[:, 1:] = flat[: rows * body].reshape(rows, body)
        count = max(1, round(self.shares[step] * body))
        generator = np.random.default_rng([SEED, step])
        places = 1 + np.argsort(generator.random((rows, body)), axis=1)[:, :count]
        labels = np.full_like(windows, -100)
        np.put_along_axis(labels, places, np.take_along_axis(windows, places, axis=1), axis=1)
        np.put_along_axis(windows, places, self.mask, axis=1)
        return {"input_ids": torch.from_numpy(windows), "labels": torch.from_numpy(labels)}


class MaskedTrainer(Trainer):
    """Batches come ready and in order; the optimiser is Muon for the matrices."""

    def _get_train_sampler(self, *_: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            self.optimizer = MuonWithAdamW(self.model, matrix_lr=self.args.learning_rate)
        return self.optimizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--evaluate-every", type=int, default=200)
    parser.add_argument("--learning-rate", type=float, default=0.02)
    parser.add_argument("--decay", type=int, default=600, help="last steps, in which the learning rate falls to zero")
    parser.add_argument("--start", type=Path, help="go on from the weights of this folder …")
    parser.add_argument("--first-step", type=int, default=0, help="… which are those after so many steps")
    parser.add_argument("--compile", action="store_true", help="faster; needs a C++ compiler")
    settings = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    settings.out.mkdir(parents=True, exist_ok=True)

    tokenizer = AutoTokenizer.from_pretrained(POCKET)
    tokens = stream(settings.corpus, tokenizer)  # before the mask exists: no text may turn into it
    tokenizer.add_special_tokens({"mask_token": MASK})
    tokenizer.model_max_length = CONTEXT
    special = tokenizer.bos_token_id
    model = ModernBertForMaskedLM(
        ModernBertConfig(
            vocab_size=len(tokenizer),
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            sparse_prediction=True,  # logits at the masked places only
            bos_token_id=special,
            cls_token_id=special,
            eos_token_id=None,  # there is no closing token
            sep_token_id=None,
            pad_token_id=None,  # it would freeze the embedding of the start token
            **MODEL,
        )
    )
    if settings.start is not None:
        weights = load_file(settings.start / "model.safetensors")
        missing = model.load_state_dict({name: weight.float() for name, weight in weights.items()}, strict=False)
        assert missing.missing_keys == ["decoder.weight"], missing  # tied to the embedding
        model.tie_weights()
    if settings.compile:
        torch._dynamo.config.automatic_dynamic_shapes = False  # one kernel a window length
        model.model.compile()
    print(f"{model.num_parameters():,} parameters, {len(tokens):,} tokens", flush=True)
    MaskedTrainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(settings.out / "checkpoints"),
            max_steps=settings.steps - settings.first_step,
            per_device_train_batch_size=1,
            learning_rate=settings.learning_rate,
            lr_scheduler_type="warmup_stable_decay",
            lr_scheduler_kwargs={
                "num_decay_steps": settings.decay,
                "min_lr_ratio": 0.0,
                "decay_type": "linear",
            },
            warmup_steps=40 if settings.start is None else 0,
            max_grad_norm=1.0,
            bf16=True,  # autocast only: the weights and the optimiser stay in float32
            use_cpu=True,
            logging_steps=10,
            save_strategy="no",  # the curve keeps a finished folder
            report_to="none",
            disable_tqdm=True,
            seed=SEED,
            dataloader_num_workers=0,
            remove_unused_columns=False,
        ),
        train_dataset=MaskedBatches(tokens, settings.steps, special, tokenizer.mask_token_id, settings.first_step),
        data_collator=lambda batches: batches[0],
        callbacks=[MaskedCurve(settings.out, tokenizer, settings.evaluate_every, BATCH_TOKENS, settings.first_step)],
    ).train()


if __name__ == "__main__":
    main()
