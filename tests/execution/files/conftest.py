"""Workspaces for the tests of files, reached by both ways of opening."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ghcoord.execution.files.beneath import Files
from ghcoord.execution.files.opening import Opener, openat2, walk_open
from ghcoord.model.limits import Limits

MakeFiles = Callable[..., Files]


@pytest.fixture(params=[openat2, walk_open], ids=["openat2", "walk"])
def opener(request: pytest.FixtureRequest) -> Opener:
    """Each way of opening in turn."""
    found: Opener = request.param
    return found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An empty workspace; beside it lies a secret and an outside folder."""
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "kept").write_text("kept")
    (tmp_path / "workspace").mkdir()
    return tmp_path / "workspace"


@pytest.fixture
def make(root: Path, opener: Opener) -> Iterator[MakeFiles]:
    """Open the workspace with limits."""
    opened = []

    def one(**limits: int) -> Files:
        opened.append(Files(root, limits=Limits(**limits), opener=opener))
        return opened[-1]

    yield one
    for each in opened:
        each.close()


@pytest.fixture
def files(make: MakeFiles) -> Files:
    """The workspace without limits."""
    return make()
