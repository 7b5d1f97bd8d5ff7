"""Writes the tables of the pages in docs/ anew, from the records that stand beside the pages.

    python scripts/remake.py                      # all pages
    python scripts/remake.py evolution mesa       # these (modules of scripts/pages)

Says which pages changed, and which sentences no longer state what the records have: those are for a person to mend, and
the exit code is then 1.
"""

from __future__ import annotations

import sys

from pages.page import pages


def main(names: list[str]) -> int:
    known = pages()
    if unknown := sorted(set(names) - set(known)):
        raise SystemExit(f"{', '.join(unknown)}: no such page; known are {', '.join(known)}")
    wrong = 0
    for name, page in known.items():
        if names and name not in names:
            continue
        before, after = page.text(), page.remade()
        if after != before:
            page.file.write_text(after, encoding="utf-8")
        found = page.wrong()
        print(f"{page.path}: {'written anew' if after != before else 'as it was'}")
        for line in found:
            print(f"    {line}")
        wrong += len(found)
    return int(wrong > 0)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
