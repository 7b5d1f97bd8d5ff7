"""The report as a file: what is in it, what can never be in it, and how it gets there."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic_run import MALICIOUS, make_run

from snellen.errors import InputError
from snellen.report.html import write_report
from snellen.results.findings import Finding, dumps

ALLOWED = {"html", "head", "meta", "title", "link", "style", "body", "header", "div", "span", "p", "h1", "h2", "h3",
           "bdi", "button", "main", "section", "strong", "figure", "figcaption", "h4", "svg", "g", "path", "line",
           "text", "rect", "ul", "li", "table", "thead", "tbody", "tr", "th", "td", "caption", "details", "summary",
           "noscript", "select", "dl", "footer", "script", "defs", "clippath", "tspan"}  # fmt: skip


class Parsed(HTMLParser):
    """Tags, attributes and text as a browser's parser would find them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def page_of(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


def words_of(folder: Path) -> str:
    return " ".join(" ".join(Parsed(page_of(folder)).text).split())


def test_no_tag_and_no_handler_comes_from_the_run(malicious: Path) -> None:
    parsed = Parsed(page_of(malicious))
    assert {tag for tag, _ in parsed.tags} <= ALLOWED
    assert not [name for _, attributes in parsed.tags for name in attributes if name.startswith("on")]
    assert [attributes for tag, attributes in parsed.tags if tag == "script"] == [
        {"type": "application/json", "id": "data"},
        {},
    ]
    said = "".join(parsed.text)
    for words in ("<script>alert('verdict')</script>", "<img src=x onerror=alert(9)>", "\u2018<b>odd</b>\u2019"):
        assert words in said
    assert "\u202e" not in page_of(malicious).split('id="data"')[0]
    assert "\x00" not in page_of(malicious)


def test_embedded_json_gives_back_the_text_and_cannot_end_its_script(malicious: Path) -> None:
    inside = re.search(r'<script type="application/json" id="data">(.*?)</script>', page_of(malicious), re.S)
    assert inside is not None
    assert not set(inside[1]) & set("<>&\u2028\u2029")
    assert set(MALICIOUS) <= set(json.loads(inside[1])["pieces"])


def test_nothing_is_asked_of_the_network_and_the_policy_forbids_it(malicious: Path) -> None:
    page = page_of(malicious)
    assert not re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}", page)
    assert not re.findall(r"@import|url\(|xlink|fetch\(|XMLHttpRequest|innerHTML|eval\(", page)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    script = re.findall(r"<script>(.*?)</script>", page, re.S)[-1]
    assert policy is not None
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy[1].replace("&#39;", "'")
    assert "default-src 'none'" in policy[1]


def test_50k_tokens_stay_below_3_megabytes(large: Path) -> None:
    assert (large / "report.html").stat().st_size < 3_000_000


