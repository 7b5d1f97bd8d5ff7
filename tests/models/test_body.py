"""What is found of a model's body, against what the model does when it is run."""

import pytest
import torch
import transformers as hf
from torch import nn

import snellen
from snellen.errors import Refused
from snellen.lookahead.preflight import preflight
from snellen.lookahead.settings import check_search
from snellen.models.body import body_of, context_length, context_of, device_of, logit_columns, stated, width_of
from snellen.models.load import load_model
from snellen.models.masked import load_masked
from tests.lookahead.architectures import CONFIGS, CONTEXT, UNUSUAL, VOCABULARY, WINDOW, tiny

# As the classes of transformers state it in their defaults.
STATED = {
    "GPT2Config": 1024, "OpenAIGPTConfig": 512, "CTRLConfig": 256, "CodeGenConfig": 2048, "GPTJConfig": 2048,
    "GPTNeoConfig": 2048, "GPTNeoXConfig": 2048, "GPTBigCodeConfig": 1024, "OPTConfig": 2048, "BioGptConfig": 1024,
    "MptConfig": 2048, "DbrxConfig": 2048, "BloomConfig": None, "MambaConfig": None, "Mamba2Config": None,
    "RecurrentGemmaConfig": None, "xLSTMConfig": None, "FalconConfig": 2048, "LlamaConfig": 2048, "Phi3Config": 4096,
    "MistralConfig": 131072, "Gemma2Config": 8192, "Gemma3Config": 131072, "Gemma3nConfig": 32768,
    "Gemma4Config": 131072, "Llama4Config": 131072, "GptOssConfig": 131072, "Qwen3NextConfig": 32768,
    "JambaConfig": 262144, "ModernBertDecoderConfig": 8192, "WhisperConfig": 448, "MllamaConfig": 131072,
}  # fmt: skip


@pytest.mark.parametrize("name", STATED)
def test_the_context_that_a_configuration_states(name):
    assert context_length(getattr(hf, name)()) == STATED[name]


