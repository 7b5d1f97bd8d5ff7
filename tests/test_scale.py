"""Texts of any size: what an exam holds of them, what it records, and documents that stand there twice."""

import json
import os
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import snellen
from snellen.cli import main
from snellen.errors import InputError
from snellen.measures import registry
from snellen.measures.degeneration import Degeneration
from snellen.measures.in_context import InContext
from snellen.request import Request
from snellen.results.compare import compare_runs
from snellen.results.store import Run
from snellen.runner import generating, reading
from snellen.runner.progress import Silent
from snellen.runner.work import IDENTICAL, OWN_BOS, cut
from snellen.texts.corpus import Corpus
from snellen.texts.encode import count, encode
from snellen.texts.read import Document, read_documents
from snellen.texts.windows import plan_windows
from tests import tiny


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    return snellen.load(str(tiny.model(tmp_path_factory.mktemp("scale") / "model")), device="cpu", bos=True)


@pytest.fixture(autouse=True)
def _mean(monkeypatch):
    monkeypatch.setitem(registry._BUILT_IN, "mean", "tests.tiny:MeanMeasure")


def some(number: int, words: int = 60, seed: int = 0) -> list[Document]:
    rng = np.random.default_rng(seed)
    return [Document(f"d{n}", f"{n} " + " ".join(rng.choice(tiny.WORDS, size=words))) for n in range(number)]


def rows_in(folder: Path, documents: list[Document]) -> list[Path]:
    """The same documents as lines of JSON, as rows of Parquet in several row groups, and as files."""
    lines = "".join(json.dumps({"text": one.text}) + ("\r\n" if n % 2 else "\n") for n, one in enumerate(documents))
    (folder / "rows.jsonl").write_bytes(b"\xef\xbb\xbf" + lines.encode())
    table = pa.table(
        {"text": pa.array([one.text for one in documents]).dictionary_encode(), "n": range(len(documents))}
    )
    pq.write_table(table, folder / "rows.parquet", row_group_size=7)
    return [folder / "rows.jsonl", folder / "rows.parquet"]


EXAM = {"width": 2, "horizon": 2, "particles": 0, "window": 48, "context": 8, "report": False}


@pytest.mark.parametrize("limit", [None, 3000, 500])
def test_windows_are_those_of_all_documents_held_and_encoded_at_once(subject, tmp_path, limit):
    """Against the plain way: every document in memory, encoded with its characters, cut, whatever the limit."""
    documents = [*some(40), Document("own", "<s>the cat sat on a mat"), *some(5, words=400, seed=1)]
    request, taken = Request(window=48, context=8, limit=limit), subject.reading
    bos, options = taken.bos.token_id, {"vocabulary": taken.vocabulary, "bos": taken.bos.token_id}
    held = [encode(taken.tokenizer, one, **options) for one in documents]
    plan = plan_windows([len(one) for one in held], window=48, context=8, bos=bos is not None, limit=limit)
    for file in [None, *rows_in(tmp_path, documents)]:
        corpus = documents if file is None else Corpus.of_files([file])
        text = cut(corpus, taken, request)
        assert text.excluded == plan.excluded
        assert [len(one) for one in text.encoded] == [len(one) for one in held]
        assert len(text.windows) == len(plan.windows)
        for work, place in zip(text.windows, plan.windows, strict=True):
            whole, own = held[place.document], slice(place.first, place.last)
            assert work.ids.tolist() == [*([] if bos is None else [bos]), *whole.ids[place.begin : place.last].tolist()]
            assert set(work.rows["document"].tolist()) == {place.document}
            assert work.rows["token"].tolist() == whole.ids[own].tolist()
            assert work.rows["start"].tolist() == whole.start[own].tolist()
            characters = documents[place.document].text
            spans = zip(whole.start[own].tolist(), whole.end[own].tolist(), strict=True)
            assert work.rows["piece"] == [characters[a:b] for a, b in spans]
        table = text.documents()
        assert table["tokens"].to_pylist() == [len(one) for one in held]
        assert table["sha256"].to_pylist() == [one.sha256 for one in documents]
        assert table["scored"].to_pylist() == [
            sum(p.last - p.first for p in plan.windows if p.document == d) for d in range(len(documents))
        ]
        assert [OWN_BOS in notes for notes in table["notes"].to_pylist()] == [d == 40 for d in range(len(documents))]


