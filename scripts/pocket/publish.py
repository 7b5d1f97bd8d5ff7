"""A finished training folder -> the package: weights, tokenizer, provenance, and the loss curve for the docs.

python scripts/pocket/publish.py CORPUS OUT
"""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import sys
from pathlib import Path

import torch
from evaluate import POCKET, Loss, by_document, held_out_documents
from sources import ARCHIVES
from transformers import AutoModelForCausalLM, AutoTokenizer

DOCS = POCKET.parents[3] / "docs"
FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
)


def losses(folder: Path) -> dict[str, Loss]:
    """By document, by genre, and of all, from the weights as they ship (bfloat16 values, computed in float32)."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    rows = by_document(model, AutoTokenizer.from_pretrained(folder), held_out_documents())
    genres: dict[str, Loss] = {}
    for name, loss in rows.items():
        genre = name.split("-")[0]
        genres[genre] = genres.get(genre, Loss()) + loss
    return {**rows, **genres, "all": sum(rows.values(), Loss())}


def curve(rows: list[dict[str, str]]) -> str:
    """The loss curve as an SVG that needs nothing else: training (thin) and held-out (thick), nats a token."""
    width, height, left, top, bottom = 640, 320, 50, 20, 40
    points = [(int(r["tokens"]), float(r["training"]), float(r["held_out"])) for r in rows]
    last = points[-1][0]
    values = [v for point in points for v in point[1:]]
    low, high = int(min(values) * 2) / 2, -(-max(values) * 2 // 1) / 2

    def x(tokens: float) -> float:
        return left + (width - left - 20) * tokens / last

    def y(value: float) -> float:
        return top + (height - top - bottom) * (high - value) / (high - low)

    def line(column: int, colour: str, stroke: float) -> str:
        path = " ".join(f"{x(p[0]):.1f},{y(p[column]):.1f}" for p in points)
        return f'<polyline fill="none" stroke="{colour}" stroke-width="{stroke}" points="{path}"/>'

    ticks = [low + i / 2 for i in range(int((high - low) * 2) + 1)]
    marks = [
        f'<text x="{left - 8}" y="{y(t) + 4:.1f}" text-anchor="end">{t:g}</text>'
        f'<line x1="{left}" x2="{width - 20}" y1="{y(t):.1f}" y2="{y(t):.1f}" stroke="#ddd"/>'
        for t in ticks
    ]
    millions = [i * 1_000_000 for i in range(last // 1_000_000 + 1)]
    marks += [f'<text x="{x(m):.1f}" y="{height - 20}" text-anchor="middle">{m // 1_000_000}</text>' for m in millions]
    labels = [
        f'<text x="{(left + width) / 2}" y="{height - 4}" text-anchor="middle">million tokens seen</text>',
        f'<text x="{width - 20}" y="14" text-anchor="end">nats a token: '
        '<tspan fill="#2563a8">training</tspan>, <tspan fill="#b3401f">held-out</tspan></text>',
    ]
    body = "\n".join([*marks, line(1, "#2563a8", 1.2), line(2, "#b3401f", 2.4), *labels])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        f'font-size="12" fill="#222">\n<rect width="{width}" height="{height}" fill="#fff"/>\n{body}\n</svg>\n'
    )


def main(corpus: Path, out: Path) -> None:
    # saved once more from bfloat16, so that config.json says so; and Trainer had switched the cache off in it
    model = AutoModelForCausalLM.from_pretrained(out / "latest", dtype=torch.bfloat16)
    model.config.use_cache = True
    model.save_pretrained(POCKET)
    shutil.copyfile(out / "latest" / "tokenizer.json", POCKET / "tokenizer.json")
    settings = json.loads((out / "latest" / "tokenizer_config.json").read_text())
    for where in ("is_local", "local_files_only"):  # how a resumed run had loaded it, no property of the tokenizer
        settings.pop(where, None)
    (POCKET / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    for name in FILES:
        (POCKET / name).chmod(0o644)
    shutil.copyfile(out / "loss.csv", DOCS / "pocket-loss.csv")
    rows = list(csv.DictReader((out / "loss.csv").open()))
    (DOCS / "pocket-loss.svg").write_text(curve(rows))
    record = {
        "made by": "scripts/pocket/: prepare.py, train.py, publish.py",
        "archives": ARCHIVES,
        **json.loads((corpus / "evidence.json").read_text()),
        "files": {name: hashlib.sha256((POCKET / name).read_bytes()).hexdigest() for name in FILES},
        "steps": int(rows[-1]["step"]),
        "tokens seen": int(rows[-1]["tokens"]),
        "held-out loss": {
            name: {
                "bytes": loss.bytes,
                "tokens": loss.tokens,
                "nats per token": round(loss.nats_per_token, 4),
                "bits per byte": round(loss.bits_per_byte, 4),
            }
            for name, loss in losses(POCKET).items()
        },
    }
    (POCKET / "provenance.json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record["held-out loss"], indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
