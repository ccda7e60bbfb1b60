"""``leader_cron.py``: one of several fires, another goes on when it dies, and no time fires twice."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from ghcoord.hub import Hub
from tests.examples.conftest import Start, ended
from tests.processes import until

pytestmark = pytest.mark.slow


def test_leader_cron(hub: Hub, start: Start, tmp_path: Path) -> None:
    """Of two candidates one fires each second; stopped, it hands over, and each time is fired at most once."""
    log = tmp_path / "fired"
    note = f"""echo "$(date +%s) $PPID" >> '{log}'"""
    several: list[subprocess.Popen[str]] = [start("leader_cron.py", "1", "sh", "-c", note) for _ in range(2)]

    def fired() -> list[list[str]]:
        return [line.split() for line in log.read_text().splitlines()] if log.exists() else []

    until(lambda: len(fired()) >= 2)
    (first,) = {int(pid) for _, pid in fired()}
    (leader,) = [one for one in several if one.pid == first]
    (other,) = [one for one in several if one.pid != first]
    leader.send_signal(signal.SIGTERM)
    assert "leads under token" in ended(leader)
    before = len(fired())
    until(lambda: len(fired()) >= before + 2)
    assert {other.pid} == {int(pid) for _, pid in fired()[before:]}
    other.send_signal(signal.SIGTERM)
    times = [line.split()[0] for line in ended(other).splitlines()[1:]]
    assert len(set(times)) == len(times)
    assert hub.leader.current("cron") is None
