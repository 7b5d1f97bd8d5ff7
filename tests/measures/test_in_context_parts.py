"""The parts of `in-context` against slow twins and hand-made cases: forks, lines, rules, weights, probes, texts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from snellen.errors import Refused
from snellen.lookahead.engine import ColumnEngine, PlainEngine
from snellen.measures.in_context import few_shot as few
from snellen.measures.in_context import lines as prompts
from snellen.measures.in_context import probes
from snellen.measures.in_context.lines import XS, YS, Lines, Spelling
from snellen.measures.in_context.rules import RULES, least_squares
from snellen.measures.in_context.stretches import Stretches, Unfit
from snellen.measures.in_context.texts import of_text, places
from snellen.measures.in_context.weights import weights
from snellen.measures.readings import Material, Passage, Passages, Reading
from snellen.models.bundled import pocket_folder
from snellen.results.estimates import Estimate
from snellen.results.samples import Sample
from snellen.runner.forks import Forks
from snellen.runner.reading import layers, read


def sample(rows: int, kind: str = "pairs of prompts") -> Sample:
    return Sample.of_rows(rows, kind, number=400, level=0.95, seed=0)


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=31, hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.4,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval().requires_grad_(False)


# forks


def spelled_out(model: LlamaForCausalLM, text: list[int], candidates: list[tuple[int, ...]]) -> list[float]:
    """Slow twin: every candidate behind the text in a forward pass of its own."""
    out = []
    for one in candidates:
        ids = torch.tensor([[*text, *one]])
        log_p = torch.log_softmax(model(ids).logits[0].double(), dim=-1)
        out.append(sum(float(log_p[len(text) + k - 1, token]) for k, token in enumerate(one)))
    return out


@pytest.mark.parametrize("engine", [ColumnEngine, PlainEngine])
@pytest.mark.parametrize(
    "candidates",
    [
        [(1,), (2,), (30,)],
        [(1, 2), (1, 3), (4, 2), (5,)],
        [(7, 1, 1), (7, 1, 2), (7, 2), (8, 1, 1, 5), (8, 1, 1, 6), (9,)],
    ],
)
@torch.no_grad()
def test_candidates_weigh_as_much_as_when_they_are_spelled_out(engine: type, candidates: list[tuple[int, ...]]) -> None:
    model, text = llama(), [3, 1, 4, 1, 5, 9, 2, 6]
    runner = engine(model)
    hidden = runner.read(torch.tensor(text))
    found = Forks.of(candidates).weigh(runner, hidden, [1, 5, 8])
    for row, place in enumerate([1, 5, 8]):
        assert found[row].tolist() == pytest.approx(spelled_out(model, text[:place], candidates), abs=1e-4)


def test_a_beginning_is_run_once() -> None:
    forks = Forks.of([(7, 1, 1), (7, 1, 2), (7, 2), (8, 1, 1), (9,)])
    assert forks.tokens == [[7, 8], [1, 1]]
    assert forks.parents == [[0, 0], [0, 1]]
    assert forks.nodes == 4
    assert Forks.of([(1,), (2,)]).nodes == 0


@torch.no_grad()
def test_a_reading_is_what_the_model_says() -> None:
    model = llama()
    ids = torch.tensor([0, 3, 1, 4, 1, 5, 9])  # the first is the model's own
    passage = Passage(tokens=ids[1:].numpy(), first=2, state=4)
    found = read(ColumnEngine(model), ids, passage, 1, Forks.of([]), 1 << 26)
    output = model(ids[None], output_hidden_states=True)
    log_p = torch.log_softmax(output.logits[0], -1)
    assert found.log_prob.tolist() == pytest.approx([float(log_p[i - 1, ids[i]]) for i in range(3, 7)], abs=1e-4)
    assert found.states is not None
    # Before place 4 of the passage stands the fifth token that the model reads.
    expected = torch.stack([one[0, 4] for one in output.hidden_states]).numpy()
    np.testing.assert_allclose(found.states, expected, atol=1e-4)


def test_infinite_states_and_scores_are_refused() -> None:
    model = llama()
    runner = ColumnEngine(model)
    model.model.layers[0].mlp.down_proj.weight.data.fill_(float("nan"))
    with pytest.raises(Refused, match="hidden states"):
        layers(runner.body, torch.tensor([1, 2, 3]))
    with pytest.raises(Refused, match="NaN"):
        read(runner, torch.tensor([1, 2, 3]), Passage(tokens=np.array([1, 2, 3]), first=1), 0, Forks.of([]), 1 << 26)


def test_passages_that_cannot_be_read_are_mistakes() -> None:
    tokens = np.arange(4)
    for wrong in ({"first": 0}, {"first": 5}, {"first": 1, "forks": (5,)}, {"first": 1, "state": 0}):
        with pytest.raises(ValueError, match="with the places"):
            Passage(tokens=tokens, **wrong)  # type: ignore[arg-type]
    for candidates in (((1,), (1, 2)), ((1, 2), (1, 2)), ((),)):
        with pytest.raises(ValueError, match="beginning of another"):
            Passages(items=(), candidates=(*candidates, (9,)))
    with pytest.raises(ValueError, match="no candidates"):
        Passages(items=[Passage(tokens=tokens, first=1, forks=(2,))])


# lines


def test_lines_hold_what_they_promise() -> None:
    lines = Lines.draw(200, 8, seed=3)
    assert lines.x.shape == (200, 9)
    assert set(np.unique(lines.x)) <= set(XS)
    assert set(np.unique(lines.y)) <= set(YS)
    np.testing.assert_array_equal(
        lines.y - lines.y[:, :, :1], lines.slope[..., None] * (lines.x - lines.x[:, :1])[:, None]
    )
    for k in range(1, 9):  # each lies outside all before it
        before = lines.x[:, :k]
        assert ((lines.x[:, k] < before.min(axis=1)) | (lines.x[:, k] > before.max(axis=1))).all()
    shuffled = lines.written(True)
    np.testing.assert_array_equal(np.sort(shuffled[..., :-1]), np.sort(lines.y[..., :-1]))
    np.testing.assert_array_equal(shuffled[..., -1], lines.y[..., -1])
    # Both functions are shuffled alike; on average nothing of the line is left, with either sign.
    slope = [
        np.polyfit(x[:-1], y[:-1], 1)[0] / a for x, y, a in zip(lines.x, shuffled[:, 0], lines.slope[:, 0], strict=True)
    ]
    assert abs(np.mean(slope)) < 4 * np.std(slope) / np.sqrt(200)
    assert Lines.draw(200, 8, seed=3).y.tolist() == lines.y.tolist() != Lines.draw(200, 8, seed=4).y.tolist()


@pytest.mark.parametrize("split", ["characters", "numbers", "pocket"])
def test_passages_spell_the_text_whatever_the_tokenizer(split: str) -> None:
    encode, decode = {"characters": _characters, "numbers": _numbers, "pocket": _pocket}[split]()
    lines, spelling = Lines.draw(6, 4, seed=0), Spelling.of(encode)
    made = prompts.passages(lines, (0, 4), spelling, encode, 200)
    assert len(made) == 6 * 4
    # Two functions in order, pair by pair, then two shuffled.
    for number, shuffled in ((0, False), (1, False), (12, True), (13, True)):
        y = lines.written(shuffled)[0, number % 2]
        for y_last in (11, 47, 99):
            whole = [*made[number].tokens.tolist(), *spelling.answer[y_last]]
            assert decode(whole) == prompts.text(lines.x[0].tolist(), [*y[:-1].tolist(), y_last])
    first = [decode(list(made[0].tokens[: made[0].forks[0]])) + decode(list(spelling.answer[y])) for y in YS]
    assert first == [f"x = {lines.x[0, 0]}, y = {y}" for y in YS]
    if split == "characters":
        assert Forks.of(spelling.candidates).nodes == 9  # the space belongs to what stands before


def _characters():
    return (lambda text: [ord(c) for c in text]), (lambda ids: "".join(map(chr, ids)))


def _numbers():
    """Numbers with the space before them are tokens, as in GPT-2."""
    import re

    known: dict[str, int] = {}

    def encode(text: str) -> list[int]:
        return [known.setdefault(piece, len(known)) for piece in re.findall(r" ?\d+| ?[a-z]+|\s|[^\s\w]", text)]

    return encode, lambda ids: "".join({v: k for k, v in known.items()}[i] for i in ids)


def _pocket():
    tokenizer = AutoTokenizer.from_pretrained(pocket_folder())
    return (lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]), tokenizer.decode


def test_tokenizers_that_cannot_be_asked_are_named() -> None:
    with pytest.raises(Unfit, match="joins numbers or lines"):
        Spelling.of(lambda text: [hash(text) % 1000])
    with pytest.raises(Unfit, match="does not tell the numbers"):
        Spelling.of(lambda text: [ord(c) if not c.isdigit() else 1 for c in text])
    encode, _ = _characters()
    with pytest.raises(Unfit, match="--window higher"):
        prompts.passages(Lines.draw(8, 8, seed=0), (8,), Spelling.of(encode), encode, 60)

    def whimsical(text: str) -> list[int]:
        return [ord(c) for c in text] if text.count("\n") < 2 else [1, *map(ord, text)]

    with pytest.raises(Unfit, match="otherwise than one by one"):
        prompts.passages(Lines.draw(8, 3, seed=0), (3,), Spelling.of(whimsical), whimsical, 200)


def test_rules_say_what_a_loop_says() -> None:
    lines = Lines.draw(40, 6, seed=1)
    x, query = lines.x[:, :6], lines.x[:, 6]
    y = lines.written(True)[:, 0, :6]
    for row in range(40):
        fit = np.polyfit(x[row], y[row], 1)
        gap = [abs(int(a) - int(query[row])) for a in x[row]]
        expected = {
            "least squares": np.polyval(fit, query[row]), "mean": sum(y[row]) / 6, "last": y[row, -1],
            "nearest": y[row, max(i for i in range(6) if gap[i] == min(gap))],
            "trend": y[row, -1] + (y[row, -1] - y[row, -2]),
        }  # fmt: skip
        for name, rule in RULES.items():
            assert rule(x, y, query)[row] == pytest.approx(float(expected[name]))
    exact = least_squares(x, lines.y[:, 1, :6], query)
    np.testing.assert_allclose(exact, lines.y[:, 1, 6])


# weights


@pytest.mark.parametrize("lines", [1, 3])
def test_weights_are_least_squares_refitted_in_each_resample(lines: int) -> None:
    """Several lines of a pair are drawn together."""
    rng = np.random.default_rng(0)
    rules = {name: rng.normal(size=30 * lines) for name in "abc"}
    answer = 2 * rules["a"] - rules["b"] + rng.normal(scale=0.3, size=30 * lines)
    drawn = replace(sample(30), unit=np.tile(np.arange(30), lines))
    found = weights(answer, rules, drawn)
    design = np.stack(list(rules.values()), axis=1)
    point = np.linalg.lstsq(design, answer, rcond=None)[0]
    slow = []
    for column in drawn.resamples.counts.T:
        pairs = np.repeat(np.arange(30), column.astype(int))
        rows = np.concatenate([pairs + 30 * line for line in range(lines)])
        slow.append(np.linalg.lstsq(design[rows], answer[rows], rcond=None)[0])
    for k, name in enumerate("abc"):
        assert found[name].value == pytest.approx(point[k])
        assert (found[name].low, found[name].high) == pytest.approx(
            tuple(np.quantile(np.array(slow)[:, k], [0.025, 0.975]))
        )


def test_rules_that_cannot_be_told_apart_have_no_weight() -> None:
    values = np.random.default_rng(0).normal(size=30)
    for twin in (values, 3 * values, np.zeros(30)):
        found = weights(values, {"a": values, "b": twin}, sample(30))
        assert found["a"].value is None
        assert "tell the rules apart" in str(found["a"].reason)


def averaging(power: float, x: np.ndarray, y: np.ndarray, query: np.ndarray) -> np.ndarray:
    weight = 1 / np.abs(x - query[:, None]) ** power
    return (weight * y).sum(axis=1) / weight.sum(axis=1)


@pytest.mark.parametrize("power", [0.3, 1.0, 2.0, 4.0])
def test_averaging_what_is_near_is_not_taken_for_a_line(power: float) -> None:
    """Kernels over the x's, as attention can do them, are not among the rules and still get no weight as a line."""
    lines = Lines.draw(96, 8, seed=0)
    x, query = lines.x[:, :8], lines.x[:, 8]
    both = [averaging(power, x, lines.y[:, f, :8], query) for f in (0, 1)]
    rng = np.random.default_rng(0)
    noise = rng.normal(scale=4, size=96)
    said = weights(both[0] - both[1] + noise, few._all_apart(few._rules(lines, 8, shuffled=False)), sample(96))
    assert few.verdict(said["least squares"], _known(0.0), 0.2) != "yes"
    assert said["least squares"].value < 0.1
    half = 0.5 * least_squares(x, lines.y[:, 0, :8], query) + 0.5 * lines.y[:, 0, :8].mean(axis=1)
    other = 0.5 * least_squares(x, lines.y[:, 1, :8], query) + 0.5 * lines.y[:, 1, :8].mean(axis=1)
    found = weights(half - other, few._all_apart(few._rules(lines, 8, shuffled=False)), sample(96))
    assert found["least squares"].value == pytest.approx(0.5)


