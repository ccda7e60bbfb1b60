"""``swarm.py``: agents divide a job among themselves, also when one of them dies in the middle of it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from ghcoord.hub import Hub
from tests.examples.conftest import Start, ended
from tests.processes import until

pytestmark = pytest.mark.slow


def files(folder: Path, count: int) -> Path:
    """So many files to review, with a TODO each."""
    source = folder / "source"
    source.mkdir()
    for number in range(count):
        (source / f"part{number}.py").write_text("one = 1\n# TODO: two\n")
    return source


def test_swarm(hub: Hub, start: Start, tmp_path: Path) -> None:
    """Three agents review every file once, and one of them writes the summary."""
    source = files(tmp_path, 12)
    said = [ended(agent) for agent in [start("swarm.py", "review-1", source) for _ in range(3)]]
    shares = [int(text.split()[2]) for text in said]
    assert 12 == sum(shares), said
    assert 1 == sum("I wrote the summary" in text for text in said)
    assert 2 == sum("somebody wrote the summary" in text for text in said)
    assert {"files": 12, "todos": 12} == hub.memory.get("swarm/review-1")
    assert 12 == hub.tasks.count()


def test_agent_that_dies(hub: Hub, start: Start, tmp_path: Path) -> None:
    """The part that a killed agent had is another one's once the lease has ended; nothing is lost or done twice."""
    hub.config.set("worker.ttl", 1)
    source = files(tmp_path, 2)
    pipe = source / "slow.py"
    os.mkfifo(pipe)  # who reads it waits
    victim = start("swarm.py", "review-1", source)
    until(lambda: any(task.args["path"] == "slow.py" for task in hub.tasks.list("leased")))
    victim.send_signal(signal.SIGKILL)
    victim.wait(10)
    pipe.unlink()
    pipe.write_text("# TODO\n")
    assert "I wrote the summary" in ended(start("swarm.py", "review-1", source))
    assert {"files": 3, "todos": 3} == hub.memory.get("swarm/review-1")
