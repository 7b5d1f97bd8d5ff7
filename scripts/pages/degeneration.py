"""docs/results/degeneration.md, from `dead-ends.json` (`scripts/degeneration/dead_ends.py`) and `degeneration.json`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from scipy import stats

from pages.page import RESULTS, Page, short

_MIX = {"amplified, w = 0.2, α = 2": (0.2, 2), "amplified, w = 0.5, α = 2": (0.5, 2),
        "amplified, w = 1, α = 1": (1, 1), "amplified, w = 1, α = 2": (1, 2)}  # fmt: skip
_SHOWN = ("pure", "nucleus 0.9", "greedy", "beam 4", *_MIX, "power, α = 2")
_REACH = {"planless": 4, "couplets": 3}  # the horizon that sees how a choice ends
HUMAN = "human text, or the planning author"
_REPEATS, _LOOP = "seq-rep-4", "ends in a loop"


def _dead() -> dict[tuple[str, str], dict[str, Any]]:
    content = json.loads((RESULTS / "dead-ends.json").read_text(encoding="utf-8"))
    return {(row["organism"], row["decoding"]): row for row in content["rows"]}


def _text() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((RESULTS / "degeneration.json").read_text(encoding="utf-8"))
    return content


def _dead_name(organism: str, shown: str) -> str:
    if shown in _MIX:
        weight, alpha = _MIX[shown]
        return f"amplified D = {_REACH[organism]}, w {weight:g}, α {alpha:g}"
    author = "planning author" if organism == "planless" else "rhyming author"
    return {HUMAN: author, "power, α = 2": "power α 2"}.get(shown, shown)


def _text_name(shown: str) -> str:
    if shown in _MIX:
        weight, alpha = _MIX[shown]
        return f"amplified w {weight:g} α {alpha:g}"
    return {HUMAN: "human", "power, α = 2": "power α 2"}.get(shown, shown)


def table() -> str:
    dead, text = _dead(), _text()["numbers"]
    head = ["decoding", "dead ends: arms", "dead ends: couplets", "seq-rep-4, pocket", "ends in a loop, pocket"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for shown in (HUMAN, *_SHOWN):
        cells = [shown]
        for organism in _REACH:
            row = dead[organism, _dead_name(organism, shown)]
            cells.append(_share(row["value"], row["low"], row["high"]))
        mine = text.get(_text_name(shown))
        cells += ["not run"] * 2 if mine is None else [_share(*mine[name][:3]) for name in (_REPEATS, _LOOP)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def seeds() -> str:
    """The rate of each model, and what is avoided against pure sampling by the same models."""
    dead = _dead()
    lines = ["| decoding | arms, each model | less pure | couplets, each model | less pure |", "|---|---|---|---|---|"]
    for shown in _SHOWN:
        cells = [shown]
        for organism in _REACH:
            rates = dead[organism, _dead_name(organism, shown)]["by_seed"]
            cells.append(" ".join(f"{100 * rate:.1f}" for rate in rates))
            cells.append("" if shown == "pure" else _points(*_paired(organism, shown)))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _paired(organism: str, shown: str) -> tuple[float, float, float]:
    """Rate less that of pure sampling, paired by model: Student's over the three."""
    dead = _dead()
    rates = (dead[organism, _dead_name(organism, name)]["by_seed"] for name in (shown, "pure"))
    apart = np.subtract(*rates)
    reach = stats.t.ppf(0.975, len(apart) - 1) * apart.std(ddof=1) / np.sqrt(len(apart))
    return float(apart.mean()), float(apart.mean() - reach), float(apart.mean() + reach)


def _share(value: float, low: float, high: float) -> str:
    shown = "0" if value == 0 else f"{100 * value:.1f}"
    ends = ["0" if end == 0 else f"{100 * end:.1f}" for end in (low, high)]
    return f"{shown} % [{ends[0]}, {ends[1]}]"


def _points(value: float, low: float, high: float) -> str:
    if low == high:
        return "the same" if value == 0 else _one(value, signed=True)
    return f"{_one(value, signed=True)} [{_one(low)}, {_one(high)}]"


def _one(share: float, *, signed: bool = False) -> str:
    """A share in per cent, with a zero before the point."""
    text = short(100 * share, 1, signed=signed)
    return text.replace("−.", "−0.").replace("+.", "+0.") if text[0] in "−+" else f"0{text}" if text[0] == "." else text


def _means(values: Sequence[float], digits: int = 2) -> str:
    value, low, high = values
    return f"{_signed(value, digits)} [{_signed(low, digits)}, {_signed(high, digits)}]"


def _signed(value: float, digits: int) -> str:
    text = f"{abs(value):.{digits}f}"
    return text if not text.strip("0.") else f"{'−' if value < 0 else '+'}{text}"


def said() -> Iterator[str]:
    yield from _said_of_dead_ends()
    yield from _said_of_text()


