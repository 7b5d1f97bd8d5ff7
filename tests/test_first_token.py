"""A text or prompt that begins with the model's first token itself: the model reads it once, whoever asks."""

import json

import numpy as np
import pytest
import torch

import snellen
from snellen.cli import main
from snellen.measures.generations import Decoding, Writing
from snellen.request import Request
from snellen.runner import reading
from snellen.runner.generating import cut_prompts
from snellen.runner.progress import Silent
from snellen.runner.work import cut
from snellen.texts.read import Document
from snellen.training.data import rows_of
from snellen.training.monitor import HeldOut
from tests import tiny

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*:UserWarning", "ignore:.*:DeprecationWarning", "ignore:.*:FutureWarning"
)
WORDS = " ".join(np.random.default_rng(0).choice(tiny.WORDS, size=400))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(tiny.model(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def subject(folder):
    return snellen.load(folder, bos=True)


def expected(subject, text):
    """Of each token behind the first: log p by one forward pass over the text as the tokenizer reads it."""
    ids = subject.tokenizer(text, add_special_tokens=False)["input_ids"]
    log_p = subject.model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return ids, [float(log_p[i - 1, ids[i]]) for i in range(1, len(ids))]


def test_an_exam_reads_it_once(subject, tmp_path):
    texts = [Document("with", "<s>" + WORDS[:150]), *(Document(f"{n}", WORDS[40 * n :][:400]) for n in range(1, 10))]
    told = []

    class Told(Silent):
        def say(self, line):
            told.append(line)

    from tests.tiny import MeanMeasure

    run = snellen.exam(
        subject, texts, out=tmp_path / "run", measures=[MeanMeasure()], width=2, horizon=2, particles=0, window=60,
        context=8, report=False, progress=Told(),
    )  # fmt: skip
    ids, log_p = expected(subject, texts[0].text)
    rows = run.tokens.filter(np.array(run.tokens["document"]) == 0)
    first = min(len(log_p), 40)
    assert rows["token"].to_pylist() == ids[1:]
    assert rows["start"].to_pylist()[0] == 3
    assert "".join(rows["piece"].to_pylist()) == texts[0].text[3:]
    assert rows["log_prob"].to_pylist()[:first] == pytest.approx(log_p[:first], abs=1e-4)
    about = json.loads((tmp_path / "run" / "run.json").read_text())["text"]
    assert about["own_first_token"] == 1
    notes = run.table("documents")["notes"].to_pylist()
    assert notes[:2] == [["begins with the model's first token (BOS), which is read once"], []]
    assert "1 of 10 texts: begins with the model's first token (BOS), which is read once" in told


def test_without_a_first_token_in_front_the_text_has_its_own(folder):
    bare = snellen.load(folder, bos=False)
    text = "<s>" + WORDS[:900]
    found = cut(
        [Document(f"d{n}", text + " cat" * n) for n in range(9)],
        bare.reading,
        Request(width=2, horizon=2, window=60, context=8),
    )
    ids, _ = expected(bare, text)
    assert found.encoded[0].ids.tolist() == ids
    assert found.windows[0].ids.tolist() == ids[: len(found.windows[0].ids)]
    assert found.own_bos == 0


def test_prompts_and_passages_of_measures(subject):
    texts = [Document(f"{n}", "<s>" + WORDS[7 * n : 7 * n + 900]) for n in range(9)]
    text = cut(texts, subject.reading, Request(width=2, horizon=2, window=60, context=8))
    bos = subject.identity.bos.token_id
    prompts = cut_prompts(
        text, Writing(prompts=5000, prompt_tokens=8, new_tokens=4, decodings=(Decoding(kind="greedy"),)), subject
    )
    at = int(np.flatnonzero(prompts.start == 0)[0])
    read = prompts.ids(slice(at, at + 1), prompts.tokens[at : at + 1, :0])[0].tolist()
    assert read == subject.tokenizer(texts[prompts.document[at]].text, add_special_tokens=False)["input_ids"][:9]
    assert read.count(bos) == 1
    seen = []

    class Measure:
        needs = frozenset({"readings"})

        def passages(self, material, *, seed):
            seen.append(material)

    reading.planned({"x": Measure()}, text, subject, Request())
    assert all(bos not in one[:] for one in seen[0].documents)
    assert seen[0].encode("<s>the cat") == subject.tokenizer("the cat", add_special_tokens=False)["input_ids"]


def test_training_rows_and_held_out_windows(subject):
    tokenizer, bos = subject.tokenizer, subject.identity.bos.token_id
    texts = ["<s>" + WORDS[:500], WORDS[:500], *(WORDS[n : n + 300] for n in range(8))]
    options = {"tokenizer": tokenizer, "max_length": 32, "vocabulary": 300, "bos": bos, "name": "train"}
    rows = rows_of(texts, **options)
    assert rows.own_bos == 1
    ids = tokenizer(texts[0], add_special_tokens=False)["input_ids"]
    assert rows.ids(0).tolist() == ids[:32]
    assert rows_of(texts[1:], **options).own_bos == 0
    held_out = HeldOut.of(texts, subject.model, horizon=2, tokens=None, tokenizer=tokenizer, bos=bos)
    assert held_out.windows[0].ids.tolist() == ids[: len(held_out.windows[0].ids)]


def test_generate(subject, monkeypatch, capsys):
    monkeypatch.setattr("snellen.subject.load", lambda *_, **__: subject)
    found = {}
    for prompt in ("<s>the cat", "the cat"):
        assert main(["generate", "x", "--prompt", prompt, "--method", "greedy", "--max-new-tokens", "5", "--json"]) == 0
        shown = capsys.readouterr()
        found[prompt] = json.loads(shown.out)["texts"][0]
        assert ("1 of 1 prompts begin with the model's first token" in shown.err) == prompt.startswith("<s>")
    assert found["<s>the cat"]["tokens"] == found["the cat"]["tokens"]
    assert found["<s>the cat"]["log_probs"] == found["the cat"]["log_probs"]
