"""What the tests of execution share."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ghcoord.clock import SystemRuntime
from ghcoord.errors import SandboxError
from ghcoord.execution.sandbox.base import Sandbox
from ghcoord.execution.sandbox.open import open_sandbox

RUNTIME = SystemRuntime()


@pytest.fixture(scope="module")
def bwrap() -> Sandbox:
    """Bubblewrap; a skip where it does not work, an error in CI."""
    return _sandbox("bwrap")


@pytest.fixture(scope="module")
def landlock() -> Sandbox:
    """Landlock; a skip where it does not work, an error in CI."""
    return _sandbox("landlock")


def _sandbox(name: str) -> Sandbox:
    try:
        sandbox = open_sandbox(choice=name, runtime=RUNTIME)
    except SandboxError as why:
        if os.environ.get("CI"):
            pytest.fail(f"CI needs a working {name}: {why.message}")
        pytest.skip(f"{name} is not usable here: {why.message}")
    assert sandbox is not None
    return sandbox


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """A folder that every user of the machine may enter, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="ghcoord-test-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