def _known(value: float, low: float | None = None, high: float | None = None) -> Estimate:
    return Estimate(value=value, low=value if low is None else low, high=value if high is None else high)


@pytest.mark.parametrize(
    ("weight", "unseen", "said"),
    [
        (_known(0.9, 0.5, 1.2), _known(0.0, -0.1, 0.1), "yes"),
        (_known(0.9, 0.5, 1.2), _known(0.3, 0.1, 0.5), "undecided"),  # the control fails
        (_known(0.9, 0.1, 1.2), _known(0.0, -0.1, 0.1), "undecided"),
        (_known(0.1, -0.1, 0.19), _known(0.0, -0.1, 0.1), "no"),
        (_known(-0.9, -1.0, -0.5), _known(0.3, 0.1, 0.5), "no"),
        (Estimate.undefined("lost"), _known(0.0), "undecided"),
    ],
)
def test_the_verdict_follows_its_rule(weight: Estimate, unseen: Estimate, said: str) -> None:
    assert few.verdict(weight, unseen, 0.2) == said


def test_answers_are_normalised_and_none_at_all_is_refused() -> None:
    weighed = np.log(np.full((3, 2, len(YS)), 0.001))
    weighed[0, 0, 5] = np.log(0.911)
    answers = few.Answers.of(weighed)
    np.testing.assert_allclose(np.exp(answers.log_prob).sum(axis=-1), 1)
    assert np.exp(answers.total[0, 0]) == pytest.approx(1.0)
    assert np.exp(answers.total[1, 1]) == pytest.approx(0.09)
    assert answers.expected[1, 1] == pytest.approx(np.mean(YS))
    assert answers.expected[0, 0] == pytest.approx(0.911 * 15 + 0.001 * (sum(YS) - 15))
    # Beyond the ends the nearest number there is.
    np.testing.assert_allclose(answers.log_prob_of(np.full((3, 2), 140.2)), answers.log_prob[..., -1])
    with pytest.raises(Refused, match="any probability"):
        few.Answers.of(np.full((3, 2, len(YS)), -np.inf))


