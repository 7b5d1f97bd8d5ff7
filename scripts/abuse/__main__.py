"""Abuse Snellen as the world does: kills, bad inputs, damaged files, full disks. Nothing may end in a traceback, and
nothing may be done silently otherwise than asked.

    python -m scripts.abuse --short          # some six minutes on two cores
    python -m scripts.abuse                  # all of it
    python -m scripts.abuse --case NAME      # one trial again, with all that it says
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from scripts.abuse import damages, disk, inputs, kills, trials, world

STAGES = {"inputs": inputs.planned, "damages": damages.planned, "kills": kills.planned, "disk": disk.planned}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.abuse", description=__doc__.split("\n\n")[0])
    parser.add_argument("--short", action="store_true", help="fewer trials of each kind")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn (default 0)")
    parser.add_argument("--only", action="append", choices=list(STAGES), help="one kind; can be given again")
    parser.add_argument("--case", action="append", help="only trials whose name begins so, with all that they say")
    parser.add_argument("--world", type=Path, help="keep what is abused in this folder, or take it from there")
    parser.add_argument("--processes", type=int, default=2, help="trials at a time (default 2)")
    chosen = parser.parse_args(arguments)
    began = time.monotonic()
    world.prepare()
    with tempfile.TemporaryDirectory(prefix="snellen-abuse-") as folder:
        root = Path(folder)
        (root / "trials").mkdir()
        made = world.build((chosen.world or root / "world").absolute())
        print(f"prepared in {time.monotonic() - began:.0f} s", flush=True)
        counts: dict[str, Counter[str]] = {}
        failures: list[trials.Verdict] = []
        for stage in chosen.only or STAGES:
            planned = [
                trial
                for trial in STAGES[stage](made, seed=chosen.seed, short=chosen.short)
                if chosen.case is None or trial.name.startswith(tuple(chosen.case))
            ]
            counts[stage] = Counter()
            told = time.monotonic()
            for verdict in trials.run(planned, root / "trials", processes=chosen.processes):
                counts[stage][verdict.outcome] += 1
                done = counts[stage].total()
                if chosen.case is not None:
                    _show(verdict)
                elif verdict.outcome in trials.BAD:
                    print(f"{verdict.outcome}: {verdict.trial.name}: {verdict.why}", flush=True)
                if verdict.outcome in trials.BAD:
                    failures.append(verdict)
                if time.monotonic() - told > 10:
                    told = time.monotonic()
                    print(f"{stage}: {done} of {len(planned)}, {told - began:.0f} s", flush=True)
    print("\n".join(_table(counts, time.monotonic() - began)))
    for verdict in failures:
        print(f"\n{verdict.outcome}: {verdict.why}\n  {verdict.trial.shown}\n  again: {_again(chosen, verdict)}")
    return 1 if failures else 0


def _again(chosen: argparse.Namespace, verdict: trials.Verdict) -> str:
    short = " --short" if chosen.short else ""
    return f"python -m scripts.abuse{short} --seed {chosen.seed} --case '{verdict.trial.name}'"


def _show(verdict: trials.Verdict) -> None:
    print(f"── {verdict.trial.name}: {verdict.outcome} {verdict.why}\n{verdict.trial.shown}", flush=True)
    for name, text in (("stdout", verdict.ended.out), ("stderr", verdict.ended.err)):
        print(f"{name}: {text[-4000:]!a}" if len(text) < 400 else f"{name}:\n{text[-4000:]}")


def _table(counts: dict[str, Counter[str]], seconds: float) -> Iterator[str]:
    names = [*trials.GOOD, *trials.BAD]
    yield f"{'':10}{'trials':>8}" + "".join(f"{name:>{len(name) + 2}}" for name in names)
    for stage, found in counts.items():
        numbers = "".join(f"{found[name]:>{len(name) + 2}}" for name in names)
        yield f"{stage:10}{found.total():>8}{numbers}"
    work = resource.getrusage(resource.RUSAGE_CHILDREN)
    yield f"{seconds:.0f} s, {work.ru_utime + work.ru_stime:.0f} s of work"


if __name__ == "__main__":
    sys.exit(main())
