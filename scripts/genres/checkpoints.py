"""Score pocket's own held-out documents with each checkpoint of its training.

    OMP_NUM_THREADS=1 python scripts/genres/checkpoints.py RUNS FOLDER [FOLDER …]

FOLDER is what `scripts/pocket/train.py … --checkpoints STEP …` left (OUT/step-STEP), or `pocket`. The runs are
RUNS/checkpoint-NAME.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import score

import snellen
from snellen.texts.encode import encode
from snellen.texts.read import bundled

SIZE, CONTEXT, REACH, HORIZON = 96, 96, 320, 4  # tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("models", nargs="+")
    settings = parser.parse_args()
    documents = bundled()
    for model in settings.models:
        subject = snellen.load(model)
        lengths = [len(encode(subject.tokenizer, document)) for document in documents]
        spans = [score.one_span(i, length, size=SIZE, context=CONTEXT, reach=REACH) for i, length in enumerate(lengths)]
        name = Path(model).name
        about = {"genre": "held-out documents of pocket", "model": name}
        score.score(subject, documents, spans, settings.runs / f"checkpoint-{name}", horizon=HORIZON, about=about)


if __name__ == "__main__":
    main()
