"""The gain that a monitor measures: known answers, the number of `snellen exam`, and a model left as it was."""

import contextlib
import random

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from transformers import GPT2Config, GPT2LMHeadModel

from snellen.attention import make_myopic
from snellen.errors import InputError, Refused
from snellen.measures.lookahead_gain import LookaheadGain
from snellen.organisms.tables import exact
from snellen.request import Request
from snellen.training.amplifiers import Beam, Learned, Particles
from snellen.training.monitoring.gain import fit, gathered, judge, measure_gain, score
from snellen.training.monitoring.held_out import HeldOut
from snellen.training.monitoring.untouched import bare, streams_kept
from tests.training.watched import HORIZON, LANGUAGE, amplified_text, learner, own_text

BEAM = Beam(width=4, horizon=HORIZON, alpha=2.0)
PARTICLES = Particles(particles=36, horizon=HORIZON, alpha=2.0)


@pytest.fixture(scope="module")
def model():
    return exact(LANGUAGE)


def held_out(text, model, *, tokens=None):
    return HeldOut.of(text, model, horizon=HORIZON, tokens=tokens)


@pytest.fixture(scope="module")
def amplified(model):
    text, best = amplified_text(30)
    return held_out(text, model), best


def test_what_only_lookahead_lacks_is_found_and_no_more(amplified, model):
    text, best = amplified
    found = measure_gain(model, text, PARTICLES)
    assert found.low > 0.1
    assert found.placebo_low <= 0
    assert found.gain == pytest.approx(found.control_loss - found.amplified_loss)
    # The author's own loss is the least possible; 36 of up to 216 completions come near it.
    assert best < found.amplified_loss < best + 0.03
    assert found.amplified_loss + 0.1 < found.control_loss <= found.naive_loss
    assert (found.tokens, found.units) == (30 * 39, 30)
    assert found.mix["alpha"] == 2.0
    assert found.mix["weight"] > 0.5


@pytest.mark.parametrize("amplifier", [BEAM, PARTICLES], ids=["beam", "particles"])
def test_the_author_of_a_text_gains_nothing_on_it(amplifier, model):
    text = held_out(own_text(30), model)
    found = measure_gain(model, text, amplifier)
    assert found.low <= 0 <= found.high < 0.01
    assert found.naive_loss == pytest.approx(-LANGUAGE.log_probs(np.array(own_text(30)))[:, 1:].mean(), abs=1e-4)


@pytest.mark.parametrize("amplifier", [BEAM, PARTICLES], ids=["beam", "particles"])
def test_it_is_the_number_of_the_measure(amplifier, model):
    """`judge` takes the short way to one point of the eye chart; the measure goes through all of them."""
    text = held_out(amplified_text(16)[0], model)
    table = score(model, text, text.windows, amplifier, seed=5)
    scored = gathered(table, text, amplifier)
    found = judge(scored, amplifier, seed=5)
    whole = LookaheadGain(alphas=(2.0,)).measure(scored, seed=5)
    search = "particles" if amplifier is PARTICLES else "beam"
    (row,) = [row for row in whole.finding.details["by_width"] if row["search"] == search]
    assert (found.gain, found.low, found.high) == (row["value"], row["low"], row["high"])
    assert found.control == row["best_control"]
    assert {"value": found.placebo, "low": found.placebo_low, "high": found.placebo_high} == row["placebo"]
    arms = whole.tables["arms"].to_pylist()
    arms = [arm for arm in arms if arm["search"] == search and arm["horizon"] == HORIZON]
    losses = {arm["arm"]: -arm["log_likelihood"] for arm in arms}
    assert found.amplified_loss == pytest.approx(losses["lookahead"], abs=1e-12)
    assert found.control_loss == pytest.approx(losses[found.control], abs=1e-12)
    assert found.naive_loss == pytest.approx(losses["naive"], abs=1e-12)
    assert found.tokens == whole.finding.n["tokens"]


def test_a_deployable_fit_has_the_models_own_base_and_one_weight(model):
    text = held_out(amplified_text(16)[0], model)
    scored = gathered(score(model, text, text.windows, BEAM, seed=0), text, BEAM)
    problem, found = fit(scored, BEAM, alphas=(1.0, 2.0), seed=0, deployable=True)
    whole = found.fits["lookahead"].whole
    assert problem.rows.tau.tolist() == [1.0]
    assert whole.kind in ("linear", "geometric")
    assert len(whole.weights) == 1


@pytest.fixture
def training():
    """A model in the middle of its training: one part in eval mode, one frozen, gradients there."""
    model = learner(dropout=0.3)
    model.train()
    model.transformer.h[0].mlp.eval()
    model.transformer.wpe.weight.requires_grad_(False)
    ids = torch.tensor(own_text(2))
    model(input_ids=ids, labels=ids).loss.backward()
    return model


def _state(model):
    return {
        "modes": [module.training for module in model.modules()],
        "wanted": [p.requires_grad for p in model.parameters()],
        "gradients": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "weights": [p.detach().clone() for p in model.parameters()],
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state()[1].copy(),
        "python": random.getstate(),
        "attention": model.config._attn_implementation,
        "own": sorted(model.__dict__),
        "grad enabled": torch.is_grad_enabled(),
    }


def _same(a, b):
    if isinstance(a, torch.Tensor | np.ndarray):
        return bool((a == b).all())
    if isinstance(a, list):
        return len(a) == len(b) and all(map(_same, a, b))
    return a == b


