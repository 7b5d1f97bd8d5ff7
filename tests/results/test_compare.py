import itertools
import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from snellen.errors import InputError
from snellen.results.compare import compare_runs
from snellen.results.differences import from_intervals
from snellen.results.findings import Finding
from snellen.results.store import Writer
from snellen.texts.windows import OVER_LIMIT

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


def finding_of(value, low, high, **rest) -> Finding:
    plain = {"measure": "lookahead-gain", "unit": "nats/token", "n": {"units": 24}, "settings": {}}
    return Finding(
        question="?", value=value, low=low, high=high, level=0.95, excluded={}, control={}, verdict="v", reading="r",
        **(plain | rest),
    )  # fmt: skip


def run(
    folder: Path,
    *,
    units: int = 24,
    spans=words,
    nats: float = -2.0,
    noise: int = 1,
    gain: float = 0.01,
    ends: tuple[float, float] = (0.02, 0.02),
    texts: str = "t",
    seed: int = 0,
    skip: int = 1,
    width: int = 4,
    limit: int | None = None,
    measure: str = "lookahead-gain",
    unit: str = "nats/token",
    finish: bool = True,
) -> Path:
    rng = np.random.default_rng(noise)
    # A document is hard or easy for every model alike: that is what pairing takes out.
    hard = np.random.default_rng(5).normal(size=units)
    rows: list[dict] = []
    for number, document in enumerate(text(units)):
        for index, (start, end) in list(enumerate(spans(document)))[skip:][:limit]:
            log_prob = (nats + hard[number] + 0.01 * rng.normal()) * (end - start)
            rows.append(
                {"document": number, "index": index, "token": hash(document[start:end]) % 1000, "start": start,
                 "end": end, "piece": document[start:end], "log_prob": log_prob, "unit": number}
            )  # fmt: skip
    sizes = [len(spans(document)) for document in text(units)]
    names = [{"name": f"{n}", "sha256": f"{texts}{n}", "tokens": size} for n, size in enumerate(sizes)]
    key = {"seed": seed, "width": width, "model weights": f"{nats}"}
    content = {"text": {"documents": names}, "identity": {"source": spans.__name__}}
    content["identity"]["tokenizer_sha256"] = spans.__name__
    if limit is not None:
        key["limit"] = limit * units
        content["text"]["excluded"] = {OVER_LIMIT: sum(sizes) - limit * units}
    finding = finding_of(
        gain, gain - ends[0], gain + ends[1], measure=measure, unit=unit, n={"units": units}, settings={"w": width}
    )
    table = pa.Table.from_pylist(rows)
    with Writer(folder, key=key, content=content, windows=[table.num_rows]) as writer:
        writer.write_piece(0, table)
        if finish:
            writer.finish(writer.pieces(), {}, [finding])
    return folder


def row(found, name):
    return next(row for row in found.rows if row.name == name)


def test_a_run_against_itself_differs_by_nothing(tmp_path):
    folder = run(tmp_path / "a")
    found = compare_runs(folder, folder)
    for each in found.rows:
        assert each.difference.value == 0
        if each.name.startswith("naive"):  # paired
            assert each.difference.low == each.difference.high == 0
    assert found.settings == {}
    json.dumps(found.as_dict(), allow_nan=False)


def test_two_intervals_are_joined_end_by_end(tmp_path):
    """What reaches down from the second and up from the first, in squares; the other end from the other two."""
    found = row(
        compare_runs(run(tmp_path / "a", ends=(0.01, 0.05)), run(tmp_path / "b", gain=0.05, ends=(0.02, 0.03))),
        "lookahead-gain",
    )
    assert found.method == "from the two intervals"
    assert found.difference.value == pytest.approx(0.04)
    assert found.difference.low == pytest.approx(0.04 - math.hypot(0.02, 0.05))
    assert found.difference.high == pytest.approx(0.04 + math.hypot(0.03, 0.01))


