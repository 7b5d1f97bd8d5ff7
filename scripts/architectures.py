"""Preflight of tiny random models of every architecture in the tests, as the table of `docs/preflight.md`.

python scripts/architectures.py docs/preflight.md
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import torch
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.lookahead.architectures import CONFIGS, VOCABULARY, tiny
from tests.lookahead.test_beam_search import generated

from snellen.lookahead import beam
from snellen.lookahead.preflight import preflight

LENGTH, WIDTH, HORIZON = 40, 4, 4


def row(name: str) -> str:
    model = tiny(name)
    found = preflight(model, length=LENGTH)
    text = torch.randint(VOCABULARY, (1, LENGTH), generator=torch.Generator().manual_seed(1))
    beams = beam(model, text, WIDTH, HORIZON)
    same, worst, positions = 0, 0.0, range(0, LENGTH, 2)
    for position in positions:
        tokens, scores = generated(model, text[0, : position + 1], WIDTH, HORIZON)
        same += beams.tokens[0, position].tolist() == tokens.tolist()
        worst = max(worst, float((beams.log_probs[0, position].sum(-1) - scores).abs().max()))
    numbers = [
        f"{found.checks[c].value:.0e}" if c in found.checks else "—"
        for c in ("causality", "cache", "forward identity", "rollouts")
    ]
    power = "—" if found.power is None else f"{found.power:.2f}"
    cells = [name, found.engine, f"{found.floor:.0e}", *numbers, power, f"{same} of {len(positions)}", f"{worst:.0e}"]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    head = ["architecture", "engine", "floor", "causality", "cache", "forward identity", "rollouts", "power"]
    head += ["same beams as generate", "summed log-probabilities"]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head), *map(row, CONFIGS)]
    note = f"Tiny random models, {LENGTH} tokens, W = D = {WIDTH}; in nats; transformers {transformers.__version__}."
    block = "\n".join([note, "", *lines])
    if len(sys.argv) > 1:
        path = Path(sys.argv[1])
        before, _, rest = path.read_text(encoding="utf-8").partition("<!-- architectures -->")
        after = rest.partition("<!-- /architectures -->")[2]
        path.write_text(f"{before}<!-- architectures -->\n{block}\n<!-- /architectures -->{after}", encoding="utf-8")
    print(block)


if __name__ == "__main__":
    main()