def test_prompts_and_stretches_are_the_documents_own_tokens(subject, tmp_path):
    documents = some(12, words=200)
    text = cut(Corpus.of_files(rows_in(tmp_path, documents)[:1]), subject.reading, Request(window=48, context=8))
    held = [encode(subject.tokenizer, one, bos=subject.reading.bos.token_id).ids for one in documents]
    chosen = {
        "degeneration": Degeneration(prompts=20, prompt_tokens=6, new_tokens=14),
        "in-context": InContext(stretches=20, length=32, pairs=0),
    }
    prompts = generating.planned(chosen, text, subject, Request())["degeneration"].prompts
    stretches, _, _ = chosen["in-context"]._text(
        reading.planned(chosen, text, subject, Request())["in-context"].material
    )
    for found, size in ((prompts, 20), (stretches, 32)):
        assert len(set(found.document.tolist())) > 1
        for document, at, tokens in zip(found.document, found.start, found.tokens, strict=True):
            assert tokens.tolist() == held[document][at : at + size].tolist()


def test_counting_is_encoding_without_places(subject):
    documents = [*some(30), Document("own", "<s>the cat"), Document("long", "a mat and dogs " * 20_000)]
    options = {"vocabulary": subject.reading.vocabulary, "bos": 0}
    found = list(count(subject.tokenizer, iter(documents), **options))
    held = [encode(subject.tokenizer, one, **options) for one in documents]
    assert [(one.tokens, one.own_bos) for one in found] == [(len(one), one.own_bos) for one in held]
    with pytest.raises(InputError, match="'bad': token 0 has the id"):
        list(count(subject.tokenizer, [Document("bad", "the")], vocabulary=5))
    with pytest.raises(InputError, match="'bos': nothing but the model's first token"):
        list(count(subject.tokenizer, [*documents, Document("bos", "<s>")], **options))


def test_only_what_is_scored_is_encoded_with_its_characters(subject, tmp_path, monkeypatch):
    asked = []

    def watched(tokenizer, document, **options):
        asked.append(document.name)
        return encode(tokenizer, document, **options)

    monkeypatch.setattr("snellen.runner.work.encode", watched)
    corpus = Corpus.of_files(rows_in(tmp_path, some(400))[:1])
    text = cut(corpus, subject.reading, Request(window=48, context=8, limit=500))
    scored = [corpus.names[work.rows["document"][0]] for work in text.windows]
    assert asked == list(dict.fromkeys(scored))
    assert len(asked) < 20


@pytest.mark.parametrize("kind", ["txt", "jsonl", "parquet"])
def test_a_file_that_changes_meanwhile_is_refused(tmp_path, kind):
    documents = some(20)
    (tmp_path / "rows.txt").write_text(documents[0].text)
    rows_in(tmp_path, documents)
    corpus = Corpus.of_files([tmp_path / f"rows.{kind}"])
    read_before = list(corpus)
    assert read_before == read_documents([tmp_path / f"rows.{kind}"])
    assert [corpus[n] for n in range(len(corpus))] == read_before
    file = tmp_path / f"rows.{kind}"
    if kind == "parquet":
        rows_in(tmp_path, [Document("d", one.text.replace("cat", "dog")) for one in documents])
    else:
        file.write_bytes(file.read_bytes().replace(b"cat", b"dog"))
    for use in (list, lambda corpus: corpus[len(corpus) - 1]):
        with pytest.raises(InputError, match="was changed or taken away since this command began"):
            use(corpus)
    file.unlink()
    with pytest.raises(InputError, match="was changed or taken away"):
        list(corpus)


def test_a_pipe_is_read_once_and_held(tmp_path):
    for name, content, expected in (
        ("pipe", "a text", ["a text"]),
        ("p.jsonl", '{"text": "x"}\n{"text": "y"}', ["x", "y"]),
    ):
        os.mkfifo(tmp_path / name)
        writer = threading.Thread(target=(tmp_path / name).write_text, args=(content,))
        writer.start()
        corpus = Corpus.of_files([tmp_path / name])
        writer.join()
        assert [one.text for one in corpus] == expected == [one.text for one in corpus]


def test_a_pipe_without_a_writer_and_a_device_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("snellen.texts.files._WAITS", 0.1)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="a pipe into which nobody has written"):
        Corpus.of_files([tmp_path / "pipe"])
    with pytest.raises(InputError, match="is a device, not a file"):
        Corpus.of_files([Path("/dev/zero")])


def test_the_record_of_a_run_is_as_long_for_many_documents_as_for_few(subject, tmp_path):
    sizes = []
    for number in (30, 600):
        out = tmp_path / f"run{number}"
        run = snellen.exam(subject, some(number), out=out, measures=[tiny.MeanMeasure()], limit=900, **EXAM)
        sizes.append((out / "run.json").stat().st_size)
        table = run.table("documents")
        assert table.num_rows == number == run.content["text"]["documents"]
        assert sum(table["scored"].to_pylist()) == run.content["text"]["scored"] == run.tokens.num_rows
        assert "tables/documents.parquet" in run.content["files"]
        assert run.content["text"]["documents scored"] == len(set(run.tokens["document"].to_pylist()))
        left = run.content["text"]["tokens"] - run.tokens.num_rows
        assert run.findings[0].excluded == {"beyond the limit": left}
    assert sizes[1] - sizes[0] < 100
    again = snellen.exam(subject, some(600), out=tmp_path / "run600", measures=[tiny.MeanMeasure()], limit=900, **EXAM)
    assert again.content == run.content
    other = some(600)
    other[-1] = Document(other[-1].name, other[-1].text + " cat")  # nothing of it is scored
    with pytest.raises(InputError, match=r"holds a run with other settings \(texts"):
        snellen.exam(subject, other, out=tmp_path / "run600", measures=[tiny.MeanMeasure()], limit=900, **EXAM)


