"""A source of ours as if it had been edited."""

import contextlib
from collections.abc import Iterator

import pytest

from snellen.results import provenance


@contextlib.contextmanager
def touched(module: str) -> Iterator[None]:
    path, content = provenance._file(module), provenance._content
    assert path is not None, module
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(provenance, "_content", lambda one: content(one) + b"# touched\n" * (one == path))
        yield
