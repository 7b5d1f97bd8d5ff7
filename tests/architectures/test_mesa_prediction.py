"""Vectors in, vectors out."""

import itertools

import pytest
import torch

from snellen.architectures import MesaForPrediction
from snellen.errors import InputError
from tests.architectures import small

TYPES = ["softmax", "linear", "mesa"]
pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")


def predictor(layer_types: list[str] = TYPES, **settings: object) -> MesaForPrediction:
    torch.manual_seed(0)
    return MesaForPrediction(small.config(layer_types, **{"input_size": 24, "output_size": 10, **settings}))


def draw(batch: int = 3, length: int = 7) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, length, 24, generator=generator)
    y = torch.randn(batch, length, 10, generator=generator)
    return x, y, torch.rand(batch, length, generator=generator)


@pytest.mark.parametrize(
    ("read_in", "read_out", "norm", "inner"),
    [*itertools.product((True, False), (True, False), ("rms", "none"), (0, 20))],
)
@pytest.mark.parametrize("positions", ["none", "learned", "rope"])
def test_every_shape_trains_and_survives_a_file(read_in, read_out, norm, inner, positions, tmp_path):
    shape = {"read_in": read_in, "read_out": read_out, "norm": norm, "intermediate_size": inner}
    # Without norms wide weights would drive the gates to where sigmoids are flat.
    model = predictor(**shape, positions=positions, initializer_range=0.1)
    x, y, w = draw()
    out = model(x, y, w)
    assert out.predictions.shape == y.shape
    out.loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    assert all((layer.mlp is None) == (inner == 0) for layer in model.layers)
    model.save_pretrained(tmp_path)
    again = MesaForPrediction.from_pretrained(tmp_path)
    assert torch.equal(again(x).predictions, out.predictions)


def test_the_residual_stream_is_what_is_said():
    model = predictor(read_in=False, read_out=False, residual_clip=0.5, intermediate_size=0, norm="none")
    x, *_ = draw()
    out = model(x, output_hidden_states=True)
    assert out.loss is None
    stream = x
    assert torch.equal(out.hidden_states[0], stream)
    for layer, after in zip(model.layers, out.hidden_states[1:], strict=True):
        turning = {"position_embeddings": _turning(model, x)} if layer.mixer.kind == "softmax" else {}
        mixed, _ = layer.mixer(stream, **turning)
        stream = (stream + mixed).clamp(-0.5, 0.5)
        torch.testing.assert_close(after, stream)
    assert torch.equal(out.predictions, stream[..., -10:])
    assert model(x).hidden_states is None


def _turning(model, x):
    return model.model.rotary_emb(x, torch.arange(x.shape[1])[None])


def test_states_are_not_normed_but_what_is_read_out_is():
    model = predictor()
    x, *_ = draw()
    out = model(x, output_hidden_states=True)
    last = model.model.norm(out.hidden_states[-1])
    torch.testing.assert_close(out.predictions, model.read_out(last))
    assert not torch.allclose(last, out.hidden_states[-1])
    learned = predictor(positions="learned")
    first = learned(x, output_hidden_states=True).hidden_states[0]
    torch.testing.assert_close(first, learned.read_in(x) + learned.model.embed_positions.weight[: x.shape[1]])


def test_the_loss_is_half_the_squared_error_over_weighted_positions():
    model = predictor()
    x, y, w = draw()
    out = model(x, y, w)
    wrong = (out.predictions - y).detach()
    by_hand = sum(w[b, t] * 0.5 * float((wrong[b, t] ** 2).sum()) for b in range(3) for t in range(7))
    torch.testing.assert_close(out.loss.detach(), by_hand / w.sum())
    torch.testing.assert_close(model(x, y).loss, model(x, y, torch.ones(3, 7)).loss)
    with pytest.raises(InputError, match="sum to 0"):
        model(x, y, torch.zeros(3, 7))


def test_no_prediction_sees_what_comes_later():
    model = predictor()
    x, *_ = draw()
    changed = x.clone()
    changed[:, 4:] += 1.0
    a, b = model(x).predictions, model(changed).predictions
    torch.testing.assert_close(a[:, :4], b[:, :4])
    assert not torch.allclose(a[:, 4:], b[:, 4:], atol=1e-3)


def test_sizes_that_do_not_fit_are_refused():
    model = predictor()
    x, y, w = draw()
    for given, part in (((x[..., :5],), "24"), ((x, y[..., :3]), "equal"), ((x, y, w[:, :3]), "one for each")):
        with pytest.raises(InputError, match=part):
            model(*given)


def test_a_trainer_of_transformers_trains_it(tmp_path):
    from transformers import Trainer, TrainingArguments

    x, y, w = draw(batch=16)
    rows = [{"inputs": a, "targets": b, "weights": c} for a, b, c in zip(x, y, w, strict=True)]
    model = predictor(initializer_range=0.05)
    before = float(model(x, y, w).loss.detach())
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=10, per_device_train_batch_size=8, learning_rate=1e-2, report_to=[],
        disable_tqdm=True, save_strategy="no", use_cpu=True,
    )  # fmt: skip
    Trainer(model=model, args=arguments, train_dataset=rows).train()
    assert float(model(x, y, w).loss.detach()) < 0.8 * before
