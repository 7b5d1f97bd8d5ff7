"""What is abused: a tiny model and its texts, a run, half a run, a training, half a training, and other outputs."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.abuse.trials import Ended, apart

SETTINGS = """\
model = "{model}"
[data]
train = ["{texts}/text0.txt", "{texts}/text1.txt"]
held_out = ["{texts}/text2.txt"]
[training]
output_dir = "{out}"
method = "balance"
max_steps = 4
per_device_train_batch_size = 2
max_length = 32
save_steps = 2
logging_steps = 1
[amplifier]
kind = "beam"
width = 2
horizon = 2
[monitor]
kind = "particles"
particles = 4
horizon = 2
every = 2
tokens = 400
"""
_EXAM = "--width 2 --horizon 2 --particles 2 --window 48 --context 8 --limit 440"
_EVOLVE = "--length 5 --population 4 --generations 2 --islands 1 --tournament 2 --elite 1 --seam 1 --top 2"


def snellen(*arguments: str | Path) -> int:
    """The command line, in this process."""
    from snellen.cli import main

    return main([str(argument) for argument in arguments])


def command(arguments: Sequence[str]) -> Callable[[Path], int]:
    """As the action of a trial."""
    return lambda folder: snellen(*arguments)


@dataclass(frozen=True)
class World:
    """Where everything stands. Nothing in it is changed by a trial: it works on copies."""

    root: Path

    def __truediv__(self, name: str) -> Path:
        return self.root / name

    def exam(self, out: Path, *, measures: str = "mean", seed: int = 0) -> list[str]:
        """The exam whose run folder is damaged and resumed."""
        return [
            "exam", str(self / "model"), "--text", str(self / "text0.txt"), str(self / "text1.txt"), *_EXAM.split(),
            "--measures", measures, "--seed", str(seed), "--json", "--out", str(out),
        ]  # fmt: skip

    def generate(self, *more: str) -> list[str]:
        """Some tokens."""
        return ["generate", str(self / "model"), "--prompt", "the cat", "--max-new-tokens", "3", "--json", *more]

    def evolve(self, *more: str) -> list[str]:
        """A small population."""
        return ["evolve", *_EVOLVE.split(), "--json", "--quiet", *more]

    def settings(self, path: Path, out: Path) -> Path:
        """The settings file of the training, with that output folder."""
        path.write_text(SETTINGS.format(model=self / "model", texts=self.root, out=out), encoding="utf-8")
        return path

    def train(self, folder: Path) -> list[str]:
        """The training whose folder is `folder`/trained."""
        return ["train", str(self.settings(folder / "train.toml", folder / "trained")), "--json", "--deploy"]


def prepare() -> None:
    """Import everything heavy once, and nothing that computes: forked processes find it there."""
    os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    import torch

    torch.set_num_threads(1)
    from snellen.measures import registry

    gc.freeze()  # what is never collected is never copied into a child
    registry._BUILT_IN["mean"] = "tests.tiny:MeanMeasure"  # the mean of all log-likelihoods: shows every difference


def build(root: Path) -> World:
    """Make it all. Raises RuntimeError where something does not come about."""
    world = World(root)
    if (root / "whole").exists():
        return world
    root.mkdir(parents=True)

    def seeds() -> int:
        from tests import tiny

        tiny.texts(root, words=600)
        tiny.model(root / "model")
        return 0

    _done(apart(seeds, into=root / "log"))
    steps = {
        "run": world.exam(root / "run"),
        "other": world.exam(root / "other", seed=1),
        "gain": world.exam(root / "gain", measures="lookahead-gain"),
        "page": world.generate("--tree", str(root / "page.html")),
        "evolved": world.evolve("--out", str(root / "evolved.json")),
        "train": world.train(root),
    }
    for arguments in steps.values():
        _done(apart(lambda arguments=arguments: snellen(*arguments), into=root / "log"))  # type: ignore[misc]
    _done(apart(lambda: _half(world), into=root / "log"), code=-9)
    half = root / "half-trained"
    half.mkdir()
    shutil.copytree(root / "trained" / "checkpoint-2", half / "trained" / "checkpoint-2")
    (root / "whole").touch()
    return world


def _half(world: World) -> int:
    """Killed after the fifth window."""
    from snellen.results import store

    write = store.Writer.write_piece

    def writing(self: store.Writer, number: int, table: object) -> None:
        write(self, number, table)  # type: ignore[arg-type]
        if number == 4:
            os.kill(os.getpid(), 9)

    store.Writer.write_piece = writing  # type: ignore[assignment]
    return snellen(*world.exam(world / "half"))


def _done(ended: Ended, code: int = 0) -> None:
    if ended.code != code:
        raise RuntimeError(f"the undisturbed command ended with {ended.code}: {ended.err[-2000:]}")


def digest(path: Path) -> str:
    """Of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else "no file"


def run_prints(folder: Path) -> dict[str, str]:
    """What must be the same of a run: every number of it."""
    names = [folder / "tokens.parquet", folder / "findings.json", *sorted(folder.glob("tables/*"))]
    return {str(path.relative_to(folder)): digest(path) for path in names}


def trained_prints(folder: Path) -> dict[str, str]:
    """What must be the same of a training: weights, lookahead, and the losses of every step."""
    found = {name: digest(folder / name) for name in ("model.safetensors", "lookahead.json")}
    states = sorted(folder.glob("checkpoint-*/trainer_state.json"), key=lambda path: len(path.parent.name))
    state = folder / "trainer_state.json"
    state = state if state.is_file() else states[-1] if states else state
    try:
        rows = json.loads(state.read_text())["log_history"]
        timeless = [{k: v for k, v in row.items() if not k.endswith(("_runtime", "_second"))} for row in rows]
        found["losses"] = hashlib.sha256(json.dumps(timeless, sort_keys=True).encode()).hexdigest()[:16]
    except (OSError, ValueError, KeyError) as error:
        found["losses"] = repr(error)
    return found


def differing(found: dict[str, str], known: dict[str, str]) -> str | None:
    """Which of them differ, in words."""
    names = [name for name in sorted({*found, *known}) if found.get(name) != known.get(name)]
    return f"other than undisturbed: {', '.join(names)}" if names else None
