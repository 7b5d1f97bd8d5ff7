"""The promises of a plan, as properties."""

import inspect
import itertools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snellen.errors import InputError
from snellen.texts.windows import FIRST_TOKEN, OVER_LIMIT, Window, plan_windows

LENGTHS = st.lists(st.integers(0, 900), min_size=1, max_size=30).filter(lambda lengths: max(lengths) > 1)


@st.composite
def cases(draw, *, limited: bool):
    bos = draw(st.booleans())
    context = draw(st.integers(0, 40))
    window = max(context + bos, 1) + draw(st.integers(1, 200))
    least = draw(st.integers(1, 40))
    options = {
        "window": window,
        "context": context,
        "bos": bos,
        "least": least,
        "span": least + draw(st.integers(0, 60)),
    }
    if limited:
        options["limit"] = draw(st.integers(1, 3000))
    return draw(LENGTHS), options


def check(lengths, plan, *, window, context, bos, **others):
    scored = Counter()
    for cut in plan.windows:
        assert 0 <= cut.begin <= cut.first < cut.last <= lengths[cut.document]
        assert cut.last - cut.begin + bos <= window
        assert cut.first - cut.begin >= min(context, cut.first)
        assert bos or cut.first > cut.begin  # something stands before every target
        scored.update((cut.document, token) for token in range(cut.first, cut.last))
    assert max(scored.values()) == 1
    assert sorted(plan.windows, key=lambda cut: (cut.document, cut.first)) == list(plan.windows)
    assert plan.scored == len(scored)
    assert sum(plan.excluded.values()) + plan.scored == sum(lengths)
    assert 0 not in plan.excluded.values()
    assert plan.excluded.get(FIRST_TOKEN, 0) == (0 if bos else sum(1 for length in lengths if length))
    return scored


@settings(max_examples=150, deadline=None)
@given(cases(limited=False))
def test_everything_is_scored_once_with_its_context(case):
    lengths, options = case
    plan = plan_windows(lengths, **options)
    check(lengths, plan, **options)
    assert OVER_LIMIT not in plan.excluded


@settings(max_examples=300, deadline=None)
@given(cases(limited=True))
def test_the_limit_is_used_up_and_not_exceeded(case):
    lengths, options = case
    plan = plan_windows(lengths, **options)
    scored = check(lengths, plan, **options)
    sizes = [max(0, length - (not options["bos"])) for length in lengths]
    assert plan.scored == min(options["limit"], sum(sizes))
    if sum(min(size, options["least"]) for size in sizes) <= options["limit"]:  # every document is represented
        seen = Counter(document for document, _ in scored)
        assert all(seen[document] >= min(size, options["least"]) for document, size in enumerate(sizes))
    assert plan == plan_windows(lengths, **options)


@settings(max_examples=100, deadline=None)
@given(cases(limited=True))
def test_a_limit_beyond_the_text_changes_nothing(case):
    lengths, options = case
    options["limit"] = sum(lengths) + 1
    limited = plan_windows(lengths, **options)
    assert limited == plan_windows(lengths, **options | {"limit": None})


def test_the_plan_knows_nothing_of_the_machine():
    assert set(inspect.signature(plan_windows).parameters) == {
        "lengths", "window", "context", "bos", "limit", "span", "least",
    }  # fmt: skip


def test_a_plan_by_hand():
    plan = plan_windows([10, 3], window=6, context=2, bos=True)
    assert plan.windows == (
        Window(0, 0, 0, 5), Window(0, 3, 5, 8), Window(0, 6, 8, 10), Window(1, 0, 0, 3),
    )  # fmt: skip
    assert plan.excluded == {}
    plan = plan_windows([10, 1, 3], window=6, context=2, bos=False)
    assert plan.windows == (Window(0, 0, 1, 6), Window(0, 4, 6, 10), Window(2, 0, 1, 3))
    assert plan.excluded == {FIRST_TOKEN: 3}


def test_shares_are_proportional_above_a_floor():
    plan = plan_windows([300, 20_000, 60_000], window=512, context=64, bos=True, limit=8_000)
    per = Counter()
    for cut in plan.windows:
        per[cut.document] += cut.scored
    assert per[0] == 256
    assert per[2] / per[1] == pytest.approx(3, rel=0.01)
    assert plan.excluded == {OVER_LIMIT: 72_300}
    assert max(cut.scored for cut in plan.windows) < 2 * 256


def test_many_documents_are_sampled_evenly():
    plan = plan_windows([50] * 2_000, window=512, context=64, bos=True, limit=6_400)
    documents = [cut.document for cut in plan.windows]
    assert plan.scored == 6_400
    assert len(set(documents)) > 150
    assert max(b - a for a, b in itertools.pairwise(documents)) < 45


def test_no_part_of_a_document_is_favoured():
    plan = plan_windows([4_000] * 200, window=512, context=64, bos=True, limit=40_000)
    where = [(cut.first + cut.last) / 2 / 4_000 for cut in plan.windows]
    quarters = Counter(int(place * 4) for place in where)
    assert all(0.2 < count / len(where) < 0.3 for count in quarters.values())
    assert min(cut.first for cut in plan.windows) < 100  # beginnings of documents too


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 65, "context": 64, "bos": True}, r"^window 65: with 64 .* and the first token .* 66, or"),
        ({"window": 64, "context": 64, "bos": False}, r"^window 64: .*at least 65, or the context smaller"),
        ({"context": -1}, r"^context -1: must be 0 or more"),
        ({"limit": 0}, r"^limit 0: must be at least 1 token, or left out"),
        ({"least": 300}, r"^least 300, span 256: must be"),
        ({"lengths": [1, 0, 1]}, r"^the texts have 2 tokens, and none can be scored .*longer texts"),
        ({"lengths": []}, r"^the texts have 0 tokens"),
    ],
)  # fmt: skip
def test_wrong_settings(options, message):
    settings = {"lengths": [100], "window": 100, "context": 10, "bos": False} | options
    with pytest.raises(InputError, match=message):
        plan_windows(settings.pop("lengths"), **settings)
