"""What breaks on another release of transformers: the tests of whatever touches it, in a fresh environment.

python scripts/compat.py 5.24.0                        # or --newest, --oldest of those that pyproject.toml admits
python scripts/compat.py --newest --python-env FOLDER  # keeps the environment there, and uses it again

The other packages are those of constraints.txt, but for pins that the release does not go with. Exit code 0: all pass.
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

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
TESTS = ["tests/attention", "tests/lookahead", "tests/architectures", "tests/training"]


def run(*command: str | Path, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, **options)
    if check and done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done


def admitted() -> list[str]:
    """The releases that pyproject.toml admits, the oldest first."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = next(r for line in project["dependencies"] if (r := Requirement(line)).name == "transformers")
    told = run(sys.executable, "-m", "pip", "index", "versions", "transformers").stdout
    found = re.search(r"Available versions: (.*)", told)
    if found is None:
        raise SystemExit(f"pip index versions transformers: names no versions\n{told}")
    return sorted(wanted.specifier.filter(found[1].split(", ")), key=Version)


def install(release: str, folder: Path) -> Path:
    """An environment with this release, the repository, and the pins that go with both; its Python."""
    python = folder / "bin" / "python"
    if not python.exists():
        run(sys.executable, "-m", "venv", folder)
    run(python, "-m", "pip", "install", "-q", "--no-deps", f"transformers=={release}")
    ask = "import importlib.metadata as m; print(*m.requires('transformers'), sep='\\n')"
    asked = [Requirement(line) for line in run(python, "-c", ask).stdout.splitlines()]
    asked = [r for r in asked if r.marker is None or r.marker.evaluate({"extra": ""})]
    pins = [f"transformers=={release}"]
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if not (text := line.partition("#")[0].strip()) or (pin := Requirement(text)).name == "transformers":
            continue
        versions = [one.version for one in pin.specifier if one.operator == "=="]
        if all(r.specifier.contains(v, prereleases=True) for r in asked if r.name == pin.name for v in versions):
            pins.append(text)
        else:
            print(f"without the pin {text}, which transformers {release} does not go with", flush=True)
    constraints = folder / "compat-constraints.txt"
    constraints.write_text("\n".join([*pins, ""]), encoding="utf-8")
    run(python, "-m", "pip", "install", "-q", "-c", constraints, "-e", ".[dev]")
    return python


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("release", nargs="?", help="a release of transformers, 'newest' or 'oldest'")
    which.add_argument("--newest", dest="release", action="store_const", const="newest")
    which.add_argument("--oldest", dest="release", action="store_const", const="oldest")
    parser.add_argument("--python-env", type=Path, help="a folder for the environment (default: one that is removed)")
    given = parser.parse_args()
    release = admitted()[{"newest": -1, "oldest": 0}[given.release]] if given.release.isalpha() else given.release
    with tempfile.TemporaryDirectory(prefix="snellen-compat-") as temporary:
        python = install(release, (given.python_env or Path(temporary)).absolute())
        print(f"transformers {release}: testing {', '.join(TESTS)}", flush=True)
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "COLUMNS": "400"}  # wide: nothing is cut short
        command = [python, "-m", "pytest", *TESTS, "-m", "not slow", "--tb=no", "-rfE"]
        done = run(*command, check=False, env=environment)
    failing: dict[str, list[str]] = {}
    for path, test in re.findall(r"^(?:FAILED|ERROR) (tests/[^:\s]+)(?:::)?(.*)$", done.stdout, re.MULTILINE):
        failing.setdefault(path, []).append(test or "cannot be imported")
    for path, tests in failing.items():
        print(f"\n{path}: {len(tests)}", *tests, sep="\n  ")
    told = re.findall(r"^.*\d+ (?:passed|failed|errors?)\b.*$", done.stdout, re.MULTILINE)
    print(f"\ntransformers {release}: {told[-1].strip('= ') if told else f'pytest ended with {done.returncode}'}")
    if done.returncode and not failing:
        print(done.stdout[-4000:], done.stderr[-4000:])
    return int(done.returncode != 0)


if __name__ == "__main__":
    sys.exit(main())
