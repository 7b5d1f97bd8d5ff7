"""The tables of docs/results/genres.md, from genres.csv: python scripts/genres/tables.py genres.csv"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from draw import GENRES, HELD_OUT, MODELS, Row, clear, read, step, thousandths

WIDTHS, HORIZONS = (2, 4, 8), (2, 4, 8)


def interval(row: Row, prefix: str = "") -> str:
    """In thousandths of a nat."""
    value = thousandths(row["placebo"] if prefix else row["gain"])
    low, high = row[f"{prefix}low"], row[f"{prefix}high"]
    return f"{value} (no interval)" if low is None else f"{value} [{thousandths(low)}, {thousandths(high)}]"


def marked(row: Row) -> str:
    return f"**{interval(row)}**" if clear(row) else interval(row)


def seen(row: Row) -> str:
    """The gain that would have been found four times in five, in thousandths of a nat."""
    return "none" if row["detectable"] is None else thousandths(row["detectable"])


def mix(row: Row) -> str:
    """What was fitted on the whole text: α and the weight of the mix, or none."""
    if row["fitted_kind"] == "none":
        return "none"
    return f"α {row['fitted_alpha']:g}, {row['fitted_kind']}, w {row['fitted_weight']:.2f}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def at(rows: list[Row], **wanted: object) -> list[Row]:
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def genres(rows: list[Row]) -> str:
    """The greatest width and horizon, with all that belongs to a gain."""
    head = [
        "model",
        "text",
        "tokens",
        "documents",
        "naive",
        "**gain**",
        "detectable",
        "best control",
        "placebo",
        "fitted",
        "memorised",
    ]
    out = []
    for model, name in MODELS.items():
        for genre in GENRES:
            for row in at(rows, model=model, text=genre, width=8, horizon=8, alpha=None):
                memorised = f"{100 * row['memorised']:.1f} %"
                if row["without_memorised"] is not None:
                    rest = {end: row[f"without_memorised_{end}"] for end in ("low", "high")}
                    memorised += f"; without {interval({'gain': row['without_memorised'], **rest})}"
                cells = [
                    name,
                    genre,
                    f"{row['tokens']:,.0f}",
                    f"{row['units']:.0f}",
                    f"{row['naive']:.3f}",
                    marked(row),
                ]
                out.append([*cells, seen(row), row["best_control"], interval(row, "placebo_"), mix(row), memorised])
    return table(head, out)


def grid(rows: list[Row], texts: Sequence[str]) -> str:
    """All widths and horizons."""
    out = []
    for model, name in MODELS.items():
        for text in texts:
            found = {(row["width"], row["horizon"]): row for row in at(rows, model=model, text=text, alpha=None)}
            if found:
                cells = [marked(found[w, d]) for d in HORIZONS for w in WIDTHS]
                out.append([name, text, *cells])
    return table(["model", "text", *(f"W {w}, D {d}" for d in HORIZONS for w in WIDTHS)], out)


def line_ends(rows: list[Row]) -> str:
    head = ["model", "line", "D", "words", "poems", "naive", "**gain**", "detectable", "best control"]
    head += ["placebo", "fitted"]
    out = []
    for model, name in MODELS.items():
        for role in ("first line", "second line"):
            for horizon in HORIZONS:
                for row in at(rows, model=model, text=f"line ends: {role}", horizon=horizon, alpha=None):
                    cells = [name, role, str(horizon), f"{row['tokens']:.0f}", f"{row['units']:.0f}"]
                    cells += [
                        f"{row['naive']:.3f}",
                        marked(row),
                        seen(row),
                        row["best_control"],
                        interval(row, "placebo_"),
                    ]
                    out.append([*cells, mix(row)])
    return table(head, out)


def checkpoints(rows: list[Row]) -> str:
    found = at(rows, text=HELD_OUT, horizon=4, alpha=None)
    out = []
    for model in sorted({row["model"] for row in found}, key=step):
        own = {row["width"]: row for row in at(found, model=model)}
        row = own[8]
        cells = [f"{step(model):,}", f"{row['tokens']:,.0f}", f"{row['units']:.0f}", f"{row['naive']:.3f}"]
        cells += [marked(own[w]) for w in WIDTHS]
        out.append(
            [*cells, row["best_control"], interval(row, "placebo_"), mix(row), f"{100 * row['memorised']:.1f} %"]
        )
    head = ["step", "tokens", "documents", "naive", "gain, W 2", "W 4", "**W 8**", "best control", "placebo", "fitted"]
    return table([*head, "memorised"], out)


def census(rows: list[Row]) -> str:
    """How many intervals there are, and how many do not hold 0."""
    out = []
    groups = {
        "chess again, α fitted": [r for r in rows if r["text"].startswith("chess, ") and r["alpha"] is None],
        "genres, α fitted": [r for r in rows if r["text"] in GENRES and r["alpha"] is None],
        "genres, α fixed": [r for r in rows if r["text"] in GENRES and r["alpha"] is not None],
        "line ends, α fitted": [r for r in rows if r["text"].startswith("line ends") and r["alpha"] is None],
        "line ends, α fixed": [r for r in rows if r["text"].startswith("line ends") and r["alpha"] is not None],
        "checkpoints, α fitted": [r for r in rows if r["text"] == HELD_OUT and r["alpha"] is None],
        "checkpoints, α fixed": [r for r in rows if r["text"] == HELD_OUT and r["alpha"] is not None],
    }
    for name, everything in groups.items():
        group = [row for row in everything if row["low"] is not None]
        if not group:
            continue
        most = max(group, key=lambda row: row["high"])
        where = f"{MODELS.get(most['model'], most['model'])}, {most['text']}"
        where += f", W {most['width']:.0f}, D {most['horizon']:.0f}"
        if most["alpha"] is not None:
            where += f", α {most['alpha']:g}"
        placebos = sum(row["placebo_low"] is not None and row["placebo_low"] > 0 for row in group)
        above, below = (sum(clear(row) == side for row in group) for side in (1, -1))
        counts = [str(len(group)), f"{0.025 * len(group):.1f}", str(above), str(below), str(placebos)]
        out.append([name, *counts, f"{thousandths(most['high'])} ({where})"])
    head = ["question", "intervals", "2.5 % of them", "above 0", "below 0", "placebos above 0"]
    return table([*head, "greatest upper bound"], out)


def main(path: Path) -> None:
    rows = read(path)
    for title, text in {
        "Genres, W = D = 8": genres(rows),
        "Genres, all widths and horizons": grid(rows, GENRES),
        "Chess again, other games": grid(
            rows, sorted({row["text"] for row in rows if row["text"].startswith("chess, ")})
        ),
        "Line ends": line_ends(rows),
        "Checkpoints": checkpoints(rows),
        "Census": census(rows),
    }.items():
        print(f"## {title}\n\n{text}\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]))
