"""docs/particles.md: timings of a machine, and tables copied from experiments. Sentences against the tables."""

from __future__ import annotations

from collections.abc import Iterator

from pages.page import Page, rows

_ALPHAS = {0.5: "α = .5", 1.0: "1", 1.5: "1.5", 2.0: "2", 4.0: "4"}


def said() -> Iterator[str]:
    found = rows(PAGE.text(), "<!-- particles -->")
    races = ("without replacement", "stochastic beam")
    times = {
        (shape, n): sorted(
            float(row["times the beam"])
            for row in found
            if (row["shape"], row["N"]) == (shape, n) and row["method"] in races
        )
        for shape, n in {(row["shape"], row["N"]) for row in found}
    }
    large = sorted(x for (shape, _), each in times.items() if shape == "GPT-2 124M" for x in each)
    low, high = times["pocket", "16"]
    yield f"({large[0]:.2f} to {large[-1]:.2f}) and is missed on `pocket` with 16 particles ({low:.2f} and {high:.2f})"
    assert large[-1] <= 1.2
    assert times["pocket", "4"][-1] <= 1.2 < low
    heavy = max(float(row["mean Σ p, estimated"]) for row in found if row["method"] in races)
    yield f"heavy tails ({heavy:.2f} over 256 positions with N = 4)"


def faults() -> Iterator[str]:
    """What is said of how far samples are from the truth."""
    away = {
        (int(row["N"]), row[""]): {alpha: float(row[name].strip("*")) for alpha, name in _ALPHAS.items()}
        for row in rows(PAGE.text(), "no intervals were made.")
    }
    for number in (4, 16):
        beam = away[number, "beam"]
        samples = [row for (n, name), row in away.items() if n == number and name != "beam"]
        for alpha in _ALPHAS:
            nearest, farthest = min(row[alpha] for row in samples), max(row[alpha] for row in samples)
            if alpha >= 2 and not beam[alpha] < nearest:
                yield f"N = {number}, α = {alpha}: the beam is not nearer than any sample"
            if alpha <= 1 and nearest > beam[alpha]:
                yield f"N = {number}, α = {alpha}: the beam is nearest"
            if alpha == 1 and farthest >= beam[alpha]:
                yield f"N = {number}, α = {alpha}: the beam is not farther than every sample"
        for alpha in (1.5, 2.0, 4.0):
            first, second = away[number, "adaptive, β 2"][alpha], away[number, "stochastic beam, β 2"][alpha]
            if first >= second and (number, alpha) != (4, 1.5):
                yield f"N = {number}, α = {alpha}: the adaptive race is not nearer at β = 2"


PAGE = Page(path="docs/particles.md", said=said, faults=faults)
