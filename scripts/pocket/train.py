"""Corpus -> tokenizer and model in the package folder, with the loss curve.

OMP_NUM_THREADS=1 python scripts/pocket/train.py CORPUS OUT [--steps N] [--compile] [--resume] [--checkpoints STEP …]
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from curve import Curve, save
from optimizer import MuonWithAdamW
from tokenizer import VOCABULARY, train_tokenizer
from torch.utils.data import Dataset, SequentialSampler
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

CONTEXT = 512
SHORT = 256  # most steps see windows of half the context: a fifth faster, and the last ones learn the long positions
SHORT_SHARE = 0.85
BATCH_TOKENS = 4096
SEED = 20261121
MODEL = {
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "intermediate_size": 704,
}


def stream(corpus: Path, tokenizer: PreTrainedTokenizerFast) -> np.ndarray:
    """All training documents in a fixed shuffled order, each after the start token."""
    texts = [json.loads(line)["text"] for line in (corpus / "train.jsonl").open(encoding="utf-8")]
    random.Random(SEED).shuffle(texts)
    encoded = tokenizer.backend_tokenizer.encode_batch(texts)
    return np.concatenate([np.array(one.ids, dtype=np.uint16) for one in encoded])


@dataclass
class Batches(Dataset):  # type: ignore[type-arg]
    """Item i is the whole batch of step i, so the order depends on nothing but the seed (also after a resume)."""

    tokens: np.ndarray
    steps: int
    start: int  # id of the start token, which opens every window

    def __post_init__(self) -> None:
        self.page = 2 * (SHORT - 1)  # a page is two short windows or one long one without its last place
        pages = len(self.tokens) // self.page
        epochs = -(-self.steps * self.pages_a_step // pages)
        generator = np.random.default_rng(SEED)
        self.order = np.concatenate([generator.permutation(pages) for _ in range(epochs)])

    @property
    def pages_a_step(self) -> int:
        return BATCH_TOKENS // CONTEXT

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        mine = self.order[step * self.pages_a_step : (step + 1) * self.pages_a_step]
        pages = np.stack([self.tokens[at * self.page : (at + 1) * self.page] for at in mine]).astype(np.int64)
        if step < SHORT_SHARE * self.steps:
            pages = pages.reshape(-1, SHORT - 1)
        windows = np.concatenate([np.full((len(pages), 1), self.start), pages], axis=1)
        tensor = torch.from_numpy(windows)
        return {"input_ids": tensor, "labels": tensor}


class PocketTrainer(Trainer):
    """Batches come ready and in order; the optimiser is Muon for the matrices."""

    def _get_train_sampler(self, *_: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            self.optimizer = MuonWithAdamW(self.model, matrix_lr=self.args.learning_rate)
        return self.optimizer


@dataclass
class Keep(TrainerCallback):
    """A finished folder of the model as it was after each of some steps, beside the `latest` of `Curve`."""

    folder: Path
    tokenizer: PreTrainedTokenizerFast
    steps: frozenset[int]

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
        if state.global_step in self.steps:
            save(getattr(model, "_orig_mod", model), self.tokenizer, self.folder / f"step-{state.global_step:05d}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--evaluate-every", type=int, default=200)
    parser.add_argument("--learning-rate", type=float, default=0.02)
    parser.add_argument("--compile", action="store_true", help="a fifth faster; needs a C++ compiler")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument(
        "--checkpoints",
        type=int,
        nargs="*",
        default=[],
        metavar="STEP",
        help="keep the model as it is after these steps, each in OUT/step-STEP",
    )
    settings = parser.parse_args()
    torch.set_num_threads(1)
    torch._dynamo.config.automatic_dynamic_shapes = False  # two window lengths: two kernels, not one slow one
    torch.manual_seed(SEED)
    settings.out.mkdir(parents=True, exist_ok=True)

    if settings.resume:
        tokenizer = AutoTokenizer.from_pretrained(settings.out / "latest")
    else:
        texts = (json.loads(line)["text"] for line in (settings.corpus / "train.jsonl").open(encoding="utf-8"))
        tokenizer = train_tokenizer(texts, CONTEXT)
    special = tokenizer.bos_token_id
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            bos_token_id=special,
            eos_token_id=special,
            # no pad_token_id here: it would freeze the input embedding of the start token
            **MODEL,
        )
    )
    model.generation_config.pad_token_id = special
    tokens = stream(settings.corpus, tokenizer)
    print(f"{model.num_parameters():,} parameters, {len(tokens):,} tokens", flush=True)
    arguments = TrainingArguments(
        output_dir=str(settings.out / "checkpoints"),
        max_steps=settings.steps,
        per_device_train_batch_size=1,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="warmup_stable_decay",
        lr_scheduler_kwargs={
            "num_decay_steps": int(0.5 * settings.steps),
            "min_lr_ratio": 0.0,
            "decay_type": "linear",
        },
        warmup_steps=40,
        max_grad_norm=1.0,
        bf16=True,  # autocast only: the weights and the optimiser stay in float32
        use_cpu=True,
        torch_compile=settings.compile,
        logging_steps=10,
        save_steps=settings.evaluate_every,
        save_total_limit=2,
        report_to="none",
        disable_tqdm=True,
        seed=SEED,
        dataloader_num_workers=0,
        remove_unused_columns=False,
    )
    PocketTrainer(
        model=model,
        args=arguments,
        train_dataset=Batches(tokens, settings.steps, special),
        data_collator=lambda batches: batches[0],
        callbacks=[
            Curve(settings.out, tokenizer, settings.evaluate_every, BATCH_TOKENS),
            Keep(settings.out, tokenizer, frozenset(settings.checkpoints)),
        ],
    ).train(resume_from_checkpoint=settings.resume)


if __name__ == "__main__":
    main()
