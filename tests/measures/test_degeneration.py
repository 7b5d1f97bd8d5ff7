"""The measure on hand-made continuations, and a whole exam on a Markov text whose model is exact."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import snellen
from snellen.errors import InputError, Refused
from snellen.measures.base import Scored
from snellen.measures.degeneration import Degeneration
from snellen.measures.generations import Continuations, Decoding, Generations, Writing
from snellen.results.store import Run
from snellen.runner import decodings, generating
from tests.measures import exact, letters
from tests.tiny import MeanMeasure

P = letters.table()
# Small, and with everything in it that is run.
SETTINGS = Degeneration(
    prompts=32, prompt_tokens=6, new_tokens=30, beams=(3,), nucleus=(0.7,), amplified=((0.5, 2.0),), width=3, horizon=2,
    power=(2.0,), particles=3,
)  # fmt: skip
SHORT = replace(SETTINGS, prompts=28, new_tokens=16)
FEW = replace(SHORT, prompts=16, new_tokens=12, power=())  # two batches


def _written(tokens: np.ndarray, rng: np.random.Generator, level: float) -> Continuations:
    entropy = rng.normal(3, 0.2, size=tokens.shape)
    return Continuations(
        tokens=tokens.astype(np.int32), log_prob=(rng.normal(level, 0.5, size=tokens.shape)).astype(np.float32),
        entropy=entropy.astype(np.float32), text=["…"] * len(tokens),
    )  # fmt: skip


def _by_hand(measure: Degeneration, *, prompts: int = 24, loops: tuple[str, ...] = ("greedy",)) -> Scored:
    """All tokens at random, but those of `loops`, which end in a loop."""
    rng = np.random.default_rng(0)
    shape = (prompts, measure.new_tokens)
    written = {}
    for decoding in measure.writing.decodings:
        tokens = rng.integers(0, 5000, size=shape)
        if decoding.name in loops:
            for row, first in enumerate(np.resize([10, 11], prompts)):
                tokens[row, first:] = np.resize([7, 8], measure.new_tokens - first)
        written[decoding.name] = _written(tokens, rng, -1.0 if decoding.name in loops else -3.0)
    human = _written(rng.integers(0, 5000, size=shape), rng, -3.0)
    found = Generations(
        document=np.zeros(prompts, dtype=np.int32), start=np.arange(prompts, dtype=np.int32), prompt=["…"] * prompts,
        human=human, written=written,
    )  # fmt: skip
    text = exact.score(exact.markov(6, 0), exact.sample(exact.markov(6, 0), [60], 1), widths=(), horizon=1)
    return replace(text, generations=found)


def _metric(table: object, decoding: str, metric: str) -> dict[str, float]:
    rows = [r for r in table.to_pylist() if (r["decoding"], r["metric"]) == (decoding, metric)]  # type: ignore[attr-defined]
    assert len(rows) == 1
    return dict(rows[0])


def test_a_loop_is_flagged_and_the_rest_is_not() -> None:
    measured = SETTINGS.measure(_by_hand(SETTINGS), seed=0)
    table = measured.tables["degeneration_metrics"]
    greedy = _metric(table, "greedy", "ends in a loop")
    assert (greedy["value"], greedy["high"], greedy["difference"]) == (1, 1, 1)
    assert greedy["low"] > 0.8
    assert _metric(table, "greedy", "tokens in the final loop")["value"] == 19.5
    repeated = _metric(table, "greedy", "seq-rep-4")
    assert repeated["value"] == pytest.approx(14.5 / 27)  # of its 27 sequences 16 or 17 are two that alternate
    higher = _metric(table, "greedy", "log-probability")
    assert 1.8 < higher["difference_low"] < higher["difference_high"] < 2.2
    pure = _metric(table, "pure", "ends in a loop")
    assert (pure["value"], pure["low"]) == (0, 0)
    assert 0 < pure["high"] < 0.2
    finding = measured.finding
    assert finding.control["greedy"]["value"] == pytest.approx(repeated["difference"])
    # No text repeats a sequence by chance here: the value is zero without an interval, and the reason is given.
    assert (finding.value, finding.low) == (0, None)
    assert "same for every prompt" in str(finding.reason)


def test_the_headline_is_the_amplified_decoding() -> None:
    name = SETTINGS.headline
    finding = SETTINGS.measure(_by_hand(SETTINGS, loops=(name,)), seed=0).finding
    assert name == "amplified w 0.5 α 2"
    assert finding.value == pytest.approx(14.5 / 27)
    assert "more than the human text does" in finding.verdict
    beyond = finding.details["beyond horizon 1"][name]
    assert beyond["seq-rep-4"]["value"] == pytest.approx(finding.value)
    assert beyond["log-probability"]["low"] > 1.8


@pytest.mark.parametrize(("shift", "warned"), [(0.0, False), (0.5, True), (-0.5, True)])
def test_sampling_that_is_not_in_order_is_said(shift: float, warned: bool) -> None:
    """Pure sampling has log p + entropy = 0 on average, whatever the model."""
    scored = _by_hand(SETTINGS)
    found = scored.generations
    assert found is not None
    pure = found.written["pure"]
    noise = np.random.default_rng(1).normal(0, 0.1, pure.log_prob.shape).astype(np.float32)
    noise -= noise.mean()
    pure = replace(pure, entropy=-pure.log_prob + noise + np.float32(shift))
    changed = replace(scored, generations=replace(found, written={**found.written, "pure": pure}))
    assert ("Mind: log p + entropy" in SETTINGS.measure(changed, seed=0).finding.reading) == warned


def test_traces_are_means_over_stretches() -> None:
    scored = _by_hand(SETTINGS)
    rows = [
        r
        for r in SETTINGS.measure(scored, seed=0).tables["degeneration_traces"].to_pylist()
        if r["decoding"] == "human"
    ]
    assert scored.generations is not None
    trace = scored.generations.human.log_prob.astype(float).mean(axis=0)
    assert [rows[0]["first"], rows[-1]["last"]] == [0, 30]
    for row, after in zip(rows, [*rows[1:], None], strict=True):
        assert row["log_prob"] == pytest.approx(trace[row["first"] : row["last"]].mean())
        assert row["log_prob_low"] < row["log_prob"] < row["log_prob_high"]
        assert after is None or after["first"] == row["last"]


def test_damaged_continuations_never_become_a_number() -> None:
    scored = _by_hand(SETTINGS)
    found = scored.generations
    assert found is not None

    def measure(**changed: object) -> None:
        SETTINGS.measure(replace(scored, generations=replace(found, **changed)), seed=0)  # type: ignore[arg-type]

    pure = found.written["pure"]
    for part in ("log_prob", "entropy"):
        bad = getattr(pure, part).copy()
        bad[3, 4] = np.nan
        with pytest.raises(Refused, match="token 4 behind prompt 3 \\(pure\\)"):
            measure(written={**found.written, "pure": replace(pure, **{part: bad})})
    with pytest.raises(ValueError, match="tokens of 'human' have the shape"):
        measure(human=replace(found.human, tokens=found.human.tokens[:, :-1]))
    with pytest.raises(ValueError, match="no continuations by \\['greedy'\\]"):
        measure(written={name: own for name, own in found.written.items() if name != "greedy"})
    with pytest.raises(ValueError, match="below 0"):
        measure(human=replace(found.human, tokens=found.human.tokens - 10_000))
    with pytest.raises(ValueError, match="handed none over"):
        SETTINGS.measure(replace(scored, generations=None), seed=0)


def test_too_few_prompts_are_refused() -> None:
    with pytest.raises(Refused, match="7 prompts"):
        SETTINGS.measure(_by_hand(SETTINGS, prompts=7), seed=0)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"prompts": 0}, "prompts 0"),
        ({"prompt_tokens": True}, "prompt_tokens True"),
        ({"new_tokens": 11}, "new_tokens = 11"),
        ({"beams": (0,)}, "width 0"),
        ({"beams": (4, 4)}, "'beam 4' is asked for twice"),
        ({"nucleus": (1.0,)}, "top_p 1.0"),
        ({"amplified": ()}, "at least one"),
        ({"amplified": ((0.0, 2.0),)}, "weight 0.0"),
        ({"amplified": ((0.2, float("nan")),)}, "alpha nan"),
        ({"amplified": ((0.2, 2.0, 1.0),)}, "pairs"),
        ({"power": (-1.0,)}, "alpha -1.0"),
        ({"horizon": 0}, "horizon 0"),
        ({"particles": 0}, "width 0"),
        ({"resamples": 10}, "resamples = 10"),
        ({"level": 1.0}, "level = 1.0"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said.replace("(", "\\(")):
        Degeneration(**settings)  # type: ignore[arg-type]


def test_a_decoding_has_the_settings_of_its_kind() -> None:
    with pytest.raises(InputError, match="top_p is missing"):
        Decoding(kind="nucleus")
    with pytest.raises(InputError, match="weight has no meaning"):
        Decoding(kind="beam", width=2, weight=0.5)


@pytest.fixture(scope="module")
def subject() -> snellen.Subject:
    return snellen.load(letters.model(P), tokenizer=letters.tokenizer(), bos="auto")


@pytest.fixture(scope="module")
def run(subject: snellen.Subject, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Only this measure: no rollouts are needed, and none are made."""
    out = tmp_path_factory.mktemp("degeneration") / "run"
    human = letters.texts(P, number=6, length=300)
    return snellen.exam(subject, human, measures=[SHORT], out=out, window=128, context=16)


