"""Masked models on arrival: what is read off them, what is refused, and the one that ships."""

import hashlib
import json

import pytest
import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertLMHeadModel,
)

from snellen.errors import InputError
from snellen.lookahead.evolution import Conditionals
from snellen.lookahead.evolution.frame import frame_of
from snellen.models.bundled import MASKED, pocket_folder
from snellen.models.load import load_model
from snellen.models.masked import load_masked
from tests.lookahead.masked_models import SIZE, network, tokenizer
from tests.models import small


def save(folder, model, tok=None):
    model.save_pretrained(folder)
    (tok or tokenizer()).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "modernbert"])
def test_what_is_read_off_a_model(kind, tmp_path):
    model = load_masked(save(tmp_path / kind, network(kind, places=26)))
    assert (model.opening, model.closing, model.mask) == ((0,), (2,), 4)
    assert model.ordinary.nonzero()[:, 0].tolist() == [5, 6, 7, 8]
    # RoBERTa numbers its places from behind the padding's id, 1, and so takes two tokens less than it states.
    assert model.context == (24 if kind == "roberta" else 26)
    assert model.identity.context == model.context
    longest = torch.full((1, model.context), 5)
    model.model(input_ids=longest)
    if kind != "modernbert":  # rotary positions have no end of their own
        with pytest.raises((IndexError, RuntimeError)):
            model.model(input_ids=torch.full((1, model.context + 1), 5))
    assert model.identity.kind == "folder"
    assert not model.model.training
    assert not any(parameter.requires_grad for parameter in model.model.parameters())


def test_a_tokenizer_that_puts_nothing_around_a_text():
    model = load_masked(network(), tokenizer=tokenizer(around=False))
    assert (model.opening, model.closing) == ((), ())
    assert model.identity.kind == "memory"


def test_models_that_are_not_masked(tmp_path):
    size = {"vocab_size": 9, "max_position_embeddings": 24, **SIZE}
    cases = {
        "GPT2LMHeadModel": small.gpt2(),
        "BertLMHeadModel": BertLMHeadModel(BertConfig(**size, is_decoder=True)),
        "BertForSequenceClassification": BertForSequenceClassification(BertConfig(**size)),
    }
    for name, model in cases.items():
        with pytest.raises(InputError, match=f"{name}; a masked language model .* 'pocket-masked' ships"):
            load_masked(save(tmp_path / name, model))
    bart = BartForConditionalGeneration(
        BartConfig(vocab_size=9, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
                   decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16)
    )  # fmt: skip
    with pytest.raises(InputError, match="encoder-decoder"):
        load_masked(save(tmp_path / "bart", bart))
    with pytest.raises(InputError, match="LlamaForCausalLM; a masked language model"):
        load_masked("pocket")
    small.write_gguf(tmp_path / "m.gguf")
    with pytest.raises(InputError, match="a GGUF file, which holds a causal model"):
        load_masked(tmp_path / "m.gguf")


def test_a_masked_class_that_looks_one_way(tmp_path, caplog):
    torch.manual_seed(0)
    one_way = BertForMaskedLM(BertConfig(vocab_size=9, **SIZE, is_decoder=True, initializer_range=0.6))
    with pytest.raises(InputError, match="does not depend on what comes after"):
        load_masked(save(tmp_path / "m", one_way))


def test_tokenizers_that_do_not_serve(tmp_path):
    folder = save(tmp_path / "m", network(), tokenizer(mask=False))
    with pytest.raises(InputError, match="no mask token"):
        load_masked(folder)
    assert load_masked(folder, tokenizer=tokenizer()).mask == 4
    with pytest.raises(InputError, match="ids up to 11"):
        load_masked(folder, tokenizer=tokenizer("abcdefg"))
    with pytest.raises(InputError, match="needs its tokenizer"):
        load_masked(network())
    late = tokenizer()
    late.add_special_tokens({"mask_token": "<late>"})
    with pytest.raises(InputError, match=r"mask token 9 .* outside its 9 embedding rows"):
        load_masked(network(), tokenizer=late)
    with pytest.raises(InputError, match="fewer than two ordinary tokens"):
        load_masked(network(vocabulary=6), tokenizer=tokenizer("a"))


def test_weights_that_are_wrong(tmp_path):
    model = network()
    with torch.no_grad():
        model.bert.encoder.layer[0].output.dense.bias[0] = torch.nan
    with pytest.raises(InputError, match="NaN in its weights"):
        load_masked(save(tmp_path / "nan", model))
    folder = save(tmp_path / "short", network())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(InputError, match="parameters are not in the weights"):
        load_masked(folder)


def test_settings_come_before_files(tmp_path):
    with pytest.raises(InputError, match="dtype 'int8'"):
        load_masked("./gone", dtype="int8")
    with pytest.raises(InputError, match="no such folder"):
        load_masked("./gone")
    with pytest.raises(InputError, match="model of type int"):
        load_masked(3)
    with pytest.raises(InputError, match="revision 'v1'"):
        load_masked(tmp_path, revision="v1")


def test_a_masked_model_where_a_causal_one_is_needed(tmp_path):
    with pytest.raises(InputError, match=r"BertForMaskedLM; .*a masked one is for `snellen evolve`"):
        load_model(save(tmp_path / "bert", network()))
    with pytest.raises(InputError, match=r"modernbert has no causal .*a masked one is for `snellen evolve`"):
        load_model(MASKED)


@pytest.fixture(scope="module")
def shipped():
    return load_masked()


def test_the_one_that_ships_is_what_its_record_says(shipped):
    folder = pocket_folder(MASKED)
    record = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
    assert {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in record["files"]} == record[
        "files"
    ]
    assert {path.suffix for path in folder.iterdir()} <= {".json", ".safetensors", ".md"}
    assert sum(path.stat().st_size for path in folder.iterdir()) < 5_000_000
    assert shipped.identity.parameters == 2_009_153
    assert (shipped.context, shipped.closing) == (256, ())


def test_it_shares_its_vocabulary_with_pocket(shipped):
    from transformers import AutoTokenizer

    pocket = AutoTokenizer.from_pretrained(pocket_folder())
    text = "Mozzarella is white\nSo you can see it at night — naïve <|mask|"
    assert shipped.tokenizer(text)["input_ids"] == pocket(text)["input_ids"]
    assert shipped.opening == (pocket.bos_token_id,)
    assert shipped.mask == len(pocket)


def test_its_held_out_pseudo_loss_is_the_recorded_one(shipped):
    """On one document, as `scripts/masked/evaluate_masked.py` counts it: windows of 127, each token masked alone."""
    record = json.loads((pocket_folder(MASKED) / "provenance.json").read_text(encoding="utf-8"))
    name, count = "scripture-ruth", record["held-out windows of a document"]
    text = (pocket_folder() / "held-out" / f"{name}.txt").read_text(encoding="utf-8")
    ids = shipped.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    bodies = [tuple(ids[at : at + 127]) for at in range(0, 127 * count, 127)]
    scores = Conditionals(shipped, frame_of(shipped, prompt="", suffix="", longest=127)).log_likelihoods(bodies)
    found = -sum(float(score.sum()) for score in scores) / sum(map(len, bodies))
    assert found == pytest.approx(record["held-out pseudo-loss"][name]["nats per token"], abs=2e-3)
