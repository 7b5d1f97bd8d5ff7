"""Make constraints.txt anew: every package that the README's commands install, at the version that pip takes today.

    python scripts/pins.py             # writes constraints.txt and prints what moved

The line of torch is kept as it is: any other torch may mean gigabytes of CUDA libraries. Run the tests afterwards; what
is pinned is what was tested.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import tomllib
import venv
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
HEADER = "# Made by scripts/pins.py: the versions that the tests ran on. By hand only the line of torch.\n"


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    before = pinned()
    after = resolve(before["torch"])
    CONSTRAINTS.write_text(HEADER + "".join(f"{name}=={version}\n" for name, version in sorted(after.items())))
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name, "not pinned"), after.get(name, "gone")
        if old != new:
            print(f"{name}: {old} → {new}")


def pinned() -> dict[str, str]:
    """The pins of constraints.txt: version by package."""
    lines = (line.partition("#")[0].strip() for line in CONSTRAINTS.read_text(encoding="utf-8").splitlines())
    return dict(line.split("==") for line in lines if line)


def resolve(torch: str) -> dict[str, str]:
    """What pip would install for development (which holds all that a user needs) into an empty environment."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(Path(folder) / "env", with_pip=True)
        constraint, report = Path(folder) / "torch.txt", Path(folder) / "report.json"
        constraint.write_text(f"torch=={torch}\n")
        pip = [str(Path(folder) / "env" / "bin" / "python"), "-m", "pip", "install", "--quiet", "--dry-run"]
        subprocess.run([*pip, "--report", str(report), "-c", str(constraint), f"{ROOT}[dev]"], check=True)
        chosen = [item["metadata"] for item in json.loads(report.read_text())["install"]]
    found = {canonicalize_name(one["name"]): one["version"].split("+")[0] for one in chosen}
    del found["snellen"]
    return found


def oldest() -> dict[str, str]:
    """The lower end of each range in pyproject.toml; raises SystemExit where a range has none."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    found = {}
    for text in [*project["dependencies"], *(one for extra in extras for one in extra)]:
        requirement = Requirement(text)
        least = [spec.version for spec in requirement.specifier if spec.operator in (">=", "==")]
        if len(least) != 1:
            raise SystemExit(f"{text}: must have one lower end")
        found[canonicalize_name(requirement.name)] = least[0]
    return found


if __name__ == "__main__":
    main()