def test_many_and_deep_beams_stay_below_3_megabytes(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", tokens=50_000, widths=(16,), horizon=8)
    assert write_report(folder).stat().st_size < 3_000_000


def test_top_of_the_page(large: Path) -> None:
    words = words_of(large)
    for part in ("google/gemma-3-270m", "on essay-1.txt and 23 more", "gain found", "+0.0120", "95 % interval",
                 "[+0.0039, +0.0194]", "50,000 tokens", "24 documents", "does not itself look ahead",
                 "there is nothing to plan", "in whole words"):  # fmt: skip
        assert part in words


def test_charts_name_their_numbers_and_keep_them_whole(large: Path) -> None:
    parsed = Parsed(page_of(large))
    labels = [
        attributes["aria-label"] or "" for tag, attributes in parsed.tags if tag == "svg" and "aria-label" in attributes
    ]
    assert len(labels) == 10
    assert "horizon 4, lookahead: +0.0120" in labels[0]
    assert "placebo: \u22120.0002" in labels[0]
    assert "+0.0120" in parsed.text  # in a cell of the map: rounding coordinates must not touch words


def test_undefined_numbers_are_a_dash_with_the_reason(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", documents=2)
    write_report(folder)
    words = words_of(folder)
    assert "interval: \u2014" in words
    assert "only 2 documents: no interval below 8 units" in words
    assert "\u2014 (without them 3 units are left; at least 8 needed)" in words
    assert "no number and so not drawn: other" in words


def test_optional_parts_may_be_missing(tmp_path: Path) -> None:
    folder = make_run(
        tmp_path / "run",
        drop_tables=("arms", "gains", "splits", "resamples", "vocabulary"),
        drop_columns=("lookahead_log_prob", "control_log_prob", "mix_tokens", "mix_probs", "token_class", "memorised",
                      "entropy", "rank"),
    )  # fmt: skip
    write_report(folder)
    assert "no table of gains by horizon" in words_of(folder)
    inside = json.loads(re.findall(r'id="data">(.*?)</script>', page_of(folder), re.S)[0])
    assert [mode["name"] for mode in inside["modes"]] == ["surprise"]
    assert all(text.startswith("#") for text in inside["inspect"]["vocabulary"])


def test_no_beams_and_no_lists(tmp_path: Path) -> None:
    gone = [f"beam{w}_{part}" for w in (2, 4) for part in ("tokens", "parents", "log_probs")]
    folder = make_run(
        tmp_path / "run", drop_columns=(*gone, "top_tokens", "top_log_probs", "mix_tokens", "mix_probs"), finding=False
    )
    write_report(folder)
    assert '"inspect":null' in page_of(folder)
    words = words_of(folder)
    assert "Each token has its numbers. Click one" in words
    for absent in ("Placebo and control", "Organisms", "How far ahead does", "beam tree:", "placebo shows"):
        assert absent not in words


def test_findings_of_other_measures_get_a_block_each(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    other = Finding(
        measure="plugged-in", question="Is it <b>so</b>?", value=None, unit="bits", low=None, high=None, level=0.9,
        n={"heads": 12}, excluded={"dead heads": 2}, control={"shuffled": 0.1}, verdict="cannot say",
        reading="Nothing follows.", settings={}, reason="no head was left",
    )  # fmt: skip
    (folder / "findings.json").write_text(dumps([other]))
    write_report(folder)
    words = words_of(folder)
    for part in ("plugged-in", "Is it <b>so</b>?", "cannot say", "no head was left", "12 heads", "Nothing follows."):
        assert part in words


def test_lone_surrogates_of_json_do_not_stop_the_report(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    content = (folder / "findings.json").read_text().replace('"gain found', '"gain \\ud800 found')
    (folder / "findings.json").write_text(content)
    write_report(folder)
    assert "gain \ufffd found" in words_of(folder)


def test_a_text_too_long_for_the_page_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_run(tmp_path / "run", tokens=500)
    monkeypatch.setattr("snellen.report.strip.MAX_TOKENS", 200)
    monkeypatch.setattr("snellen.report.html.MAX_TOKENS", 200)
    write_report(folder)
    assert "Only the first 200 of 500 tokens are shown here" in words_of(folder)


@pytest.mark.parametrize("table", ["arms", "gains", "splits", "vocabulary"])
def test_a_table_that_breaks_the_contract_is_named(tmp_path: Path, table: str) -> None:
    folder = make_run(tmp_path / "run")
    pq.write_table(pa.table({"other": [1]}), folder / "tables" / f"{table}.parquet")
    with pytest.raises(InputError, match=rf"{table}\.parquet: no column"):
        write_report(folder)


def test_what_is_no_finished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        write_report(tmp_path / "nowhere")
    folder = make_run(tmp_path / "run")
    (folder / "findings.json").write_text('{"schema": 99, "findings": []}')
    with pytest.raises(InputError, match="schema 99"):
        write_report(folder)
    (folder / "tokens.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(InputError):
        write_report(folder)


def test_a_report_that_fails_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_run(tmp_path / "run")
    before = write_report(folder).read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(InputError, match="disk is full"):
        write_report(folder)
    monkeypatch.undo()
    assert (folder / "report.html").read_bytes() == before
    assert {path.name for path in folder.iterdir()} == {
        "run.json",
        "findings.json",
        "tokens.parquet",
        "tables",
        "report.html",
    }


def test_the_same_run_gives_the_same_report(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", tokens=300)
    first = write_report(folder).read_bytes()
    assert write_report(folder).read_bytes() == first


def test_the_header_counts_the_documents_that_were_scored(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", documents=8)
    about = json.loads((folder / "run.json").read_text())
    for place, entry in enumerate(about["text"]["documents"]):
        entry["scored"] = 0 if place in (0, 3) else 7
    second = about["text"]["documents"][1]["name"]
    (folder / "run.json").write_text(json.dumps(about))
    write_report(folder)
    words = words_of(folder)
    assert "6 of 8 documents" in words
    assert f"{second} and 5 more" in words


def test_documents_that_were_left_out_as_identical_are_counted_and_named(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", documents=8)
    about = json.loads((folder / "run.json").read_text())
    about["text"]["documents identical to an earlier one"] = {
        "documents": 2, "tokens": 60, "first": ["copy.txt (as a.txt)", "other.txt (as a.txt)"],
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(about))
    write_report(folder)
    words = words_of(folder)
    assert "2 documents identical to an earlier one left out" in words
    assert "copy.txt (as a.txt), other.txt (as a.txt)" in words


def test_what_is_read_besides_the_scored_tokens_is_of_all_documents(tmp_path: Path) -> None:
    """Without a gain the heading does not name the documents in which tokens were scored, but counts them."""
    for finding, name in ((True, "essay-2.txt and 5 more"), (False, "essay-1.txt and 7 more")):
        folder = make_run(tmp_path / f"run{finding}", documents=8, finding=finding)
        about = json.loads((folder / "run.json").read_text())
        for place, entry in enumerate(about["text"]["documents"]):
            entry["scored"] = 0 if place in (0, 3) else 7
        (folder / "run.json").write_text(json.dumps(about))
        write_report(folder)
        words = words_of(folder)
        assert "600 tokens scored in 6 of 8 documents" in words
        assert f"on {name}" in words
