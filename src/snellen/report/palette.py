"""Colours of charts: placeholders that the style sheet replaces, so that one drawing serves light and dark.

A chart is drawn with colours that occur nowhere else; `palette_css` turns each into the CSS variable of the page.
"""

from __future__ import annotations

INK, MUTED, GRID, PAPER = "#010100", "#010101", "#010102", "#010103"
GAIN, PLACEBO, SHARPEN, LOSS = "#010104", "#010105", "#010106", "#010107"
LOSS_STEPS = ("#010204", "#010203", "#010202", "#010201")  # strongest first
GAIN_STEPS = ("#010301", "#010302", "#010303", "#010304")  # weakest first
NEUTRAL = "#010200"
LINES = ("#010401", "#010402", "#010403", "#010404", "#010405", "#010406")

VARIABLES = {
    INK: "ink", MUTED: "muted", GRID: "grid", PAPER: "paper", GAIN: "gain", PLACEBO: "placebo", SHARPEN: "sharpen",
    LOSS: "loss", NEUTRAL: "step-0",
    **{colour: f"loss-{4 - place}" for place, colour in enumerate(LOSS_STEPS)},
    **{colour: f"gain-{place + 1}" for place, colour in enumerate(GAIN_STEPS)},
    **{colour: f"line-{place + 1}" for place, colour in enumerate(LINES)},
}  # fmt: skip


def palette_css() -> str:
    """One rule for each placeholder, for what is filled and for what is stroked with it."""
    return "\n".join(
        f'.chart [{kind}="{colour}"] {{ {kind}: var(--{name}); }}'
        for colour, name in VARIABLES.items()
        for kind in ("fill", "stroke")
    )


def step(value: float | None, edges: list[float]) -> str:
    """The colour of a number on the diverging scale: orange for a loss, blue for a gain."""
    if value is None:
        return PAPER
    level = sum(abs(value) >= edge for edge in edges)
    if not level:
        return NEUTRAL
    return GAIN_STEPS[level - 1] if value > 0 else LOSS_STEPS[4 - level]
