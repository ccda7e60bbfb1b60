"""The programs in ``examples/`` do what they say."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import ghcoord.bootstrap as bootstrap
from ghcoord.hub import Hub
from tests.docs.pages import ROOT
from tests.docs.runner import environment
from tests.processes import until

EXAMPLES = ROOT / "examples"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """An empty hub."""
    opened, _ = bootstrap.create(tmp_path / "hub.git")
    with opened:
        yield opened


def start(hub: Hub, tmp_path: Path, *command: str | Path) -> subprocess.Popen[str]:
    """Start an example with ``GHCOORD_HUB`` set and ``ghcoord`` on the path."""
    return subprocess.Popen(
        [str(part) for part in command],
        env={**environment(tmp_path), "GHCOORD_HUB": hub.url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_every_example_is_tested() -> None:
    """A new example needs a test here."""
    found = {path.name for path in EXAMPLES.iterdir() if path.is_file()}
    assert {"compare_and_set.py", "deploy_lock.sh", "python_worker.py"} == found


def test_deploy_lock(hub: Hub, tmp_path: Path) -> None:
    """Deploys under the lock, records the version by a fenced write, and leaves the lock free."""
    done = start(hub, tmp_path, EXAMPLES / "deploy_lock.sh", "1.4")
    output, errors = done.communicate(timeout=60)
    assert (0, "") == (done.returncode, errors)
    assert output.startswith("deploying 1.4 under token ")
    assert "1.4" == hub.memory.get("deployed")
    assert not hub.locks.is_locked("deploy")


def test_deploy_lock_needs_its_settings(hub: Hub, tmp_path: Path) -> None:
    """Without a version or without a hub it says so and deploys nothing."""
    done = start(hub, tmp_path, EXAMPLES / "deploy_lock.sh")
    assert "usage: deploy_lock.sh VERSION" in done.communicate(timeout=60)[1]
    missing = subprocess.run(
        [EXAMPLES / "deploy_lock.sh", "1.4"], env={"PATH": os.defpath}, capture_output=True, text=True, check=False
    )
    assert "set it to the folder of the hub" in missing.stderr
    assert hub.memory.get("deployed") is None


def test_python_worker(hub: Hub, tmp_path: Path) -> None:
    """Serves the tool that it registers, and ends when there is no more work."""
    task = hub.tasks.submit("words.count", {"text": "to be or not to be"})
    done = start(hub, tmp_path, sys.executable, EXAMPLES / "python_worker.py", "0.3")
    output, errors = done.communicate(timeout=60)
    assert (0, "") == (done.returncode, errors)
    assert "1 succeeded, 0 failed" in output
    result = hub.tasks.result(task.id)
    assert result is not None
    assert {"to": 2, "be": 2, "or": 1, "not": 1} == result.data["value"]


def test_python_worker_ends_on_sigterm(hub: Hub, tmp_path: Path) -> None:
    """SIGTERM drains it: exit code 0, and it is no longer registered."""
    worker = start(hub, tmp_path, sys.executable, EXAMPLES / "python_worker.py", "60")
    try:
        until(lambda: hub.workers.list("active"))
        worker.send_signal(signal.SIGTERM)
        output, errors = worker.communicate(timeout=20)
    finally:
        worker.kill()
    assert (0, "") == (worker.returncode, errors)
    assert "0 succeeded, 0 failed" in output
    assert [] == hub.workers.list()


def test_compare_and_set(hub: Hub, tmp_path: Path) -> None:
    """Three processes that count at the same time lose no count."""
    counting = [start(hub, tmp_path, sys.executable, EXAMPLES / "compare_and_set.py", "10") for _ in range(3)]
    for process in counting:
        _, errors = process.communicate(timeout=60)
        assert (0, "") == (process.returncode, errors)
    assert 30 == hub.memory.get("count")
