"""`snellen generate` on a model whose generation_config.json holds settings: put aside, or followed by every method."""

import json

import pytest
import torch
from transformers import GenerationConfig

import snellen
from snellen.cli import main
from snellen.lookahead import generate
from snellen.lookahead.generation_config import aside, followed, held
from snellen.runner.decodings import endless, write
from tests import tiny

NEW = 10
GREEDY = {  # each of these changes what greedy decoding writes
    "repetition_penalty": 2.5,
    "no_repeat_ngram_size": 1,
    "bad_words_ids": None,  # the token that comes first otherwise
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "forced_bos_token_id": 17,
    "forced_eos_token_id": 21,
    "sequence_bias": [[[23], 40.0]],
    "exponential_decay_length_penalty": [1, 8.0],
    "min_new_tokens": 8,
    "min_length": 12,
}
SAMPLED = {"temperature": 0.3, "top_k": 2, "top_p": 0.3, "min_p": 0.5, "typical_p": 0.2, "epsilon_cutoff": 0.3}
ENDS = ("min_new_tokens", "min_length", "exponential_decay_length_penalty")  # which need an end token to do anything
MODES = {
    "num_beams": 3,
    "num_beam_groups": 2,
    "penalty_alpha": 0.6,
    "guidance_scale": 1.5,
    "prompt_lookup_num_tokens": 3,
    "stop_strings": ["a"],
    "max_time": 0.01,
    "dola_layers": "low",
    "token_healing": True,
    "of_my_own": 3,
}
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*:UserWarning", "ignore:.*:DeprecationWarning", "ignore:.*:FutureWarning"
)


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    return snellen.load(str(tiny.model(tmp_path_factory.mktemp("model"))))


@pytest.fixture
def run(subject, monkeypatch, capsys):
    monkeypatch.setattr("snellen.subject.load", lambda *_, **__: subject)

    def run(*arguments, code=0):
        assert main(["generate", "x", "--max-new-tokens", str(NEW), "--prompt", "the cat", *arguments]) == code
        shown = capsys.readouterr()
        return shown if code else (json.loads(shown.out), shown.err)

    return run


def tokens(found):
    return [text["tokens"] for text in found["texts"]]


def prompt(subject):
    bos = subject.identity.bos.token_id
    ids = subject.tokenizer("the cat", add_special_tokens=False)["input_ids"]
    return torch.tensor([ids if bos is None else [bos, *ids]])


def plain(subject, new=NEW):
    """Greedy decoding as a plain loop."""
    ids = prompt(subject)
    for _ in range(new):
        ids = torch.cat([ids, subject.model(ids).logits[:, -1:].argmax(-1)], dim=1)
    return ids[0, -new:].tolist()


@pytest.fixture
def holding(subject):
    """A model with such a file."""
    best = plain(subject)
    values = {"bad_words_ids": [[best[1]]], "suppress_tokens": [best[1]], "begin_suppress_tokens": [best[0]]}

    def hold(name, value):
        ends = {"eos_token_id": best[-1 if name.startswith("exp") else 2]} if name in ENDS else {}
        return aside(subject.model, GenerationConfig(**{name: values.get(name, value)}, **ends))

    return hold


METHODS = {
    "greedy": [],
    "beam": ["--width", "3"],
    "nucleus": [],
    "sample": [],
    "power": ["--particles", "3"],
    "amplified": ["--width", "2", "--horizon", "2"],
}


@pytest.fixture(scope="module")
def bare():
    """What each method writes without such a file, by the token that ends it."""
    return {}


@pytest.mark.parametrize(("name", "value"), [*GREEDY.items(), *SAMPLED.items(), *MODES.items()])
def test_put_aside_no_method_is_changed_by_it(name, value, run, subject, holding, bare):
    methods = [*METHODS] if name in ("repetition_penalty", "temperature", "num_beams") else ["greedy", "beam", "sample"]
    with holding(name, value):
        end = subject.model.generation_config.eos_token_id
        assert list(held(subject.model)) == [name]
        found = {method: run("--method", method, "--json", *METHODS[method]) for method in methods}
        best, _ = run("--temperature", "0", "--weight", "0", "--json")
    for method in methods:
        if (end, method) not in bare:
            with aside(subject.model, GenerationConfig(eos_token_id=end)):
                bare[end, method] = tokens(run("--method", method, "--json", *METHODS[method])[0])
        assert tokens(found[method][0]) == bare[end, method], method
        assert f"put aside: {name} " in found[method][1]
        assert found[method][0]["generation_config"]["followed"] == []
    wanted = plain(subject)
    assert tokens(best) == tokens(found["greedy"][0]) == [wanted if end is None else wanted[: wanted.index(end) + 1]]


