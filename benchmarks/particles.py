"""Particles at all positions of a text against a beam of the same width, alternating in one run.

    python benchmarks/particles.py                  # 124M shape and pocket, widths 4 and 16
    python benchmarks/particles.py --shape pocket   # the bundled model alone
    python benchmarks/particles.py --write docs/particles.md

The 124M shape is that of `rollouts.py`: random weights, sharpened, on a text drawn from the model. Before a time is
printed the particles are checked: Σ of p over first tokens, estimated, is 1 on average. The bar is
1.2 times the beam; `nodes` is the share of the N · T · (D − 1) branch tokens that were run, the rest being known.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from rollouts import BUDGET, build, draw, hardware, table
from transformers import AutoModelForCausalLM, PreTrainedModel

from snellen.lookahead import Particles, beam, particles
from snellen.lookahead.engine import ColumnEngine
from snellen.models.bundled import pocket_folder

SHAPES = ("GPT-2 124M", "pocket")
METHODS = ("without replacement", "stochastic beam", "smc")
HORIZON, ALPHA = 4, 2.0


class Counter:
    """How many branch tokens were run."""

    def __init__(self) -> None:
        self.count, self._step = 0, ColumnEngine.step

    def __enter__(self) -> Counter:
        def step(*arguments: object) -> object:
            hidden, nodes = self._step(*arguments)
            self.count += len(hidden)
            return hidden, nodes

        ColumnEngine.step = step
        return self

    def __exit__(self, *_: object) -> None:
        ColumnEngine.step = self._step


def pocket() -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(pocket_folder(), dtype="float32").eval().requires_grad_(False)


@torch.no_grad()
def case(shape: str, length: int, width: int, repeats: int) -> list[dict[str, object]]:
    model = pocket() if shape == "pocket" else build(shape)
    text = draw(model, length)[None]
    work: dict[str, Callable[[], object]] = {"beam": lambda: beam(model, text, width, HORIZON, memory=BUDGET)}
    for method in METHODS:
        work[method] = lambda method=method: particles(model, text, width, HORIZON, ALPHA, method=method, memory=BUDGET)
    beam(model, text[:, :32], 2, HORIZON)
    beam(model, text, 1, HORIZON)  # includes the preflight of this model, which is done once
    nodes, checked = {}, {}
    taken: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(repeats):
        for name, run in work.items():
            with Counter() as counter:
                start = time.perf_counter()
                found = run()
                taken[name].append(time.perf_counter() - start)
            nodes[name] = counter.count / (width * length * (HORIZON - 1))
            if isinstance(found, Particles):
                checked[name] = check(found)
    best = {name: sorted(times)[(len(times) - 1) // 2] for name, times in taken.items()}
    return [
        {
            "shape": shape,
            "T": length,
            "N": width,
            "D": HORIZON,
            "method": name,
            "s": round(best[name], 3),
            "times the beam": round(best[name] / best["beam"], 2),
            "nodes": round(nodes[name], 2),
            "mean Σ p, estimated": round(checked[name], 2) if name in checked else "–",
        }
        for name in work
    ]


def check(found: Particles) -> float:
    """The mean over positions of the estimate of Σ p at horizon 1, which is 1; raises where it is far off."""
    sums = found.log_evidence(1.0, 1).exp().flatten()
    mean, error = float(sums.mean()), float(sums.std()) / len(sums) ** 0.5
    if abs(mean - 1) > 5 * error + 1e-3:
        raise SystemExit(f"Σ p is estimated as {mean:.3f} ± {error:.3f}, not 1: no time is reported")
    return mean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, help="one model alone")
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--widths", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--write", type=Path, help="replace the table of this Markdown file, between its markers")
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    rows = []
    for shape in [arguments.shape] if arguments.shape else SHAPES:
        for width in arguments.widths:
            rows += case(shape, arguments.length, width, arguments.repeats)
            for row in rows[-1 - len(METHODS) :]:
                print(json.dumps(row, ensure_ascii=False), flush=True)
    print(f"\n{hardware()}\n\n{table(rows)}")
    if arguments.write:
        before, _, rest = arguments.write.read_text().partition("<!-- particles -->")
        after = rest.partition("<!-- /particles -->")[2]
        block = f"<!-- particles -->\n{hardware()}\n\n{table(rows)}\n<!-- /particles -->"
        arguments.write.write_text(before + block + after)


if __name__ == "__main__":
    main()