# probes


def ridge_by_hand(states: np.ndarray, target: np.ndarray, new: np.ndarray, penalty: float) -> np.ndarray:
    """Slow twin: normal equations of standardised features."""
    centre, spread = states.mean(axis=0), states.std(axis=0)
    inside, outside = (states - centre) / spread, (new - centre) / spread
    gram = inside.T @ inside + penalty * np.eye(states.shape[1])
    return target.mean() + outside @ np.linalg.solve(gram, inside.T @ (target - target.mean()))


@pytest.mark.parametrize(("rows", "features"), [(40, 7), (20, 33)])
def test_the_probe_is_ridge_with_the_left_out_error_near_the_best(rows: int, features: int) -> None:
    rng = np.random.default_rng(0)
    states = rng.normal(size=(rows, features)) * rng.uniform(0.1, 10, size=features)
    target = states[:, 0] + rng.normal(size=rows)
    new = rng.normal(size=(5, features))
    unit = ((states - states.mean(0)) / states.std(0)) ** 2
    errors, found = list[np.ndarray](), list[np.ndarray]()
    for penalty in probes.PENALTIES * unit.sum() / rows:
        miss = []
        # Scale and centre stay those of all rows, as in the closed form.
        inside = np.column_stack([np.ones(rows), (states - states.mean(0)) / states.std(0)])
        shrink = penalty * np.eye(features + 1)
        shrink[0, 0] = 0
        for row in range(rows):
            rest = np.arange(rows) != row
            fit = np.linalg.solve(inside[rest].T @ inside[rest] + shrink, inside[rest].T @ target[rest])
            miss.append(float(target[row] - inside[row] @ fit) ** 2)
        errors.append(np.array(miss))
        found.append(ridge_by_hand(states, target, new, float(penalty)))
    least = min(errors, key=np.mean)
    within = [k for k, one in enumerate(errors) if one.mean() <= least.mean() + stats.sem(least)]
    np.testing.assert_allclose(probes._ridge(states, target, new), found[within[-1]], rtol=1e-6)


