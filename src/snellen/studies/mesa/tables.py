"""What came out, over seeds, each number with a t interval, and its difference to the mesa-layer of the same seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from snellen.studies.mesa import looks
from snellen.studies.mesa.experiment import Results
from snellen.studies.mesa.judging import LATE, late, total
from snellen.studies.mesa.tasks import TEXT, setup, setups
from snellen.studies.mesa.variants import BASE, TEXT_BASE, TEXT_VARIANTS, VARIANTS
from snellen.studies.stunting.tables import LEVEL, Mean

Result = Mapping[str, Any]
# Of the predictors that are not trained, as the tables name them.
KNOWN = {
    "known": "told the rule",
    "best": "best possible in context",
    "ridge": "ridge regression, best λ",
    "step": "gradient descent, one step, best rate",
    "zero": "predicting nothing",
}
EARLY = 32  # tokens of a window; what is gained after them is gained from context


@dataclass(frozen=True, kw_only=True)
class Row:
    """A model or known predictor on a task. Differences are paired by seed: its error less that of the mesa-layer."""

    name: str
    says: str
    parameters: int | None
    error: Mean | None
    late: Mean | None
    difference: Mean | None
    late_difference: Mean | None
    refused: Sequence[str] = ()


def rows(results: Results, task: str) -> list[Row]:
    """Known predictors first, then the variants in their order; nothing for a task that was not run."""
    base = {one["seed"]: one["positions"] for one in _of(results.trained, task, BASE)}
    found = []
    references = [one for one in results.references if one["task"] == task]
    for name, says in KNOWN.items():
        known = {one["seed"]: one["positions"][name] for one in references if name in one["positions"]}
        if known:
            found.append(_row(name, says, None, known, base, ()))
    for variant in VARIANTS:
        mine = [one for one in results.trained if (one["task"], one["variant"]) == (task, variant.name)]
        if mine:
            curves = {one["seed"]: one["positions"] for one in mine if not one["refused"]}
            size = next((one["parameters"] for one in mine if one["parameters"]), None)
            refused = tuple(one["refused"] for one in mine if one["refused"])
            found.append(_row(variant.name, variant.says, size, curves, base, refused))
    return found


def _row(
    name: str,
    says: str,
    size: int | None,
    curves: Mapping[int, Sequence[float]],
    base: Mapping[int, Sequence[float]],
    refused: Sequence[str],
) -> Row:
    def over(quantity: Callable[[Sequence[float]], float]) -> tuple[Mean | None, Mean | None]:
        own = {seed: quantity(curve) for seed, curve in curves.items()}
        gaps = [own[seed] - quantity(base[seed]) for seed in own if seed in base]
        return _mean(list(own.values())), _mean(gaps) if name != BASE else None

    (error, difference), (at_the_end, late_difference) = over(total), over(late)
    return Row(
        name=name, says=says, parameters=size, error=error, late=at_the_end, difference=difference,
        late_difference=late_difference, refused=refused,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TextRow:
    """A language model: nats a held-out token. context: what tokens late in a window lose less than early ones."""

    name: str
    says: str
    parameters: int | None
    loss: Mean | None
    context: Mean | None
    difference: Mean | None
    context_difference: Mean | None
    refused: Sequence[str] = ()


def text_rows(results: Results) -> list[TextRow]:
    found = []
    base = {one["seed"]: one for one in _of(results.trained, TEXT, TEXT_BASE)}
    for variant in TEXT_VARIANTS:
        mine = [one for one in results.trained if (one["task"], one["variant"]) == (TEXT, variant.name)]
        good = {one["seed"]: one for one in mine if not one["refused"]}
        if not mine:
            continue

        def gaps(
            quantity: Callable[[Result], float], good: Mapping[int, Result] = good, name: str = variant.name
        ) -> Mean | None:
            paired = [quantity(one) - quantity(base[seed]) for seed, one in good.items() if seed in base]
            return _mean(paired) if name != TEXT_BASE else None

        found.append(
            TextRow(
                name=variant.name, says=variant.says,
                parameters=next((one["parameters"] for one in mine if one["parameters"]), None),
                loss=_mean([nats_a_token(one) for one in good.values()]),
                context=_mean([from_context(one) for one in good.values()]),
                difference=gaps(nats_a_token), context_difference=gaps(from_context),
                refused=tuple(one["refused"] for one in mine if one["refused"]),
            )
        )  # fmt: skip
    return found


def nats_a_token(result: Result) -> float:
    return float(sum(result["nats"]) / sum(result["count"]))


def from_context(result: Result) -> float:
    """Loss of the first `EARLY` tokens of a window less that of the second half of it, nats a token."""
    half = len(result["nats"]) // 2
    early = sum(result["nats"][:EARLY]) / sum(result["count"][:EARLY])
    return float(early - sum(result["nats"][half:]) / sum(result["count"][half:]))


def _of(trained: Sequence[Result], task: str, name: str) -> list[Result]:
    return [one for one in trained if (one["task"], one["variant"]) == (task, name) and not one["refused"]]


def _mean(values: Sequence[float]) -> Mean | None:
    return Mean.of(values) if values else None


def shown(mean: Mean | None, *, digits: int = 5, signed: bool = False) -> str:
    """A mean as a table has it, with its interval."""
    if mean is None:
        return ""
    sign = "+" if signed else ""
    text = f"{mean.value:{sign}.{digits}f}"
    return text if mean.low is None else f"{text} [{mean.low:.{digits}f}, {mean.high:.{digits}f}]"


def document(results: Results) -> str:
    """All tables of the results page."""
    parts = [
        f"### {one.name}: {one.says}\n\n{_task_table(ranked, one.name)}"
        for one in setups()
        if (ranked := rows(results, one.name))
    ]
    text = text_rows(results)
    if text:
        parts.append(f"### Text\n\n{_text_table(text)}")
    if found := looks.document(results):
        parts.append(found)
    parts.append(f"### Learning rates that were chosen\n\n{_rates(results)}\n\n{at_the_edge(results.tuning)}")
    return "\n\n".join(parts)


def _task_table(found: Sequence[Row], task: str) -> str:
    one_position = setup(task).in_pairs
    head = ["", "parameters", "error"] + ([] if one_position else [f"last {LATE}"])
    head += [f"less `{BASE}`"] + ([] if one_position else [f"last {LATE}, less `{BASE}`"])
    lines = [_line(head), _line(["---"] * len(head))]
    for row in found:
        name = row.says if row.parameters is None and not row.refused else f"`{row.name}`: {row.says}"
        cells = [name, f"{row.parameters:,}" if row.parameters else "", shown(row.error)]
        cells += [] if one_position else [shown(row.late)]
        cells += [shown(row.difference, signed=True)]
        cells += [] if one_position else [shown(row.late_difference, signed=True)]
        if row.refused:
            cells[0] += f" ({len(row.refused)} refused: {row.refused[0]})"
        lines.append(_line(cells))
    return "\n".join(lines)


def _text_table(found: Sequence[TextRow]) -> str:
    less = f"less `{TEXT_BASE}`"
    head = ["", "parameters", "nats a token", less, "gained from context", less]
    lines = [_line(head), _line(["---"] * len(head))]
    for row in found:
        cells = [
            f"`{row.name}`: {row.says}", f"{row.parameters:,}" if row.parameters else "", shown(row.loss),
            shown(row.difference, signed=True), shown(row.context), shown(row.context_difference, signed=True),
        ]  # fmt: skip
        if row.refused:
            cells[0] += f" ({len(row.refused)} refused: {row.refused[0]})"
        lines.append(_line(cells))
    return "\n".join(lines)


def _rates(results: Results) -> str:
    """The loss at the end of a training with each learning rate; the least is chosen."""
    tried = sorted({one["rate"] for one in results.tuning})
    lines = [_line(["task", "variant", *(f"{rate:g}" for rate in tried)]), _line(["---"] * (2 + len(tried)))]
    for task, name in dict.fromkeys((one["task"], one["variant"]) for one in results.tuning):
        mine = {one["rate"]: one for one in results.tuning if (one["task"], one["variant"]) == (task, name)}
        least = min((one["loss"] for one in mine.values() if one["loss"] is not None), default=None)
        cells = []
        for rate in tried:
            loss = mine[rate]["loss"] if rate in mine else None
            text = "" if rate not in mine else "diverged" if loss is None else f"{loss:.4f}"
            cells.append(f"**{text}**" if loss is not None and loss == least else text)
        lines.append(_line([task, name, *cells]))
    return "\n".join(lines)


def at_the_edge(tuning: Sequence[Result]) -> str:
    """Which chosen rates are the least or the largest of those tried, beyond which a better one may lie."""
    found: dict[str, list[str]] = {}
    pairs = dict.fromkeys((one["task"], one["variant"]) for one in tuning)
    for task, name in pairs:
        mine = [one for one in tuning if (one["task"], one["variant"]) == (task, name)]
        good = [one for one in mine if one["loss"] is not None]
        if not good:
            continue
        rates = sorted(one["rate"] for one in mine)
        chosen = min(good, key=lambda one: (one["loss"], one["rate"]))["rate"]
        if chosen in (rates[0], rates[-1]):
            end = "only one" if len(rates) == 1 else "largest" if chosen == rates[-1] else "least"
            found.setdefault(f"{task}, the {end} ({chosen:g})", []).append(f"`{name}`")
    number = sum(map(len, found.values()))
    if not number:
        return f"None of the {len(pairs)} chosen rates is at the edge of what was tried."
    where = "; ".join(f"{place}: {', '.join(names)}" for place, names in found.items())
    beyond = "are at the edge of what was tried, and a better one may lie beyond"
    return f"{number} of the {len(pairs)} chosen rates {beyond}. {where}."


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


__all__ = ["KNOWN", "LEVEL", "Row", "TextRow", "at_the_edge", "document", "rows", "shown", "text_rows"]
