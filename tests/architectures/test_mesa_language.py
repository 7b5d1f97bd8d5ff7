"""The language model as a citizen of transformers."""

import json
import subprocess
import sys

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, DynamicCache

from snellen.architectures import MesaForCausalLM, MesaModel
from snellen.attention.caches import CACHE, cache_in
from snellen.errors import InputError
from tests.architectures import small

MIXED = ["softmax", "linear", "mesa"]
GREEDY = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None}
pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")


def greedy_by_hand(model, ids, new):
    for _ in range(new):
        best = model(ids, use_cache=False).logits[:, -1].argmax(-1, keepdim=True)
        ids = torch.cat([ids, best], dim=1)
    return ids


@pytest.mark.parametrize("layer_types", small.MIXTURES, ids="-".join)
def test_greedy_generation_is_what_full_passes_choose(layer_types):
    model, ids = small.language(layer_types), small.text(length=5)
    expected = greedy_by_hand(model, ids, 8)
    assert torch.equal(model.generate(ids, max_new_tokens=8, **GREEDY), expected)
    assert torch.equal(model.generate(ids, max_new_tokens=8, use_cache=False, **GREEDY), expected)
    assert torch.equal(model.generate(ids, max_new_tokens=8, prefill_chunk_size=2, **GREEDY), expected)


@pytest.mark.parametrize("layer_types", [["mesa"], ["linear", "softmax"], MIXED], ids="-".join)
def test_beams_are_those_without_a_cache(layer_types):
    model, ids = small.language(layer_types), small.text(length=5)
    settings = {"num_beams": 4, "num_return_sequences": 3, "max_new_tokens": 6, **GREEDY}
    settings |= {"return_dict_in_generate": True, "output_scores": True}
    with_cache, without = (model.generate(ids, use_cache=cached, **settings) for cached in (True, False))
    assert torch.equal(with_cache.sequences, without.sequences)
    torch.testing.assert_close(with_cache.sequences_scores, without.sequences_scores, rtol=1e-4, atol=1e-4)


def test_prompts_of_different_lengths_generate_as_alone():
    model = small.language(MIXED)
    long, short = small.text(batch=1, length=7), small.text(batch=1, length=3, seed=5)
    padded = torch.cat([long, torch.nn.functional.pad(short, (4, 0))])
    mask = torch.tensor([[1] * 7, [0] * 4 + [1] * 3])
    for settings in (GREEDY, {"num_beams": 3, **GREEDY}):
        both = model.generate(padded, attention_mask=mask, max_new_tokens=6, **settings)
        for row, prompt in enumerate((long, short)):
            alone = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=6, **settings)
            assert both[row, 7:].tolist() == alone[0, prompt.shape[1] :].tolist()


def test_sampling_is_the_same_with_and_without_a_cache():
    model, ids = small.language(MIXED), small.text(length=4)
    drawn = []
    for cached in (True, False):
        torch.manual_seed(3)
        drawn.append(model.generate(ids, do_sample=True, max_new_tokens=6, use_cache=cached, pad_token_id=0))
    assert torch.equal(*drawn)


def test_generation_goes_on_from_a_cache():
    model, ids = small.language(MIXED), small.text(length=5)
    mask = torch.ones_like(ids)
    whole = model.generate(ids, attention_mask=mask, max_new_tokens=8, **GREEDY)
    cache = DynamicCache(config=model.config)
    first = model.generate(ids, attention_mask=mask, max_new_tokens=4, **{CACHE: cache}, **GREEDY)
    again = model.generate(first, attention_mask=torch.ones_like(first), max_new_tokens=4, **{CACHE: cache}, **GREEDY)
    assert torch.equal(again, whole)


def test_a_static_cache_serves_what_it_can_and_is_refused_elsewhere():
    ids, settings = small.text(length=5), {"max_new_tokens": 5, "cache_implementation": "static", **GREEDY}
    for layer_types in (["softmax", "softmax"], ["mesa", "linear"]):
        model = small.language(layer_types)
        assert torch.equal(model.generate(ids, disable_compile=True, **settings), greedy_by_hand(model, ids, 5))
    with pytest.raises(InputError, match="DynamicCache"):
        small.language(MIXED).generate(ids, **settings)


def test_assisted_decoding_is_refused():
    model, ids = small.language(MIXED), small.text(batch=1, length=5)
    with pytest.raises(ValueError, match="stateful"):
        model.generate(ids, assistant_model=small.language(["softmax"]), max_new_tokens=4, **GREEDY)
    with pytest.raises(InputError, match="rolled back"):
        small.language(["softmax"]).generate(ids, assistant_model=model, max_new_tokens=4, **GREEDY)