def test_probes_find_what_was_planted_where_it_was_planted() -> None:
    rng = np.random.default_rng(0)
    pair = np.repeat(np.arange(64), 2)
    target = rng.choice(prompts.SLOPES, size=128).astype(float)
    states = rng.normal(size=(128, 3, 200))
    states[:, 0] = 1.0  # an embedding that is the same for all
    states[:, 2, :5] += 4 * target[:, None]
    found = probes.explained(states, target, pair, sample(64), seed=0)
    assert found[0].value == pytest.approx(0, abs=1e-9)
    assert found[1].high < 0.2
    assert found[2].low > 0.8
    assert probes.best(found)[0] == 2
    # Rows of a pair are never divided between fitting and judging: a feature that names the pair is of no use.
    of_pair = rng.normal(size=64)[pair]
    named = np.zeros((128, 2, 64))
    named[np.arange(128), 1, pair] = 1
    assert probes.explained(named, of_pair, pair, sample(64), seed=0)[1].value < 0.05


# texts


def material(*lengths: int, longest: int = 600) -> Material:
    start = np.cumsum([0, *lengths])
    documents = [np.arange(a, a + n) for a, n in zip(start, lengths, strict=False)]
    return Material(documents=documents, encode=lambda text: [0], longest=longest)


def test_readings_of_a_stretch_end_in_the_same_tokens() -> None:
    cut = Stretches.cut(material(*[700] * 10), number=8, length=64, near=None, block=None)
    assert (cut.near, cut.block, cut.contexts) == (8, 4, (2, 8, 32))
    assert np.unique(cut.document).size >= 7
    made = cut.passages()
    assert len(made) == 8 * cut.a_stretch == 8 * 5
    for row in range(8):
        whole, *less, foreign = made[5 * row : 5 * row + 5]
        assert whole.tokens.tolist() == list(range(whole.tokens[0], whole.tokens[0] + 64))
        for passage, context in zip(less, cut.contexts, strict=True):
            assert passage.first == context
            assert passage.tokens.tolist() == whole.tokens[-4 - context :].tolist()
        assert len(foreign.tokens) == 64
        assert foreign.tokens[-12:].tolist() == whole.tokens[-12:].tolist()
        assert foreign.first == 60
        assert not set(foreign.tokens[:-12]) & set(range(cut.document[row] * 700, cut.document[row] * 700 + 700))


