"""Evolution and Metropolis–Hastings with `pocket-masked` beside left-to-right generation with `pocket`.

    python benchmarks/evolution.py RECORDS.jsonl             # runs what is not in the file yet, then prints the tables
    python benchmarks/evolution.py RECORDS.jsonl --tables    # prints the tables of what is there
    python benchmarks/evolution.py --loops                   # whether the pseudo-likelihood favours loops

Each held-out document of `pocket` gives one prompt of 8 tokens, after its middle; every method writes 16 more. The two
models share a vocabulary, so both score the same token ids. Both searches get the same budget of rows a prompt. A
prompt is the unit: means are over its texts, intervals over prompts (Student's, 95 %). The tables have the prompts
that every method of the file was run on, so that all rows are about the same ones.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from transformers import AutoModelForCausalLM, AutoTokenizer

from snellen.lookahead.evolution import Conditionals, Genetic, Metropolis, evolve, metropolis
from snellen.lookahead.evolution.fitness import repetition
from snellen.lookahead.evolution.frame import Body, frame_of
from snellen.models.bundled import pocket_folder
from snellen.models.masked import MaskedModel, load_masked

PROMPT, LENGTH, TEXTS = 8, 16, 8
PASSES = 4000  # rows of the masked model a prompt
COMMON: dict[str, Any] = {"length": LENGTH, "passes": PASSES}
GENETIC: dict[str, Any] = {**COMMON, "slack": 0.0, "population": 16, "islands": 2, "generations": 10_000}
METROPOLIS: dict[str, Any] = {**COMMON, "population": TEXTS, "steps": 10_000, "thin": 10}
MEASURES = ("causal", "masked", "repetition", "distinct_2", "distance", "token_passes", "seconds")
SHARES = ("repetition", "distinct_2", "distance")


@dataclass
class Models:
    causal: Any
    tokenizer: Any
    masked: MaskedModel


@dataclass
class Written:
    """Texts of one method for one prompt, and what they cost together."""

    bodies: list[Body]
    token_passes: int
    seconds: float  # of the processor: other work on the machine does not count
    note: dict[str, Any]


def prompts(tokenizer: Any) -> dict[str, tuple[list[int], list[int]]]:
    """Of each document: the first 8 tokens of a sentence or line after its middle, and the 16 that follow there."""
    found = {}
    for path in sorted((pocket_folder() / "held-out").glob("*.txt")):
        text = path.read_text(encoding="utf-8")
        start = re.compile(r"(?<=[.!?;:] )\w|(?<=\n)\w").search(text, len(text) // 2)
        assert start is not None, path
        ids = tokenizer(text[start.start() :], add_special_tokens=False, verbose=False)["input_ids"]
        found[path.stem] = ids[:PROMPT], ids[PROMPT : PROMPT + LENGTH]
    return found


@torch.inference_mode()
def causal_log_prob(models: Models, prompt: Sequence[int], body: Sequence[int]) -> float:
    """Nats a token of the body under `pocket`."""
    row = torch.tensor([[models.tokenizer.bos_token_id, *prompt, *body]])
    log_probs = models.causal(input_ids=row).logits[0, -len(body) - 1 : -1].float().log_softmax(-1)
    return float(log_probs.gather(-1, torch.tensor(body)[:, None]).mean())


def left_to_right(**options: Any) -> Callable[..., Written]:
    def run(models: Models, prompt: list[int], human: list[int], seed: int) -> Written:
        torch.manual_seed(seed)
        began = time.process_time()
        row = torch.tensor([[models.tokenizer.bos_token_id, *prompt]])
        count = options.get("num_return_sequences", 1)
        out = models.causal.generate(
            row, attention_mask=torch.ones_like(row), min_new_tokens=LENGTH, max_new_tokens=LENGTH,
            pad_token_id=models.tokenizer.bos_token_id, **options,
        )  # fmt: skip
        bodies = [tuple(body) for body in out[:, row.shape[1] :].tolist()]
        tokens = count * (row.shape[1] + LENGTH - 1)  # the last token is not fed back
        return Written(bodies, tokens, time.process_time() - began, {})

    return run


def human(models: Models, prompt: list[int], human: list[int], seed: int) -> Written:
    return Written([tuple(human)], 0, 0.0, {})


def genetic(**options: Any) -> Callable[..., Written]:
    def run(models: Models, prompt: list[int], human: list[int], seed: int) -> Written:
        began = time.process_time()
        text = models.tokenizer.decode(prompt)
        found = evolve(models.masked, prompt=text, settings=Genetic(**GENETIC | options, seed=seed))
        bodies = list(dict.fromkeys(member.tokens for member in found.members))[:TEXTS]
        note = {"generations": found.trace[-1]["generation"], "best": [round(row["best"], 4) for row in found.trace]}
        return Written(bodies, found.cost.token_passes, time.process_time() - began, note)

    return run


def chains(**options: Any) -> Callable[..., Written]:
    def run(models: Models, prompt: list[int], human: list[int], seed: int) -> Written:
        began = time.process_time()
        text = models.tokenizer.decode(prompt)
        found = metropolis(models.masked, prompt=text, settings=Metropolis(**METROPOLIS | options, seed=seed))
        note = {
            "steps": found.trace[-1]["step"],
            **(found.convergence or {}),
            "mean": [round(row["mean"], 4) for row in found.trace],
        }
        bodies = [member.tokens for member in found.members]
        return Written(bodies, found.cost.token_passes, time.process_time() - began, note)

    return run


METHODS: dict[str, Callable[..., Written]] = {
    "human": human,
    "pocket, sampling": left_to_right(do_sample=True, top_k=0, num_return_sequences=TEXTS),
    "pocket, nucleus .9": left_to_right(do_sample=True, top_k=0, top_p=0.9, num_return_sequences=TEXTS),
    "pocket, greedy": left_to_right(do_sample=False),
    "masked, written once": genetic(generations=0, population=TEXTS, islands=1, elite=0),
    "genetic": genetic(),
    "metropolis, T = 1": chains(),
    "genetic, no repetition term": genetic(repetition=0.0),
    "genetic, 4 × the budget": genetic(passes=4 * PASSES),
}


def measured(models: Models, prompt: list[int], written: Written) -> dict[str, Any]:
    text = models.tokenizer.decode(prompt)
    scorer = Conditionals(models.masked, frame_of(models.masked, prompt=text, suffix="", longest=LENGTH))
    assert list(scorer.frame.prompt) == prompt, "the prompt's text is read back as other tokens"
    bodies, number = written.bodies, len(written.bodies)
    pairs = [list(itertools.pairwise(body)) for body in bodies]
    distances = [1 - len(set(a) & set(b)) / len(set(a) | set(b)) for a, b in itertools.combinations(pairs, 2)]
    return {
        "causal": float(np.mean([causal_log_prob(models, prompt, body) for body in bodies])),
        "masked": float(np.mean([scores.mean() for scores in scorer.log_likelihoods(bodies)])),
        "repetition": float(np.mean([repetition(scorer.frame, body) for body in bodies])),
        "distinct_2": len({pair for each in pairs for pair in each}) / sum(map(len, pairs)),
        "distance": float(np.mean(distances)) if distances else None,
        "token_passes": written.token_passes / number,
        "seconds": written.seconds / number,
        "best_text": models.tokenizer.decode([*prompt, *bodies[0]]),
        "texts": number,
        "bodies": bodies,
        "note": written.note,
    }


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def run(path: Path, methods: Sequence[str], limit: int | None) -> None:
    folder = pocket_folder()
    models = Models(
        causal=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(),
        tokenizer=AutoTokenizer.from_pretrained(folder),
        masked=load_masked(),
    )
    done = {(record["document"], record["method"]) for record in read(path)}
    chosen = list(prompts(models.tokenizer).items())
    # Mixed, so that the first few are of several genres.
    order = np.random.default_rng(0).permutation(len(chosen))[:limit].tolist()
    for number in order:
        name, (prompt, real) = chosen[number]
        for method in methods:
            if (name, method) in done:
                continue
            written = METHODS[method](models, prompt, real, seed=1000 + number)
            record = {"document": name, "method": method, **measured(models, prompt, written)}
            with path.open("a") as out:
                out.write(json.dumps(record, ensure_ascii=False) + "\n")
            print(f"{name}, {method}: masked {record['masked']:.2f}, causal {record['causal']:.2f}", flush=True)


def loops() -> None:
    """The real 16 tokens after each prompt, against the first four of them four times over."""
    tokenizer, masked = AutoTokenizer.from_pretrained(pocket_folder()), load_masked()
    real, looped = [], []
    for prompt, following in prompts(tokenizer).values():
        frame = frame_of(masked, prompt=tokenizer.decode(prompt), suffix="", longest=LENGTH)
        bodies = [tuple(following), tuple(following[:4] * 4)]
        scores = Conditionals(masked, frame).log_likelihoods(bodies)
        real.append(scores[0].mean())
        looped.append(scores[1].mean())
    difference = np.array(looped) - np.array(real)
    print(f"real {interval(np.array(real))}, looped {interval(np.array(looped))}, nats a token")
    print(
        f"looped − real {interval(difference)}; above it on {int((difference > 0).sum())} of {len(difference)} prompts"
    )


def interval(values: np.ndarray, *, share: bool = False) -> str:
    """A mean with Student's interval, which ends at 0 and 1 for shares; none for one prompt, or where all are alike."""
    if len(values) < 2 or np.ptp(values) == 0:
        return f"{values.mean():g}"
    if abs(values.mean()) >= 100:
        return f"{values.mean():,.0f}"
    reach = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    low, high = values.mean() - reach, values.mean() + reach
    if share:
        low, high = max(low, 0.0), min(high, 1.0)
    return f"{values.mean():.3f} [{low:.3f}, {high:.3f}]"


