"""How often does each decoding walk into a dead end, where that can be counted?

Planless models of *arms* and *couplets* (`snellen.organisms`) continue fresh prompts that end just before the choice.
A dead end is a choice from which the goal, or the rhyme, cannot be reached any more; the rules of the language say
which those are, whatever the model writes afterwards. Prints a table and writes it as JSON.

    python scripts/degeneration/dead_ends.py [--prompts 300] [--seeds 3] [--out docs/results/dead-ends.json]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from snellen.measures.generations import Decoding
from snellen.organisms.cache import raised
from snellen.organisms.catalogue import organism
from snellen.results.shares import share_interval
from snellen.runner.decodings import write

ORGANISMS = ("planless", "couplets")
WIDTH = 16  # covers the arms (4) and most stems (12)
_PROMPTS = 9  # stream of random numbers


def decodings(reach: int) -> dict[str, Decoding]:
    """By name; `reach` is the horizon that sees how a choice ends."""

    def amplified(weight: float, alpha: float, horizon: int, width: int = WIDTH) -> Decoding:
        return Decoding(kind="amplified", width=width, horizon=horizon, alpha=alpha, weight=weight)

    found = {
        "greedy": Decoding(kind="greedy"),
        "pure": Decoding(kind="pure"),
        "nucleus 0.9": Decoding(kind="nucleus", top_p=0.9),
        "nucleus 0.95": Decoding(kind="nucleus", top_p=0.95),
        "beam 4": Decoding(kind="beam", width=4),
    }
    for horizon in (1, reach - 1, reach):
        for weight, alpha in ((0.2, 2.0), (0.5, 2.0), (1.0, 1.0), (1.0, 2.0)):
            found[f"amplified D = {horizon}, w {weight:g}, α {alpha:g}"] = amplified(weight, alpha, horizon)
    found[f"amplified D = {reach}, w 1, α 2, W 4"] = amplified(1.0, 2.0, reach, 4)
    return found | {f"power α {alpha:g}": Decoding(kind="power", alpha=alpha, width=16) for alpha in (2.0, 4.0)}


def examine(name: str, seeds: int, prompts: int) -> list[dict[str, Any]]:
    """One row a decoding: dead ends among all prompts, with their interval over models, and by seed."""
    one = organism(name)
    languages = [one.language_at(seed) for seed in range(seeds)]
    models = [raised(one, seed, tell=lambda line: print(f"  {line}", flush=True))[-1].model for seed in range(seeds)]
    rows = []
    for label, decoding in decodings(languages[0].reach).items():
        dead = []
        for seed, (language, model) in enumerate(zip(languages, models, strict=True)):
            ids = language.sample_prompts(prompts, seed=[seed, _PROMPTS])
            # Beam search and power sampling choose with the whole continuation in view; the others token by token.
            whole = decoding.kind in ("beam", "power")
            new = language.length - language.decisions[0] if whole else 1
            written = write(model, torch.from_numpy(ids), decoding, new=new, seed=seed).numpy()
            dead.append(language.is_dead_end(np.concatenate([ids, written], axis=1)))
        rows.append({"organism": name, "decoding": label, **rate(np.stack(dead))})
        print(f"  {label:36s} {rows[-1]['value']:.3f} [{rows[-1]['low']:.3f}, {rows[-1]['high']:.3f}]", flush=True)
    for author in (False, True):
        field = "planning" if name == "planless" else "rhyming"
        own = [type(x)(**{**vars_of(x), field: author}) for x in languages]
        dead = [x.is_dead_end(x.sample(prompts, seed=[s, _PROMPTS, 1])) for s, x in enumerate(own)]
        label = f"{field} author" if author else "its own author"
        rows.append({"organism": name, "decoding": label, **rate(np.stack(dead))})
        print(f"  {label:36s} {rows[-1]['value']:.3f}", flush=True)
    return rows


def vars_of(language: Any) -> dict[str, Any]:
    return {name: getattr(language, name) for name in language.__dataclass_fields__}


def rate(dead: np.ndarray) -> dict[str, Any]:
    """Of choices [seed prompt], with the interval of `about_models`."""
    by_seed = dead.mean(axis=1).tolist()
    low, high = about_models(by_seed, dead.shape[1])
    return {"value": float(dead.mean()), "low": low, "high": high, "n": dead.size, "by_seed": by_seed}


def about_models(by_seed: Sequence[float], prompts: int) -> tuple[float, float]:
    """The 95 % interval of the rate of models of this kind, which differ by rules, weights and texts.

    The unit is the model: a model's prompts tell how it chooses and nothing of the next model, so that their number
    makes no interval narrow. Student's over the seeds; but three that agree by chance are no certainty, so it ends
    nowhere inside of Clopper and Pearson's for all prompts together, which is that of these very models.
    """
    value, seeds = float(np.mean(by_seed)), len(by_seed)
    low, high = share_interval(value, seeds * prompts, 0.95)
    if seeds > 1:
        reach = float(stats.t.ppf(0.975, seeds - 1) * np.std(by_seed, ddof=1) / np.sqrt(seeds))
        low, high = min(low, max(0.0, value - reach)), max(high, min(1.0, value + reach))
    return low, high


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("dead-ends.json"))
    given = parser.parse_args()
    rows = []
    for name in ORGANISMS:
        print(name, flush=True)
        rows += examine(name, given.seeds, given.prompts)
    given.out.write_text(
        json.dumps({"prompts": given.prompts, "seeds": given.seeds, "rows": rows}, indent=1, ensure_ascii=False)
    )


if __name__ == "__main__":
    main()
