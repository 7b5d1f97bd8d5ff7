"""Myopic attention under what training does to a model: padding, packing, autocast, checkpoints, adapters."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from snellen.attention import make_myopic
from snellen.attention.caches import CACHE, cache_in
from snellen.errors import InputError, Refused
from tests.attention.myopic_gradients import difference, gradients, losses, one_by_one, text, trainable

ROUNDING = 5e-6
# The name that all releases from 5.0 on have.
DEPRECATED = pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_oss"])
def test_padding(name: str, side: str) -> None:
    model, batch = trainable(name), text()
    mask = torch.ones_like(batch["input_ids"])
    mask[1, : 3 if side == "left" else 0] = 0
    mask[1, 9 if side == "left" else 6 :] = 0
    batch["attention_mask"] = mask
    literal, logits = one_by_one(model, batch, "hidden"), model(**batch).logits
    with make_myopic(model):
        assert torch.equal(model(**batch).logits, logits)
        assert difference(gradients(model, batch), literal) < ROUNDING


@pytest.mark.parametrize("name", ["llama", "mistral", "gpt_neox"])
def test_packed_texts_are_as_good_as_separate_ones(name: str) -> None:
    model, parts = trainable(name), [text(9, 1), text(4, 1)]
    packed = text(13, 1)
    packed["input_ids"] = torch.cat([part["input_ids"] for part in parts], dim=1)
    packed["position_ids"] = torch.cat([torch.arange(9), torch.arange(4)])[None]
    with make_myopic(model):
        separate = [gradients(model, part) for part in parts]
        across = losses(model, packed)[0, 8]  # the loss that lies across the seam belongs to neither
        seam = dict(zip(separate[0], torch.autograd.grad(across, list(model.parameters())), strict=True))
        found = gradients(model, packed)
    expected = {n: sum(part[n] for part in separate) + seam[n] for n in found}
    assert difference(found, expected) < ROUNDING


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
def test_autocast(name: str) -> None:
    model, batch = trainable(name), text()
    with torch.autocast("cpu", torch.bfloat16):
        ordinary, logits = gradients(model, batch), model(**batch).logits
        literal, floor = one_by_one(model, batch, "hidden"), difference(one_by_one(model, batch), ordinary)
        with make_myopic(model):
            assert torch.equal(model(**batch).logits, logits)
            found = gradients(model, batch)
    assert difference(found, literal) < max(10 * floor, 0.05)
    assert difference(ordinary, literal) > 0.3
    assert all(g.dtype == torch.float32 for g in found.values())


def test_half_precision_weights() -> None:
    model, batch = trainable("llama", torch.bfloat16), text()
    literal = one_by_one(model, batch, "hidden")
    with make_myopic(model):
        assert difference(gradients(model, batch), literal) < 0.05


@DEPRECATED
@pytest.mark.filterwarnings("ignore:.*use_reentrant.*")
@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize(
    ("name", "mode"), [("qwen3", "hidden"), ("gpt2", "hidden"), ("gpt_oss", "hidden"), ("llama", "kv")]
)
def test_activation_checkpointing(name: str, mode: str, reentrant: bool) -> None:
    model, batch = trainable(name).train(), text()
    model.enable_input_require_grads()  # use_reentrant=True wants it
    runs = [0]

    def count(*_: object) -> None:
        runs[0] += 1

    with make_myopic(model, mode):
        expected = gradients(model, batch)
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        blocks = getattr(model.get_decoder(), "layers", getattr(model.get_decoder(), "h", None))
        handle = blocks[1].mlp.register_forward_pre_hook(count)
        model.zero_grad()
        losses(model, batch).sum().backward()
        handle.remove()
    found = {name: p.grad for name, p in model.named_parameters()}
    assert all(torch.equal(found[n], expected[n]) for n in found)
    assert runs[0] == 2  # as often as for ordinary attention


@DEPRECATED
def test_checkpoints_of_two_texts_are_told_apart() -> None:
    """Both graphs are there when the first block is run again: each must be given its own."""
    model, first, second = trainable("qwen3").train(), text(), text(7, 1)
    with make_myopic(model):
        expected = [gradients(model, batch) for batch in (first, second)]
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.zero_grad()
        (losses(model, first).sum() + losses(model, second).sum()).backward()
    found = {name: p.grad for name, p in model.named_parameters()}
    assert difference(found, {n: expected[0][n] + expected[1][n] for n in found}) < ROUNDING


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_compiled_between_the_attention_modules() -> None:
    model, batch = trainable("llama"), text()
    model.model.layers = model.model.layers[:2]
    torch._dynamo.reset()
    with make_myopic(model):
        expected = gradients(model, batch)
        compiled = torch.compile(model, backend="aot_eager")
        loss = nn.functional.cross_entropy(
            compiled(**batch).logits[:, :-1].mT, batch["input_ids"][:, 1:], reduction="sum"
        )
        found = dict(zip(expected, torch.autograd.grad(loss, list(model.parameters())), strict=True))
        with pytest.raises(torch._dynamo.exc.Unsupported, match="fullgraph=False"):
            torch.compile(model, backend="eager", fullgraph=True)(**batch)
    torch._dynamo.reset()
    assert difference(found, expected) < ROUNDING


class Adapter(nn.Module):
    """What adapters do: a frozen projection, and a trained one of low rank beside it."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Linear(base.in_features, 2, bias=False)
        self.up = nn.Linear(2, base.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


@pytest.mark.parametrize("adapted", ["k_proj", "v_proj", "both", "frozen"])
def test_adapters_and_frozen_weights(adapted: str) -> None:
    model, batch = trainable("llama"), text()
    torch.manual_seed(7)
    if adapted == "frozen":
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("mlp" in name)
    for module in [m for m in model.modules() if hasattr(m, "k_proj")]:
        for name in {"k_proj", "v_proj"} if adapted == "both" else {adapted} & {"k_proj", "v_proj"}:
            setattr(module, name, Adapter(getattr(module, name)))
    ordinary, literal = gradients(model, batch), one_by_one(model, batch, "hidden")
    with make_myopic(model):
        assert difference(gradients(model, batch), literal) < ROUNDING
    assert difference(ordinary, literal) > 0.1


def test_caches() -> None:
    model, batch = trainable("llama"), text()
    prompt = batch["input_ids"][:1, :4]
    options = {"max_new_tokens": 6, "do_sample": False, "attention_mask": torch.ones_like(prompt), "pad_token_id": 0}
    written = model.generate(prompt, **options)
    with make_myopic(model):
        assert torch.equal(model.generate(prompt, **options), written)
        expected = gradients(model, batch)
        found = gradients(model, {**batch, "use_cache": True})  # what transformers does unless told otherwise
        assert all(torch.equal(found[n], expected[n]) for n in found)
        cache = cache_in(model(prompt, use_cache=True))
        with pytest.raises(Refused, match="5 keys for 1 queries"):
            model(prompt[:, :1], **{CACHE: cache})


def test_lookahead_is_not_touched() -> None:
    from snellen.lookahead import beam

    model, ids = trainable("llama"), text(batch=1)["input_ids"]
    before = beam(model, ids, width=2, horizon=3)
    with make_myopic(model):
        after = beam(model, ids, width=2, horizon=3)
        gradients(model, text())
    assert torch.equal(before.tokens, after.tokens)
    assert torch.equal(before.log_probs, after.log_probs)


@pytest.mark.parametrize("mode", ["hidden", "kv"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_oss"])
def test_undo_leaves_nothing_behind(name: str, mode: str) -> None:
    model, batch = trainable(name).train(), text()
    model.get_decoder().eval()
    before, state, random = gradients(model, batch), _state(model), torch.get_rng_state()
    myopic = make_myopic(model, mode)
    assert torch.equal(torch.get_rng_state(), random)
    assert {n: m.training for n, m in model.named_modules()} == state[0]
    assert all(p.grad is None for p in model.parameters())
    assert difference(gradients(model, batch), before) > 0.1
    myopic.undo()
    myopic.undo()
    assert _state(model) == state
    after = gradients(model, batch)
    assert all(torch.equal(after[n], before[n]) for n in before)
    with make_myopic(model, mode):
        pass
    assert _state(model) == state


def _state(model: nn.Module) -> tuple[object, ...]:
    modules = dict(model.named_modules())
    return (
        {n: m.training for n, m in modules.items()},
        {n: (len(m._forward_hooks), len(m._forward_pre_hooks), "forward" in vars(m)) for n, m in modules.items()},
        {n: p.requires_grad for n, p in model.named_parameters()},
        model.config._attn_implementation,
    )


def test_a_copy_is_not_silently_half_myopic() -> None:
    model, batch = trainable("llama"), text()
    with make_myopic(model):
        other = copy.deepcopy(model)
        with pytest.raises(RuntimeError, match="copy of a myopic model"):
            other(**batch)
        with pytest.raises(InputError, match="a copy of one"):
            make_myopic(other)


def test_another_attention_under_a_myopic_model() -> None:
    model, batch = trainable("llama"), text()
    with make_myopic(model):
        model.set_attn_implementation("eager")
        with pytest.raises(RuntimeError, match="attention implementation was changed"):
            model(**batch)
    assert model.config._attn_implementation == "eager"  # who changed it keeps it


def test_saved_models_are_ordinary(tmp_path) -> None:
    model = trainable("llama")
    with make_myopic(model):
        model.save_pretrained(tmp_path)
    assert "snellen" not in (tmp_path / "config.json").read_text()
    again = type(model).from_pretrained(tmp_path)
    assert again.config._attn_implementation == "sdpa"


def test_wrong_input() -> None:
    model = trainable("llama")
    with pytest.raises(InputError, match="mode 'both'"):
        make_myopic(model, "both")
    for beta in (-0.1, 1.5, float("nan")):
        with pytest.raises(InputError, match="beta"):
            make_myopic(model, beta=beta)
    with make_myopic(model), pytest.raises(InputError, match="already"):
        make_myopic(model, "kv")
    model.config.attention_dropout = 0.25
    for module in model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.25
    with pytest.raises(InputError, match=r"attention_dropout = 0\.25"):
        make_myopic(model)


def test_what_is_refused() -> None:
    for name, reason in {
        "falcon": "AttentionInterface",
        "bloom": "AttentionInterface",
        "mamba": "no attention",
    }.items():
        with pytest.raises(Refused, match=reason):
            make_myopic(trainable(name))
    from transformers import T5Config, T5ForConditionalGeneration

    small = {"d_model": 16, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 32}
    with pytest.raises(Refused, match="encoder"):
        make_myopic(T5ForConditionalGeneration(T5Config(**small, decoder_start_token_id=0)))
    model = trainable("llama")
    model.config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(Refused, match=r"set_attn_implementation\('sdpa'\)"):
        make_myopic(model)


def _look_back(module: nn.Module, _: object, output: Tensor) -> Tensor:
    return output + nn.functional.pad(output, (0, 0, 1, 0))[:, :-1]


def _look_ahead(module: nn.Module, _: object, output: Tensor) -> Tensor:
    return output + nn.functional.pad(output, (0, 0, 0, 1))[:, 1:]


def _skip_the_projection(module: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
    return output + args[0][..., : output.shape[-1]]


@pytest.mark.parametrize(
    ("where", "hook", "reason"),
    [
        ("mlp", _look_back, "outside its attention"),
        ("mlp", _look_ahead, "not causal"),
        ("k_proj", _skip_the_projection, "from the definition's"),
    ],
)
def test_the_preflight_sees_what_it_must(where: str, hook: object, reason: str) -> None:
    model = trainable("llama")
    handles = [m.register_forward_hook(hook) for n, m in model.named_modules() if n.endswith(where)]
    before = _state(model)
    with pytest.raises(Refused, match=reason):
        make_myopic(model)
    assert _state(model) == before
    for handle in handles:
        handle.remove()
    make_myopic(model).undo()


@pytest.mark.parametrize("mode", ["hidden", "kv"])
def test_the_preflight_sees_a_wrong_diagonal(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from snellen.attention.myopic import sites

    def wrong(*args: object, **options: object) -> tuple[Tensor, Tensor]:
        out, own = sites_sdpa(*args, **options)
        return out, own * 0.9

    sites_sdpa = sites.WITH_OWN_WEIGHT["sdpa"]
    monkeypatch.setitem(sites.WITH_OWN_WEIGHT, "sdpa", wrong)
    with pytest.raises(Refused, match="from the definition's"):
        make_myopic(trainable("llama"), mode)

    def other(*args: object, **options: object) -> tuple[Tensor, Tensor]:
        out, own = sites_sdpa(*args, **options)
        return out * 1.001, own

    monkeypatch.setitem(sites.WITH_OWN_WEIGHT, "sdpa", other)
    with pytest.raises(Refused, match="changes its logits"):
        make_myopic(trainable("llama"), mode)


def test_nothing_heavy_is_imported_before_it_is_used() -> None:
    code = "import sys, snellen.attention; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
