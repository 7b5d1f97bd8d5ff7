"""Beam search from every position of a text: Snellen against `generate`, and against its own limit.

    python benchmarks/rollouts.py                 # everything, about half an hour on two cores
    python benchmarks/rollouts.py --quick         # GPT-2 124M at T = 256, W = D = 4 alone
    python benchmarks/rollouts.py --write docs/performance.md

Random weights, scaled so that predictions are as uncertain as a trained model's (3.5 nats), and a text drawn from the
model itself. Every row is measured in one run. The rivals are `generate(num_beams=W)` called for one position after
another, and the stronger one, left-padded batches of neighbouring positions (the batch size that is fastest of those
tried). Both are timed on positions spread evenly over the text and scaled to all of them. Before a speed is printed
the beams at the timed positions are compared: token for token, and summed log-probabilities within 1e-4.
The limit is 1 + W(D − 1) plain forward passes of the same text, each with its full logits.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from snellen.lookahead import Rollouts, beam

SHAPES = ("GPT-2 124M", "Llama 7M")
LENGTHS = (128, 256, 512)
SEARCHES = ((4, 4), (8, 6))
BATCHES = (8, 32)
CHUNKS = 2  # batches timed, spread over the text
BUDGET = 1_000_000_000


def build(shape: str) -> PreTrainedModel:
    torch.manual_seed(0)
    if shape == "GPT-2 124M":
        model: PreTrainedModel = GPT2LMHeadModel(GPT2Config(n_positions=1024))
    else:
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=4096,
                hidden_size=256,
                intermediate_size=768,
                num_hidden_layers=6,
                num_attention_heads=8,
                num_key_value_heads=4,
                max_position_embeddings=1024,
                tie_word_embeddings=True,
            )
        )
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.mul_(2.5)
    model.eval().requires_grad_(False)
    sharpen(model)
    return model


def sharpen(model: PreTrainedModel) -> None:
    """Scale the last norm until predictions are as uncertain as a trained model's on real text, 3.5 nats.

    Untrained weights predict almost uniformly, and the best four of 50,000 equals are decided by rounding.
    """
    norm = model.get_decoder().ln_f if hasattr(model.get_decoder(), "ln_f") else model.get_decoder().norm
    ids = torch.randint(model.config.vocab_size, (1, 64), generator=torch.Generator().manual_seed(2))
    low, high = 0.01, 100.0
    for _ in range(20):
        scale = (low * high) ** 0.5
        norm.weight.data.fill_(scale)
        log_p = model(ids, use_cache=False).logits.log_softmax(-1)
        entropy = float(-(log_p.exp() * log_p).sum(-1).mean())
        low, high = (scale, high) if entropy > 3.5 else (low, scale)


def draw(model: PreTrainedModel, length: int) -> torch.Tensor:
    """A text drawn from the model itself, which it therefore finds as likely as a trained model finds real text."""
    torch.manual_seed(1)
    start = torch.zeros(1, 1, dtype=torch.long)
    options = {"do_sample": True, "top_k": 0, "top_p": 1.0, "temperature": 1.0, "eos_token_id": None, "pad_token_id": 0}
    more = length - 1
    out = model.generate(
        start, attention_mask=torch.ones_like(start), min_new_tokens=more, max_new_tokens=more, **options
    )
    return out[0]  # with its first token: without it every position would shift


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Median wall-clock time of `work`; of fewer runs where they would take over half a minute together."""
    taken: list[float] = []
    while len(taken) < repeats and (not taken or sum(taken) + taken[-1] < 30):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return sorted(taken)[(len(taken) - 1) // 2]


def generate(model: PreTrainedModel, text: torch.Tensor, positions: list[int], width: int, horizon: int) -> object:
    """Beams after some positions by transformers, left-padded into one batch."""
    longest = max(positions) + 1
    ids = torch.zeros(len(positions), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, position in enumerate(positions):
        ids[row, longest - position - 1 :] = text[: position + 1]
        mask[row, longest - position - 1 :] = 1
    return model.generate(
        ids,
        attention_mask=mask,
        num_beams=width,
        num_return_sequences=width,
        max_new_tokens=horizon,
        min_new_tokens=horizon,
        length_penalty=0.0,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        output_scores=True,
        return_dict_in_generate=True,
    )


def agree(found: Rollouts, out: object, positions: list[int], horizon: int) -> float:
    """Largest difference of summed log-probabilities; raises where a beam differs."""
    worst = 0.0
    tokens = out.sequences[:, -horizon:].view(len(positions), found.width, horizon)
    scores = out.sequences_scores.view(len(positions), found.width)
    for row, position in enumerate(positions):
        if found.tokens[0, position].tolist() != tokens[row].tolist():
            raise SystemExit(f"position {position}: the beams differ, no speed is reported")
        worst = max(worst, float((found.log_probs[0, position].sum(-1) - scores[row]).abs().max()))
    if worst > 1e-4:
        raise SystemExit(f"summed log-probabilities differ by {worst:.1e}, no speed is reported")
    return worst


@torch.no_grad()
def case(shape: str, length: int, width: int, horizon: int, samples: int) -> dict[str, object]:
    model = build(shape)
    text = draw(model, length)

    def ours() -> Rollouts:
        return beam(model, text[None], width, horizon, memory=BUDGET)

    found = ours()  # includes the preflight of this model, which is done once
    plain = seconds(lambda: model(text[None], use_cache=False).logits, 5)
    mine = seconds(ours, 3)
    single_at = [round((i + 0.5) * length / samples) for i in range(samples)]
    worst, single = 0.0, 0.0
    for position in single_at:
        start = time.perf_counter()
        out = generate(model, text, [position], width, horizon)
        single += time.perf_counter() - start
        worst = max(worst, agree(found, out, [position], horizon))
    single *= length / samples
    batched = {}
    for batch in BATCHES:
        chunks = [round((i + 0.5) * (length - batch) / CHUNKS) for i in range(CHUNKS)]
        spent = 0.0
        for first in chunks:
            positions = list(range(first, first + batch))
            start = time.perf_counter()
            out = generate(model, text, positions, width, horizon)
            spent += time.perf_counter() - start
            worst = max(worst, agree(found, out, positions, horizon))
        batched[batch] = spent * length / (CHUNKS * batch)
    fastest = min(batched, key=lambda size: batched[size])
    plain = (plain + seconds(lambda: model(text[None], use_cache=False).logits, 5)) / 2
    return {
        "shape": shape,
        "T": length,
        "W": width,
        "D": horizon,
        "plain pass, s": round(plain, 4),
        "snellen, s": round(mine, 3),
        "of the limit": round(mine / (plain * (1 + width * (horizon - 1))), 3),
        "generate, s": round(single, 1),
        "times faster": round(single / mine, 1),
        "batched generate, s": round(batched[fastest], 1),
        "batch": fastest,
        "times faster than batched": round(batched[fastest] / mine, 1),
        "largest difference, nats": float(f"{worst:.1e}"),
        "peak beyond weights, MB": peak(shape, length, width, horizon),
    }


def peak(shape: str, length: int, width: int, horizon: int) -> int:
    """Peak resident memory of a fresh process that only searches, less its weights (interpreter included)."""
    out = subprocess.run(
        [sys.executable, __file__, "--peak", shape, str(length), str(width), str(horizon)],
        check=True,
        capture_output=True,
        text=True,
    )
    return int(out.stdout.split()[-1])


def measure_peak(shape: str, length: int, width: int, horizon: int) -> None:
    model = build(shape)
    text = torch.randint(model.config.vocab_size, (1, length))
    beam(model, text, width, horizon, memory=BUDGET)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    # Not `ru_maxrss`, which a child inherits from the process that started it.
    highest = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(round((int(highest.split()[1]) * 1024 - weights) / 1e6))


def hardware() -> str:
    name = platform.processor() or platform.machine()
    cpu = Path("/proc/cpuinfo")
    if cpu.exists():
        name = next((line.split(":")[1].strip() for line in cpu.read_text().splitlines() if "model name" in line), name)
    return (
        f"{name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, float32, "
        f"Python {platform.python_version()}, PyTorch {torch.__version__}, transformers {transformers.__version__}, "
        f"memory budget {BUDGET / 1e9:g} GB"
    )


def table(rows: list[dict[str, object]]) -> str:
    head = list(rows[0])
    lines = [head, ["---"] * len(head), *([str(row[column]) for column in head] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="GPT-2 124M at T = 256, W = D = 4 alone")
    parser.add_argument("--shape", choices=SHAPES, help="one model shape alone")
    parser.add_argument("--length", type=int, choices=LENGTHS, help="one length alone")
    parser.add_argument("--samples", type=int, default=8, help="positions timed for one-by-one generate")
    parser.add_argument("--write", type=Path, help="replace the table of this Markdown file, between its markers")
    parser.add_argument("--peak", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    if arguments.peak:
        shape, *numbers = arguments.peak
        measure_peak(shape, *map(int, numbers))
        return
    shapes = [arguments.shape] if arguments.shape else SHAPES
    lengths = [arguments.length] if arguments.length else LENGTHS
    cases = [(s, t, w, d) for s in shapes for t in lengths for w, d in SEARCHES]
    if arguments.quick:
        cases = [("GPT-2 124M", 256, 4, 4)]
    rows = []
    for shape, length, width, horizon in cases:
        rows.append(case(shape, length, width, horizon, arguments.samples))
        print(json.dumps(rows[-1]), flush=True)
    print(f"\n{hardware()}\n\n{table(rows)}")
    if arguments.write:
        before, _, rest = arguments.write.read_text().partition("<!-- rollouts -->")
        after = rest.partition("<!-- /rollouts -->")[2]
        block = f"<!-- rollouts -->\n{hardware()}\n\n{table(rows)}\n<!-- /rollouts -->"
        arguments.write.write_text(before + block + after)


if __name__ == "__main__":
    main()
