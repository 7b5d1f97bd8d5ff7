"""What was seen ahead: the first token's tree on the console, all of them on a page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text as Rich
from rich.tree import Tree as RichTree

from snellen.cli.show import _console
from snellen.cli.terminal import rich_text
from snellen.cli.writing import Job, Text, pieces
from snellen.lookahead.decoding import Step
from snellen.report.branches import Tree
from snellen.report.tree import Candidate, Choice, Written, label, share, write_tree_page


def show_tree(job: Job, text: Text) -> None:
    """The tree that the first token was chosen from, and its candidates."""
    console = _console()
    choice = _choice(job, text.steps[0], pieces(job, text.tokens)[0])
    console.print()
    table = Table(title="The first token", title_justify="left", box=None, pad_edge=False, header_style="bold")
    for name in ("token", "p, the model", "q, lookahead", "mix", ""):
        table.add_column(name, justify="left" if name in ("token", "") else "right")
    for candidate in choice.candidates:
        numbers = (share(candidate.p), share(candidate.q), share(candidate.mix))
        table.add_row(Rich(label(candidate.piece)), *numbers, "◂ taken" if candidate.chosen else "")
    console.print(table)
    console.print()
    console.print(_rich(choice.tree, text))


def _rich(tree: Tree, text: Text) -> RichTree:
    """Each survivor with its probability after its branch, the last ones with that of the whole completion."""
    tail = text.prompt.rsplit("\n", 1)[-1][-40:]
    root = RichTree(rich_text(f"… {tail}" if tail else "…", "dim"))
    above: dict[int, tuple[RichTree, float]] = {-1: (root, 0.0)}
    best = _path(tree)
    for depth, (names, parents, log_probs) in enumerate(zip(tree.pieces, tree.parents, tree.log_probs, strict=True)):
        level = {}
        for slot, (piece, parent, own) in enumerate(zip(names, parents, log_probs, strict=True)):
            branch, total = above[parent]
            line = Rich(label(piece), style="bold" if best[depth] == slot else "")
            line.append(f"  {share(math.exp(own))}", style="cyan not bold")
            if depth == len(tree.pieces) - 1:
                line.append(f"  = {share(math.exp(total + own))}", style="dim not bold")
            level[slot] = (branch.add(line), total + own)
        above = level
    return root


def _path(tree: Tree) -> list[int]:
    """The slots of the best completion."""
    slots = [0]
    for parents in list(tree.parents)[:0:-1]:
        slots.append(parents[slots[-1]])
    return slots[::-1]


def write_page(path: Path, job: Job, texts: Sequence[Text]) -> None:
    """One HTML file with every text and every tree."""
    names = {"width": "beams", "horizon": "tokens ahead"}
    s = job.settings
    about = [
        *(f"{s[name]} {word}" for name, word in names.items()),
        f"α {s['alpha']:g}",
        f"weight {s['weight']:g}, {s['mix']} mix",
        f"temperature {s['temperature']:g}" if s["temperature"] else "the most probable token",
        *([f"top-p {s['top_p']:g}"] if s["top_p"] < 1 else []),
        *([f"seed {s['seed']}"] if s["temperature"] else []),
    ]
    source = job.subject.identity.source
    model = Path(source).name if job.subject.identity.kind in ("folder", "gguf") else source
    written = [
        Written(
            prompt=text.prompt,
            choices=[
                _choice(job, step, piece) for step, piece in zip(text.steps, pieces(job, text.tokens), strict=False)
            ],
        )
        for text in texts
    ]
    write_tree_page(path, model=model, about=about, texts=written)


def _choice(job: Job, step: Step, piece: str) -> Choice:
    """One step in words. Its candidates: the model's five best, those of the lookahead, and the one that was taken."""
    assert step.naive is not None
    assert step.lookahead is not None
    assert step.probs is not None
    assert step.rollouts is not None
    taken = step.token
    tokens = {token for token, _ in step.naive[:5]} | set(step.lookahead) | {taken}
    candidates = [
        Candidate(
            piece=piece if token == taken else _piece(job, token),
            p=step.probs[token][0],
            q=step.lookahead.get(token),
            mix=step.probs[token][1],
            chosen=token == taken,
        )
        for token in tokens
    ]
    r = step.rollouts
    levels = [
        [slot for slot, token in enumerate(row) if token >= 0] for row in r.step_tokens[0, 0].tolist()
    ]  # empty slots come last
    tree = Tree(
        pieces=[[_piece(job, int(r.step_tokens[0, 0, d, s])) for s in slots] for d, slots in enumerate(levels)],
        parents=[[int(r.step_parents[0, 0, d, s]) for s in slots] for d, slots in enumerate(levels)],
        log_probs=[[float(r.step_log_probs[0, 0, d, s]) for s in slots] for d, slots in enumerate(levels)],
    )
    ordered = sorted(candidates, key=lambda candidate: (-candidate.mix, -candidate.p))
    return Choice(piece=piece, candidates=ordered, tree=tree)


def _piece(job: Job, token: int) -> str:
    text: str = job.subject.tokenizer.decode([token], clean_up_tokenization_spaces=False)
    return text