def _said_of_dead_ends() -> Iterator[str]:
    dead = _dead()

    def rate(organism: str, name: str) -> str:
        return f"{100 * dead[organism, name]['value']:.1f} %"

    arms, couplets = "planless", "couplets"
    least, sure = (_paired(organism, "amplified, w = 0.2, α = 2") for organism in _REACH)
    yield f"{_points(*least)} points of dead ends on arms, {_points(*sure)} on couplets"
    assert least[2] < 0 < sure[2]
    full = [_paired(organism, "amplified, w = 1, α = 1") for organism in _REACH]
    yield f"w = 1, α = 1 avoids {-100 * full[0][0]:.0f} and {-100 * full[1][0]:.0f} points"
    blind = [rate(o, f"amplified D = {_REACH[o] - 1}, w {w}, α {a}") for o in _REACH for w, a in (("0.2", 2), ("1", 1))]
    yield f"(arms, D = 3: {blind[0]} at w = 0.2, {blind[1]} at w = 1; couplets, D = 2: {blind[2]} and {blind[3]};"
    apart = [
        abs(dead[o, name]["value"] - dead[o, name.replace(f"D = {_REACH[o] - 1}", "D = 1")]["value"]) * 900
        for o, name in dead
        if f"D = {_REACH[o] - 1}," in name
    ]
    yield f"equals horizon 1 to within {max(apart):.0f} prompt{'s' if round(max(apart)) != 1 else ''} of 900"
    falls = [
        np.less(dead[o, _dead_name(o, name)]["by_seed"], dead[o, "pure"]["by_seed"]).all()
        for o in _REACH
        for name in _MIX
    ]
    assert all(falls)  # "With the verdict in reach the rate falls with all three models of both languages."
    wide, narrow = (f"amplified D = {_REACH[arms]}, w 1, α 2{end}" for end in ("", ", W 4"))
    yield f"Arms at w = 1, α = 2: {rate(arms, wide)} with W = 16, {rate(arms, narrow)} with W = 4"
    wide, narrow = (f"amplified D = {_REACH[couplets]}, w 1, α 2{end}" for end in ("", ", W 4"))
    yield f"On couplets the two widths differ by little ({rate(couplets, wide)} and {rate(couplets, narrow)})"
    assert dead[arms, "power α 4"]["value"] == dead[arms, "beam 4"]["value"] == 0
    yield f"(at α = 4 no dead end in 900 on arms, {rate(couplets, 'power α 4')} on couplets)"
    each = " ".join(f"{100 * rate:.1f}" for rate in dead[arms, "greedy"]["by_seed"])
    yield f"greedy on arms: {each} %"


def _said_of_text() -> Iterator[str]:
    content = _text()
    text, beyond = content["numbers"], content["beyond horizon 1"]
    mixes = {name: _text_name(name) for name in _MIX if _text_name(name) in text}
    low, half, full = mixes.values()

    def apart(name: str, metric: str = _REPEATS) -> list[float]:
        return list(text[name][metric][3:])

    # "repeat no more than people": the difference from the human text reaches 0, or lies below it.
    modest = [name for name in map(_text_name, _SHOWN) if name in text and apart(name)[1] <= 0]
    assert modest == ["pure", "nucleus 0.9", low], modest
    less = [name for name in modest if apart(name)[2] < 0]
    assert less == modest[:2]
    yield f"({_points(*apart('pure'))} points of seq-rep-4 and {_points(*apart('nucleus 0.9'))})"
    yield f"{_points(*apart(low))} at w = 0.2"
    yield f"Nor beyond the same decoding at horizon 1: {_points(*beyond[low][_REPEATS])}"
    yield (f"{_points(*beyond[half][_REPEATS])} at w = 0.5, and {_points(*beyond[full][_REPEATS])} at w = 1, α = 1")
    human = text["human"]
    pairs = [100 * one["distinct-2"][0] for one in (human, text[half], text[full])]
    yield f"fall from {pairs[0]:.1f} % (human) to {pairs[1]:.1f} % and {pairs[2]:.1f} %"
    prompts = content["n"]["prompts"]
    loops = [round(prompts * text[name][_LOOP][0]) for name in (full, "greedy")]
    yield f"({loops[0]} of {prompts} at w = 1, against {loops[1]} of greedy's)"
    likely = {name: apart(name, "log-probability") for name in text if name != "human"}
    yield (
        f"greedy {_signed(likely['greedy'][0], 2)} nats a token over the human text, beam 4 "
        f"{_signed(likely['beam 4'][0], 2)}, power {_signed(likely['power α 2'][0], 2)}, amplified "
        f"{_means(likely[low])} at w = 0.2, {_signed(likely[half][0], 2)} at 0.5, {_signed(likely[full][0], 2)} at 1; "
        f"pure {_means(likely['pure'])}"
    )
    drift, fall = "drift of log-probability", "drift of entropy"
    yield (
        f"for greedy ({_means(text['greedy'][drift][:3])} nats per 100 tokens; over the human text "
        f"{_means(apart('greedy', drift))})"
    )
    others = ("beam 4", "power α 2", half, full)
    assert all(text[name][drift][1] > 0 and apart(name, drift)[1] <= 0 <= apart(name, drift)[2] for name in others)
    calm = ("pure", "nucleus 0.9", low)
    assert all(apart(name, what)[1] <= 0 <= apart(name, what)[2] for name in calm for what in (drift, fall))
    assert all(text[name][fall][2] < 0 for name in ("greedy", *others))
    yield (
        f"(greedy {_signed(text['greedy'][fall][0], 2)}, amplified at w = 1 {_signed(text[full][fall][0], 2)}, power "
        f"{_signed(text['power α 2'][fall][0], 2)} per 100 tokens; human {_means(human[fall][:3])})"
    )
    check = text["pure"]["log-probability + entropy"][:3]
    assert check[1] <= 0 <= check[2]
    yield f"log p + H = {_means(check)}, which must contain 0"
    yield f"Human loops are bounded at {100 * human[_LOOP][2]:.1f} %, not at 0"


PAGE = Page(path="docs/results/degeneration.md", blocks={"table": table, "models": seeds}, said=said)