@pytest.mark.parametrize(("name", "value"), GREEDY.items())
def test_followed_it_is_by_every_method(name, value, run, subject, holding):
    follow = ("--generation-config", "--json")
    with holding(name, value):
        ids = prompt(subject)
        options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": NEW, "pad_token_id": 0}
        expected = subject.model.generate(ids, do_sample=False, **options)[0, ids.shape[1] :].tolist()
        greedy, said = run("--method", "greedy", *follow)
        assert tokens(greedy) == [expected]
        assert f"is followed: {name} " in said
        assert greedy["generation_config"]["followed"] == [name]
        assert tokens(run("--temperature", "0", "--weight", "0", *follow)[0]) == [expected]
        beams = subject.model.generate(ids, do_sample=False, num_beams=3, **options)[0, ids.shape[1] :].tolist()
        found = tokens(run("--method", "beam", "--width", "3", *follow)[0])[0]
        assert found == beams[: len(found)]
        amplified = subject.model.generate(
            ids, do_sample=False, custom_generate=generate, weight=0.5, **options
        )[0, ids.shape[1] :].tolist()  # fmt: skip
        assert tokens(run("--weight", "0.5", "--temperature", "0", *follow)[0]) == [amplified]
        if name != "forced_bos_token_id":  # which is for prompts of one token
            whole = plain(subject)
            end = subject.model.generation_config.eos_token_id
            assert expected != (whole if end is None else whole[: whole.index(end) + 1])


@pytest.mark.parametrize(("name", "value"), SAMPLED.items())
def test_followed_by_those_that_sample(name, value, run, subject, holding):
    follow = ("--generation-config", "--json", "--count", "6")
    with holding(name, value):
        ids = prompt(subject)
        config = {"pad_token_id": 0, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "do_sample": True, name: value}
        only = subject.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=1, num_return_sequences=300, **config
        )[:, -1]  # fmt: skip
        possible = set(only.tolist())
        for method in ("sample", "nucleus", "amplified"):
            more = ["--weight", "0"] if method == "amplified" else []
            found, said = run("--method", method, *more, *follow)
            assert name in said
            if name != "temperature":
                assert {one[0] for one in tokens(found)} <= possible, method
            else:
                assert found["settings"]["temperature"] == value
        found, said = run("--method", "greedy", "--generation-config", "--json")
        assert tokens(found) == [plain(subject)]
        assert f"not its {name}, which you gave or method greedy has no use for" in said
        if name == "temperature":
            found, said = run("--method", "sample", "--temperature", "0.9", "--generation-config", "--json")
            assert found["settings"]["temperature"] == 0.9
            assert "not its temperature" in said


@pytest.mark.parametrize(("name", "value"), MODES.items())
@pytest.mark.parametrize("method", ["greedy", "amplified"])
def test_what_makes_another_method_of_it_is_refused_by_name(name, value, method, run, holding):
    with holding(name, value):
        shown = run("--method", method, "--generation-config", code=2)
        assert shown.out == ""
        assert f"cannot follow {name} " in shown.err.splitlines()[-1]


def test_beams_of_the_file_are_those_of_method_beam(run, holding, subject):
    with holding("num_beams", 3):
        found, _ = run("--method", "beam", "--generation-config", "--json")
        assert found["settings"]["width"] == 3
    with aside(subject.model, GenerationConfig()):
        assert tokens(found) == tokens(run("--method", "beam", "--width", "3", "--json")[0])


def test_power_follows_none_and_nothing_is_said_of_a_file_with_ids_alone(run, subject):
    assert "power weighs whole texts" in run("--method", "power", "--generation-config", code=2).err
    assert "generation_config" not in run("--method", "greedy", "--json")[1]
    assert followed({}, method="greedy", samples=False, beams=False) == {}


def test_a_direct_call_takes_special_tokens_alone(subject, holding):
    ids = prompt(subject)
    for name, value in {**GREEDY, **SAMPLED, "num_beams": 3}.items():
        with holding(name, value):
            end = subject.model.generation_config.eos_token_id
            wanted = plain(subject)
            wanted = wanted if end is None else wanted[: wanted.index(end) + 1]
            assert generate(subject.model, ids, weight=0.0, max_new_tokens=NEW)[0, ids.shape[1] :].tolist() == wanted


def test_the_decodings_that_degeneration_compares_know_nothing_of_it(subject, holding):
    from snellen.measures.generations import Decoding

    ids = prompt(subject).expand(2, -1)
    kinds = [
        Decoding(kind="greedy"),
        Decoding(kind="beam", width=2),
        Decoding(kind="pure"),
        Decoding(kind="nucleus", top_p=0.9),
        Decoding(kind="amplified", width=2, horizon=2, alpha=2.0, weight=0.5),
    ]

    def written():
        with endless(subject, keep=ids.numpy()):
            return [write(subject.model, ids, kind, new=5, seed=3).tolist() for kind in kinds]

    with aside(subject.model, GenerationConfig()):
        expected = written()
    without_an_end = {name: value for name, value in GREEDY.items() if name not in ENDS}
    for name, value in {**without_an_end, **SAMPLED, "num_beams": 3, "num_beam_groups": 2}.items():
        with holding(name, value):
            assert written() == expected, name
