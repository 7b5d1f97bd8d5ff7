"""docs/results/mesa.md. The results of its trainings were not kept: tables were copied from what the sweep printed.

Made here is what follows from the table of learning rates; the sentences are held against the tables.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pages.page import Page, by, cell, numbers, rows, short
from snellen.studies.mesa.tables import KNOWN, at_the_edge

_TASKS = ("full", "partial", "contracting", "nonlinear", "regression", "fixed")
_LATE, _LESS, _LATE_LESS = "last 10", "less `mesa`", "last 10, less `mesa`"
Rows = Mapping[str, Mapping[str, str]]


def _task(task: str) -> Rows:
    """By the name of the variant, or `ridge`, `step` …"""
    text = PAGE.text()
    title = next(line for line in text.splitlines() if line.startswith(f"### {task}: ") and "predict" not in line)
    if task in ("full", "fixed"):
        title = next(line for line in text.splitlines() if line.startswith(f"### {task}: ") and "system" in line)
    short_names = {says: name for name, says in KNOWN.items()}
    return {
        short_names.get(row[""], row[""].split("`")[1] if "`" in row[""] else ""): row
        for row in rows(text, f"{title}\n")
    }


def _looks(task: str) -> Rows:
    return by(rows(PAGE.text(), f"### {task}: do they predict as an optimiser does?\n"), "")


def _rates() -> list[dict[str, object]]:
    """The tuning, as the study has it."""
    found = rows(PAGE.text(), "### Learning rates that were chosen\n")
    return [
        {"task": row["task"], "variant": row["variant"], "rate": float(rate), "loss": numbers(text)[0]}
        for row in found
        for rate, text in row.items()
        if rate not in ("task", "variant") and text
    ]


def said() -> Iterator[str]:
    full, partial, contracting, nonlinear, regression, fixed = (_task(task) for task in _TASKS)

    def error(table: Rows, name: str, digits: int, column: str = "error", *, interval: bool = False) -> str:
        return cell(table[name][column], digits, interval=interval)

    yield f"to within {short(-numbers(full['ridge'][_LESS])[0], 4)} of the best ridge regression"
    yield (
        f"({error(full, 'mesa', 4)} against {error(full, 'ridge', 4)}), six linear layers to "
        f"{error(full, 'linear-6', 3)}, six softmax layers to {error(full, 'softmax-6', 3)}"
    )
    yield f"({error(partial, 'mesa', 2)} against {error(partial, 'softmax-6', 2)})"
    yield f"four times the steps take six softmax layers to {error(full, 'softmax-6-long', 3)}"
    yield (
        f"Six linear layers lose {error(full, 'linear-6', 3, _LESS, interval=True)} more than one mesa-layer, six "
        f"softmax layers {error(full, 'softmax-6', 3, _LESS, interval=True)}"
    )
    yield (
        f"(last 10: {error(full, 'mesa', 4, _LATE)}; ridge {error(full, 'ridge', 4, _LATE)}, told the rule "
        f"{error(full, 'known', 4, _LATE)})"
    )
    yield f"`mesa-small` ({full['mesa-small']['parameters']} parameters) is at {error(full, 'mesa-small', 4)}"
    yield f"({error(partial, 'mesa', 2)} against {error(partial, 'ridge', 2)})"
    longer = numbers(full["softmax-6-long"][_LATE])[0], numbers(full["mesa"][_LATE])[0]
    yield (
        f"go from {error(full, 'softmax-6', 3)} to {error(full, 'softmax-6-long', 3)}, and at the last 10 positions "
        f"from {error(full, 'softmax-6', 3, _LATE)} to {short(longer[0], 3)}, still {longer[0] / longer[1]:.0f} "
        "times the mesa-layer's"
    )
    yield f"on `full`, from plain tokens: {error(full, 'hybrid', 3)}"
    yield f"(softmax {error(full, 'softmax-6-plain', 2)}, linear {error(full, 'linear-6-plain', 2)})"
    yield f"does not learn it either ({error(partial, 'hybrid', 2)})"
    yield (
        f"`nonlinear`: {error(nonlinear, 'mesa', 4)} against {error(nonlinear, 'softmax-6', 4)} of six softmax "
        "layers, whose interval of the difference holds 0"
    )
    _, low, high = numbers(nonlinear["softmax-6"][_LESS])
    assert low <= 0 <= high
    ahead, low, high = (-x for x in numbers(nonlinear["softmax-6"][_LATE_LESS]))
    yield f"softmax is ahead by {short(ahead, 4)} [{short(high, 4)}, {short(low, 4)}]"
    yield f"ridge regression on the states ({error(nonlinear, 'ridge', 3)})"
    ahead, low, high = (-x for x in numbers(contracting["softmax-6"][_LESS]))
    yield f"softmax is ahead by {short(ahead, 3)} [{short(high, 3)}, {short(low, 3)}]"
    yield f"ridge regression with a larger λ ({error(contracting, 'ridge', 2)}) beats all"
    trained = [name for name in contracting if contracting[name]["parameters"]]
    assert min(numbers(contracting[name]["error"])[0] for name in trained) > numbers(contracting["ridge"]["error"])[0]
    yield (
        f"{error(regression, 'mesa-small', 2)} and {error(regression, 'hybrid', 2)}, where six linear layers have "
        f"{error(regression, 'linear-6', 2)} and one step of gradient descent {error(regression, 'step', 2)}"
    )
    yield f"as a pair with target 0, has {error(regression, 'ridge', 3)}"
    lost = [numbers(fixed[name]["error"])[0] for name in ("mesa", "linear-6", "softmax-6")]
    yield f"({short(min(lost), 4)} to {short(max(lost), 4)})"
    yield from _said_of_looks()
    yield from _said_of_text()


def _said_of_looks() -> Iterator[str]:
    full, partial = _looks("full"), _looks("partial")
    regress = {"mesa", "mesa-small", "hybrid"}
    assert all(full[name]["an optimiser?"] == "yes 3" and numbers(full[name]["cosine"])[0] >= 0.99 for name in regress)
    assert all(
        row["an optimiser?"] == "no 3"
        for task in ("fixed", "partial", "nonlinear", "contracting")
        for row in _looks(task).values()
    )
    assert full["linear-6"]["an optimiser?"] == full["softmax-6-long"]["an optimiser?"] == "yes 3"
    yield f"ridge regression with cosine {cell(full['linear-6']['cosine'], 2)}"
    yield f"(cosine {cell(full['softmax-6']['cosine'], 2)}; *no* twice, *undecided* once)"
    assert full["softmax-6"]["an optimiser?"] == "no 2, undecided 1"
    yield f"with four times the steps ({cell(full['softmax-6-long']['cosine'], 2)}, *yes* three times)"
    mesa = partial["mesa"]
    yield (
        f"follow ridge regression ({cell(mesa['follows'], 2)}) and explain it ({cell(mesa['explained'], 2)}), and "
        f"fail by the derivative ({cell(mesa['cosine'], 2)}, bar .95)"
    )
    copying = by(rows(PAGE.text(), "### full: copying, and softmax layers as linear ones\n"), "")
    share = next(text for name, text in copying["hybrid"].items() if name.startswith("share"))
    yield f"{cell(share, 2)} of what it hears of the past is the previous token"
    held = by(rows(PAGE.text(), "### full: what the residual streams hold\n"), "")["linear-6"]["preconditioned input"]
    value, _, _, layer, beyond, *_ = numbers(held)
    yield (
        f"the preconditioned input is read off after layer {layer:.0f} with R² {short(value, 2)}, "
        f"{short(beyond, 2)} beyond all controls"
    )


def _said_of_text() -> Iterator[str]:
    one = {row[""].split("`")[1]: row for row in rows(PAGE.text(), "### Text\n")}
    loss, less, gained = "nats a token", "less `softmax-mesa`", "less `softmax-mesa`, again"
    base, linear, softmax = (one[name] for name in ("softmax-mesa", "softmax-linear", "softmax"))
    yield (
        f"Mesa {numbers(base[loss])[0]:.2f}; linear {cell(linear[less], 2, interval=True)} more; softmax alone "
        f"{cell(softmax[less], 2, interval=True)} more"
    )
    context = "gained from context"
    first, second = ([-x for x in numbers(row[gained])] for row in (softmax, linear))
    yield (
        f"mesa falls by {cell(base[context], 3)}, softmax alone by {cell(softmax[context], 3)} "
        f"({short(first[0], 3)} [{short(first[2], 3)}, {short(first[1], 3)}] less), linear by "
        f"{cell(linear[context], 3)} ({short(second[0], 3)} [{short(second[2], 3)}, {short(second[1], 3)}] less)"
    )


PAGE = Page(path="docs/results/mesa.md", blocks={"edges": lambda: at_the_edge(_rates())}, said=said)