def test_windows_are_no_context_and_stretched_positions_reach_as_far_as_they_were_stretched():
    assert context_length(hf.MistralConfig(max_position_embeddings=512, sliding_window=16)) == 512
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256, "rope_theta": 1e4}
    assert context_length(hf.LlamaConfig(max_position_embeddings=256, rope_parameters=yarn)) == 1024
    llama3 = yarn | {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    assert context_length(hf.LlamaConfig(max_position_embeddings=2048, rope_parameters=llama3)) == 2048


def small(kind, **changes):
    common = {
        "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 48, "pad_token_id": 1, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    gpt = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 24}
    settings = {
        "gpt2": (hf.GPT2Config, gpt), "openai-gpt": (hf.OpenAIGPTConfig, gpt),
        "ctrl": (hf.CTRLConfig, gpt | {"dff": 48}), "codegen": (hf.CodeGenConfig, gpt | {"rotary_dim": 4}),
        "gptj": (hf.GPTJConfig, gpt | {"rotary_dim": 4}),
        "opt": (hf.OPTConfig, common | {"ffn_dim": 48, "max_position_embeddings": 24, "word_embed_proj_dim": 32}),
        "biogpt": (hf.BioGptConfig, common | {"max_position_embeddings": 24}),
        "bert": (hf.BertConfig, common | {"max_position_embeddings": 24, "is_decoder": True}),
        "roberta": (hf.RobertaConfig, common | {"max_position_embeddings": 24, "is_decoder": True}),
        "mpt": (
            hf.MptConfig,
            {"vocab_size": VOCABULARY, "d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 24},
        ),
    }  # fmt: skip
    config, own = settings[kind]
    for name in ("bos_token_id", "eos_token_id"):
        own = own | {name: 1}
    return hf.AutoModelForCausalLM.from_config(config(**own | changes)).eval().requires_grad_(False)


@pytest.mark.parametrize(
    "kind", ["gpt2", "openai-gpt", "ctrl", "codegen", "gptj", "opt", "biogpt", "bert", "roberta", "mpt"]
)
def test_a_table_of_positions_holds_as_many_as_are_found_and_no_more(kind):
    model = small(kind)
    limit = context_of(model)
    assert limit == (22 if kind == "roberta" else 24)  # RoBERTa's kind begins behind the padding's id
    ids = torch.full((1, limit + 1), 5)
    assert model(input_ids=ids[:, :limit], use_cache=False).logits.shape[1] == limit
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=ids, use_cache=False)
    with pytest.raises(snellen.InputError, match=f"context of {limit}"):
        check_search(model, ids[:, :limit], width=2, horizon=2)
    assert load_model(model).identity.context == limit


def test_a_table_with_fewer_rows_than_the_configuration_states():
    model = small("gpt2")
    model.config.n_positions = 1000
    assert (context_length(model.config), context_of(model)) == (1000, 24)


def test_numbers_that_differ_by_layer():
    config = UNUSUAL["gemma4"]()
    with pytest.raises(RuntimeError, match="per-layer"):
        _ = config.head_dim
    assert stated(config, "head_dim") == 16  # of its global layers; the others have 8
    assert stated(UNUSUAL["gemma3n"](), "intermediate_size") == 48
    assert stated(config, "sliding_window") == WINDOW
    assert stated(config, "nothing") is None


def test_the_width_is_that_of_the_widest_map_and_not_of_the_vocabulary():
    config = hf.LlamaConfig(
        vocab_size=999, hidden_size=32, intermediate_size=80, num_hidden_layers=1, num_attention_heads=4
    )
    assert width_of(hf.LlamaForCausalLM(config)) == 80
    assert width_of(tiny("mixtral")) == 96  # gate and up of an expert in one
    assert width_of(tiny("gpt2")) == 128


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_architectures_are_searched_as_a_plain_loop_would(name):
    model = tiny(name)
    assert context_of(model) == CONTEXT
    assert logit_columns(model) == VOCABULARY
    assert body_of(model) is not model
    found = preflight(model, length=40)
    text = torch.randint(VOCABULARY, (1, 20), generator=torch.Generator().manual_seed(2))
    assert float(model(input_ids=text, use_cache=False).logits.std()) > 0.01
    beams = snellen.lookahead.beam(model, text, width=3, horizon=3, engine=found.engine)
    for place in (0, 3, 11, 19):
        for row in range(3):
            chain = torch.cat([text[0, : place + 1], beams.tokens[0, place, row]])
            log_p = model(input_ids=chain[None], use_cache=False).logits[0].float().log_softmax(-1)
            own = [float(log_p[place + k, chain[place + 1 + k]]) for k in range(3)]
            assert beams.log_probs[0, place, row].tolist() == pytest.approx(own, abs=2e-5)


@pytest.mark.parametrize("name", ["gpt2", "opt", "gemma3", "modernbert_decoder", "llama4", "bloom"])
def test_the_body_is_what_the_head_is_put_on(name):
    model = tiny(name)
    seen = []
    with_hidden = body_of(model).register_forward_hook(lambda _, __, output: seen.append(output.last_hidden_state))
    given = []
    head = model.get_output_embeddings()
    of_head = head.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    model(input_ids=torch.arange(5)[None], use_cache=False)
    with_hidden.remove()
    of_head.remove()
    assert len(seen) == len(given) == 1
    if name != "modernbert_decoder":  # which transforms them first
        torch.testing.assert_close(seen[0], given[0])


def test_a_model_that_fails_in_its_own_code_is_refused_in_one_line():
    model = tiny("llama")

    def broken(*args, **kwargs):
        raise KeyError("layer 3")

    model.model.layers[1].forward = broken
    with pytest.raises(Refused, match=r"^LlamaForCausalLM does not run .*KeyError: 'layer 3'$"):
        preflight(model, length=12)


def test_a_model_without_a_body():
    class Flat(hf.GPT2LMHeadModel):
        def get_decoder(self) -> nn.Module:
            return self

    model = Flat(CONFIGS["gpt2"]())
    assert body_of(model) is model.transformer
    del model.transformer
    with pytest.raises(Refused, match="no body below its head"):
        body_of(model)


def test_a_model_that_was_never_loaded():
    with torch.device("meta"):
        model = hf.AutoModelForCausalLM.from_config(CONFIGS["llama"]())
    with pytest.raises(Refused, match=r"no weights.*meta device"):
        device_of(model)
    with pytest.raises(Refused, match="meta device"):
        load_model(model)


def test_masked_models_have_the_same_limit(tmp_path):
    masked = load_masked("pocket-masked")
    assert masked.context == context_of(masked.model) == masked.identity.context
