"""Token classes, line positions, memorised runs: on texts written out by hand."""

from dataclasses import replace

import numpy as np
import pytest

from snellen.measures.lookahead_gain.places import CLASSES, bins, line_bins, memorised, places
from tests.measures import exact


def laid_out(pieces, *, first_index=0, starts=None, rank=None, gap_before=()):
    """A `Scored` of one document with these pieces."""
    table = np.full(len(pieces), 1 / len(pieces))
    scored = exact.score(
        lambda context: table, [list(range(len(pieces)))], memory=0, spellings=pieces, horizon=1, widths=(1,)
    )
    start, at = [], 0
    for i, piece in enumerate(pieces):
        at += i in gap_before
        start.append(at)
        at += len(piece)
    changed = {
        "index": scored.index + first_index,
        "start": np.array(start) + first_index,
        "end": np.array(start) + first_index + [len(piece) for piece in pieces],
        "starts_word": np.array([piece[:1] == " " for piece in pieces] if starts is None else starts),
    }
    if rank is not None:
        changed["rank"] = np.array(rank)
    return replace(scored, **changed)


def classes(pieces, **more):
    kind, position = places(laid_out(pieces, **more))
    return [CLASSES[k] for k in kind], position.tolist()


def test_prose():
    pieces = [
        "The",
        " quick",
        "er",
        " fox",
        ",",
        " don",
        "'t",
        " well",
        "-",
        "known",
        ".",
        "\n",
        "New",
        " line",
        "\n\n",
    ]
    expected = [
        "line start", "word start", "inside a word", "word start", "punctuation", "word start", "inside a word",
        "word start", "punctuation", "word start", "punctuation", "other", "line start", "word start", "other",
    ]  # fmt: skip
    kind, position = classes(pieces)
    assert kind == expected
    assert position == [*range(12), 0, 1, 2]


def test_indentation_quotes_and_breaks_inside_a_token():
    kind, position = classes(["a", ".\n", "  ", "“", "Yes", "\nNo", " more", " \n ", "x"])
    assert kind == [
        "line start", "punctuation", "other", "punctuation", "word start", "line start", "word start", "other",
        "line start",
    ]  # fmt: skip
    assert position == [0, 1, 0, 1, 2, 0, 1, 2, 0]


def test_the_apostrophe_of_a_word_and_a_quote():
    kind, _ = classes(["don", "'", "t", " '", "tis", "’", "s"])
    assert kind == [
        "line start", "punctuation", "inside a word", "punctuation", "word start", "punctuation", "inside a word",
    ]  # fmt: skip


def test_where_the_line_began_is_unknown_before_the_first_break():
    kind, position = classes(["ing", " of", "\n", "On"], first_index=7)
    assert kind == ["word start", "word start", "other", "line start"]
    assert position == [-1, -1, -1, 0]


def test_blanks_that_no_token_covers_separate_words():
    kind, _ = classes(["a", "b", "c"], gap_before=(2,))
    assert kind == ["line start", "inside a word", "word start"]


def test_pieces_without_characters():
    """The bytes of one character in several tokens: all but one have no character of their own."""
    kind, position = classes(["ab", "", "é", "c"])
    assert kind == ["line start", "other", "inside a word", "inside a word"]
    assert position == [0, 1, 2, 3]


def test_memorised_runs():
    rank = np.array([0] * 4 + [1] + [0] * 5 + [2, 0])
    scored = laid_out(["x"] * 12, rank=rank)
    assert memorised(scored, 5).tolist() == [False] * 5 + [True] * 5 + [False] * 2
    assert memorised(scored, 4).tolist() == [True] * 4 + [False] + [True] * 5 + [False] * 2
    assert not memorised(scored, 6).any()
    # a run does not go on over a gap or into another document
    for broken in ("index", "document"):
        apart = replace(scored, **{broken: getattr(scored, broken) + (np.arange(12) >= 7) * 3})
        assert not memorised(apart, 5).any()
        assert memorised(apart, 3).sum() == 7


def test_bins():
    group, names = bins(np.array([0.0, 0.5, 9.0]), (0.5, 2.0), "nats")
    assert (group.tolist(), names) == ([0, 1, 2], ("below 0.5 nats", "0.5 to 2 nats", "2 nats or more"))
    group, names = line_bins(np.array([-1, 0, 1, 2, 3, 4, 7, 8, 15, 16, 400]))
    assert [names[g] for g in group] == [
        "unknown", "token 1", "token 2", *["tokens 3-4"] * 2, *["tokens 5-8"] * 2, *["tokens 9-16"] * 2,
        *["token 17 or later"] * 2,
    ]  # fmt: skip


@pytest.mark.parametrize("greedy", [True, False])
def test_all_or_nothing_memorised(greedy):
    scored = laid_out(["x"] * 6, rank=np.full(6, 0 if greedy else 3))
    assert (memorised(scored, 6) == greedy).all()