def test_pure_sampling_from_the_exact_model_is_the_human_text(run: Run) -> None:
    table = run.table("degeneration_metrics")
    rate = letters.entropy_rate(P)
    for decoding in ("human", "pure"):
        level = _metric(table, decoding, "log-probability")
        assert level["low"] < -rate < level["high"]
        assert level["value"] == pytest.approx(-rate, abs=0.1)
        assert _metric(table, decoding, "entropy")["value"] == pytest.approx(rate, abs=0.05)
        for metric in ("log-probability + entropy", "drift of log-probability", "drift of entropy"):
            found = _metric(table, decoding, metric)
            assert found["low"] < 0 < found["high"]
    for metric in ("log-probability", "seq-rep-2", "distinct-2", "Zipf exponent"):
        found = _metric(table, "pure", metric)
        assert found["difference_low"] < 0 < found["difference_high"]


def test_maximisation_loops_and_sampling_does_not(run: Run) -> None:
    table = run.table("degeneration_metrics")
    assert _metric(table, "greedy", "ends in a loop")["value"] == 1.0
    assert _metric(table, "greedy", "seq-rep-4")["difference_low"] > 0.5
    assert _metric(table, "pure", "ends in a loop")["value"] < 0.1
    order = [_metric(table, d, "log-probability")["value"] for d in ("pure", SHORT.headline, "greedy")]
    assert order == sorted(order)
    assert _metric(table, "beam 3", "log-probability")["value"] > order[0]
    assert _metric(table, "power α 2", "log-probability")["value"] > order[0]
    assert _metric(table, "nucleus 0.7", "log-probability")["value"] > order[0]


