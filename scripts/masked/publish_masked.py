"""A finished training folder -> the package: weights, tokenizer, provenance, and the loss curve for the docs.

    python scripts/masked/publish_masked.py CORPUS OUT [EARLIER_OUT]

EARLIER_OUT is the folder of the run that OUT went on from, if any: its curve comes first.
"""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import sys
from pathlib import Path

import torch
from evaluate_masked import held_out
from transformers import AutoModelForMaskedLM

sys.path.append(str(Path(__file__).resolve().parents[1] / "pocket"))
from evaluate import POCKET

MASKED = POCKET.parent / "pocket-masked"
DOCS = POCKET.parents[3] / "docs"
FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
WINDOWS = 1  # of each document


def curve(folders: list[Path]) -> list[dict[str, str]]:
    """Rows of the runs one after another; of an earlier one those from before the later one began."""
    rows: list[dict[str, str]] = []
    for folder in folders:
        new = list(csv.DictReader((folder / "loss.csv").open()))
        minutes = float(rows[-1]["minutes"]) if rows else 0.0
        for row in new:
            row["minutes"] = f"{float(row['minutes']) + minutes:.2f}"
        rows = [row for row in rows if int(row["step"]) < int(new[0]["step"])] + new
    return rows


def main(corpus: Path, out: Path, *earlier: Path) -> None:
    model = AutoModelForMaskedLM.from_pretrained(out / "latest", dtype=torch.bfloat16)
    model.config.sparse_prediction = False  # a matter of training
    MASKED.mkdir(exist_ok=True)
    model.save_pretrained(MASKED)
    shutil.copyfile(out / "latest" / "tokenizer.json", MASKED / "tokenizer.json")
    settings = json.loads((out / "latest" / "tokenizer_config.json").read_text())
    for where in ("is_local", "local_files_only"):  # how it had been loaded, no property of the tokenizer
        settings.pop(where, None)
    (MASKED / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    for name in FILES:
        (MASKED / name).chmod(0o644)
    rows = curve([*earlier, out])
    with (DOCS / "pocket-masked-loss.csv").open("w", newline="") as target:
        table = csv.DictWriter(target, rows[0].keys(), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    record = {
        "made by": "scripts/masked/: train_masked.py, publish_masked.py; corpus by scripts/pocket/prepare.py",
        "training": json.loads((corpus / "evidence.json").read_text())["training"],
        "held out": "the documents of pocket/held-out, see pocket/PROVENANCE.md",
        "files": {name: hashlib.sha256((MASKED / name).read_bytes()).hexdigest() for name in FILES},
        "steps": int(rows[-1]["step"]),
        "tokens seen": int(rows[-1]["tokens"]),
        "held-out windows of a document": WINDOWS,
        "held-out pseudo-loss": held_out(MASKED, WINDOWS),
    }
    (MASKED / "provenance.json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record["held-out pseudo-loss"]["all"], indent=1))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
