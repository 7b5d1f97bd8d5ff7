"""Makes run folders as `docs/architecture.md` describes them, with no model: for the tests of the report.

Used by hand too: `python tests/report/synthetic_run.py FOLDER [TOKENS]`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from snellen.results.findings import Finding, dumps

PROSE = """Alice was beginning to get very tired of sitting by her sister on the bank, and of having nothing to do: \
once or twice she had peeped into the book her sister was reading, but it had no pictures or conversations in it, \
\u201cand what is the use of a book,\u201d thought Alice \u201cwithout pictures or conversations?\u201d

So she was considering in her own mind (as well as she could, for the hot day made her feel very sleepy and stupid), \
whether the pleasure of making a daisy-chain would be worth the trouble of getting up and picking the daisies, when \
suddenly a White Rabbit with pink eyes ran close by her.
"""
MALICIOUS = [
    "<script>", "alert(1)", "</script>", "<img src=x onerror=alert(2)>", '"', "'", "&amp;", "<!--", "-->", "]]>",
    "</title>", "\u202e", "evil", "\u202c", " \u05e9\u05dc\u05d5\u05dd", "\u200f", "\x00", "\x07", "\x1b[31m", "\u0301",
    "e\u0301", " ", "   ", "\t", "\n", "\n\n", "\r\n", "\ufffd", "\u2028", "\u2029", "\\u003c", "{{ 7*7 }}", "${x}",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\u200b", "javascript:alert(3)", "</textarea><svg/onload=alert(4)>",
]  # fmt: skip
ARMS = ["naive", "temperature", "horizon 1", "same candidates", "lookahead", "placebo"]
MODEL = "google/gemma-3-270m"


def words(n: int, rng: np.random.Generator) -> list[str]:
    """Tokens of prose: the passage, then made-up sentences with many different words."""
    parts = []
    for line in PROSE.splitlines(keepends=True):
        for place, word in enumerate(line.rstrip("\n").split(" ")):
            cut = 6 if len(word) > 8 else len(word)
            parts += [(" " if place else "") + word[:cut], word[cut:]] if word else []
        parts.append("\n")
    syllables = ["ka", "ri", "the", "o", "ment", "sta", "il", "ur", "pre", "ing", "da", "con", "so", "ly", "er", "an"]
    parts = [part for part in parts if part]
    while len(parts) < n:
        made = "".join(rng.choice(syllables, size=int(rng.integers(1, 4))))
        parts.append((" " if rng.random() < 0.75 else "") + made)
        if rng.random() < 0.06:
            parts.append(str(rng.choice([",", ".", ";", "\n"])))
    return parts[:n]


def make_run(
    folder: Path,
    *,
    tokens: int = 600,
    documents: int = 3,
    widths: tuple[int, ...] = (2, 4),
    horizon: int = 4,
    malicious: bool = False,
    effect: float = 0.012,
    finding: bool = True,
    drop_columns: tuple[str, ...] = (),
    drop_tables: tuple[str, ...] = (),
    seed: int = 0,
) -> Path:
    rng = np.random.default_rng(seed)
    (folder / "tables").mkdir(parents=True, exist_ok=True)
    pieces = words(tokens, rng)
    if malicious:
        pieces[5 : 5 + len(MALICIOUS)] = MALICIOUS
        pieces = pieces[:tokens]
    names = [f"essay-{place + 1}.txt" for place in range(documents)]
    if malicious:
        names[0] = "<script>alert('name')</script>\u202e.txt"
    known = {piece: place for place, piece in enumerate(dict.fromkeys(pieces))}
    table = token_table(pieces, known, documents, widths, horizon, effect, rng)
    pq.write_table(table.drop_columns(list(drop_columns)), folder / "tokens.parquet", compression="zstd")
    tables = small_tables(widths, horizon, effect, tokens, rng)
    tables["vocabulary"] = pa.table({"token": pa.array(known.values(), pa.int32()), "text": list(known)})
    for name, small in tables.items():
        if name not in drop_tables:
            pq.write_table(small, folder / "tables" / f"{name}.parquet")
    (folder / "run.json").write_text(json.dumps(run_json(names, widths, horizon, tokens, malicious)))
    found = [gain(effect, documents, tokens, max(widths), horizon, malicious)] if finding else []
    (folder / "findings.json").write_text(dumps(found), encoding="utf-8")
    return folder


def token_table(pieces, known, documents, widths, horizon, effect, rng) -> pa.Table:
    n = len(pieces)
    document = np.sort(np.arange(n) % documents).astype(np.int32)
    first = np.searchsorted(document, document)
    index = (np.arange(n) - first + 8).astype(np.int32)
    length = np.array([len(piece) for piece in pieces])
    end = np.cumsum(length)
    token = np.array([known[piece] for piece in pieces], dtype=np.int32)
    log_prob = -rng.gamma(1.2, 2.2, n).astype(np.float32)
    control = log_prob + rng.normal(0.02, 0.05, n).astype(np.float32)
    lookahead = control + effect + rng.standard_t(2.5, n) * 0.06
    V = len(known)
    top = rng.integers(0, V, (n, 12)).astype(np.int32)
    hit = rng.random(n) < 0.6
    place = rng.integers(0, 10, n)
    top[hit, place[hit]] = token[hit]
    share = np.sort(rng.dirichlet(np.full(12, 0.35), n), axis=1)[:, ::-1]
    mix = top[:, :10].copy()
    mix_share = np.sort(share[:, :10] * rng.gamma(4, 0.25, (n, 10)), axis=1)[:, ::-1]
    mix_share /= np.maximum(1.0, mix_share.sum(1, keepdims=True))
    mix[rng.random(n) < 0.1, 8:] = -1
    columns = {
        "document": document, "index": index, "token": token, "piece": pieces,
        "start": (end - length).astype(np.int32), "end": end.astype(np.int32), "context": np.minimum(index, 512),
        "log_prob": log_prob, "entropy": rng.gamma(2, 1.2, n).astype(np.float32),
        "rank": np.where(hit, place, rng.integers(10, 262_000, n)).astype(np.int32),
        "log_z": _lists(rng.normal(0, 1, (n, 5)).astype(np.float32)),
        "top_tokens": _lists(top), "top_log_probs": _lists(np.log(share + 1e-9).astype(np.float32)),
        "log_word_start": -rng.gamma(1, 0.5, n).astype(np.float32),
    }  # fmt: skip
    for width in widths:
        for name, values in beam(token, V, width, horizon, rng).items():
            columns[f"beam{width}_{name}"] = _lists(values.reshape(n, -1))
    kinds = ["line start" if index[k] == 8 else "word start" if piece.startswith(" ") else
             "punctuation" if not piece.strip(",.;\n") else "inside a word"
             for k, piece in enumerate(pieces)]  # fmt: skip
    judged = np.ones(n, dtype=bool)
    judged[n // 2 : n // 2 + 3] = False
    columns |= {
        "unit": document, "fold": (document % 5).astype(np.int8),
        "lookahead_log_prob": np.where(judged, lookahead, -np.inf).astype(np.float32),
        "control_log_prob": np.where(judged, control, -np.inf).astype(np.float32),
        "token_class": pa.array(kinds).dictionary_encode(), "line_position": (index % 23).astype(np.int32),
        "memorised": (index % 97) > 90, "mix_tokens": _lists(mix), "mix_probs": _lists(mix_share.astype(np.float32)),
    }  # fmt: skip
    return pa.table(columns)


def beam(token, V, width, horizon, rng) -> dict[str, Any]:
    """Survivors as a beam search leaves them: best first by the sum along their path."""
    n = len(token)
    tokens = rng.integers(0, V, (n, horizon, width)).astype(np.int32)
    parents = np.zeros((n, horizon, width), np.int16)
    log_probs = np.log(rng.beta(1.2, 2.0, (n, horizon, width)) + 1e-4).astype(np.float32)
    log_probs[:, 0] = np.sort(np.log(rng.dirichlet(np.full(width + 3, 0.7), n)[:, :width] + 1e-4), axis=1)[:, ::-1]
    parents[:, 0] = -1
    total = log_probs[:, 0].copy()
    for depth in range(1, horizon):
        parents[:, depth] = np.minimum(rng.geometric(0.55, (n, width)) - 1, width - 1)
        total = np.take_along_axis(total, parents[:, depth].astype(int), 1) + log_probs[:, depth]
        order = np.argsort(-total, axis=1, kind="stable")
        total = np.take_along_axis(total, order, 1)
        parents[:, depth] = np.take_along_axis(parents[:, depth], order, 1)
        log_probs[:, depth] = np.take_along_axis(log_probs[:, depth], order, 1)
    real = rng.random(n) < 0.5  # half of the searches find the text's own next token
    tokens[real, 0, 0] = token[real]
    return {"tokens": tokens, "parents": parents, "log_probs": log_probs}


def small_tables(widths, horizon, effect, tokens, rng) -> dict[str, pa.Table]:
    arms, gains = [], []
    for width in widths:
        for depth in range(1, horizon + 1):
            size = effect * (depth - 1) / max(1, horizon - 1) * (0.5 + 0.5 * width / max(widths))
            over = {"naive": 0.0, "temperature": 0.011, "horizon 1": 0.014, "same candidates": 0.013,
                    "lookahead": 0.014 + size, "placebo": 0.0138}  # fmt: skip
            for arm in ARMS:
                fitted = arm not in ("naive", "temperature")
                arms.append({
                    "width": width, "horizon": depth, "arm": arm, "log_likelihood": -2.61 + over[arm],
                    "gain_over_naive": over[arm], "low": None if arm == "naive" else over[arm] - 0.005,
                    "high": None if arm == "naive" else over[arm] + 0.005,
                    "alpha": float(rng.choice([0.5, 1, 2])) if fitted else None,
                    "weight": 0.08 + 0.02 * depth if fitted else None,
                    "temperature": 1.04 if arm == "temperature" else None, "kind": "linear" if fitted else None,
                })  # fmt: skip
            for alpha in (None, 0.0, 0.5, 1.0, 2.0, float("inf")):
                at = size + 0.003 * (depth == 1) - (0 if alpha is None else 0.004 * abs(min(alpha, 4) - 0.8))
                wide = 0.0035 + 0.001 * rng.random()
                gains.append({
                    "width": width, "horizon": depth, "alpha": alpha, "value": at, "low": at - wide, "high": at + wide,
                    "placebo": -0.0002, "placebo_low": -0.002, "placebo_high": 0.0016, "n": tokens,
                })  # fmt: skip
    splits = []
    for split, groups in {
        "class": ["word start", "inside a word", "line start", "punctuation", "other"],
        "entropy": ["0 to 1 nats", "1 to 2 nats", "2 to 4 nats", "over 4 nats"],
        "line position": ["1", "2 to 4", "5 to 12", "13 and on"],
        "memorised": ["memorised", "not memorised"],
    }.items():
        for order, group in enumerate(groups):
            value = None if group == "other" else effect * (0.4 + 0.5 * order)
            few = group in ("memorised", "other")
            splits.append({
                "split": split, "group": group, "order": order, "n": 12 if few else tokens // 5,
                "share": 1 / len(groups),
                "value": value, "low": None if few or value is None else value - 0.009,
                "high": None if few or value is None else value + 0.009, "naive": -2.61,
            })  # fmt: skip
    draws = rng.normal(effect, 0.004, 500)
    return {
        "arms": pa.Table.from_pylist(arms), "gains": pa.Table.from_pylist(gains),
        "splits": pa.Table.from_pylist(splits),
        "resamples": pa.table({"resample": np.arange(500, dtype=np.int32), "value": draws}),
    }  # fmt: skip


def gain(effect, documents, tokens, width, horizon, malicious) -> Finding:
    few = documents < 3
    return Finding(
        measure="lookahead-gain",
        question="Does looking ahead help this model predict this text, beyond what sharpening gives?",
        value=effect, unit="nats per token",
        low=None if few else effect - 0.0081, high=None if few else effect + 0.0074,
        level=0.95, n={"tokens": tokens, "documents": documents, "units": documents},
        excluded={"fewer than 8 tokens of context": 24,
                  "no interval: \u2018<b>odd</b>\u2019" if malicious else "window edge": 3},
        control={"arms": {"naive": -2.61, "temperature": -2.599, "horizon 1": -2.596}, "best": "horizon 1",
                 "placebo": {"value": -0.0002, "low": -0.002, "high": 0.0016}},
        verdict="gain found" + (" <script>alert('verdict')</script>" if malicious else ""),
        reading="Looking ahead predicts this text better than the best sharpening of the model does. "
        "A large gain means that the model does not itself look ahead where that would pay. A gain of zero means "
        "that it already does, or that there is nothing to plan.",
        settings={"width": width, "horizon": horizon, "alphas": [0, 0.5, 1, 2, None], "resamples": 500},
        details={
            "units": {"kind": "documents", "interval": "percentile"},
            "memorised": {"run": 20, "share": 0.06, "n": 36, "value": None, "low": None, "high": None,
                          "reason": "without them 3 units are left; at least 8 needed"},
            "words": {"unit": "nats per word", "value": 0.0213, "low": 0.0102, "high": 0.0334, "reason": None},
        },
        reason="only 2 documents: no interval below 8 units" if few else None,
    )  # fmt: skip


def run_json(names, widths, horizon, tokens, malicious) -> dict[str, Any]:
    checks = {"forward identity": (2.1e-06, 1.4e-05), "rollouts": (3.3e-06, 1.4e-05), "power": (None, 1.4e-05)}
    return {
        "schema": 1,
        "key": {"width": max(widths)},
        "settings": {"width": max(widths), "widths": list(widths), "horizon": horizon, "limit": tokens, "window": 1024,
                     "seed": 0, "measures": ["lookahead-gain"]},
        "identity": {"source": "<img src=x onerror=alert(9)>" if malicious else MODEL, "parameters": 268_098_176,
                     "revision": "9b0cfec892e2bc2afd938c98eabe4e4a7b1e0ca1",
                     "weights": "sha256:" + "5f3c" * 16, "dtype": "float32", "device": "cpu", "attention": "sdpa",
                     "vocabulary": 262_144, "bos": "prepended to every window"},
        "text": {"documents": [{"name": name, "characters": 9_000} for name in names],
                 "tokens": tokens, "sha256": "ab" * 32},
        "preflight": {at: {"engine": "columns", "why_plain": None, "length": length, "horizon": horizon,
                           "floor": 1.1e-7,
                           "checks": {name: {"value": value, "tolerance": limit, "passed": True}
                                      for name, (value, limit) in checks.items()}}
                      for at, length in (("loading", 64), ("longest window", 1024))},
        "environment": {"snellen": "0.1.0", "torch": "2.9.0", "transformers": "5.0.0", "python": "3.11.7",
                        "cpu": "2 cores", "started": "2026-02-03T10:11:12Z"},
        "progress": {"windows": 12, "done": 12, "finished": True},
        "timings": {"load": 3.2, "preflight": 1.4, "rollouts": 61.0, "measures": {"lookahead-gain": 12.9}},
    }  # fmt: skip


def _lists(values: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


if __name__ == "__main__":
    make_run(Path(sys.argv[1]), tokens=int(sys.argv[2]) if len(sys.argv) > 2 else 600)
