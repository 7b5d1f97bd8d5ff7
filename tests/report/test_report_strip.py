"""The numbers that travel in the page: packing, choosing, colour steps, words."""

from __future__ import annotations

import base64
import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from synthetic_run import make_run

from snellen.report import data, palette, text
from snellen.report.strip import choose, opening, pack, strip


def unpack(column: dict) -> np.ndarray:
    values = np.frombuffer(base64.b64decode(column["data"]), dtype="<" + column["kind"]).astype(float)
    values[values == {"i1": -128, "i2": -32768, "i4": -(2**31)}[column["kind"]]] = np.nan
    return values / column["scale"]


@pytest.mark.parametrize(("most", "kind"), [(126, "i1"), (127, "i2"), (32_766, "i2"), (32_767, "i4"), (262_143, "i4")])
def test_packed_in_the_smallest_type(most: int, kind: str) -> None:
    packed = pack(np.array([-1, 0, most]))
    assert packed["kind"] == kind
    np.testing.assert_array_equal(unpack(packed), [-1, 0, most])


def test_packed_keeps_undefined_apart_from_zero_and_infinity() -> None:
    packed = unpack(pack(np.array([np.nan, 0.0, -np.inf, 1.2345, -99.0]), 1000))
    np.testing.assert_allclose(packed, [np.nan, 0, -32.767, 1.234, -32.767], atol=1e-3)


def test_chosen_are_the_largest_and_an_even_sample() -> None:
    interest = np.random.default_rng(0).normal(size=1_000)
    interest[[3, 999]] = [np.nan, -50]
    rows = choose(interest, 100)
    assert len(rows) == len(set(rows)) == 100
    assert (np.diff(rows) > 0).all()
    assert set(np.argsort(-np.nan_to_num(np.abs(interest)))[:50]) <= set(rows)
    assert np.histogram(rows, bins=5, range=(0, 1_000))[0].min() >= 10
    np.testing.assert_array_equal(choose(interest[:7], 100), np.arange(7))


def test_steps_of_the_scale() -> None:
    steps = [0.01, 0.1, 0.3, 1.0]
    assert palette.step(0.005, steps) == palette.NEUTRAL
    assert palette.step(0.5, steps) == palette.GAIN_STEPS[2]
    assert palette.step(-2.0, steps) == palette.LOSS_STEPS[0]
    assert palette.step(None, steps) == palette.PAPER
    assert all(colour in palette.palette_css() for colour in palette.VARIABLES)


def test_tokens_that_were_not_judged_have_no_difference(tmp_path: Path) -> None:
    content = strip(data.read(make_run(tmp_path / "run", tokens=300)))
    assert content is not None
    values = unpack(content["modes"][0]["values"])
    assert np.isnan(values[150:153]).all()
    assert np.isfinite(np.delete(values, [150, 151, 152])).all()
    assert [mode["undefined"] for mode in content["modes"]] == [True, True, False]


PIECES = ["\n", " ", " the", "ing", ".", " Alice", None]


@pytest.mark.parametrize(
    ("pieces", "values", "row"),
    [
        (PIECES, [[9, 9, 1, 8, 8, 2, 9]], 5),  # white space and the rest of a word may gain more
        (PIECES, [[9, 9, -4, 8, 8, 2, 9]], 5),  # a gain before a larger loss
        (PIECES, [[9, 9, -4, 8, 8, -2, 9]], 2),  # no word gains: the largest difference
        (PIECES, [[0, 0, 0, 0, 0, 0, 0], [9, 9, 1, 9, 9, 2, 9]], 5),  # no difference anywhere: the most surprising
        (PIECES, [[9, 9, math.nan, 8, 8, math.nan, 9], [9, 9, 2, 9, 9, 1, 9]], 2),  # words were not judged
        (["\n", "x", ".", "3"], [[9, 1, 2, 0]], 2),  # no word begins here
        (["\n", " ", "\t"], [[1, 3, 2]], 1),  # nothing but white space
        (["\n", None], [[math.nan, math.nan]], 0),
    ],
)
def test_the_page_opens_on_something_to_learn_from(pieces: list, values: list, row: int) -> None:
    assert opening(pieces, [np.array(one, dtype=float) for one in values], None) == row


