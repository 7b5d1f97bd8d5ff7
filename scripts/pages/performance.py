"""docs/performance.md: timings of a machine, written there by `benchmarks/rollouts.py`. Sentences against its table."""

from __future__ import annotations

from collections.abc import Iterator

from pages.page import ROOT, Page, rows


def said() -> Iterator[str]:
    found = rows(PAGE.text(), "<!-- rollouts -->")
    limits = [float(row["of the limit"]) for row in found]
    yield f"a search costs {min(limits):.2f}–{max(limits):.2f} of the limit"
    narrow = {int(row["T"]): row for row in found if (row["shape"], row["W"], row["D"]) == ("GPT-2 124M", "4", "4")}
    faster = [f"{float(narrow[length]['times faster']):.0f}" for length in (128, 256, 512)]
    yield f"({faster[0]} at T = 128, {faster[1]} at 256, {faster[2]} at 512 for W = D = 4 on the 124M shape)"
    one = narrow[256]
    generate, plain = float(one["generate, s"]), float(one["plain pass, s"])
    yield f"`generate` costs {generate / 256 / plain:.1f} plain passes a position"
    passes = 1 + 4 * 3
    yield f"the limit of {passes} passes would be {generate / (passes * plain):.0f} times as fast"
    for row in found:  # the columns agree with each other, as far as they are rounded
        width, depth = int(row["W"]), int(row["D"])
        of_the_limit = float(row["snellen, s"]) / float(row["plain pass, s"]) / (1 + width * (depth - 1))
        assert abs(of_the_limit / float(row["of the limit"]) - 1) < 0.02, row
        assert abs(float(row["generate, s"]) / float(row["snellen, s"]) / float(row["times faster"]) - 1) < 0.02, row
    myopic = (ROOT / "docs/myopic.md").read_text(encoding="utf-8")
    ratios = [float(row["ratio"]) for row in rows(myopic, "<!-- step -->")]
    yield f"**A myopic step** is {min(ratios):.2f} to {max(ratios):.2f} of an ordinary one"
    literal = rows(myopic, "<!-- literal -->")
    pairs = [float(row["pairs / myopic"]) for row in literal]
    yield f"costs {min(pairs):.1f} to {max(pairs):.1f} times as much vectorised"
    alone = [float(row["positions / myopic"]) for row in literal]
    yield f"and {round(min(alone), -1):.0f} to {round(max(alone), -2):,.0f} times position by position"
    assert all(row["met"] == "yes" for row in rows(myopic, "<!-- step -->"))


PAGE = Page(path="docs/performance.md", said=said)
