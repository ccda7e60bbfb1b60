"""A workspace, and what must not be reached from it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ghcoord.execution.files.beneath import Files


@pytest.fixture
def base() -> Iterator[Path]:
    """A folder with a short path that everybody may enter."""
    folder = Path(tempfile.mkdtemp(prefix="ghcoord-test-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def outside(base: Path) -> Path:
    """What must not be reached: a file to read, and what else is there."""
    folder = base / "outside"
    folder.mkdir()
    folder.chmod(0o777)
    (folder / "secret").write_text("secret")
    return folder


@pytest.fixture
def root(base: Path, outside: Path) -> Path:
    """A workspace with a folder that has the same names as the outside."""
    folder = base / "workspace"
    (folder / "folder").mkdir(parents=True)
    (folder / "folder" / "secret").write_text("inside")
    return folder


@pytest.fixture
def files(root: Path) -> Iterator[Files]:
    with Files(root) as opened:
        yield opened
