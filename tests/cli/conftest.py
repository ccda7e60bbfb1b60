"""Each test has a hub of its own, and the command line to use it."""

from __future__ import annotations

import io
import sys
import time
from pathlib import Path

import pytest

from ghcoord.__main__ import main
from ghcoord.bootstrap import create
from tests.cli.running import Cli, Later, Run


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No hub is named, and nothing outside of the test's folder is touched."""
    for name in ("GHCOORD_HUB", "GHCOORD_WORKER_ID", "GHCOORD_BASE_WORKSPACE", "GHCOORD_LOG_LEVEL", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub, named by GHCOORD_HUB."""
    path = tmp_path / "hub.git"
    create(path)[0].close()
    monkeypatch.setenv("GHCOORD_HUB", str(path))
    return path


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Run ``main`` with arguments, and text on standard input."""

    def run(*args: object, stdin: str = "") -> Run:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        capsys.readouterr()
        code = main([str(arg) for arg in args])
        done = capsys.readouterr()
        return Run(code, done.out, done.err)

    return run


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Later:
    """Set this process's wall clock to so many seconds after the real one."""
    real = time.time

    def shift(seconds: float) -> None:
        monkeypatch.setattr("ghcoord.clock.SystemRuntime.now", lambda runtime: real() + seconds)

    return shift
