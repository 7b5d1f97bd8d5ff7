"""Commands, texts, settings and places that have failed once, or look as if they could."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from scripts.abuse.trials import Check, Trial, unchecked
from scripts.abuse.world import World, snellen


def planned(world: World, *, short: bool) -> Iterator[Trial]:
    """All lists of this module; in the short form some of each."""
    for listed, step in ((texts, 5), (settings, 4), (places, 4), (others, 3), (processes, 5)):
        yield from list(listed(world))[:: step if short else 1]


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


# What a text to examine may be; True: it must be refused.
_TEXTS: dict[str, tuple[Callable[[Path], None], bool]] = {
    "empty.txt": (lambda p: _write(p, b""), True),
    "blank.txt": (lambda p: _write(p, b" \n" * 100), True),
    "nul.txt": (lambda p: _write(p, b"the cat\0 sat " * 200), False),
    "latin.txt": (lambda p: _write(p, "café ".encode("latin-1") * 300), True),
    "utf16.txt": (lambda p: _write(p, ("the cat " * 300).encode("utf-16")), True),
    "surrogate.txt": (lambda p: _write(p, b"\xed\xa0\x80 the cat " * 300), True),
    "bom.txt": (lambda p: _write(p, b"\xef\xbb\xbf" + b"the cat sat " * 300), False),
    "line.txt": (lambda p: _write(p, b"a" * 3_000_000), False),
    "folder.txt": (lambda p: p.mkdir(), True),
    "fifo.txt": (os.mkfifo, True),
    "loop.txt": (lambda p: p.symlink_to(p.name), True),
    "nowhere.txt": (lambda p: p.symlink_to("nowhere"), True),
    "null.txt": (lambda p: p.symlink_to("/dev/null"), True),
    "zero.txt": (lambda p: p.symlink_to("/dev/zero"), True),
    "full.txt": (lambda p: p.symlink_to("/dev/full"), True),
    "mem.txt": (lambda p: p.symlink_to("/proc/self/mem"), True),
    "empty.jsonl": (lambda p: _write(p, b""), True),
    "cut.jsonl": (lambda p: _write(p, b'{"text": "the cat"}\n{"text": "the'), True),
    "list.jsonl": (lambda p: _write(p, b"[1]\n"), True),
    "number.jsonl": (lambda p: _write(p, b'{"text": 5}\n'), True),
    "field.jsonl": (lambda p: _write(p, b'{"txt": "the cat"}\n'), True),
    "half.jsonl": (lambda p: _write(p, b'{"text": "\\ud800 the cat"}\n' * 50), True),
    "deep.jsonl": (lambda p: _write(p, b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n"), True),
    "nan.jsonl": (lambda p: _write(p, b'{"text": NaN}\n'), True),
    "twice.jsonl": (lambda p: _write(p, b'{"text": "a", "text": "the cat sat"}\n'), False),
    "empty.parquet": (lambda p: _write(p, b""), True),
    "cut.parquet": (lambda p: _write(p, b"PAR1" + b"\0" * 100), True),
    "evil\x1b]0;x\x07\u202e.txt": (lambda p: _write(p, b"\xff"), True),
}


def texts(world: World) -> Iterator[Trial]:
    """As texts of an exam and of a training, as a prompt, as settings, as a run, as a population."""
    for name, (make, wrong) in _TEXTS.items():
        ways: dict[str, Callable[[Path], list[str]]] = {
            "exam": lambda p: [*world.exam(Path("run"))[:2], "--text", str(p), *world.exam(Path("run"))[5:]],
            "train": lambda p: [
                "train",
                str(world / "train.toml"),
                "--check",
                "--set",
                f"data.train={json.dumps(str(p))}",
            ],
            "prompt": lambda p: ["generate", str(world / "model"), "--prompt-file", str(p), "--max-new-tokens", "1"],
            "settings": lambda p: ["train", str(p)],
            "population": lambda p: world.evolve("--from", str(p)),
            "run": lambda p: ["compare", str(p), str(world / "run")],
            "model": lambda p: ["generate", str(p), "--max-new-tokens", "1"],
        }
        for way, arguments in ways.items():
            right = (way in ("exam", "train") and not wrong) or way == "prompt"
            yield Trial(
                name=f"text {way} {name.encode('unicode_escape').decode()}.",
                act=_made(name, make, arguments),
                check=unchecked if right else None,
                shown=f"{way} with a {name!a}",
            )


def _made(name: str, make: Callable[[Path], None], arguments: Callable[[Path], list[str]]) -> Callable[[Path], int]:
    def act(folder: Path) -> int:
        make(folder / name)
        return snellen(*arguments(folder / name))

    return act


_DEEP = "x = " + "[" * 10_000 + "]" * 10_000
_TOML: dict[str, str] = {
    "deep": _DEEP, "deep table": "[" + "a." * 10_000 + "b]\nx=1", "number": "training = 5", "array": "[[training]]",
    "nul": "model = \"po\0cket\"", "unknown": "[trainin]\nx = 1", "date": "[training]\nmax_steps = 2020-01-01",
    "wide": "x = " + "9" * 10_000, "model list": "model = [1]", "empty": "", "twice": "[data]\n[data]",
    "kind": "[amplifier]\nkind = []", "no kind": "[amplifier]\nwidth = 2",
}  # fmt: skip
_SET = [
    "training.max_steps=1.5", "training.max_steps=nan", "training.max_steps=0", "training.max_steps='4'",
    "training.max_steps=true", "training.max_steps=[]", "training.report_to=nope", "training.report_to=[1]",
    "training.resume_from_checkpoint=nope", "training.resume_from_checkpoint=5", "training.learning_rate=nan",
    "training.learning_rate=inf", "training.learning_rate=-1", "training.learning_rate='x'",
    "training.method=nope", "training.method=5", "training.output_dir=5", "training.output_dir=''",
    "training.output_dir=/proc/x/y", "training.output_dir=/dev/full", "training.optim=nope", "training.optim=5",
    "training.optim_args=5", "training.optim_args=nope", "training.lr_scheduler_type=nope",
    "training.lr_scheduler_kwargs=nope", "training.lr_scheduler_kwargs={x=1}", "training.max_length=1",
    "training.max_length=10000000000", "training.per_device_train_batch_size=0", "training.strength=nan",
    "training.strength=0", "training.strength='x'", "training.seed=-1", "training.seed=1e30",
    "training.seed=4294967296",
    "training.logging_steps=nan", "training.save_steps=0", "training.eval_strategy=nope", "training.eval_steps=nan",
    "training.fp16=maybe", "training.bf16=5", "training.deepspeed=nope", "training.fsdp=nope", "training.fsdp=true",
    "training.gradient_accumulation_steps=0", "training.max_grad_norm=nan", "training.warmup_steps=-1",
    "training.weight_decay=inf", "training.adam_beta1=1", "training.adam_epsilon=0", "training.debug=nope",
    "training.dataloader_num_workers=-1", "training.label_smoothing_factor=2", "training.neftune_noise_alpha=nan",
    "training.num_train_epochs=nan", "training.num_train_epochs=0", "training.save_total_limit=0",
    "training.accelerator_config=nope", "training.accelerator_config=5", "training.nope=1", "training.amplifier=5",
    "training.torch_compile_backend=nope", "training.logging_dir=5", "training.metric_for_best_model=nope",
    "training.load_best_model_at_end=true", "training.push_to_hub=true", "training.hub_strategy=nope",
    "training.parallelism_config=nope", "training.liger_kernel_config=nope", "training.use_liger_kernel=true",
    "monitor.stop=yes", "monitor.stop=5", "monitor.every=0", "monitor.every=1.5", "monitor.tokens=0",
    "monitor.patience=nan", "monitor.kind=nope", "monitor.kind=5", "monitor.particles=0", "monitor.particles=1.5",
    "monitor.horizon=0", "monitor.alpha=nan", "monitor.nope=1", "monitor=5", "amplifier=5", "amplifier.kind=nope",
    "amplifier.width=0", "amplifier.width=nan", "amplifier.width=-1", "amplifier.width=100000000000",
    "amplifier.horizon=0", "amplifier.horizon=1000000", "amplifier.alpha=nan", "amplifier.alpha=-1",
    "amplifier.alpha='x'", "data.train=[]", "data.train=5", "data.train=[5]", "data.train=['nope.txt']",
    "data.field=5", "data.field=nope", "data.held_out=5", "data.held_out=['nope.txt']", "data=5", "data.nope=1",
    "model=nope/x/y", "model=5", "model=''", "model.source=5", "model.source=''", "model.from_scratch=maybe",
    "model.config=5", "model.config.nope=1", "model.config.hidden_size=0", "model.config.hidden_size=nan",
    "model.config.hidden_size='x'", "model.config.hidden_size=-4", "model.config.num_attention_heads=0",
    "model.config.num_hidden_layers=-1", "model.config.attention_dropout=2", "model.config.attention_dropout=nan",
    "model.config.vocab_size=10000000000000", "model.config.rms_norm_eps=nan", "model.config.rope_theta=nan",
    "model.config.hidden_act=nope", "model.tokenizer=5", "model.tokenizer=nope/x/y", "model.revision=5",
    "model.trust_remote_code=maybe", "", "=", "x", "training", "training.=1", ".max_steps=1", "training.max_steps",
    "training.max_steps.x=1", "training..max_steps=1", "nope.x=1", "training.max_steps=" + "[" * 10_000,
    "training.max_steps=" + "9" * 5_000, "\x1b]0;x\x07=1", "training.\u202ex=1",
]  # fmt: skip
_FINE = {"data.field=nope", "training.output_dir=5"}  # plain texts have no fields; a folder may be called 5


def settings(world: World) -> Iterator[Trial]:
    """Settings files and `--set`, each with a fault."""
    for name, text in _TOML.items():

        def act(folder: Path, text: str = text) -> int:
            (folder / "settings.toml").write_text(text, encoding="utf-8")
            return snellen("train", folder / "settings.toml", "--check")

        yield Trial(name=f"toml {name}.", act=act, shown=f"snellen train with {text[:60]!r}")
    for scratch in (False, True):
        for change in _SET:
            if scratch and not change.startswith("model."):
                continue
            yield Trial(
                name=f"set {'scratch ' if scratch else ''}{change[:60].encode('unicode_escape').decode()}.",
                act=_setting(world, change, scratch),
                check=unchecked if change in _FINE else None,
                shown=f"snellen train … --set {change[:80]!a}",
            )


def _setting(world: World, change: str, scratch: bool) -> Callable[[Path], int]:
    def act(folder: Path) -> int:
        path = world.settings(folder / "train.toml", folder / "trained")
        more = ["--set", "model.from_scratch=true"] if scratch else []
        return snellen("train", path, *more, "--set", change, "--check")

    return act


def places(world: World) -> Iterator[Trial]:
    """Outputs where nothing can or may be written."""
    model = world / "model"
    outs = ["/proc/x", "/dev/full", "/dev/null", "/dev/full/x", str(model), str(model / "x"),
    str(model / "config.json"),
            str(world.root), "", "x/\0y", "y" * 256, "z/" * 2500, str(world / "text0.txt"), str(world / "text0.txt/x"),
            "/proc/self/fd/1", "/dev/stdout", "/", "/sys/x"]  # fmt: skip
    for out in outs:
        ways: dict[str, list[str]] = {
            "exam": world.exam(Path(out)),
            "convert": ["convert", str(model), out],
            "generate": world.generate("--tree", out),
            "generate over": world.generate("--tree", out, "--overwrite"),
            "evolve": world.evolve("--out", out),
            "evolve over": world.evolve("--out", out, "--overwrite"),
            "organisms": ["organisms", "--only", "markov", "--out", out],
            "sweep": ["sweep", "stunting", "--only", "ordinary", "--out", out],
            "picture": ["sweep", "mesa", "--picture", out],
            "train": ["train", str(world / "train.toml"), "--set", f"training.output_dir={json.dumps(out)}"],
        }
        for way, arguments in ways.items():
            if out == str(world / "text0.txt") and way.endswith("over"):
                continue  # that is what it is for
            if (way.startswith("evolve") and out.startswith(str(model))) or (way, out) == ("sweep", ""):
                continue  # another model's folder; the folder that one is in
            yield _refused(f"place {way} {out[:60]!r}", arguments)


def others(world: World) -> Iterator[Trial]:
    """What is asked for is not there, too much, or two things at once."""
    model, run = str(world / "model"), str(world / "run")
    exam = world.exam(Path("run"))
    for arguments in (
        ["organisms", "--only", "nonsense"], ["organisms", "--only", ""], ["organisms", "--seeds", "0"],
        ["organisms", "--processes", "0", "--only", "markov"], ["organisms", "--seeds=-1"],
        ["sweep", "stunting", "--seeds", "0"], ["sweep", "mesa", "--tasks", "nope"], ["sweep", "mesa", "--only",
        "nope"],
        ["sweep", "mesa", "--texts", "nope"], ["sweep", "mesa", "--processes", "0", "--tasks", "full"], ["sweep",
        "nope"],
        ["sweep", "stunting", "--tasks", "full"], ["sweep", "stunting", "--texts", "."], ["sweep"],
        ["nope"], ["--nope"], ["exam", "--measures"], ["exam", "--measures", "nope"], ["exam", "--measures", ""],
        ["exam", "--width", "100000"],
        ["exam", ""], ["exam", " "], ["exam", "."], ["exam", "/"], ["exam", "/dev/null"], ["exam", "/dev/zero"],
        ["exam", "nope/x/y"], ["exam", "a\x1b[31mb/c/d"], ["exam", "\u202egpt/x/y"], ["exam", "\udcff"],
        [*exam, "--memory", "1B"], [*exam, "--memory", "0"], [*exam, "--memory", "nan"], [*exam, "--memory", "1EB"],
        [*exam, "--memory=-1GB"], [*exam, "--memory", "9" * 400 + "GB"], [*exam, "--widths", "0"],
        [*exam, "--widths", "3"], [*exam, "--widths"], [*exam, "--engine", "nope"], [*exam, "--device", "nope"],
        [*exam, "--device", "cuda:99"], [*exam, "--device", "meta"], [*exam, "--tokenizer", "nope/x/y"],
        [*exam, "--revision", "x"], [*exam, "--field", ""], [*exam, "--text"], [*exam, "--width", "1000000000"],
        [*exam[:2], "--horizon", "64"], [*exam[:2], "--horizon", "1000000000"], [*exam[:2], "--window", "1000000"],
        [*exam[:2], "--limit", "1"], ["generate", model, "--width", "1000000000"], ["generate", model, "--horizon",
        "99"],
        ["generate", model, "--max-new-tokens", "1000000"], ["generate", model, "--count", "0"],
        ["generate", model, "--alpha", "nan"], ["generate", model, "--weight", "2"], ["generate", model, "--stop", ""],
        ["generate", model, "--method", "power", "--particles", "1000000000000"], ["generate", model, "--prompt",
        "\ud800"],
        ["generate", model, "--method", "greedy", "--seed", "1"], ["generate", model, "--seed", str(2**64)],
        ["generate", model, "--method", "beam", "--width", "100000000"], ["generate", model, "--top-p", "0"],
        ["generate", model, "--prompt", "word " * 5000], ["generate", model, "--temperature", "nan"],
        ["generate", model, "--temperature", "1e-320", "--method", "sample", "--device", "nope"],
        ["generate", model, "--prompt-file", run], ["generate", "pocket-masked"], ["generate", model, "--overwrite"],
        ["evolve", "pocket"], ["evolve", model], ["evolve", "--population", "0"], ["evolve", "--length", "100000"],
        ["evolve", "--population", "3", "--elite", "5"], ["evolve", "--mode", "genetic", "--steps", "3"],
        ["evolve", "--mode", "metropolis", "--temperature", "0"], ["evolve", "--mode", "metropolis", "--thin", "0"],
        ["evolve", "--mode", "metropolis", "--burn-in", "10", "--steps", "5"], ["evolve", "--mutation", "nan"],
        ["evolve", "--passes", "0"], ["evolve", "--memory", "1B"],
        ["evolve", "--prompt", "word " * 5000], ["evolve", "--from", run], ["evolve", "--top", "0"],
        ["compare", run], ["compare", run, "nope"], ["compare", model, run], ["compare", "", run], ["compare", "/",
        run],
        ["compare", str(world / "half"), run], ["report", str(world / "half")], ["report", model], ["report",
        "/dev/null"],
        ["convert", model, model], ["convert", model, str(world / "model" / "x")], ["convert", run, "new"],
        ["convert", "pocket-masked", "new"], ["convert", model, "new", "--dtype", "int8"], ["train"], ["train", model],
        ["train", "nope.toml"], ["train", str(world / "train.toml"), "--set"],
    ):  # fmt: skip
        yield _refused(f"word {' '.join(_brief(arguments, world))}", arguments)
    for arguments in (
        [*_limitless(exam), "--limit", str(10**30)],
        [*exam, "--memory", "1TB"],
        [*world.evolve(), "--seed", "1" * 40],  # a seed may have any number of digits
        ["--help"],
        ["--version"],
    ):
        yield Trial(
            name=f"word {' '.join(_brief(arguments, world))}.",
            act=lambda folder, arguments=arguments: snellen(*arguments),  # type: ignore[misc]
            check=unchecked,
            shown=f"snellen {' '.join(arguments)}",
        )


def _limitless(exam: Sequence[str]) -> list[str]:
    place = exam.index("--limit")
    return [*exam[:place], *exam[place + 2 :]]


def _brief(arguments: Sequence[str], world: World) -> list[str]:
    exam = world.exam(Path("run"))
    words = ["exam…", *arguments[len(exam) :]] if list(arguments[: len(exam)]) == exam else arguments
    return [word.replace(str(world.root), "W").encode("unicode_escape").decode()[:60] for word in map(str, words)]


def _refused(name: str, arguments: Sequence[str], check: Check | None = None) -> Trial:
    shown = "snellen " + " ".join(one if len(one) < 80 else f"{one[:60]}…" for one in arguments)
    return Trial(
        name=f"{name.encode('unicode_escape').decode()}.",
        act=lambda folder: snellen(*arguments),
        check=check,
        shown=shown.encode("unicode_escape").decode(),
        seconds=30,
    )


def processes(world: World) -> Iterator[Trial]:
    """In processes of their own: terminals of ASCII, closed streams, readers that leave, names that are no UTF-8."""
    ascii_only = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    model = str(world / "model")
    generate = [*world.generate(), "--prompt", "café 猫 \U0001f408"]
    plain = ["generate", model, "--prompt", "café 猫", "--max-new-tokens", "2"]
    for name, arguments, environment, how, check in (
        ("ascii generate", plain, ascii_only, "", unchecked),
        ("ascii json", generate[:3] + generate[5:], ascii_only, "", unchecked),
        ("ascii evolve", [*world.evolve()[:-2], "--prompt", "café 猫"], ascii_only, "", unchecked),
        ("ascii help", ["--help"], ascii_only, "", unchecked),
        ("ascii organisms", ["organisms", "--list"], ascii_only, "", unchecked),
        ("ascii compare", ["compare", str(world / "run"), str(world / "other")], ascii_only, "", unchecked),
        ("ascii wrong", ["exam", "猫/x/y"], ascii_only, "", None),
        ("stdout full", plain, {}, ">/dev/full", None),
        ("json full", generate[:3] + generate[5:], {}, ">/dev/full", None),
        ("list full", ["organisms", "--list"], {}, ">/dev/full", None),
        ("stdout closed", plain, {}, ">&-", unchecked),
        ("stderr closed", plain, {}, "2>&-", unchecked),
        ("stdin closed", plain, {}, "<&-", unchecked),
        ("reader leaves", plain, {}, "| head -c 1", unchecked),
        ("no home", plain, {"HOME": "/nowhere", "TMPDIR": "/nowhere"}, "", unchecked),
        ("narrow", ["organisms", "--list"], {"COLUMNS": "1", "LINES": "1"}, "", unchecked),
        ("bad locale", plain, {"LC_ALL": "xx_YY.nope", "LANG": "\x1b"}, "", unchecked),
        ("dumb", ["--help"], {"TERM": "dumb", "NO_COLOR": "1"}, "", unchecked),
        ("bytes", ["exam", "$(printf '\\377')/x/y"], {}, "shell", None),
        ("bytes of text", ["exam", model, "--text", "$(printf '\\377.txt')"], {}, "shell", None),
    ):
        yield Trial(
            name=f"process {name}.",
            act=_process(arguments, environment, how),
            check=check,
            shown=f"{' '.join(f'{k}={v!a}' for k, v in environment.items())} snellen {' '.join(arguments)!a} {how}",
            seconds=120,
        )


def _process(arguments: Sequence[str], environment: dict[str, str], how: str) -> Callable[[Path], int]:
    import shlex

    def act(folder: Path) -> int:
        words = " ".join(f'"{one}"' if how == "shell" else shlex.quote(one) for one in arguments)
        line = f"{shlex.quote(sys.executable)} -m snellen {words} {'' if how == 'shell' else how}"
        source = str(Path(__file__).resolve().parents[2] / "src")
        return subprocess.run(
            ["bash", "-o", "pipefail", "-c", line],
            env={**os.environ, "PYTHONPATH": source, **environment},
            check=False,
        ).returncode

    return act