def complete(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of the prompts that every method was run on: one that was begun would stand in some rows alone."""
    methods = {record["method"] for record in records}
    done = {name: {r["method"] for r in records if r["document"] == name} for name in {r["document"] for r in records}}
    return [record for record in records if done[record["document"]] == methods]


def in_order(records: Sequence[dict[str, Any]]) -> list[str]:
    return [method for method in METHODS if any(record["method"] == method for record in records)]


def means(records: Sequence[dict[str, Any]]) -> str:
    """Every measure of every method."""
    lines = ["| method | prompts | " + " | ".join(MEASURES) + " |", "|---|---:|" + "---:|" * len(MEASURES)]
    for method in in_order(records):
        mine = [record for record in records if record["method"] == method]
        columns = []
        for measure in MEASURES:
            values = np.array([record[measure] for record in mine if record[measure] is not None])
            columns.append(interval(values, share=measure in SHARES) if len(values) else "")
        lines.append(f"| {method} | {len(mine)} | " + " | ".join(columns) + " |")
    return "\n".join(lines)


def differences(records: Sequence[dict[str, Any]], base: str = "pocket, sampling") -> str:
    """From `base`, paired by prompt."""
    lines = ["| method | prompts | causal | masked | distance |", "|---|---:|---:|---:|---:|"]
    theirs = {record["document"]: record for record in records if record["method"] == base}
    for method in in_order(records):
        mine = [r for r in records if r["method"] == method and r["document"] in theirs and method != base]
        if not mine:
            continue
        columns = []
        for measure in ("causal", "masked", "distance"):
            values = np.array(difference(mine, theirs, measure))
            columns.append(interval(values) if len(values) else "")
        lines.append(f"| {method} | {len(mine)} | " + " | ".join(columns) + " |")
    return "\n".join(lines)


def difference(mine: Sequence[dict[str, Any]], theirs: dict[str, dict[str, Any]], measure: str) -> list[float]:
    both = [(record[measure], theirs[record["document"]][measure]) for record in mine]
    return [a - b for a, b in both if a is not None and b is not None]


def tables(path: Path) -> None:
    records = complete(read(path))
    begun = {record["document"] for record in read(path)} - {record["document"] for record in records}
    if begun:
        print(f"Left out, since not every method was run on them: {', '.join(sorted(begun))}\n")
    print(f"{means(records)}\n\nDifference from `pocket, sampling`, paired by prompt:\n\n{differences(records)}")
    shown = in_order(records)
    for method in shown:
        print(f"\n{method}:")
        for record in [record for record in records if record["method"] == method][:4]:
            print("    " + record["best_text"].replace("\n", "⏎"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", type=Path, nargs="?")
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS))
    parser.add_argument("--limit", type=int, help="the first so many prompts")
    parser.add_argument("--tables", action="store_true")
    parser.add_argument("--loops", action="store_true")
    settings = parser.parse_args()
    if settings.loops:
        loops()
        return
    if settings.records is None:
        parser.error("a file for the records is needed")
    if not settings.tables:
        run(settings.records, settings.methods, settings.limit)
    tables(settings.records)


if __name__ == "__main__":
    main()
