"""What breaks on another release of transformers: the tests of whatever touches it, in a fresh environment.

python scripts/compat.py 5.24.0                       # or newest, oldest: of those that pyproject.toml admits
python scripts/compat.py --newest --python-env /tmp/e  # keeps the environment, and uses it again

The other packages are those of constraints.txt, but for pins that the release does not go with.
Exit code 0: all passed.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import tomllib
from collections import defaultdict
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
TESTS = ("attention", "lookahead", "architectures", "training")


def admitted() -> list[str]:
    """The releases of transformers that pyproject.toml admits, the oldest first."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = next(r for line in project["dependencies"] if (r := Requirement(line)).name == "transformers")
    found = pip(sys.executable, "index", "versions", "transformers").stdout
    versions = re.search(r"Available versions: (.*)", found)
    if versions is None:
        raise SystemExit(f"pip index versions transformers: told nothing\n{found}")
    return sorted(wanted.specifier.filter(versions[1].split(", ")), key=Version)


def pip(python: str | Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [str(python), "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr or done.stdout}")
    return done


def needs(python: Path, release: str) -> dict[str, Requirement]:
    """What the installed release asks for, by name."""
    code = "import importlib.metadata as m; print(*m.requires('transformers'), sep='\\n')"
    lines = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    found = [r for line in lines if (r := Requirement(line)).marker is None or r.marker.evaluate({"extra": ""})]
    return {canonicalize_name(r.name): r for r in found}


def install(folder: Path, release: str) -> Path:
    """An environment with this release, the repository's other pins and the repository itself."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip(python, "install", "-q", "--no-deps", f"transformers=={release}")
    asked, pins = needs(python, release), []
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if not (text := line.partition("#")[0].strip()):
            continue
        pin = Requirement(text)
        name = canonicalize_name(pin.name)
        pinned = [s.version for s in pin.specifier if s.operator == "=="]
        if name == "transformers":
            continue
        if name in asked and not all(asked[name].specifier.contains(v, prereleases=True) for v in pinned):
            print(f"without the pin {text}: transformers {release} wants {asked[name]}")
            continue
        pins.append(text)
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join([*pins, f"transformers=={release}", ""]), encoding="utf-8")
    pip(python, "install", "-q", "-c", str(constraints), "-e", f"{ROOT}[dev]")
    return python


def broken(output: str) -> dict[str, list[str]]:
    """The failing tests by file, each with the first line of its error."""
    found = defaultdict(list)
    for kind, path, rest in re.findall(r"^(FAILED|ERROR) (tests/[^:\s]+)(.*)$", output, re.MULTILINE):
        found[path].append(f"{rest.removeprefix('::').strip() or kind}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("release", nargs="?", help="a release of transformers, newest or oldest")
    which.add_argument("--newest", action="store_const", dest="release", const="newest")
    which.add_argument("--oldest", action="store_const", dest="release", const="oldest")
    parser.add_argument(
        "--python-env", type=Path, help="the environment's folder, which stays (default: a temporary one)"
    )
    given = parser.parse_args()
    release = {"newest": -1, "oldest": 0}.get(given.release, given.release)
    release = admitted()[release] if isinstance(release, int) else str(Version(release))
    with tempfile.TemporaryDirectory(prefix="snellen-compat-") as temporary:
        python = install((given.python_env or Path(temporary)).absolute(), release)
        print(f"transformers {release}: testing {', '.join(TESTS)}", flush=True)
        command = [
            python,
            "-m",
            "pytest",
            *(f"tests/{name}" for name in TESTS),
            "-m",
            "not slow",
            "-p",
            "no:cacheprovider",
        ]
        environment = {"COLUMNS": "500"}  # so that pytest's summary is not cut short
        done = subprocess.run(
            ["env", *(f"{k}={v}" for k, v in environment.items()), *command, "--tb=line", "-rfE", "--durations=0"][:],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
    failing = broken(done.stdout)
    for path, tests in failing.items():
        print(f"\n{path}: {len(tests)}", *tests, sep="\n  ")
    last = re.findall(r"^.*(?:passed|failed|error).* in .*$", done.stdout, re.MULTILINE)
    print(f"\ntransformers {release}: {last[-1].strip('= ') if last else f'pytest ended with {done.returncode}'}")
    if done.returncode and not failing:
        print(done.stdout[-4000:], done.stderr[-4000:])
    return int(done.returncode != 0)


if __name__ == "__main__":
    sys.exit(main())
