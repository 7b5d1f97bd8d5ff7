"""Models whose weights accelerate keeps elsewhere: the same identity and the same numbers."""

import copy
import logging

import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from torch import nn

import snellen
from snellen.errors import InputError, Refused
from snellen.models.load import load_model
from snellen.models.weights import Weights
from tests.lookahead.architectures import VOCABULARY, tiny

CPU = torch.device("cpu")


def offloaded(model, how, folder):
    model = copy.deepcopy(model)
    if how == "cpu":
        cpu_offload(model, CPU)
    elif how == "disk":
        disk_offload(model, folder, CPU)
    else:  # some layers here, some on the disk, as `device_map="auto"` leaves them
        places = {"lm_head": "cpu"}
        for inner, module in model.base_model.named_children():
            stacked = [f"{inner}.{i}" for i in range(len(module))] if isinstance(module, nn.ModuleList) else [inner]
            places |= {f"{model.base_model_prefix}.{name}": "disk" if name[-1] in "13" else "cpu" for name in stacked}
        dispatch_model(model, places, main_device="cpu", offload_dir=folder, force_hooks=True)
    assert any(parameter.device.type == "meta" for parameter in model.parameters())
    return model


@pytest.mark.parametrize("how", ["cpu", "disk", "map"])
@pytest.mark.parametrize("name", ["gpt2", "gemma2", "bloom"])  # two with tied embeddings; one is run plainly
def test_an_offloaded_model_is_the_same_model(name, how, tmp_path, caplog):
    caplog.set_level(logging.ERROR)
    model = tiny(name)
    text = torch.randint(VOCABULARY, (1, 20), generator=torch.Generator().manual_seed(1))
    other = offloaded(model, how, tmp_path)
    one, two = load_model(model).identity, load_model(other).identity
    assert one == two
    assert one.parameters == sum(parameter.numel() for parameter in model.parameters())
    kept, fetched = (snellen.lookahead.beam(m, text, width=3, horizon=3) for m in (model, other))
    assert torch.equal(kept.tokens, fetched.tokens)
    torch.testing.assert_close(kept.log_probs, fetched.log_probs, rtol=0, atol=1e-6)
    assert snellen.load(other).preflight.engine == snellen.load(model).preflight.engine
    ahead = [snellen.Lookahead(m, width=2, horizon=2, alpha=2.0, weight=0.3).generate(text, max_new_tokens=5)
             for m in (model, other)]  # fmt: skip
    assert torch.equal(*ahead)


def test_offloaded_weights_are_checked_too(tmp_path):
    model = tiny("llama")
    model.model.layers[2].mlp.up_proj.weight[3, 4] = torch.nan
    with pytest.raises(InputError, match=r"NaN in its weights, first in model\.layers\.2\.mlp\.up_proj\.weight"):
        load_model(offloaded(model, "disk", tmp_path))


def test_each_offloaded_weight_is_fetched_as_it_is(tmp_path):
    model = tiny("llama")
    weights = Weights(offloaded(model, "disk", tmp_path))
    state = model.state_dict()
    assert list(weights) == list(state)
    for name, tensor in weights.items():
        assert torch.equal(tensor, state[name]), name


def test_weights_that_no_hook_brings_in(tmp_path):
    model = tiny("llama")
    model.model.layers[0].mlp.up_proj.weight = nn.Parameter(torch.empty(48, 32, device="meta"), requires_grad=False)
    with pytest.raises(Refused, match=r"model\.layers\.0\.mlp\.up_proj\.weight is on the meta device and no hook"):
        load_model(model)


class Packed(torch.Tensor):
    """A tensor that wraps another, as quantised weights do, and gives no bytes."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device=inner.device)

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.view.dtype:
            raise NotImplementedError("no bytes")
        plain = [a.inner if isinstance(a, Packed) else a for a in args]
        out = function(*plain, **(kwargs or {}))
        keeps = (torch.ops.aten.detach.default, torch.ops.aten.view.default, torch.ops.aten._to_copy.default)
        return Packed(out) if function in keeps else out


def test_weights_of_a_class_that_gives_no_bytes_are_refused_in_one_line():
    model = tiny("llama")
    layer = model.model.layers[0].mlp.up_proj
    layer.weight = nn.Parameter(Packed(layer.weight.data), requires_grad=False)
    with pytest.raises(InputError, match=r"^weight model\.layers\.0\.mlp\.up_proj\.weight is a Packed.*without quant"):
        load_model(model)
