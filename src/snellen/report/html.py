"""Run folder in, one HTML file out: no network, no server, nothing in it that came from the text can act."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from snellen.report import data, degeneration, figures, held, in_context, organisms, palette, text
from snellen.report.data import Evidence, Row
from snellen.report.strip import MAX_TOKENS, strip
from snellen.results.files import replacing
from snellen.results.store import Run

SCRIPTS = ("strip.js", "panel.js", "tree.js", "start.js")
_ALSO = {"memorised": "without memorised tokens", "words": "in whole words"}
_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def write_report(run_folder: Path) -> Path:
    """Draw `report.html` of a finished run; it appears whole or not at all. Raises InputError for a broken run."""
    with Run.read(run_folder).understood():
        page = render(data.read(Path(run_folder)))
    path = Path(run_folder) / "report.html"
    with replacing(path) as file:
        file.write(page.encode())
    return path


def render(evidence: Evidence) -> str:
    # One function around all scripts: they share names with one another, and with nothing else.
    script = "(() => {\n" + "\n".join(_own(name) for name in SCRIPTS) + "})();\n"
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    strip_data = strip(evidence)
    style = "\n".join((_own("report.css"), _own("strip.css"), palette.palette_css()))
    page = (
        _environment()
        .get_template("page")
        .render(
            **_story(evidence),
            **_order(evidence),
            strip=strip_data,
            strip_words=held.of_strip(strip_data, MAX_TOKENS),
            shown=MAX_TOKENS,
            payload=Markup(embedded(strip_data)),
            script=Markup(script),
            script_hash=f"sha256-{digest}",
            style=Markup(style),
        )
    )
    return re.sub("[\x00\ud800-\udfff]", "\ufffd", page)


def embedded(content: Any) -> str:
    """JSON that no HTML parser can see an end of script, a comment or a line end in."""
    plain = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return re.sub("[<>&\u2028\u2029]", lambda match: _ESCAPES[match[0]], plain)


def _story(evidence: Evidence) -> dict[str, Any]:
    """The part that is read from top to bottom."""
    full = figures.widest(evidence.arms)
    landscape, splits, context = figures.landscape(evidence), figures.splits(evidence), in_context.figures(evidence)
    sizes = sorted({(row["width"], row["horizon"]) for row in evidence.arms}, reverse=True)
    return {
        "model": _model(evidence.part("identity")),
        "text": _text_name(evidence),
        "summary": _summary(evidence),
        "gain": evidence.gain,
        "also": _also(evidence),
        "others": [finding for finding in evidence.findings if finding.measure != data.GAIN],
        "horizons": figures.headline(evidence),
        "arms": figures.arms(evidence),
        "armtable": [_arm(row) for row in figures.arms_at(evidence, *full)] if full else [],
        "armtables": [
            (figures.place(width, horizon), [_arm(row) for row in figures.arms_at(evidence, width, horizon)])
            for width, horizon in sizes
            if (width, horizon) != full
        ],
        "arm_words": held.of_arms(evidence),
        "landscape": landscape,
        "landscape_words": held.of_landscape(landscape, evidence),
        "splits": splits,
        "split_words": held.of_splits(splits, evidence),
        "written": degeneration.figures(evidence),
        "context": context,
        "context_words": held.of_context(context),
    }


def _order(evidence: Evidence) -> dict[str, Any]:
    """The part that lets a reader check the rest."""
    checks, notes = _preflight(evidence.part("preflight"))
    parts = ("settings", "identity", "text", "environment", "timings", "progress")
    shown = {name: evidence.part(name) for name in parts} | {"text": evidence.text()}
    return {
        "order_words": held.of_order(evidence),
        "checks": checks,
        "notes": notes,
        "chart": organisms.box(evidence),
        "sections": [(name.capitalize(), list(text.flat(part))) for name, part in shown.items() if part],
    }  # fmt: skip


def _preflight(part: Mapping[str, Any], before: str = "") -> tuple[list[dict[str, str]], list[tuple[str, str]]]:
    """Checks (whatever says whether it passed), at any depth, and the other things noted beside them."""
    checks: list[dict[str, str]] = []
    notes: list[tuple[str, str]] = []
    for key, entry in part.items():
        name = before + key.replace("_", " ")
        if isinstance(entry, Mapping) and "passed" in entry:
            numbers = {side: text.brief(entry.get(side)) for side in ("value", "tolerance")}
            checks.append({"name": name, **numbers, "word": "passed" if entry["passed"] else "failed"})
        elif isinstance(entry, Mapping):
            inner = _preflight(entry, before if key == "checks" else f"{name} \u203a ")
            checks, notes = checks + inner[0], notes + inner[1]
        elif entry is not None:
            notes += text.flat({name: entry})
    return checks, notes


def _arm(row: Row) -> dict[str, Any]:
    optional = ("log_likelihood", "alpha", "weight", "temperature", "kind")
    return {**dict.fromkeys(optional), **row}


def _also(evidence: Evidence) -> list[tuple[str, str, str]]:
    """The estimates that the finding carries beside its own: name, unit, number with interval or reason."""
    if evidence.gain is None:
        return []
    return [
        (
            _ALSO.get(name, name.replace("_", " ")),
            str(entry.get("unit") or evidence.gain.unit),
            text.estimate(entry, zero=text.NO_WEIGHT),
        )
        for name, entry in evidence.gain.details.items()
        if isinstance(entry, Mapping) and {"value", "low", "high"} <= entry.keys()
    ]


def _model(identity: Mapping[str, Any]) -> str:
    """What the report is called: a folder or a file by its own name (the whole path stands under *Identity*)."""
    source = _named(identity, ("name", "source", "model"), "unnamed model")
    return Path(source).name if identity.get("kind") in ("folder", "gguf") else source


def _named(part: Mapping[str, Any], keys: Sequence[str], otherwise: str) -> str:
    return next((str(part[key]) for key in keys if part.get(key)), otherwise)


def _text_name(evidence: Evidence) -> str:
    """The gain is about the tokens that were scored; what was written or read besides is of all documents."""
    names = evidence.scored_names() if evidence.gain is not None else evidence.document_names()
    several = f"{names[0]} and {len(names) - 1} more" if len(names) > 1 else names[0] if names else "unnamed text"
    return _named(evidence.part("text"), ("name", "source"), several)


def _summary(evidence: Evidence) -> list[str]:
    parameters = evidence.part("identity").get("parameters")
    words = [f"{parameters / 1e6:,.3g} million parameters"] if isinstance(parameters, int) else []
    scored = f"{text.plural(evidence.tokens.metadata.num_rows, 'token')} scored"
    if documents := len(evidence.scored_names()):
        of = len(evidence.document_names())
        few = f"{text.count(documents)} of {text.plural(of, 'document')}"
        scored += f" in {text.plural(documents, 'document') if documents == of else few}"
    words.append(scored)
    if twice := evidence.identical():
        words.append(f"{text.plural(twice, 'document')} identical to an earlier one left out")
    if full := figures.widest(evidence.gains):
        words.append(f"up to {text.plural(full[0], 'beam')}, {text.plural(full[1], 'token')} ahead")
    return words


def _environment() -> Environment:
    environment = Environment(
        loader=DictLoader({"page": _own("template.html.j2")}), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["visible"] = lambda value: text.visible(str(value))
    environment.globals["no_weight"] = text.NO_WEIGHT
    for function in (text.number, text.interval, text.short, text.count, text.counted, text.plain):
        environment.globals[function.__name__] = function
    environment.globals["counts"] = lambda mapping: [(name, text.count(n)) for name, n in mapping.items()]
    environment.globals["flat"] = lambda mapping, zero="": list(text.flat(mapping, zero=zero))
    return environment


def _own(name: str) -> str:
    return resources.files("snellen.report").joinpath(name).read_text(encoding="utf-8")
