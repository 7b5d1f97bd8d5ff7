import errno
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import snellen
from snellen import runner
from snellen.cli import main
from snellen.errors import InputError, Refused
from snellen.measures import registry
from snellen.measures.degeneration import Degeneration
from snellen.measures.in_context import InContext
from snellen.request import Request, in_proportion
from snellen.results.store import Run, read_run_json
from snellen.runner import generating, reading, record, scoring, work
from tests import tiny
from tests.touched import touched

ROOT = Path(__file__).parents[1]
SETTINGS = {"width": 2, "horizon": 3, "measures": ["mean"], "window": 48, "context": 8, "limit": 600}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("tiny")


@pytest.fixture(scope="module")
def folder(place):
    return tiny.model(place / "model")


@pytest.fixture(scope="module")
def files(place):
    return tiny.texts(place)


@pytest.fixture(scope="module")
def subject(folder):
    return snellen.load(str(folder), device="cpu")


def draw(folder):
    (folder / "report.html").write_text("<p>drawn")
    return folder / "report.html"


@pytest.fixture(scope="module", autouse=True)
def _surroundings():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry._BUILT_IN, "mean", "tests.tiny:MeanMeasure")
        patch.setattr("snellen.report.html.write_report", draw)  # tested in tests/report
        yield


@pytest.fixture(scope="module")
def whole(place, folder, files):
    """An uninterrupted run, by the command line."""
    assert main([*tiny.arguments(folder, files, place / "whole"), "--quiet"]) == 0
    return Run.read(place / "whole")


class Told:
    def __init__(self):
        self.lines, self.steps, self.shares, self.stages = [], [], [], {}

    def say(self, line):
        self.lines.append(line)

    def windows(self, folder, done, total):
        self.steps.append((done, total))
        self.shares.append([])

    def within(self, share):
        self.shares[-1].append(share)

    def stage(self, name, share, now):
        self.stages.setdefault(name, []).append(share)


def test_the_run_holds_what_was_promised(whole):
    tokens = whole.tokens
    assert 0 < tokens.num_rows <= 600
    widths = {"beam1_tokens": 3, "beam2_tokens": 6, "beam2_parents": 6, "beam2_log_probs": 6}
    for name, size in widths.items():
        assert tokens.schema.field(name).type.list_size == size
    assert tokens.schema.field("log_z").type.list_size == len(scoring.TEMPERATURES)
    assert min(tokens["context"].to_pylist()) >= 8
    assert set(tokens["token_class"].to_pylist()) <= {"word start", "other"}
    text = {row["index"]: row["piece"] for row in tokens.select(["document", "index", "piece"]).to_pylist()}
    assert all(isinstance(piece, str) for piece in text.values())
    about = whole.content
    assert about["progress"]["finished"]
    assert about["text"]["scored"] == tokens.num_rows
    assert {"weights_sha256", "source"} <= about["identity"].keys()
    assert about["preflight"]["longest window"]["checks"]
    assert {"torch", "transformers", "python", "device"} <= about["environment"].keys()
    assert {"loading", "scoring", "measuring", "sessions"} <= about["timings"].keys()
    vocabulary = {row["token"]: row["text"] for row in whole.table("vocabulary").to_pylist()}
    seen = set(tokens["token"].to_pylist()) | {t for row in tokens["beam2_tokens"].to_pylist() for t in row if t >= 0}
    assert seen <= vocabulary.keys()
    for row in tokens.select(["token", "piece"]).to_pylist():
        if row["piece"].isascii():
            assert vocabulary[row["token"]].strip() == row["piece"].strip()


def test_pieces_are_the_documents_own_characters(whole, files):
    texts = [path.read_text(encoding="utf-8") for path in files]
    for row in whole.tokens.select(["document", "start", "end", "piece"]).to_pylist():
        assert texts[row["document"]][row["start"] : row["end"]] == row["piece"]


def test_naive_numbers_are_the_models_own(whole, subject, files):
    # Documents shorter than nothing: each scored token is predicted from `context` tokens of its own document.
    row = whole.tokens.slice(37, 1).to_pylist()[0]
    same = [r for r in whole.tokens.to_pylist() if r["document"] == row["document"]]
    ids = {r["index"]: r["token"] for r in same}
    text = files[row["document"]].read_text(encoding="utf-8")
    full = subject.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert all(full[index] == token for index, token in ids.items())
    own = row["index"] - min(row["context"], row["index"])
    window = full[own : row["index"] + 1]
    if row["context"] > row["index"]:
        window = [subject.identity.bos.token_id, *window]
    logits = subject.model(input_ids=torch.tensor([window])).logits[0, -2].double().log_softmax(-1)
    assert float(logits[row["token"]]) == pytest.approx(row["log_prob"], abs=1e-4)