def test_the_model_and_all_random_streams_are_left_as_they_were(training):
    text = held_out(own_text(16), training)
    before = _state(training)
    first = measure_gain(training, text, PARTICLES)
    after = _state(training)
    assert [name for name in before if not _same(before[name], after[name])] == []
    torch.rand(3), np.random.rand(3), random.random()
    again = measure_gain(training, text, PARTICLES)
    assert (again.gain, again.naive_loss, again.amplified_loss) == (first.gain, first.naive_loss, first.amplified_loss)
    # Dropout was off: the loss is that of the model in eval mode.
    training.eval()
    ids = torch.tensor(own_text(16))
    assert first.naive_loss == pytest.approx(training(input_ids=ids, labels=ids).loss.item(), abs=1e-5)


def test_random_streams_are_where_they_were_whatever_is_drawn():
    def draw():
        return float(torch.rand(())), float(np.random.rand()), random.random()

    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    expected = draw()
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    with contextlib.suppress(ZeroDivisionError), streams_kept():
        draw()
        raise ZeroDivisionError
    assert draw() == expected


def test_the_model_is_given_back_when_a_look_fails(training):
    text = held_out(own_text(16), training)
    with torch.no_grad():
        training.transformer.ln_f.weight.fill_(float("nan"))
    before = _state(training)
    with pytest.raises(Refused, match="NaN"):
        measure_gain(training, text, BEAM)
    after = _state(training)
    assert [name for name in before if name != "weights" and not _same(before[name], after[name])] == []


def test_autocast_of_the_training_is_not_that_of_the_monitor(training):
    """accelerate wraps the forward pass, which a search enters by parts: half of it would run in bfloat16."""
    text = held_out(own_text(16), training)
    plain = measure_gain(training, text, BEAM)
    AcceleratorState._reset_state(reset_partial_state=True)  # of trainings in other tests
    wrapped = Accelerator(mixed_precision="bf16", cpu=True).prepare_model(training)
    AcceleratorState._reset_state(reset_partial_state=True)
    forward = wrapped.__dict__["forward"]
    found = measure_gain(wrapped, text, BEAM)
    assert (found.gain, found.naive_loss) == (plain.gain, plain.naive_loss)
    assert wrapped.__dict__["forward"] is forward


def test_myopic_attention_changes_nothing_that_is_seen():
    model = learner(dropout=0.0)
    text = held_out(own_text(16), model)
    plain = measure_gain(model, text, BEAM)
    with make_myopic(model):
        before = model.config._attn_implementation
        myopic = measure_gain(model, text, BEAM)
        assert model.config._attn_implementation == before
    assert (myopic.gain, myopic.low, myopic.naive_loss) == (plain.gain, plain.low, plain.naive_loss)


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_wrappers_are_taken_off():
    model = learner()
    assert bare(torch.compile(model)) is model
    with pytest.raises(InputError, match="Linear"):
        bare(torch.nn.Linear(2, 2))


def test_rows_that_fit_are_read_from_their_beginning_and_sampled_evenly(model):
    rows = own_text(100)
    text = held_out(rows, model, tokens=800)
    assert text.tokens == 800
    assert text.units >= 20
    for window in text.windows:
        row = rows[window.document]
        assert window.ids.tolist() == row[: len(window.ids)]  # all that stands before
        assert window.index == window.first
    everything = held_out(rows, model, tokens=None)
    assert everything.tokens == 100 * 39
    assert everything.sha256 != text.sha256 == held_out(rows, model, tokens=800).sha256


def test_long_documents_are_cut_as_an_exam_cuts_them():
    config = GPT2Config(vocab_size=6, n_positions=32, n_embd=4, n_layer=1, n_head=1)
    model = GPT2LMHeadModel(config)
    document = np.random.default_rng(0).integers(6, size=2000).tolist()
    text = HeldOut.of([document], model, horizon=3, tokens=None)
    window, context = Request(horizon=3).windows(32)
    assert max(len(one.ids) for one in text.windows) == window == 30
    assert min(one.first for one in text.windows[1:]) == context
    # Every token but the first is scored once, in its own place.
    placed = [(one.index + i, token) for one in text.windows for i, token in enumerate(one.ids[one.first :].tolist())]
    assert placed == list(enumerate(document))[1:]
    assert text.units >= 20


def test_what_gives_no_interval_is_refused_before_any_work(model):
    with pytest.raises(InputError, match="monitor tokens 100: an interval needs at least 400"):
        held_out(own_text(30), model, tokens=100)
    with pytest.raises(Refused, match="held-out text of the monitor: 273 tokens in 7"):
        held_out(own_text(7), model)
    assert held_out(own_text(8), model).units == 8


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ([], "none in it"),
        ("a text", "give a list"),
        (iter([[1, 2]]), "give a list"),
        ([[1, 2, 6]], "has the id 6"),
        ([[1, -1]], "has the id -1"),
        ([[[1, 2]]], "is a sequence of ids"),
        ([[0.5, 1.0]], "is a sequence of ids"),
        (["a text"], "need a tokenizer"),
        ([{"tokens": [1, 2]}], "rows have tokens; needed is input_ids or text"),
        ([[1], [2]], "none can be scored"),
    ],
)
def test_held_out_text_that_is_none(text, said, model):
    with pytest.raises(InputError, match=said):
        held_out(text, model)


def test_rows_may_come_as_a_data_set_has_them(model):
    rows = own_text(16)
    plain = held_out(rows, model)
    assert held_out([{"input_ids": row} for row in rows], model).sha256 == plain.sha256
    assert held_out(torch.tensor(rows), model).sha256 == plain.sha256


@pytest.mark.parametrize(
    ("amplifier", "said"),
    [
        (Learned(), "would have to be trained anew"),
        (Beam(horizon=1), "a horizon of 1 is sharpening"),
        (Beam(alpha=float("inf")), "take a finite alpha"),
    ],
)
def test_what_cannot_watch(amplifier, said, model):
    with pytest.raises(InputError, match=said):
        measure_gain(model, held_out(own_text(16), model), amplifier)
