"""Generation with lookahead: Snellen against recomputing the search for each token, and against plain generation.

    python benchmarks/generation.py                 # both models, about ten minutes on two busy cores
    python benchmarks/generation.py --quick         # the bundled model alone
    python benchmarks/generation.py --write docs/generation.md
    OMP_NUM_THREADS=1 python benchmarks/generation.py --processor --repeats 1     # on a busy machine

W = D = 4, α = 2, w = .2, 64 new tokens after a prompt of 128. The rival runs `generate(num_beams=4, max_new_tokens=4,
num_return_sequences=4)` behind every prefix, which is what there is without this package: it is fed the tokens that we
chose, at `--samples` positions spread over the text, and scaled to all of them. Its beams give the amplified
distribution anew; before a speed is printed it must give the token that was chosen (where the mix leads by
more than rounding), with a log-probability within 1e-4 of ours. A search at every token is timed first, then
only those that can change the token (`decoding`). All numbers of a row are from one run. `--processor` counts
processor time, which on a machine that others work on says what wall-clock time would say on a quiet one, as long
as one thread is used.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from rollouts import build, draw, hardware, table
from transformers import PreTrainedModel

import snellen
from snellen.lookahead import Generated, generate
from snellen.lookahead.preflight import engine_for

PROMPT, NEW = 128, 64
HOW = {"width": 4, "horizon": 4, "alpha": 2.0, "weight": 0.2}
MODELS = ("GPT-2 124M, random", "pocket")


def load(name: str) -> tuple[PreTrainedModel, torch.Tensor]:
    if name == "pocket":
        subject = snellen.load("pocket")
        text = Path(snellen.__file__).parent.joinpath("models/pocket/held-out/fiction-persuasion.txt").read_text()
        return subject.model, subject.tokenizer(text, return_tensors="pt").input_ids[:, :PROMPT]
    model = build("GPT-2 124M")
    return model, draw(model, PROMPT)[None]


def recomputed(model: PreTrainedModel, prefix: torch.Tensor) -> torch.Tensor:
    """The amplified distribution behind `prefix` from transformers' own beam search."""
    width, horizon = HOW["width"], HOW["horizon"]
    out = model.generate(
        prefix,
        attention_mask=torch.ones_like(prefix),
        num_beams=width,
        num_return_sequences=width,
        max_new_tokens=horizon,
        min_new_tokens=horizon,
        length_penalty=0.0,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        output_scores=True,
        output_logits=True,
        return_dict_in_generate=True,
    )
    first = out.sequences[:, prefix.shape[1]]
    q = (HOW["alpha"] * out.sequences_scores.double()).softmax(0).float()
    p = out.logits[0][0].float().softmax(-1)
    return ((1 - HOW["weight"]) * p).index_add_(0, first, HOW["weight"] * q).log()


class Clock:
    """Seconds that work takes: the median of some runs, in wall-clock or processor time."""

    def __init__(self, *, processor: bool, repeats: int) -> None:
        self._now = time.process_time if processor else time.perf_counter
        self._repeats = repeats

    def __call__(self, work: Callable[[], object], repeats: int | None = None) -> tuple[float, object]:
        taken, result = [], None
        for _ in range(repeats or self._repeats):
            start = self._now()
            result = work()
            taken.append(self._now() - start)
        return sorted(taken)[len(taken) // 2], result


def compare(
    model: PreTrainedModel, found: Generated, samples: int, clock: Clock, *, sampled: bool
) -> tuple[float, float]:
    """Seconds a token that the rival takes, and the largest difference of log-probabilities."""
    spent, worst = 0.0, 0.0
    for sample in range(samples):
        place = round((sample + 0.5) * NEW / samples)
        step = found.steps[0][place]
        taken, log_mix = clock(lambda place=place: recomputed(model, found.sequences[:, : PROMPT + place]), 1)
        spent += taken
        worst = max(worst, abs(float(log_mix[step.token]) - step.amplified_log_prob))
        if not sampled and float(log_mix.max() - log_mix[step.token]) > 1e-4:
            raise SystemExit(f"token {place}: another one is recomputed, no speed is reported")
    if worst > 1e-4:
        raise SystemExit(f"log-probabilities differ by {worst:.1e}, no speed is reported")
    return spent / samples, worst


@torch.no_grad()
def case(name: str, samples: int, clock: Clock, *, sampled: bool) -> dict[str, object]:
    model, prompt = load(name)
    engine_for(model, length=PROMPT + NEW, horizon=HOW["horizon"])  # the model's check, which is made once

    def ours(**more: object) -> object:
        return generate(model, prompt, **HOW, max_new_tokens=NEW, do_sample=sampled, seed=1, eos_token_id=None, **more)

    every, found = clock(lambda: ours(details=True))
    needed, bare = clock(ours)
    if bare.tolist() != found.sequences.tolist():
        raise SystemExit("the text depends on whether searches are left out, no speed is reported")
    rival, worst = compare(model, found, samples, clock, sampled=sampled)
    anew, _ = clock(lambda: ours(details=True, reuse=False), 1)
    options = {"do_sample": sampled, "top_k": 0, "eos_token_id": None, "pad_token_id": 0, "max_new_tokens": NEW}
    plain, _ = clock(lambda: model.generate(prompt, attention_mask=torch.ones_like(prompt), **options))
    return {
        "model": name,
        "": "sampled" if sampled else "most probable",
        "recomputed, tokens/s": round(1 / rival, 2),
        "snellen, every search": round(NEW / every, 2),
        "times faster": round(rival * NEW / every, 1),
        "without reuse": round(NEW / anew, 2),
        "passes a token": round(found.passes / NEW, 2),
        "snellen, needed searches": round(NEW / needed, 2),
        "times faster than recomputed": round(rival * NEW / needed, 1),
        "plain generate, tokens/s": round(NEW / plain, 2),
        "largest difference, nats": float(f"{worst:.1e}"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the bundled model alone")
    parser.add_argument("--samples", type=int, default=8, help="positions at which the search is recomputed")
    parser.add_argument("--write", type=Path, help="replace the table of this Markdown file, between its markers")
    parser.add_argument("--processor", action="store_true", help="processor time instead of wall-clock time")
    parser.add_argument("--repeats", type=int, default=3, help="runs of which the median counts")
    parser.add_argument("--model", choices=MODELS, help="one model alone")
    arguments = parser.parse_args()
    clock = Clock(processor=arguments.processor, repeats=arguments.repeats)
    transformers.logging.set_verbosity_error()
    rows = []
    for name in [arguments.model] if arguments.model else MODELS[1:] if arguments.quick else MODELS:
        for sampled in (True, False):
            rows.append(case(name, arguments.samples, clock, sampled=sampled))
            print(json.dumps(rows[-1]), flush=True)
    where = hardware() + (", processor time on a busy machine" if arguments.processor else "")
    print(f"\n{where}\n\n{table(rows)}")
    if arguments.write:
        before, _, rest = arguments.write.read_text().partition("<!-- generation -->")
        after = rest.partition("<!-- /generation -->")[2]
        block = f"<!-- generation -->\n{where}\n\n{table(rows)}\n<!-- /generation -->"
        arguments.write.write_text(before + block + after)


if __name__ == "__main__":
    main()