def test_stretches_are_as_long_as_the_texts_allow() -> None:
    assert Stretches.cut(material(*[600] * 30), number=99, length=None, near=None, block=None).length == 512
    assert (
        Stretches.cut(material(*[600] * 30, longest=200), number=99, length=None, near=None, block=None).length == 200
    )
    short = Stretches.cut(material(*[150] * 25), number=99, length=None, near=None, block=None)
    assert short.length == 128
    assert len(Stretches.cut(material(9000), number=99, length=None, near=None, block=None).mates) == 0
    for wrong, said in (
        ({"length": 700}, "raise --window"),
        ({"length": 600}, "the texts give 3"),
        ({"near": 40, "length": 64}, "near 40"),
    ):
        with pytest.raises(Unfit, match=said):
            Stretches.cut(material(700, 600, 600), number=99, **{"length": None, "near": None, "block": None} | wrong)
    with pytest.raises(Unfit, match="stretches of 20 tokens: at least 32"):
        Stretches.cut(material(*[600] * 30, longest=20), number=99, length=None, near=None, block=None)


def test_gain_and_score_are_differences_of_means() -> None:
    cut = Stretches.cut(material(*[700] * 24), number=24, length=64, near=None, block=None)
    rng = np.random.default_rng(0)
    found = [
        Reading(log_prob=rng.normal(-3, 1, len(one.tokens) - one.first).astype(np.float32),
                candidates=np.zeros((0, 0), np.float32), states=None)
        for one in cut.passages()
    ]  # fmt: skip
    grouped = Sample.of_texts(cut.document, "stretches", number=500, level=0.95, seed=0)
    text = of_text(cut, found, positions=None, sample=grouped)
    whole = np.stack([one.log_prob for one in found[::5]]).astype(float)
    near, foreign = (np.stack([one.log_prob for one in found[k::5]]).astype(float)[:, -4:].mean(axis=1) for k in (2, 4))
    gain = whole[:, -4:].mean(axis=1) - near
    assert text.gain.value == pytest.approx(gain.mean())
    reference = stats.t.interval(0.95, len(gain) - 1, loc=gain.mean(), scale=stats.sem(gain))
    assert (text.gain.low, text.gain.high) == pytest.approx(reference)
    assert text.beyond.value == pytest.approx((whole[:, -4:].mean(axis=1) - foreign).mean())
    assert text.positions == (11, 54)
    # Column p − 1 of what was scored is position p.
    assert text.score.value == pytest.approx(whole[:, 0:20].mean() - whole[:, 43:63].mean())
    rows = text.tables["in_context_positions"].to_pylist()
    assert (rows[0]["first"], rows[-1]["last"]) == (1, 64)
    assert sum(row["n"] * row["loss"] for row in rows) == pytest.approx(-whole.sum())


