"""What the tests of execution share."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ghcoord.clock import SystemRuntime
from ghcoord.errors import SandboxError
from ghcoord.execution.sandbox import supervised
from ghcoord.execution.sandbox.base import Sandbox, current_identity
from ghcoord.execution.sandbox.none import NoSandbox
from ghcoord.execution.sandbox.open import open_sandbox

RUNTIME = SystemRuntime()


_MEASURED = """if True:
    import atexit, sys
    sys.path.append({packages!r})
    import coverage
    measured = coverage.Coverage(data_file={file!r}, data_suffix=True, branch=True, include=[{include!r}])
    measured.start()
    atexit.register(lambda: (measured.stop(), measured.save()))
"""


@pytest.fixture(autouse=True)
def _measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where coverage is measured, that of supervisors is too: they are programs of their own, without site packages."""
    coverage = sys.modules.get("coverage")
    current = coverage.Coverage.current() if coverage else None
    if current is not None:
        start = _MEASURED.format(
            packages=sysconfig.get_path("purelib"),
            file=str(Path(current.config.data_file).absolute()),
            include=str(Path(supervised.__file__).parent / "*launcher.py"),
        )
        monkeypatch.setattr(supervised, "_START", start + supervised._START.removeprefix("if True:\n"))


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
        if os.environ.get("CI") or os.environ.get("GHCOORD_CI"):
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


@pytest.fixture
def workspace(open_to_all: Path) -> Path:
    """A directory that root's tasks can reach without help, unlike pytest's own."""
    (open_to_all / "workspace").mkdir()
    return open_to_all / "workspace"


@pytest.fixture(params=["bwrap", pytest.param("none", marks=pytest.mark.slow)])
def sandbox(request: pytest.FixtureRequest) -> Sandbox:
    """Each driver in turn."""
    if request.param == "none":
        return NoSandbox(current_identity())
    found: Sandbox = request.getfixturevalue("bwrap")
    return found