@pytest.mark.parametrize("layer_types", small.MIXTURES, ids="-".join)
def test_the_loss_reaches_every_parameter(layer_types):
    model = small.language(layer_types, positions="learned", initializer_range=0.1).train()
    ids = small.text(length=64)
    out = model(ids, labels=ids)
    expected = torch.nn.functional.cross_entropy(out.logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    torch.testing.assert_close(out.loss, expected)
    assert cache_in(out) is None
    out.loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_changes_no_gradient(reentrant):
    model, ids = small.language(MIXED).train(), small.text()
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": reentrant})
        model.zero_grad()
        model(ids, labels=ids).loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_hidden_states_and_attentions():
    model, ids = small.language(MIXED, attn_implementation="eager"), small.text()
    out = model(ids, output_hidden_states=True, output_attentions=True)
    assert [x.shape for x in out.hidden_states] == [(2, 11, 24)] * 4
    torch.testing.assert_close(model.lm_head(out.hidden_states[-1]), out.logits)
    assert [x.shape for x in out.attentions] == [(2, 3, 11, 11)]  # of the softmax layer
    sdpa = small.language(MIXED, attn_implementation="sdpa")
    torch.testing.assert_close(sdpa(ids).logits, out.logits, rtol=1e-4, atol=1e-5)
    assert model(ids, return_dict=False)[0].shape == (2, 11, small.VOCABULARY)
    torch.testing.assert_close(model(ids, logits_to_keep=2).logits, out.logits[:, -2:])


def test_bfloat16_weights_and_autocast_stay_close():
    # Decays as they begin: with weights this wide, rounding alone would make others of them.
    model, ids = small.language(MIXED, initializer_range=0.1), small.text(length=40)
    expected = model(ids).logits.log_softmax(-1).detach()
    spread = float(expected.std())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = model(ids, labels=ids)
    assert cast.logits.dtype == torch.bfloat16
    assert _off(cast.logits.log_softmax(-1), expected) < 0.02 * spread
    half = small.language(MIXED, initializer_range=0.1).to(torch.bfloat16)
    found = half(ids).logits
    assert found.dtype == torch.bfloat16
    assert _off(found.log_softmax(-1), expected) < 0.05 * spread
    cache = cache_in(half(ids[:, :30], use_cache=True))
    assert cache.layers[2].states["gram"].dtype in (torch.float32, torch.float64)
    assert _off(half(ids[:, 30:], **{CACHE: cache}).logits, found[:, 30:]) < 0.05 * spread
    half.train()(ids, labels=ids).loss.backward()
    assert all(p.grad.isfinite().all() for p in half.parameters())


def _off(a, b):
    return float((a.float() - b.float()).abs().mean().detach())


@pytest.mark.parametrize("tied", [True, False])
def test_a_saved_model_is_found_by_the_auto_classes(tied, tmp_path):
    model, ids = small.language(MIXED, tie_word_embeddings=tied), small.text()
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    model.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).layer_types == MIXED
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert type(again) is MesaForCausalLM
    assert torch.equal(again(ids).logits, model(ids).logits)
    body = AutoModel.from_pretrained(tmp_path).eval()
    assert type(body) is MesaModel
    assert torch.equal(body(ids).last_hidden_state, model.model(ids).last_hidden_state)


_IMPORTING = """
import json, sys
import torch, snellen.architectures
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained(sys.argv[1]).eval()
ids = torch.tensor(json.loads(sys.argv[2]))
print(model.generate(ids, max_new_tokens=5, do_sample=False, pad_token_id=0).tolist())
"""

# In a process of its own, where types are not checked, since compilers cannot follow that.
_COMPILING = """
import json, sys
import torch, snellen.architectures
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained(sys.argv[1]).train()
ids = torch.tensor(json.loads(sys.argv[2]))
losses, gradients = [], []
for run in (model, torch.compile(model, backend="aot_eager")):
    model.zero_grad()
    loss = run(ids, labels=ids).loss
    loss.backward()
    losses.append(float(loss.detach()))
    gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
print([*losses, float((gradients[0] - gradients[1]).norm() / gradients[0].norm())])
"""


def _said(program, folder, ids):
    arguments = [sys.executable, "-c", program, str(folder), json.dumps(ids.tolist())]
    process = subprocess.run(arguments, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def test_a_process_that_only_imports_the_architectures_finds_it(tmp_path):
    model, ids = small.language(MIXED), small.text(length=4)
    model.save_pretrained(tmp_path)
    assert _said(_IMPORTING, tmp_path, ids) == greedy_by_hand(model, ids, 5).tolist()


@pytest.mark.slow
def test_compiled_it_gives_the_same(tmp_path):
    small.language(MIXED).save_pretrained(tmp_path)
    plain, compiled, difference = _said(_COMPILING, tmp_path, small.text())
    assert compiled == pytest.approx(plain, rel=1e-5)
    assert difference < 1e-4


def test_loading_keeps_what_was_saved_and_starts_the_rest(tmp_path):
    """Whatever is not in a file begins as in a new model, and not as memory happens to be."""
    from safetensors.torch import load_file, save_file

    model = small.language(MIXED)
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    gone = [n for n in weights if n.endswith(("raw_ridge", "conv.weight", "decay_proj.bias"))]
    for name in gone:
        del weights[name]
    save_file(weights, file, metadata={"format": "pt"})
    again = MesaForCausalLM.from_pretrained(tmp_path)
    mixer = again.layers[2].mixer
    torch.testing.assert_close(mixer.ridge.detach(), torch.ones_like(mixer.ridge))
    assert 0 < float(mixer.conv.weight.detach().abs().max()) <= 0.5
    torch.testing.assert_close(again.layers[0].mixer.q_proj.weight, model.layers[0].mixer.q_proj.weight)
    assert len(gone) == 5
