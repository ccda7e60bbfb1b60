"""Each test has a hub of its own, and the command line to use it."""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from ghcoord.__main__ import main
from ghcoord.bootstrap import connect, create
from ghcoord.hub import Hub
from tests.cli.running import Cli, Later, Run
from tests.processes import needs_program, until, workers


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


@pytest.fixture(scope="session")
def lived_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A hub with a worker ``w1``, a process of its own that runs commands in bubblewrap; for all tests together."""
    needs_program("bwrap")
    folder = tmp_path_factory.mktemp("lived-in")
    base = folder / "base"
    base.mkdir()
    for above in (base, *base.parents):
        if above.stat().st_uid == os.getuid() and above != Path("/tmp"):
            above.chmod(above.stat().st_mode | 0o011)
    path = folder / "hub.git"
    args = ("--poll", "50ms", "--slots", "4", "--max-sessions", "500", "--workspace", str(base))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        create(path)[0].close()
        with workers(path, "w1", args=args), connect(path) as hub:
            until(lambda: hub.workers.list("active"))
            yield path


_NUMBERS = count(1)


@pytest.fixture
def living(lived_in: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """That hub, named by GHCOORD_HUB. Who waits for a call looks often, to save time."""
    monkeypatch.setenv("GHCOORD_HUB", str(lived_in))
    monkeypatch.setattr("ghcoord.coord.tasks.wait.LOOK_EVERY", 0.02)
    with connect(lived_in) as hub:
        yield hub


@pytest.fixture
def session(living: Hub) -> str:
    """The id of a new session in that hub."""
    return living.sessions.create(f"s{next(_NUMBERS)}-{os.getpid()}").id