def test_positions_of_the_score() -> None:
    assert places(512, None) == (50, 500)
    assert places(509, None) == (50, 499)
    assert places(256, None) == (25, 246)
    assert places(256, (40, 200)) == (40, 200)
    for length, wrong in ((256, (40, 250)), (256, (40, 55)), (30, None), (256, (10, 200))):
        with pytest.raises(Unfit, match="must not overlap"):
            places(length, wrong)
    cut = Stretches.cut(material(*[700] * 24), number=24, length=36, near=None, block=None)
    found = [replace_first(one) for one in cut.passages()]
    text = of_text(
        cut, found, positions=None, sample=Sample.of_texts(cut.document, "stretches", number=200, level=0.95, seed=0)
    )
    assert text.score.value is None
    assert text.gain.value == pytest.approx(0)


def replace_first(one: Passage) -> Reading:
    empty = Reading(log_prob=np.zeros(0, np.float32), candidates=np.zeros((0, 0), np.float32), states=None)
    return replace(empty, log_prob=np.full(len(one.tokens) - one.first, -1.0, np.float32))


def test_a_share_of_none_or_all_is_no_certainty():
    sample = Sample.of_rows(40, "pairs of prompts", number=200, level=0.95, seed=0)
    none, every = sample.share(np.zeros(40)), sample.share(np.ones(40))
    assert (none.value, none.low) == (0.0, 0.0)
    assert none.high == pytest.approx(1 - 0.025 ** (1 / 40))  # 0 of 40, exactly
    assert (every.value, every.high) == (1.0, 1.0)
    assert every.low == pytest.approx(0.025 ** (1 / 40))
    some = sample.share(np.arange(40) % 2 / 2)
    exact = stats.binomtest(10, 40).proportion_ci(0.95, method="exact")
    assert (some.value, some.low, some.high) == pytest.approx((0.25, exact.low, exact.high))