def test_the_page_opens_on_a_token_that_holds_something() -> None:
    values = [np.array([0, 0, 1, 0, 0, 2, 0], dtype=float)]
    assert opening(PIECES, values, np.array([0, 2, 3])) == 2
    assert opening(PIECES, values, np.array([], dtype=int)) == 5


def test_a_difference_that_no_token_has_is_not_offered(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", tokens=300)
    table = pq.read_table(folder / "tokens.parquet")
    same = table.column_names.index("lookahead_log_prob")
    for other, modes in (("control_log_prob", ["naive", "surprise"]), ("log_prob", ["surprise"])):
        equal = table.set_column(same, "lookahead_log_prob", table[other])
        if other == "log_prob":
            equal = equal.set_column(equal.column_names.index("control_log_prob"), "control_log_prob", table[other])
        pq.write_table(equal, folder / "tokens.parquet")
        content = strip(data.read(folder))
        assert content is not None
        assert [mode["name"] for mode in content["modes"]] == modes


def test_trees_and_real_continuations_come_from_the_right_rows(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", tokens=300, documents=3)
    evidence = data.read(folder)
    content = strip(evidence)
    assert content is not None
    table = evidence.tokens.read()
    about, words = content["inspect"], content["inspect"]["vocabulary"]
    spelled = {place: word for word, place in ((words[int(p)], int(p)) for p in range(len(words)))}
    rows = unpack(about["rows"]).astype(int)
    assert (about["width"], about["horizon"]) == (4, 4)
    beams = unpack(about["beam"]).reshape(-1, 16).astype(int)
    real = unpack(about["real"]).reshape(-1, 4).astype(int)
    pieces, document = table["piece"].to_pylist(), table["document"].to_pylist()
    for k, row in list(enumerate(rows))[::37]:
        expected = [evidence.vocabulary[token] for token in table["beam4_tokens"][int(row)].as_py()]
        assert [spelled[place] for place in beams[k]] == expected
        follows = [pieces[r] if r < 300 and document[r] == document[row] else None for r in range(row, row + 4)]
        assert [spelled.get(place) for place in real[k]] == follows


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.01234, "+0.0123"), (-0.01234, "\u22120.0123"), (0.0, "0.0000"), (-0.000001, "0.0000"), (None, "\u2014"),
     (float("nan"), "\u2014"), (float("inf"), "\u221e"), (1234.5, "+1,234.5000")],
)  # fmt: skip
def test_numbers_in_words(value: float | None, words: str) -> None:
    assert text.number(value, sign=True) == words


def test_strange_characters_become_visible_and_harmless() -> None:
    assert text.visible("a\x00\u202eb\x1b\x9f") == "a\u27e8NUL\u27e9\u27e8RLO\u27e9b\u27e8ESC\u27e9\u27e89F\u27e9"
    assert text.visible("\u05e9\u05dc\u05d5\u05dd <b>\n\t") == "\u05e9\u05dc\u05d5\u05dd <b>\n\t"
    assert text.visible("\ud800") == "\ufffd"


def test_settings_as_rows() -> None:
    nested = {"a_b": {"c": [1, 2.5, None], "d": True}, "e": {"value": 0.1, "low": None, "high": None, "reason": "few"}}
    assert list(text.flat(nested)) == [
        ("a b \u203a c", "1, 2.5, \u2014"),
        ("a b \u203a d", "yes"),
        ("e", "+0.1000 (few)"),
        ("e \u203a reason", "few"),
    ]
    long = dict(text.flat({"files": [f"{k}.txt" for k in range(30)], "documents": [{"name": k} for k in range(30)]}))
    assert long["files"].endswith("\u2026 and 18 more")
    assert long["documents"] == "\u2026 and 18 more"
