"""A tiny model, texts and a measure for tests of the run; also run as a script that is killed on purpose."""

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa

from snellen.measures import registry
from snellen.measures.base import Measure, Measured, Scored
from snellen.results.findings import Finding

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "dogs", "ran", "away", "café", "night", "falls", "\n", "over"]


@dataclass(frozen=True, kw_only=True)
class MeanMeasure(Measure):
    """Mean log-likelihood: depends on every scored token, at full precision."""

    name: ClassVar[str] = "mean"
    question: ClassVar[str] = "How likely is the text?"
    scale: float = 1.0

    def measure(self, scored: Scored, *, seed: int) -> Measured:
        value = float(scored.log_prob.astype(np.float64).mean()) * self.scale
        deep = {
            w: float(b.log_probs[:, -1][b.tokens[:, -1] >= 0].astype(float).mean()) for w, b in scored.beams.items()
        }
        finding = Finding(
            measure=self.name, question=self.question, value=value, unit="nats/token", low=value - 1, high=value + 1,
            level=0.95, n={"tokens": len(scored)}, excluded={}, control={"deep": {str(w): v for w, v in deep.items()}},
            verdict="likely enough", reading="higher is likelier", settings={"scale": self.scale},
        )  # fmt: skip
        arms = pa.table({
            "width": [2], "horizon": [3], "arm": ["naive"], "log_likelihood": [value], "gain_over_naive": [0.0],
            "low": [0.0], "high": [0.0], "alpha": pa.array([None], pa.float64()),
            "weight": pa.array([None], pa.float64()),
            "temperature": pa.array([1.0], pa.float64()), "kind": pa.array([None], pa.string()),
        })  # fmt: skip
        columns = {
            "unit": np.arange(len(scored), dtype=np.int32) // 20,
            "token_class": np.where(scored.starts_word[scored.token], "word start", "other"),
        }
        return Measured(finding=finding, tables={"arms": arms}, columns=columns)


def texts(folder: Path, *, number: int = 3, words: int = 300) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = []
    for name in range(number):
        path = folder / f"text{name}.txt"
        path.write_text(" ".join(rng.choice(WORDS, size=words)), encoding="utf-8")
        paths.append(path)
    return paths


def model(folder: Path) -> Path:
    """A random llama of two layers that reads 64 tokens, with a byte-level tokenizer of 300."""
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator([" ".join(WORDS)] * 10, vocab_size=300, min_frequency=1, special_tokens=["<s>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, bos_token="<s>")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.3, bos_token_id=0, eos_token_id=None,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def arguments(model_folder: Path, files: list[Path], out: Path) -> list[str]:
    return [
        "exam", str(model_folder), "--text", *map(str, files), "--width", "2", "--horizon", "3", "--measures", "mean",
        "--window", "48", "--context", "8", "--limit", "600", "--out", str(out),
    ]  # fmt: skip


def _strike(moment: str, number: signal.Signals) -> None:
    """Send this process a signal at a chosen moment of the run."""
    from snellen.results import files, store

    what, _, count = moment.partition(":")
    seen = 0

    def at(name: str) -> None:
        nonlocal seen
        if name == what:
            seen += 1
            if seen == int(count or 1):
                os.kill(os.getpid(), number)

    replace, note = os.replace, store.Writer._note

    def replacing(source: os.PathLike[str], target: os.PathLike[str]) -> None:
        file = "piece" if Path(target).parent.name == "pieces" else Path(target).name
        at(f"before {file}")
        replace(source, target)
        at(f"after {file}")

    files.os.replace = replacing
    store.Writer._note = lambda self: (note(self), at("finished") if self.finished else None)[0]


if __name__ == "__main__":
    registry._BUILT_IN["mean"] = "tests.tiny:MeanMeasure"
    # Where the tests run in the background, an interrupt is ignored, and so it would be in this process.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _strike(sys.argv[1], signal.Signals[sys.argv[2]])
    from snellen.cli import main

    sys.exit(main(sys.argv[3:]))
