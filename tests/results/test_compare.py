import itertools
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from snellen.errors import InputError
from snellen.results.compare import compare_runs
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
    finding = Finding(
        measure=measure, question="?", value=gain, unit=unit, low=gain - 0.02, high=gain + 0.02,
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
    shared = np.random.default_rng(0).normal(0, 0.01, 1000)
    first = run(tmp_path / "a", skip=0, gain=0.05, resamples=0.05 + shared)
    second = run(tmp_path / "b", skip=0, gain=0.02, spans=letters, resamples=0.02 + shared)
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
    drawn = (0.02 + shared) * each[1] - (0.05 + shared) * each[0]
    assert a_byte.method == "paired resamples"
    expected = np.quantile(drawn, [0.025, 0.975])
    assert (a_byte.difference.low, a_byte.difference.high) == pytest.approx(tuple(expected))
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


def test_differences_hold_their_own_value(tmp_path):
    """Resamples that lie to one side of the value, as those of a fitted number may."""
    first = run(tmp_path / "a", resamples=np.random.default_rng(0).normal(0.01, 0.001, 500))
    second = run(tmp_path / "b", resamples=np.random.default_rng(1).normal(0.01, 0.001, 500), gain=0.05, seed=1)
    each = row(compare_runs(first, second), "lookahead-gain").difference
    assert each.low <= each.value <= each.high


def test_the_interval_of_a_finding_rests_on_its_own_units(tmp_path):
    """Not on those of the gain, which are blocks of the scored tokens."""
    first, second = run(tmp_path / "a", measure="other"), run(tmp_path / "b", measure="other", units=40)
    found = row(compare_runs(first, second), "other").difference
    error = [0.02 / stats.t.ppf(0.975, n - 1) for n in (24, 40)]
    total = sum(e**2 for e in error)
    freedom = total**2 / sum(e**4 / (n - 1) for e, n in zip(error, (24, 40), strict=True))
    assert found.high - found.low == pytest.approx(2 * stats.t.ppf(0.975, freedom) * total**0.5)


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
