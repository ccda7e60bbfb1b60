"""Small programs in ``examples/`` do what they say, and each file there has a test."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from ghcoord.hub import Hub
from tests.docs.pages import ROOT
from tests.examples.conftest import EXAMPLES, Start, ended
from tests.processes import until


def test_every_example_is_tested() -> None:
    """A new example needs a test here, and a line in the README of the examples; ``deploy`` has tests of its own."""
    found = {
        path.relative_to(EXAMPLES) for path in EXAMPLES.rglob("*") if path.is_file() and "deploy" not in path.parts
    }
    tests = "\n".join(path.read_text() for path in (ROOT / "tests" / "examples").glob("*.py"))
    readme = (EXAMPLES / "README.md").read_text()
    for path in found - {Path("README.md"), Path("mcp/README.md")}:
        assert path.name in tests, f"no test mentions {path}"
        assert f"({path})" in readme or f"({path.parent})" in readme, f"the README does not mention {path}"


@pytest.mark.slow
def test_deploy_lock(hub: Hub, start: Start) -> None:
    """Deploys under the lock, records the version by a fenced write, and leaves the lock free."""
    assert ended(start("deploy_lock.sh", "1.4")).startswith("deploying 1.4 under token ")
    assert "1.4" == hub.memory.get("deployed")
    assert not hub.locks.is_locked("deploy")


def test_deploy_lock_needs_its_settings(hub: Hub, start: Start) -> None:
    """Without a version or without a hub it says so and deploys nothing."""
    assert "usage: deploy_lock.sh VERSION" in start("deploy_lock.sh").communicate(timeout=60)[1]
    missing = subprocess.run(
        [EXAMPLES / "deploy_lock.sh", "1.4"], env={"PATH": os.defpath}, capture_output=True, text=True, check=False
    )
    assert "set it to the folder of the hub" in missing.stderr
    assert hub.memory.get("deployed") is None


@pytest.mark.slow
def test_python_worker(hub: Hub, start: Start) -> None:
    """Serves the tool that it registers, and ends when there is no more work."""
    task = hub.tasks.submit("words.count", {"text": "to be or not to be"})
    assert "1 succeeded, 0 failed" in ended(start("python_worker.py", "0.3"))
    result = hub.tasks.result(task.id)
    assert result is not None
    assert {"to": 2, "be": 2, "or": 1, "not": 1} == result.data["value"]


@pytest.mark.slow
def test_python_worker_ends_on_sigterm(hub: Hub, start: Start) -> None:
    """SIGTERM drains it: exit code 0, and it is no longer registered."""
    worker = start("python_worker.py", "60")
    until(lambda: hub.workers.list("active"))
    worker.send_signal(signal.SIGTERM)
    assert "0 succeeded, 0 failed" in ended(worker)
    assert [] == hub.workers.list()


@pytest.mark.slow
def test_compare_and_set(hub: Hub, start: Start) -> None:
    """Three processes that count at the same time lose no count."""
    for process in [start("compare_and_set.py", "10") for _ in range(3)]:
        ended(process)
    assert 30 == hub.memory.get("count")