@pytest.mark.parametrize("moment", ["before run.json:3", "before piece:4", "after piece:6", "after tokens.parquet"])
def test_killed_at_any_moment_it_resumes_to_the_same_findings(moment, tmp_path, folder, files, whole, capsys):
    command = tiny.arguments(folder, files, tmp_path / "run")
    killed = subprocess.run(
        [sys.executable, "-m", "tests.tiny", moment, "SIGKILL", *command], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "run" / "report.html").exists()
    assert main(command) == 0
    assert "resuming: " in capsys.readouterr().err
    for name in ("findings.json", "tokens.parquet", "tables/vocabulary.parquet"):
        assert (tmp_path / "run" / name).read_bytes() == (whole.folder / name).read_bytes()
    assert Run.read(tmp_path / "run").content["timings"]["sessions"] == 2
    assert not (tmp_path / "run" / "pieces").exists()


def test_interrupted_it_says_how_to_resume(tmp_path, folder, files):
    command = tiny.arguments(folder, files, tmp_path / "run")
    stopped = subprocess.run(
        [sys.executable, "-m", "tests.tiny", "after piece:2", "SIGINT", *command], cwd=ROOT, capture_output=True,
        text=True, env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
    )  # fmt: skip
    assert stopped.returncode == 130
    last = stopped.stderr.strip().splitlines()[-1]
    assert last.startswith("snellen: interrupted: ")
    assert "windows are kept in" in last
    assert "the same command resumes" in last
    assert "Traceback" not in stopped.stderr
    assert stopped.stderr.startswith("loading ")


def test_a_complete_run_is_not_done_again(whole, folder, files, capsys, monkeypatch):
    monkeypatch.setattr(runner, "score_window", None)
    before = {path: path.read_bytes() for path in whole.folder.rglob("*") if path.is_file()}
    assert main(tiny.arguments(folder, files, whole.folder)) == 0
    shown = capsys.readouterr()
    assert "is complete" in shown.err
    assert "report.html" in shown.out
    assert before == {path: path.read_bytes() for path in whole.folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("change", "named"),
    [({"width": 3}, "width 2, now 3"), ({"seed": 1}, "seed 0, now 1"), ({"window": 32}, "window 48, now 32"),
     ({"measures": [tiny.MeanMeasure(scale=2.0)]}, "measures ")],
)  # fmt: skip
def test_other_settings_are_refused(whole, subject, files, change, named):
    with pytest.raises(InputError, match=named):
        snellen.exam(subject, files, out=whole.folder, **{**SETTINGS, **change})


@pytest.mark.parametrize(
    ("module", "named"),
    [("snellen.runner.scoring", r"code \S+, now"), ("snellen.lookahead.head", r"code \S+, now"),
     ("snellen.results.statistics", "code"), ("tests.tiny", "code of mean")],
)  # fmt: skip
def test_other_code_is_refused(whole, subject, files, module, named):
    before = {path: path.read_bytes() for path in whole.folder.rglob("*") if path.is_file()}
    with touched(module), pytest.raises(InputError, match=f"was made by other code .*{named}.*choose another --out"):
        snellen.exam(subject, files, out=whole.folder, **SETTINGS)
    assert before == {path: path.read_bytes() for path in whole.folder.rglob("*") if path.is_file()}