def test_runs_that_list_their_documents_in_run_json_are_still_compared(subject, tmp_path):
    for name in ("new", "old"):
        snellen.exam(subject, some(30), out=tmp_path / name, measures=[tiny.MeanMeasure()], limit=900, **EXAM)
    run = Run.read(tmp_path / "old")
    columns = ("name", "sha256", "characters", "tokens", "scored", "notes")
    about = {
        **run.content,
        "text": {**run.content["text"], "documents": run.table("documents").select(columns).to_pylist()},
    }
    about["files"] = {name: digest for name, digest in about["files"].items() if "documents" not in name}
    del about["sha256"]
    (tmp_path / "old" / "run.json").write_text(json.dumps(about))
    (tmp_path / "old" / "tables" / "documents.parquet").unlink()
    assert Run.read(tmp_path / "old").documents(*columns) == Run.read(tmp_path / "new").documents(*columns)
    found = compare_runs(tmp_path / "new", tmp_path / "old")
    assert not any("texts differ" in note for note in found.notes)
    assert found.runs[0]["documents"] == found.runs[1]["documents"]
    assert all(row.difference.value == 0 for row in found.rows)


class Told(Silent):
    def __init__(self):
        self.lines = []

    def say(self, line):
        self.lines.append(line)


def test_identical_documents_are_scored_once_and_named(subject, tmp_path):
    documents = some(30)
    twice = [
        *documents[:25],
        Document("again", documents[3].text),
        *documents[25:],
        Document("own", "<s>" + documents[0].text),
    ]
    once = snellen.exam(subject, documents, out=tmp_path / "once", measures=[tiny.MeanMeasure()], **EXAM)
    told = Told()
    run = snellen.exam(subject, twice, out=tmp_path / "twice", measures=[tiny.MeanMeasure()], progress=told, **EXAM)
    assert run.findings[0].value == once.findings[0].value
    assert run.tokens.num_rows == once.tokens.num_rows
    known = encode(subject.tokenizer, documents[3]), encode(subject.tokenizer, documents[0])
    left = sum(len(one) for one in known)
    assert run.findings[0].excluded == {IDENTICAL: left}
    assert run.content["text"][IDENTICAL] == {
        "documents": 2, "tokens": left, "first": ["again (as d3)", "own (as d0)"],
    }  # fmt: skip
    line = f"2 documents are identical to an earlier one and left out ({left} tokens): again (as d3), own (as d0)"
    assert line in told.lines
    table = run.table("documents")
    assert table["same_as"].to_pylist() == [None] * 25 + [3] + [None] * 5 + [0]
    assert table["scored"].to_pylist()[25] == 0
    assert table["tokens"].to_pylist()[25] == len(known[0])


def test_neither_prompts_nor_stretches_come_from_a_copy(subject):
    documents = some(10, words=200)
    text = cut([*documents, *documents], subject.reading, Request(window=48, context=8))
    chosen = {
        "degeneration": Degeneration(prompts=500, prompt_tokens=6, new_tokens=14),
        "in-context": InContext(stretches=500, length=32, pairs=0),
    }
    prompts = generating.planned(chosen, text, subject, Request())["degeneration"].prompts
    stretches, _, _ = chosen["in-context"]._text(
        reading.planned(chosen, text, subject, Request())["in-context"].material
    )
    assert max(prompts.document) == max(stretches.document) == 9


def test_a_file_named_twice_is_said_to_be(subject, tmp_path, capsys):
    (tmp_path / "c.txt").write_text(" ".join(["the cat sat on a mat and dogs ran away"] * 80))
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": f"Yes. {n % 8}"}) + "\n" for n in range(16)))
    model = str(tiny.model(tmp_path / "model"))
    files = [tmp_path / "c.txt", tmp_path / "c.txt", tmp_path / "rows.jsonl"]
    assert main(tiny.arguments(model, files, tmp_path / "run")) == 0
    said = capsys.readouterr().err
    assert "9 documents are identical to an earlier one and left out" in said
    assert "c.txt (as c.txt), rows.jsonl:9 (as rows.jsonl:1)" in said
    assert "and 4 more" in said
    assert "reading the texts" in said
