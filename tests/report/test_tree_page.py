"""The page of a generation: what stands in it, that nothing in it acts, and how it behaves in a browser."""

from __future__ import annotations

import html
import math
import re
from pathlib import Path
from typing import Any

import pytest
from synthetic_run import MALICIOUS

from snellen.report.branches import Tree, drawing
from snellen.report.tree import MAX_CHOICES, Candidate, Choice, Written, label, render, share, write_tree_page


def candidate(piece: str, p: float, q: float | None, *, weight: float = 0.4, chosen: bool = False) -> Candidate:
    return Candidate(piece=piece, p=p, q=q, mix=(1 - weight) * p + weight * (q or 0.0), chosen=chosen)


def choice(piece: str, *, taken: float = 0.05) -> Choice:
    candidates = [candidate("\u00e0", 0.5, 0.1), candidate(" b", 0.3, 0.9), candidate(piece, taken, None, chosen=True)]
    tree = Tree(
        pieces=[["\u00e0", " b"], [piece, "x"], ["end", "\n"]],
        parents=[[-1, -1], [1, 1], [0, 0]],
        log_probs=[[math.log(0.5), math.log(0.3)], [math.log(0.8), math.log(0.1)], [math.log(0.6), math.log(0.2)]],
    )
    return Choice(piece=piece, candidates=sorted(candidates, key=lambda c: -c.mix), tree=tree)


def page(pieces: list[str], prompt: str = "A prompt\nof two lines", **more: Any) -> str:
    texts = [Written(prompt=prompt, choices=[choice(piece) for piece in pieces])]
    return render(model=more.pop("model", "some model"), about=["4 beams", "\u03b1 2"], texts=texts)


def test_a_token_says_what_lookahead_changed() -> None:
    words = html.unescape(page([" so"]))
    assert "from \u201c\u00e0\u201d (50 % \u2192 34 %) to \u201c\u2423b\u201d (30 % \u2192 54 %)" in words
    assert "What was taken had 5 % without lookahead and 3 % with it (\u22120.51 nats)" in words
    same = choice(" so", taken=0.95)
    assert same.reading == "The favourite stays, less probable: \u201c\u2423so\u201d (95 % \u2192 57 %)."
    assert choice("x").shade == "l2"
    assert Choice(piece="x", candidates=[candidate("x", 0.1, 1.0, chosen=True)], tree=same.tree).shade == "g3"
    assert Choice(piece="x", candidates=[candidate("x", 0.1, 0.1, chosen=True)], tree=same.tree).shade == ""


def test_the_tree_shows_survivors_and_who_died() -> None:
    svg = drawing(choice("w").tree, label, share)
    boxes = re.findall(r'<g class="([^"]+)"><title>([^<]*)</title>', svg)
    kinds = {title.split(":")[0]: set(kind.split()) for kind, title in boxes}
    assert kinds["\u00e0"] == {"node", "dead"}
    assert kinds["\u2423b"] == kinds["w"] == kinds["end"] == {"node", "best"}
    assert kinds["x"] == {"node", "dead"}
    assert kinds["\u21b5"] == {"node"}
    titles = {title for _, title in boxes}
    assert "end: 60 % after its branch, 14 % with it" in titles
    assert "Best completion: \u2423b w end" in svg
    # A child stands behind its parent, and the best completion along the top.
    places = {
        title.split(":")[0]: float(y) for title, y in re.findall(r'<title>([^<]*)</title><rect [^>]*y="([\d.]+)"', svg)
    }
    assert places["\u2423b"] == places["w"] == places["end"] < places["\u00e0"]


def test_nothing_of_a_text_acts_and_nothing_is_fetched() -> None:
    found = page(
        [*MALICIOUS, "</script><script>alert(1)</script>"], prompt="<img src=x onerror=alert(2)>", model="<b>m"
    )
    assert "<img" not in found
    assert "<b>" not in found
    assert found.count("<script") == 1
    assert not re.search(r'(src|href)="(?!#|data:)', found)
    assert "default-src 'none'" in found
    assert "\x00" not in found


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.0, "0 %"), (1e-9, "< .01 %"), (0.00123, "0.12 %"), (0.0934, "9.3 %"), (0.5, "50 %"), (0.9987, "99.87 %")],
)
def test_probabilities_keep_the_digits_that_matter(value: float, words: str) -> None:
    assert share(value) == words


def test_a_long_text_is_cut_and_says_so() -> None:
    texts = [
        Written(prompt="p", choices=[choice("x")] * (MAX_CHOICES - 1)),
        Written(prompt="p", choices=[choice("y")] * 3),
    ]
    found = render(model="m", about=[], texts=texts)
    assert found.count('class="choice"') == MAX_CHOICES
    assert "2 further tokens are not shown" in found


def test_it_appears_whole_under_its_name(tmp_path: Path) -> None:
    path = write_tree_page(tmp_path / "a.html", model="m", about=[], texts=[])
    assert path.read_text(encoding="utf-8").endswith("</html>")
    assert list(tmp_path.iterdir()) == [path]


def test_in_a_browser(browser: Any, tmp_path: Path) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    path = tmp_path / "page.html"
    path.write_text(page([" one", " two", "<i>three</i>"]), encoding="utf-8")

    def at(place: str) -> None:
        """One token is shown and marked; the page hears of a new address only a little later."""
        shown = "return [...document.querySelectorAll('.choice')].filter((s) => s.offsetParent).map((s) => '#' + s.id)"
        marked = "return [...document.querySelectorAll('.t.open')].map((t) => t.hash)"
        WebDriverWait(browser, 5).until(lambda b: b.execute_script(marked) == [place])
        assert browser.execute_script(shown) == [place]

    browser.get(path.as_uri())
    at("#t1-1")
    browser.find_elements(By.CSS_SELECTOR, ".t")[2].click()
    at("#t1-3")
    ActionChains(browser).send_keys(Keys.ARROW_LEFT).perform()
    at("#t1-2")
    browser.get("about:blank")
    browser.get(path.as_uri() + "#t1-3")
    at("#t1-3")
    assert browser.execute_script("return document.querySelectorAll('i').length") == 0
    papers = set()
    for theme in ("light", "dark"):
        browser.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": theme}]}
        )
        papers.add(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))
    assert len(papers) == 2
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 420, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    )
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 420
    assert [entry["message"] for entry in browser.get_log("browser")] == []
