"""What breaks on another release of transformers: the tests of whatever touches it, in a fresh environment.

    python scripts/compat.py 5.24.0       # that release, and the other packages as pinned where they go with it
    python scripts/compat.py oldest       # the lower ends of all ranges of pyproject.toml together
    python scripts/compat.py newest       # the newest release that pyproject.toml admits
    python scripts/compat.py latest       # the newest that the registry has, beyond the bound too

Exit code 0: nothing broke, or the release is the pinned one, which the whole suite runs on. 1: something did.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import pins
from packaging.requirements import Requirement
from packaging.version import Version
from pins import ROOT

TESTS = ["tests/attention", "tests/lookahead", "tests/architectures", "tests/training"]
FURTHER = ["tests/texts", "tests/results", "tests/report", "tests/test_cli.py"]  # of the other packages' lower ends


def run(*command: str | Path, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, **options)
    if check and done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done


def requirements() -> dict[str, Requirement]:
    """What Snellen needs, for development too."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    texts = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    return {requirement.name: requirement for requirement in map(Requirement, texts)}


def released() -> list[str]:
    """All releases of transformers that the registry has, the oldest first, without previews."""
    told = run(sys.executable, "-m", "pip", "index", "versions", "transformers").stdout
    found = re.search(r"Available versions: (.*)", told)
    if not found:
        raise SystemExit(f"pip index versions transformers: {told}")
    return sorted((one for one in found[1].split(", ") if not Version(one).is_prerelease), key=Version)


def named(wish: str) -> str:
    admitted = list(requirements()["transformers"].specifier.filter(released()))
    return {"oldest": admitted[0], "newest": admitted[-1], "latest": released()[-1]}.get(wish, wish)


def install(release: str, folder: Path, wanted: dict[str, str]) -> Path:
    """An environment with this release, the repository, and the pins that go with both; its Python."""
    python = folder / "bin" / "python"
    if not python.exists():
        run(sys.executable, "-m", "venv", folder)
    run(python, "-m", "pip", "install", "-q", "--no-deps", f"transformers=={release}")
    ask = "import importlib.metadata as m; print(*m.requires('transformers'), sep='\\n')"
    asked = [Requirement(line) for line in run(python, "-c", ask).stdout.splitlines()]
    asked = [r for r in asked if r.marker is None or r.marker.evaluate({"extra": ""})]
    kept = {"transformers": release}
    for name, version in wanted.items():
        if name == "transformers":
            continue
        if all(r.specifier.contains(version, prereleases=True) for r in asked if r.name == name):
            kept[name] = version
        else:
            print(f"without the pin {name}=={version}, which transformers {release} does not go with", flush=True)
    constraints = folder / "compat-constraints.txt"
    constraints.write_text("".join(f"{name}=={version}\n" for name, version in kept.items()), encoding="utf-8")
    # by their names alone, since a release beyond the bound is none that the repository itself would let in
    run(python, "-m", "pip", "install", "-q", "-c", constraints, *requirements())
    run(python, "-m", "pip", "install", "-q", "--no-deps", "-e", ".")
    return python


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("release", help="a release of transformers; oldest, newest, latest")
    parser.add_argument("--python-env", type=Path, help="a folder for the environment (default: one that is removed)")
    given = parser.parse_args()
    release, lower = named(given.release), given.release == "oldest"
    if not lower and release == pins.pinned()["transformers"]:
        print(f"transformers {release} ({given.release}) is the pinned one: the whole suite runs on it")
        return 0
    tests = [*TESTS, *FURTHER] if lower else TESTS
    with tempfile.TemporaryDirectory(prefix="snellen-compat-") as temporary:
        python = install(
            release, (given.python_env or Path(temporary)).absolute(), pins.oldest() if lower else pins.pinned()
        )
        print(f"transformers {release}: testing {', '.join(tests)}", flush=True)
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "COLUMNS": "400"}  # wide: nothing is cut short
        command = [python, "-m", "pytest", *tests, "-m", "not slow", "--tb=no", "-rfE"]
        done = run(*command, check=False, env=environment)
    failing: dict[str, list[str]] = {}
    for path, test in re.findall(r"^(?:FAILED|ERROR) (tests/[^:\s]+)(?:::)?(.*)$", done.stdout, re.MULTILINE):
        failing.setdefault(path, []).append(test or "cannot be imported")
    for path, broken in failing.items():
        print(f"\n{path}: {len(broken)}", *broken, sep="\n  ")
    told = re.findall(r"^.*\d+ (?:passed|failed|errors?)\b.*$", done.stdout, re.MULTILINE)
    print(f"\ntransformers {release}: {told[-1].strip('= ') if told else f'pytest ended with {done.returncode}'}")
    if done.returncode and not failing:
        print(done.stdout[-4000:], done.stderr[-4000:])
    return int(done.returncode != 0)


if __name__ == "__main__":
    sys.exit(main())
