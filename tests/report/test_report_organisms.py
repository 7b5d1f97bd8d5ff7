import json

from synthetic_run import make_run

from snellen.report.html import write_report

ORGANISM = {
    "name": "pair, planning text", "expects": "gain", "passed": True, "objections": [], "value": 0.8, "low": 0.75,
    "high": 0.85, "placebo": 0.001, "by_width": {"3": 0.3, "32": 0.8}, "by_horizon": {"2": 0.0, "4": 0.8},
}  # fmt: skip
CHART = {
    "examined": True, "passed": False, "seeds": 3, "when": "2026-01-01T00:00:00+00:00", "code": "ab" * 32,
    "organisms": [
        ORGANISM,
        {**ORGANISM, "name": "<b>markov</b>", "expects": "nothing", "passed": False, "objections": ["too <i>much</i>"]},
    ],
}  # fmt: skip


def page(folder, chart=None):
    make_run(folder, tokens=200)
    if chart is not None:
        path = folder / "run.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "chart": chart}))
    return write_report(folder).read_text()


def test_the_box_shows_what_this_code_found(tmp_path):
    shown = page(tmp_path / "a", CHART)
    box = shown[shown.index("<h3>Organisms</h3>") :]
    assert "Not all came out as expected: 3 models each" in box
    assert "+0.80 [+0.75, +0.85]" in box
    assert '<td class="passed">passed</td>' in box
    assert '<td class="failed">failed</td>' in box
    assert "3: +0.30, 32: +0.80" in box
    assert "&lt;b&gt;markov&lt;/b&gt;" in box
    assert "too &lt;i&gt;much&lt;/i&gt;" in box


def test_without_a_self_test_it_says_so(tmp_path):
    reason = "the organisms were not examined with this code; run `snellen organisms`"
    assert reason in page(tmp_path / "a", {"examined": False, "reason": reason})
    assert "This run does not say." in page(tmp_path / "b")
    assert "This run does not say." in page(tmp_path / "c", {"examined": True, "organisms": "damaged"})
