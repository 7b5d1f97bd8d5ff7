from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from snellen.errors import InputError
from snellen.lookahead.beam_search import score_window
from snellen.organisms.markov import Markov
from snellen.organisms.tables import exact, tempered
from snellen.organisms.training import Gate, Stage, Training, build, log_probs
from tests.organisms.tiny import ARMS

LANGUAGE = Markov(size=20)


def test_a_table_predicts_as_its_author():
    text = LANGUAGE.sample(30, seed=0)
    np.testing.assert_allclose(log_probs(exact(LANGUAGE), text)[:, 1:], LANGUAGE.log_probs(text)[:, 1:], atol=2e-6)


def test_a_table_is_searched_as_any_model_is():
    model, text = exact(LANGUAGE), torch.from_numpy(LANGUAGE.sample(1, seed=1)[0])
    found = score_window(model, text, widths=(3,), horizon=3, first=2)
    np.testing.assert_allclose(found.log_prob, LANGUAGE.log_probs(text[None].numpy())[0, 2:], atol=2e-6)
    tokens, _, log_p = found.beams[3]
    best = max(
        sum(np.log(p) for p in path)
        for path in (
            [LANGUAGE.predict(text[:2].tolist())[a], LANGUAGE.predict([*text[:2].tolist(), a])[b]]
            for a in range(8) for b in range(8)
        )
    )  # fmt: skip
    # The two best tokens of depth 2 are not sure to be found by a beam of three, but here they are.
    parents = found.beams[3][1]
    total = log_p[0, 1, 0] + log_p[0, 0, parents[0, 1, 0]]
    assert total == pytest.approx(best, abs=1e-5)
    assert (tokens >= 0).all()


@pytest.mark.parametrize("exponent", [0.5, 2.0])
def test_tempered_is_the_power_of_the_model(exponent):
    gpt2 = build(ARMS, Training(stages=(Stage(name="s", gates=(Gate(region="states", below=9.0),)),)), seed=3)
    for model, text in ((exact(LANGUAGE), LANGUAGE.sample(4, seed=2)), (gpt2, ARMS.sample(4, seed=2))):
        ids = torch.from_numpy(text)
        before = model(input_ids=ids).logits.log_softmax(-1)
        after = tempered(model, exponent)(input_ids=ids).logits.log_softmax(-1)
        torch.testing.assert_close(after, (exponent * before).log_softmax(-1), atol=2e-5, rtol=0)
        torch.testing.assert_close(model(input_ids=ids).logits.log_softmax(-1), before)  # a copy was changed
        assert (after - before).abs().max() > 0.1 * abs(exponent - 1)


def test_what_cannot_be_tempered_is_refused():
    config = LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    with pytest.raises(InputError, match="LlamaForCausalLM cannot be tempered"):
        tempered(LlamaForCausalLM(config), 2.0)
    for exponent in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="exponent = "):
            tempered(exact(replace(LANGUAGE, size=5)), exponent)
