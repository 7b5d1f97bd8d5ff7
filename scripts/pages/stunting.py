"""docs/results/stunting.md. The results of its trainings were not kept: tables were copied from what the sweep printed.

So no table is made here. The sentences are held against the tables, and the tables against the one record that is
left, the picture, which has the losses that it draws in full.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from pages.page import ROOT, Page, by, cell, numbers, rows, short

_PICTURE = ROOT / "docs/pictures/stunting.svg"
_STEPS = {150: "## The gain, step 150\n", 300: "## The gain, step 300\n", 500: "## The gain, step 500\n",
          700: "## The gain, step 700\n", 1000: "## At the end\n"}  # fmt: skip
Rows = Mapping[str, Mapping[str, str]]


def _rows(after: str) -> Rows:
    return by(rows(PAGE.text(), after), "trained")


def said() -> Iterator[str]:
    end, less = _rows("## At the end\n"), _rows("## At the end, less the ordinary training of the same seed\n")
    probe = _rows("## Is the decision represented before it is made\n")
    at = {step: _rows(after) for step, after in _STEPS.items()}

    def of(name: str, column: str, digits: int = 2, *, interval: bool = False) -> str:
        return cell(end[name][column], digits, interval=interval)

    delayed = ("balance", "particle", "penalty, strength 4")

    def span(column: str, names: tuple[str, ...] = delayed) -> str:
        values = sorted(numbers(end[name][column])[0] for name in names)
        return f"{short(values[0], 2)} to {short(values[-1], 2)}"

    yield (
        f"lacks {of('ordinary', 'decision')} nats of the best choice and lookahead adds "
        f"{of('ordinary', 'gain', interval=True)}"
    )
    yield (
        f"({of('adversarial', 'decision')}, where guessing lacks .98), lookahead adds "
        f"{of('adversarial', 'gain', interval=True)}"
    )
    yield f"({of('adversarial', 'amplified', 3)} against {of('ordinary', 'amplified', 3)})"
    yield f"the model alone lacks {span('decision')}, lookahead adds {span('gain')}, together {span('amplified')}"
    gains = [cell(at[step]["ordinary"]["gain"], 2) for step in (300, 500, 1000) if step != 1000]
    yield (
        f"({gains[0]} nats at step 300, when the model has learned to check), then less and less ({gains[1]} at "
        f"500, {of('ordinary', 'gain')} at 1,000)"
    )
    yield f"the probe goes from {cell(at[300]['ordinary']['probe'], 2)} to {cell(probe['ordinary']['probe'], 2)}"
    yield f"({cell(probe['adversarial']['probe'], 2, interval=True)}; ordinary {cell(probe['ordinary']['probe'], 2)})"
    yield f"({of('adversarial', 'decision', interval=True)}; guessing is .98)"
    yield (
        f"At step 500 balance lacks {cell(at[500]['balance']['decision'], 2)} and lookahead adds "
        f"{cell(at[500]['balance']['gain'], 2)}"
    )
    yield (
        f"at 1,000 {of('balance', 'decision')} and {of('balance', 'gain')}, and the probe stands at "
        f"{cell(probe['balance']['probe'], 2, interval=True)}"
    )
    alike = ("balance", "adversarial", "penalty, strength 4", "ordinary")
    shown = [of(name, "amplified", 3, interval=True) for name in alike]
    yield f"balance lacks {shown[0]}, adversarial {shown[1]}, penalty 4 {shown[2]}, ordinary {shown[3]}"
    ends = [numbers(less[name]["amplified"]) for name in alike[:3]]
    assert all(low <= 0 <= high for _, low, high in ends)
    yield f"hold 0 for all of these, and none reaches above {short(max(high for *_, high in ends), 2)}"
    yield (
        f"leaves the model at {of('balance, D = 3', 'decision', interval=True)} where the ordinary one is at "
        f"{of('ordinary', 'decision', interval=True)}"
    )
    whole, blind = (numbers(less[name]["decision"])[0] for name in ("balance", "balance, D = 3"))
    yield f"is the rest, {short(whole - blind, 2)} of {short(whole, 2)}"
    sharpened = tuple(f"{name}, naive, D = 1" for name in ("penalty", "balance", "particle"))
    yield f"{span('decision', sharpened)} for penalty, balance and particles"
    harm = "adversarial, naive, D = 1"
    yield f"does harm ({of(harm, 'decision')}, and {of(harm, 'amplified')} amplified)"
    yield f"({of('balance, naive', 'decision')}, gain {of('balance, naive', 'gain', interval=True)})"
    step, gradient = "balance, step", "balance, gradient"
    yield (
        f"(the step: {of(step, 'decision')}, gain {of(step, 'gain', interval=True)}; the gradient: "
        f"{of(gradient, 'decision')}, {of(gradient, 'gain', interval=True)})"
    )
    yield f"it unlearns the states ({of('skip', 'states')}) and the verdict ({of('skip', 'verdict', 1)})"
    yield f"({of('skip, naive', 'states')} and {of('skip, naive', 'verdict', 1)})"
    blind_skip = "skip, naive, D = 1"
    yield f"({of(blind_skip, 'states', 1)} and {of(blind_skip, 'verdict', 1)})"
    yield f"({of('myopic', 'states')} after 1,000 steps; ordinary {of('ordinary', 'states', 3)})"
    yield (
        f"gains {cell(at[300]['myopic']['gain'], 2, interval=True)} at step 300 and "
        f"{of('myopic', 'gain', interval=True)} at the end"
    )
    yield f"neither the choice ({of('masked', 'decision')}) nor the states ({of('masked', 'states')})"


def faults() -> Iterator[str]:
    """What differs between the tables and the picture, whose panels stand in the order of the tables' rows."""
    drawn = [
        (int(step), float(loss), reader)
        for step, loss, reader in re.findall(
            r'aria-label="step: (\d+); loss: ([\d.]+); the model: (alone|with lookahead)"', _PICTURE.read_text()
        )
    ]
    panels: list[dict[tuple[int, str], float]] = []
    for step, loss, reader in drawn:
        if not panels or (step < max(s for s, _ in panels[-1]) and step == min(_STEPS)):
            panels.append({})
        panels[-1][step, reader] = loss
    names = list(_rows("## At the end\n"))
    if len(panels) != len(names):
        yield f"{_PICTURE.name} has {len(panels)} panels, the table {len(names)} rows"
        return
    for step, after in _STEPS.items():
        table = _rows(after)
        for name, panel in zip(names, panels, strict=True):
            for column, reader in (("decision", "alone"), ("amplified", "with lookahead")):
                written = table[name].get(column)
                if written and f"{panel[step, reader]:.3f}" != f"{numbers(written)[0]:.3f}":
                    yield f"{name}, step {step}: {column} {written}, {_PICTURE.name} has {panel[step, reader]:.3f}"


PAGE = Page(path="docs/results/stunting.md", said=said, faults=faults)
