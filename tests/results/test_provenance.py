"""The sources of a result are found by following imports; what Python itself imports is the truth beside it."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import snellen
from snellen.measures.base import Measure
from snellen.organisms import chart
from snellen.results import provenance
from snellen.runner import record

SOURCE = Path(snellen.__file__).parent

FILES = {
    "__init__.py": "",
    "root.py": """
        from __future__ import annotations
        import os
        from typing import TYPE_CHECKING
        import made_up.whole
        import made_up.other as renamed
        from made_up import module, inner
        from .sibling import something
        from . import near
        if TYPE_CHECKING:
            from made_up.typed import Kind
        else:
            import made_up.untyped
        def later():
            from made_up.lazy import x
            return inner.deep.number, renamed.y
    """,
    "whole.py": "import made_up.transitive", "other.py": "", "module.py": "", "sibling.py": "something = 1",
    "near.py": "", "typed.py": "Kind = int", "untyped.py": "", "lazy.py": "x = 1", "by_name.py": "",
    "transitive.py": "import made_up.root", "stranger.py": "import made_up.root",
    "inner/__init__.py": "import made_up.by_name", "inner/deep.py": "number = 1", "inner/aside.py": "",
    "offers/__init__.py": """
        from typing import TYPE_CHECKING
        if TYPE_CHECKING:
            from made_up.offers.one import First
            from made_up.offers import two
        def __getattr__(name): ...
    """,
    "offers/one.py": "from ..transitive import *", "offers/two.py": "", "offers/three.py": "",
    "takes.py": "from made_up.offers import First",
    "reaches.py": "import made_up\nmade_up.offers.two.x",
    "below.py": "from made_up.inner.deep import number",
}  # fmt: skip


@pytest.fixture
def made_up(tmp_path, monkeypatch):
    """A package of small files, and the modules behind some roots of it."""
    for name, content in FILES.items():
        path = tmp_path / "made_up" / name
        path.parent.mkdir(exist_ok=True)
        lines = content.strip("\n").splitlines()
        path.write_text("\n".join(line.removeprefix(" " * 8) for line in lines) + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    return lambda *roots, **options: {
        name.removeprefix("made_up.") for name in provenance.sources(*(f"made_up.{root}" for root in roots), **options)
    }


def test_all_kinds_of_imports_are_followed(made_up):
    expected = {
        "made_up", "root", "whole", "other", "module", "inner", "by_name", "inner.deep", "sibling", "near", "untyped",
        "lazy", "transitive",
    }  # fmt: skip
    assert made_up("root") == expected
    assert made_up("root", apart=("made_up.inner",)) == expected - {"inner", "by_name", "inner.deep"}


def test_what_a_package_hands_out_lazily_is_followed_where_it_is_taken(made_up):
    back = made_up("transitive")
    assert made_up("takes") == {"takes", "offers", "offers.one"} | back
    assert made_up("reaches") == {"made_up", "reaches", "offers", "offers.two"}


def test_a_package_above_counts_with_its_own_file(made_up):
    assert made_up("below") == {"made_up", "below", "inner", "inner.deep"}


def test_a_root_that_is_no_module_is_a_mistake():
    with pytest.raises(ValueError, match=r"snellen\.nothing: no such module"):
        provenance.code_hash("snellen.nothing")


def test_what_was_typed_in_equals_nothing(monkeypatch):
    monkeypatch.setitem(sys.modules, "typed_in", type(sys)("typed_in"))
    assert provenance.code_hash("typed_in") != provenance.code_hash("typed_in")


def test_the_roots_that_are_named_are_modules():
    for root in (chart.SELF_TEST, record.RUNNER, *record.APART):
        importlib.import_module(root)


def test_whatever_python_imports_of_us_is_found():
    """Modules that are there after the import, but for what packages above them import for others."""
    root = chart.SELF_TEST
    code = f"import {root}, sys, json; print(json.dumps([m for m in sys.modules if m.partition('.')[0] == 'snellen']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded, found = set(json.loads(done.stdout)), provenance.sources(root)
    left = loaded - found.keys()
    packages = [name for name, path in found.items() if path is not None and path.name == "__init__.py"]
    by_packages = provenance.sources(*packages).keys()
    assert left <= by_packages
    assert len(found) > 15


def test_intervals_belong_to_every_measure():
    for kind in Measure.__subclasses__():
        if kind.__module__.startswith("snellen."):
            found = provenance.sources(kind.__module__)
            assert "snellen.results.statistics" in found, kind.name
    assert "snellen.results.estimates" in provenance.sources("snellen.measures.in_context")
    assert "snellen.results.estimates" in provenance.sources("snellen.studies.mesa.experiment")


def test_the_self_test_knows_what_it_runs_and_nothing_else():
    found = provenance.sources(chart.SELF_TEST)
    assert {"snellen.runner.scoring", "snellen.studies.decisions"} <= found.keys()
    assert not [name for name in found if ".mesa" in name or ".evolution" in name or name.startswith("snellen.report")]


ROOTS = {
    "exam": ["runner", "measures.lookahead_gain"], "in-context": ["runner", "measures.in_context"],
    "self-test": ["studies.self_test"], "sweep": ["studies.mesa.experiment"],
}  # fmt: skip


def test_a_change_is_seen_where_it_matters_and_only_there(tmp_path, monkeypatch):
    """In a copy of the package under another name."""
    for path in SOURCE.rglob("*.py"):
        copy = tmp_path / "copied" / path.relative_to(SOURCE)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text(encoding="utf-8").replace("snellen", "copied"), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)

    def hashes():
        provenance._content.cache_clear()
        return {
            name: provenance.code_hash(*(f"copied.{root}" for root in roots), apart=("copied.report",))
            for name, roots in ROOTS.items()
        }

    before = hashes()
    for name, moved in {
        "results/statistics.py": {"exam", "in-context", "self-test", "sweep"},
        "results/estimates.py": {"exam", "in-context", "self-test", "sweep"},
        "runner/scoring.py": {"exam", "in-context", "self-test"},
        "studies/decisions.py": {"self-test"},
        "runner/generating.py": {"exam", "in-context"},
        "report/figures.py": set(),
        "cli/show.py": set(),
    }.items():
        path = tmp_path / "copied" / name
        content = path.read_bytes()
        path.write_bytes(content + b"# touched\n")
        now = hashes()
        assert {one for one in before if now[one] != before[one]} == moved, name
        path.write_bytes(content.replace(b"\n", b"\r\n"))  # a checkout with other line ends
        assert hashes() == before, name
        path.write_bytes(content)


def test_hashing_imports_nothing_heavy():
    code = (
        "import sys; from snellen.results import provenance; provenance.code_hash('snellen.runner'); "
        "provenance.versions(); print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
