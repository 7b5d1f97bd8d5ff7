import itertools
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from snellen.errors import InputError
from snellen.results.compare import compare_runs
from snellen.results.findings import Finding
from snellen.results.store import Writer

WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "the",
    "lazy",
    "dög",
    "and",
    "runs",
    "away",
    "from",
    "it",
    "all",
]


def text(units: int) -> list[str]:
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS, size=12)) for _ in range(units)]


def words(document: str) -> list[tuple[int, int]]:
    """Spans of a tokenizer of words, each with the space before it."""
    cuts = [0] + [place for place, char in enumerate(document) if char == " "] + [len(document)]
    return list(itertools.pairwise(cuts))


def letters(document: str) -> list[tuple[int, int]]:
    return [(place, place + 1) for place in range(len(document))]


def run(
    folder: Path,
    *,
    units: int = 24,
    spans=words,
    nats: float = -2.0,
    noise: int = 1,
    gain: float = 0.01,
    resamples=None,
    texts: str = "t",
    seed: int = 0,
    skip: int = 1,
    width: int = 4,
    finish: bool = True,
) -> Path:
    rng = np.random.default_rng(noise)
    # A document is hard or easy for every model alike: that is what pairing takes out.
    hard = np.random.default_rng(5).normal(size=units)
    rows: list[dict] = []
    for number, document in enumerate(text(units)):
        for index, (start, end) in list(enumerate(spans(document)))[skip:]:
            log_prob = (nats + hard[number] + 0.01 * rng.normal()) * (end - start)
            rows.append(
                {"document": number, "index": index, "token": hash(document[start:end]) % 1000, "start": start,
                 "end": end, "piece": document[start:end], "log_prob": log_prob, "unit": number}
            )  # fmt: skip
    names = [{"name": f"{n}", "sha256": f"{texts}{n}"} for n in range(units)]
    key = {"seed": seed, "width": width, "model weights": f"{nats}"}
    content = {"text": {"documents": names}, "identity": {"source": "m"}}
    finding = Finding(
        measure="lookahead-gain", question="?", value=gain, unit="nats/token", low=gain - 0.02, high=gain + 0.02,
        level=0.95, n={"units": units}, excluded={}, control={}, verdict="v", reading="r", settings={"w": width},
    )  # fmt: skip
    tables = (
        {} if resamples is None else {"resamples": pa.table({"resample": range(len(resamples)), "value": resamples})}
    )
    table = pa.Table.from_pylist(rows)
    with Writer(folder, key=key, content=content, windows=[table.num_rows]) as writer:
        writer.write_piece(0, table)
        if finish:
            writer.finish(writer.pieces(), tables, [finding])
    return folder


def row(found, name):
    return next(row for row in found.rows if row.name == name)


def test_a_run_against_itself_differs_by_nothing(tmp_path):
    draws = np.random.default_rng(0).normal(0.01, 0.01, 500)
    folder = run(tmp_path / "a", resamples=draws)
    found = compare_runs(folder, folder)
    for each in found.rows:
        assert each.difference.value == each.difference.low == each.difference.high == 0
    assert found.settings == {}
    json.dumps(found.as_dict(), allow_nan=False)


def test_same_units_and_seed_are_paired_and_so_narrower(tmp_path):
    shared = np.random.default_rng(0).normal(0, 0.01, 1000)
    first = run(tmp_path / "a", resamples=0.01 + shared)
    second = run(tmp_path / "b", resamples=0.03 + shared, gain=0.03, nats=-1.9)
    other = run(tmp_path / "c", resamples=0.03 + shared, gain=0.03, seed=1)
    paired, free = (
        row(compare_runs(first, second), "lookahead-gain"),
        row(compare_runs(first, other), "lookahead-gain"),
    )
    assert paired.method == "paired resamples"
    assert paired.difference.value == pytest.approx(0.02)
    assert paired.difference.high - paired.difference.low < 1e-9
    assert free.method == "independent resamples"
    assert free.difference.high - free.difference.low == pytest.approx(2 * 1.96 * 0.01 * 2**0.5, rel=0.15)


def test_without_resamples_the_two_intervals_are_joined(tmp_path):
    found = row(compare_runs(run(tmp_path / "a"), run(tmp_path / "b", gain=0.05)), "lookahead-gain")
    assert found.method == "independent, from the two intervals"
    assert found.difference.value == pytest.approx(0.04)
    assert found.difference.high - found.difference.low == pytest.approx(0.04 * 2**0.5, rel=0.05)


@pytest.mark.parametrize("units", [24, 12])
def test_likelihood_is_paired_over_units(tmp_path, units):
    found = compare_runs(run(tmp_path / "a", units=units), run(tmp_path / "b", units=units, nats=-1.9, noise=2))
    a_character = row(found, "naive log-likelihood a character")
    assert a_character.difference.value == pytest.approx(0.1, abs=0.005)
    assert 0.09 < a_character.difference.low < a_character.difference.high < 0.11
    assert a_character.first.high - a_character.first.low > 0.3  # alone, the documents' hardness is in it
    a_token = row(found, "naive log-likelihood a token")
    assert a_token.difference.low > 0.2


def test_other_tokenizers_meet_on_the_characters_that_both_scored(tmp_path):
    first, second = run(tmp_path / "a"), run(tmp_path / "b", spans=letters, skip=4, noise=3, seed=0)
    found = compare_runs(first, second)
    assert "tokenizers differ" in row(found, "naive log-likelihood a token").difference.reason
    for name in ("character", "byte"):
        each = row(found, f"naive log-likelihood a {name}")
        # -2 nats a character by construction for both, whatever the tokenizer
        assert each.difference.value == pytest.approx(0, abs=0.02)
        assert each.difference.low is not None
    characters, size = (row(found, f"naive log-likelihood a {n}").first.value for n in ("character", "byte"))
    assert abs(size) < abs(characters)  # ö takes two bytes


def test_other_texts_are_drawn_independently_and_noted(tmp_path):
    found = compare_runs(run(tmp_path / "a"), run(tmp_path / "b", texts="u", noise=2))
    each = row(found, "naive log-likelihood a token")
    assert each.method.startswith("independent")
    assert each.difference.high - each.difference.low > 0.3
    assert any("texts differ" in note for note in found.notes)


def test_what_was_asked_differently_is_noted(tmp_path):
    found = compare_runs(run(tmp_path / "a"), run(tmp_path / "b", width=8))
    assert found.settings["width"] == (4, 8)
    assert any("other settings" in note for note in found.notes)
    assert any(note.startswith("width differs") for note in found.notes)


def test_too_few_units_have_no_interval(tmp_path):
    found = compare_runs(run(tmp_path / "a", units=5), run(tmp_path / "b", units=5, noise=2))
    each = row(found, "naive log-likelihood a byte")
    assert each.difference.value is not None
    assert each.difference.low is None
    assert "5 units are too few" in each.difference.reason


def test_unfinished_and_foreign_folders_are_refused(tmp_path):
    good = run(tmp_path / "a")
    with pytest.raises(InputError, match="not finished"):
        compare_runs(good, run(tmp_path / "b", finish=False))
    with pytest.raises(InputError, match="not a run folder"):
        compare_runs(tmp_path / "nowhere", good)