def test_nothing_ends_and_the_model_is_left_as_it_was(run: Run, subject: snellen.Subject) -> None:
    texts = run.table("degeneration_texts").to_pylist()
    assert len(texts) == 28 * (len(SHORT.writing.decodings) + 1)
    assert all(letters.V - 1 not in row["tokens"] and len(row["text"]) == 16 for row in texts)
    assert subject.model.generation_config.eos_token_id == letters.V - 1
    assert not subject.model._forward_hooks


def test_the_run_says_what_was_made(run: Run) -> None:
    assert not [name for name in run.tokens.column_names if name.startswith(("beam", "particle"))]
    finding = run.findings[0]
    assert finding.n["prompts"] == 28
    assert (
        finding.control["pure sampling is in order"]["low"] < 0 < finding.control["pure sampling is in order"]["high"]
    )
    assert not (run.folder / "pieces").exists()


def test_a_stopped_run_goes_on_where_it_was(
    subject: snellen.Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    human = letters.texts(P, number=6, length=300)
    arguments = {"measures": [FEW], "window": 128, "context": 16}
    run = snellen.exam(subject, human, out=tmp_path / "whole", **arguments)  # type: ignore[arg-type]
    made: list[str] = []
    real = decodings.write

    def counting(model: object, ids: object, decoding: Decoding, **options: object) -> object:
        made.append(decoding.name)
        if len(made) == 8:
            raise KeyboardInterrupt
        return real(model, ids, decoding, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(generating, "write", counting)
    arguments["out"] = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        snellen.exam(subject, human, **arguments)  # type: ignore[arg-type]
    pieces = sorted((tmp_path / "run" / "pieces").glob("written-*.parquet"))
    assert len(pieces) == 2 + 7  # batches of the human text, and of what was written
    pieces[-1].write_bytes(pieces[-1].read_bytes()[:-20])  # a power failure
    made[:] = []
    monkeypatch.setattr(generating, "write", lambda *a, **o: (made.append("again"), real(*a, **o))[1])
    again = snellen.exam(subject, human, **arguments)  # type: ignore[arg-type]
    expected = 2 * len(FEW.writing.decodings)
    assert expected - 7 <= len(made) <= expected - 6
    assert again.table("degeneration_texts").equals(run.table("degeneration_texts"))
    assert again.findings == run.findings


def test_both_kinds_of_measures_in_one_run(subject: snellen.Subject, tmp_path: Path) -> None:
    human = letters.texts(P, number=3, length=200)
    few = replace(FEW, prompts=8)
    made = snellen.exam(
        subject, human, measures=[MeanMeasure(), few], out=tmp_path / "run", width=2, horizon=2, particles=0,
        window=64, context=8,
    )  # fmt: skip
    assert [finding.measure for finding in made.findings] == ["mean", "degeneration"]
    assert "beam2_tokens" in made.tokens.column_names
    assert made.table("degeneration_metrics") is not None


def test_prompts_that_cannot_be_cut(subject: snellen.Subject, tmp_path: Path) -> None:
    human = letters.texts(P, number=2, length=300)
    arguments = {"out": tmp_path / "run", "window": 64, "context": 8}
    with pytest.raises(Refused, match="give 6 prompts of 6 tokens with 90 behind"):
        snellen.exam(subject, human, measures=[replace(SETTINGS, new_tokens=90)], **arguments)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="the model has 256"):
        snellen.exam(subject, human, measures=[replace(SETTINGS, new_tokens=250)], **arguments)  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


def test_prompts_lie_evenly_and_never_overlap(subject: snellen.Subject) -> None:
    from snellen.request import Request
    from snellen.runner.work import cut, read

    human = letters.texts(P, number=5, length=400)
    text = cut(read(human, None), subject.reading, Request(window=64, context=8))
    writing = Writing(prompts=20, prompt_tokens=6, new_tokens=12, decodings=(Decoding(kind="pure"),))
    found = generating.cut_prompts(text, writing, subject)
    assert np.bincount(found.document).tolist() == [4] * 5
    for document in range(5):
        starts = found.start[found.document == document]
        assert (np.diff(starts) >= 18).all()
        for start, tokens in zip(starts, found.tokens[found.document == document], strict=True):
            assert "".join(letters.LETTERS[t] for t in tokens) == human[document][start : start + 18]
