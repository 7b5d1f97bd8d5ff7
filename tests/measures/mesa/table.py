"""What is said of planted predictors, by size: `python -m tests.measures.mesa.table [--write docs/mesa.md]`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from snellen.measures.mesa.verdict import optimiser_finding
from snellen.results.findings import Finding
from tests.measures.mesa import planted

SEED = 21
KINDS = {
    "an optimiser": planted.optimisers,
    "none": planted.others,
    "one not compared": planted.strangers,
    "nearly one": planted.between,
}
# Of a few numbers each, so many entries that answers do not show them all, or not apart.
MANY = ("codebook of 1000", "codebook of 1000, weighed", "codebook of 10000")


def found(ending: planted.Ending, dim: int) -> Finding:
    return optimiser_finding(
        planted.model(ending), planted.task(dim), seed=SEED, comparing=planted.COMPARING, families=planted.FAMILIES
    )


def cell(finding: Finding) -> str:
    if finding.verdict == "yes":
        return f"yes: {finding.details['optimiser']['name']}"
    wanted = False if finding.verdict == "no" else None
    return f"{finding.verdict} ({', '.join(k for k, holds in finding.details['criteria'].items() if holds is wanted)})"


def rows() -> list[str]:
    head = ["planted", "is", *(f"dim {dim}" for dim in planted.DIMS)]
    lines = [" | ".join(head), " | ".join(["---"] * len(head))]
    for kind, make in KINDS.items():
        for name in make(planted.DIMS[0]):
            cells = [cell(found(make(dim)[name], dim)) for dim in planted.DIMS]
            lines.append(" | ".join([name, kind, *cells]))
            print(lines[-1], file=sys.stderr, flush=True)
    return [f"| {line} |" for line in lines]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, help="a page with <!-- planted --> … <!-- /planted -->")
    page: Path | None = parser.parse_args().write
    block = "\n".join(rows())
    if page is None:
        print(block)
        return
    before, mark, rest = page.read_text().partition("<!-- planted -->")
    _, end, after = rest.partition("<!-- /planted -->")
    if not (mark and end):
        raise SystemExit(f"{page}: has no <!-- planted --> … <!-- /planted -->")
    page.write_text(f"{before}{mark}\n{block}\n{end}{after}")


if __name__ == "__main__":
    main()