def test_the_joined_interval_holds_the_difference():
    """Two means of few and skewed numbers, each with its own t interval."""
    held = 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        pair = []
        for n in (10, 30):
            x = rng.gamma(2.0, size=n)
            low, high = stats.t.interval(0.95, n - 1, loc=x.mean(), scale=stats.sem(x))
            pair.append(finding_of(x.mean(), low, high))
        found = from_intervals(pair[1].value - pair[0].value, pair, 0.95)
        held += found.low <= 0 <= found.high
    assert held / 400 > 0.92


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
    assert any("tokenizers differ" in note for note in found.notes)
    for name in ("character", "byte"):
        each = row(found, f"naive log-likelihood a {name}")
        # -2 nats a character by construction for both, whatever the tokenizer
        assert each.difference.value == pytest.approx(0, abs=0.02)
        assert each.difference.low is not None
    characters, size = (row(found, f"naive log-likelihood a {n}").first.value for n in ("character", "byte"))
    assert abs(size) < abs(characters)  # ö takes two bytes


def test_a_gain_of_other_tokens_is_compared_a_byte(tmp_path):
    """Of the same characters: each gain times its tokens, over the bytes of the text."""
    first = run(tmp_path / "a", skip=0, gain=0.05)
    second = run(tmp_path / "b", skip=0, gain=0.02, spans=letters)
    found = compare_runs(first, second)
    a_token, a_byte = row(found, "lookahead-gain"), row(found, "lookahead-gain a byte")
    assert (a_token.difference.value, a_token.difference.low) == (None, None)
    assert "tokenizers differ" in a_token.difference.reason
    size = sum(len(document.encode()) for document in text(24))
    each = [sum(len(spans(document)) for document in text(24)) / size for spans in (words, letters)]
    assert a_byte.unit == "nats/byte"
    assert (a_byte.first.value, a_byte.second.value) == pytest.approx((0.05 * each[0], 0.02 * each[1]))
    assert (a_byte.first.low, a_byte.first.high) == pytest.approx((0.03 * each[0], 0.07 * each[0]))
    assert a_byte.difference.value == pytest.approx(0.02 * each[1] - 0.05 * each[0])
    assert a_byte.difference.high - a_byte.difference.value == pytest.approx(0.02 * math.hypot(*each))
    json.dumps(found.as_dict(), allow_nan=False)


def test_a_gain_of_other_characters_is_not_compared(tmp_path):
    first, second = run(tmp_path / "a", skip=0), run(tmp_path / "b", skip=0, spans=letters, limit=20)
    found = compare_runs(first, second)
    assert [each.name for each in found.rows if each.name.startswith("lookahead")] == ["lookahead-gain"]
    each = row(found, "lookahead-gain").difference
    every = sum(map(len, text(24)))
    assert each.value is None
    assert "different characters" in each.reason
    assert f"`snellen exam letters … --limit {every}`" in each.reason
    elsewhere = compare_runs(first, run(tmp_path / "c", skip=0, spans=letters, texts="u"))
    assert "texts differ, too" in row(elsewhere, "lookahead-gain").difference.reason
    assert row(elsewhere, "naive log-likelihood a token").difference.value is None


def test_what_counts_tokens_is_not_compared_across_tokenizers(tmp_path):
    for unit, compared in (("share (sequences of 4 tokens)", False), ("nats per token", False), ("share", True)):
        first, second = (
            run(tmp_path / f"{unit[:3]}{len(unit)}{spans.__name__}", skip=0, measure="other", unit=unit, spans=spans)
            for spans in (words, letters)
        )
        each = row(compare_runs(first, second), "other").difference
        assert (each.value is not None) == compared
        assert compared or "tokenizers differ" in each.reason
        assert row(compare_runs(first, first), "other").difference.value == 0


def test_other_limits_say_how_to_score_the_same(tmp_path):
    whole, half, less = (run(tmp_path / str(n), skip=0, limit=n) for n in (None, 8, 6))
    every = sum(len(words(document)) for document in text(24))
    said = [note for note in compare_runs(whole, half).notes if "--limit" in note]
    assert said == [
        f"other parts of the text were scored (--limit); the same parts: `snellen exam words … --limit {every}`"
    ]
    said = [note for note in compare_runs(less, half).notes if "--limit" in note]
    assert len(said) == 1
    assert said[0].endswith(f"`snellen exam words … --limit {8 * 24}`")
    # The same tokenizer cuts the characters that both scored into the same tokens.
    assert row(compare_runs(less, half), "naive log-likelihood a token").difference.value == pytest.approx(0, abs=0.05)
    assert not [note for note in compare_runs(half, half).notes if "limit" in note]


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