def test_pieces_of_two_codes_or_libraries_are_not_joined(subject, files, tmp_path, monkeypatch):
    true, windows = runner.score_window, []

    def stopping(*args, **kwargs):
        windows.append(args)
        if len(windows) == 3:
            raise KeyboardInterrupt
        return true(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(runner, "score_window", stopping)
        with pytest.raises(KeyboardInterrupt):
            snellen.exam(subject, files, out=tmp_path / "run", report=False, **SETTINGS)
    with touched("snellen.lookahead.search"), pytest.raises(InputError, match="was made by other code"):
        snellen.exam(subject, files, out=tmp_path / "run", report=False, **SETTINGS)
    versions = record.provenance.versions
    with monkeypatch.context() as patch:
        patch.setattr(record.provenance, "versions", lambda *others: {**versions(*others), "torch": "0.4"})
        with pytest.raises(InputError, match=r'torch "\S+", now "0\.4"'):
            snellen.exam(subject, files, out=tmp_path / "run", report=False, **SETTINGS)
    told = Told()
    with touched("snellen.report.html"):  # which changes no number
        snellen.exam(subject, files, out=tmp_path / "run", report=False, progress=told, **SETTINGS)
    assert any(line.startswith("resuming: 2 of ") for line in told.lines)


def test_code_that_came_with_a_model_is_part_of_the_run(subject):
    class Own(type(subject.model)):
        pass

    assert record.subject_key(subject)["code of the model"] is None
    model = Own(subject.model.config)
    assert len(record.subject_key(replace(subject, model=model))["code of the model"]) == 16


def test_memory_changes_no_number_and_not_the_run(subject, files, tmp_path, whole):
    run = snellen.exam(subject, files, out=tmp_path / "run", memory="1MB", report=False, **SETTINGS)
    assert run.content["key"] == whole.content["key"]
    for name in ("log_prob", "entropy", "beam2_log_probs"):
        np.testing.assert_allclose(scoring.arrays(run.tokens[name]), scoring.arrays(whole.tokens[name]), atol=1e-4)
    assert run.report is None


def test_the_default_folder_is_the_same_for_the_same_command(subject, files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    few = {**SETTINGS, "limit": 500}
    first = snellen.exam(subject, files, report=False, **few)
    told = Told()
    again = snellen.exam(subject, files, report=False, progress=told, **few)
    assert first.folder == again.folder
    assert first.folder.parent == Path("runs")
    assert first.folder.name.startswith("model-")
    assert any("is complete" in line for line in told.lines)
    other = snellen.exam(subject, files, report=False, **few, seed=3)
    assert other.folder != first.folder


def test_progress_counts_windows(subject, files, tmp_path):
    told = Told()
    snellen.exam(subject, files, out=tmp_path / "run", report=False, progress=told, **{**SETTINGS, "limit": 500})
    done = [step[0] for step in told.steps]
    assert done == list(range(len(done)))
    assert told.steps[-1][0] == told.steps[-1][1]
    for shares in told.shares[:-1]:
        assert shares == sorted(shares)
        assert shares[-1] == 1.0


@pytest.mark.parametrize(
    ("change", "named"),
    [({"width": 0}, "width 0"), ({"horizon": 0}, "horizon 0"), ({"widths": [3]}, "widths 3"), ({"limit": 0}, "limit 0"),
     ({"memory": "much"}, "memory 'much'"), ({"measures": ["gain"]}, "unknown measure 'gain'; known: .*lookahead-gain"),
     ({"measures": []}, "no measure"), ({"measures": ["mean", "mean"]}, "twice"),
     ({"horizon": 70}, "horizon 70.*64"), ({"window": 64}, "window 64.*at most 62"), ({"context": 48}, "context 48"),
     ({"engine": "magic"}, "engine 'magic'"), ({"dtype": "bfloat16"}, "dtype.*loaded already")],
)  # fmt: skip
def test_wrong_settings_come_before_any_file(subject, files, tmp_path, change, named):
    with pytest.raises(InputError, match=named):
        snellen.exam(subject, files, out=tmp_path / "run", **{**SETTINGS, **change})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [({"horizon": 70}, "horizon 70.*64"), ({"window": 64}, "window 64.*at most 62"), ({"texts": "cat"}, "tokens")],
)
def test_what_the_configuration_decides_is_said_before_weights_are_read(folder, files, change, said, monkeypatch):
    monkeypatch.setattr("snellen.models.load.read_weights", None)
    change = dict(change)
    texts = change.pop("texts", files)
    with pytest.raises((InputError, Refused), match=said):
        snellen.exam(folder, texts, **{**SETTINGS, **change})


def test_texts_too_short_are_refused_before_any_file(subject, tmp_path):
    (tmp_path / "short.txt").write_text("the cat sat")
    with pytest.raises((InputError, Refused)):
        snellen.exam(subject, tmp_path / "short.txt", out=tmp_path / "run", **SETTINGS)
    assert not (tmp_path / "run").exists()


def test_nan_is_refused_with_its_place(subject, files, tmp_path, monkeypatch):
    true = runner.score_window

    def broken(*args, **kwargs):
        scores = true(*args, **kwargs)
        scores.log_prob[3] = np.nan
        return scores

    monkeypatch.setattr(runner, "score_window", broken)
    with pytest.raises(Refused, match=r"NaN for token \d+ of .*text0\.txt \(character \d+\)"):
        snellen.exam(subject, files, out=tmp_path / "run", **SETTINGS)


@pytest.mark.parametrize(
    "error",
    [MemoryError(), torch.OutOfMemoryError("CUDA out of memory"),
     RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")],
)  # fmt: skip
def test_out_of_memory_says_what_to_lower(subject, files, tmp_path, monkeypatch, error):
    def starving(*args, **kwargs):
        raise error

    monkeypatch.setattr(runner, "score_window", starving)
    with pytest.raises(InputError, match=r"window 1 of \d+ .*lower --memory \(now 1GB\).*--window or --width"):
        snellen.exam(subject, files, out=tmp_path / "run", **SETTINGS)


def test_other_runtime_errors_are_our_fault(subject, files, tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("shapes")

    monkeypatch.setattr(runner, "score_window", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        snellen.exam(subject, files, out=tmp_path / "run", **SETTINGS)


def test_a_full_disk_while_scoring_can_be_resumed(subject, files, tmp_path, monkeypatch, whole):
    calls, sync = [], os.fsync

    def full(handle):
        calls.append(handle)
        if len(calls) > 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(InputError, match="the disk is full"):
            snellen.exam(subject, files, out=tmp_path / "run", report=False, **SETTINGS)
    assert not list(tmp_path.rglob("*.tmp"))
    assert read_run_json(tmp_path / "run")["progress"]["finished"] is False
    snellen.exam(subject, files, out=tmp_path / "run", report=False, **SETTINGS)
    assert (tmp_path / "run" / "findings.json").read_bytes() == (whole.folder / "findings.json").read_bytes()


def test_json_of_the_run_is_strict(whole):
    def refuse(name):
        raise AssertionError(name)

    for name in ("run.json", "findings.json"):
        json.loads((whole.folder / name).read_text(encoding="utf-8"), parse_constant=refuse)


def test_each_stage_after_the_scoring_is_told_from_its_beginning_to_its_end(subject, files, tmp_path):
    told = Told()
    written = Degeneration(prompts=8, prompt_tokens=8, new_tokens=12, width=2, horizon=2, particles=2)
    read = InContext(stretches=8, length=32, pairs=0)
    snellen.exam(
        subject, files, out=tmp_path / "run", report=False, progress=told, width=2, horizon=2, particles=2, window=48,
        context=8, measures=["lookahead-gain", written, read],
    )  # fmt: skip
    before = ["reading the texts", "counting their tokens"]
    names = ["writing for degeneration", "reading for in-context"]
    assert list(told.stages) == [
        *before,
        *names,
        *(f"measuring {name.split()[-1]}" for name in ["lookahead-gain", *names]),
    ]
    for name, shares in told.stages.items():
        assert shares[0] == 0, name
        assert shares[-1] == 1, name
        assert shares == sorted(shares), name
    # the human text and each decoding where it begins, and the end
    assert len(told.stages["writing for degeneration"]) == 1 + len(written.writing.decodings) + 1
    assert len(told.stages["measuring lookahead-gain"]) == 2 + 2 * 2 + 1 + 1


@pytest.mark.parametrize(("limit", "expected"), [(None, (32, 48, 96)), (4096, (16, 24, 48)), (600, (8, 8, 20))])
def test_a_limit_bounds_what_is_written_and_read(limit, expected, subject):
    request = Request(limit=limit)
    found = [in_proportion(n, request.share, least=k) for n, k in ((32, 8), (48, 8), (96, 20))]
    assert tuple(found) == expected
    assert in_proportion(5, request.share, least=8) == 5


def planned_at(limits, written, read, subject, files):
    """How many prompts and stretches there are under each limit."""
    chosen, documents = {"degeneration": written, "in-context": read}, work.read(files, None)
    found = []
    for limit in limits:
        request = Request(limit=limit, window=48, context=8)
        text = work.cut(documents, subject.reading, request)
        task = reading.planned(chosen, text, subject, request)["in-context"]
        cut, _, _ = read._text(task.material)
        assert len(task.passages.items) == cut.a_stretch * len(cut.tokens)  # what `measure` will count again
        prompts = generating.planned(chosen, text, subject, request)["degeneration"].prompts
        found.append((len(prompts), len(cut.tokens)))
    return found


def test_what_is_written_and_read_is_planned_within_the_limit(subject, place):
    (place / "longer").mkdir()
    files = tiny.texts(place / "longer", words=900)
    written, read = Degeneration(prompt_tokens=4, new_tokens=12), InContext(length=32, pairs=0)
    assert planned_at((None, 5120), written, read, subject, files) == [(32, 48), (20, 30)]


def test_a_limit_changes_no_number_that_was_asked_for(subject, files):
    written, read = (
        Degeneration(prompts=16, prompt_tokens=4, new_tokens=12),
        InContext(stretches=16, length=32, pairs=0),
    )
    assert planned_at((None, 5120, 500), written, read, subject, files) == [(16, 16)] * 3
    lines, material = InContext(stretches=0, pairs=96), reading.Material
    few = material(documents=[], encode=list, longest=400, share=0.1)
    assert len(lines._lines(replace(few, encode=lambda new: [ord(c) for c in new]), 0)[0].x) == 96
