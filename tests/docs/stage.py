"""Where the scenarios of ``docs/parity.md`` play, and how a scenario says whose row it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from ghcoord.coord.workers.tick import Beat, Finished
from ghcoord.hub import Hub
from ghcoord.model.task import Task, TaskResult
from ghcoord.model.worker import Capabilities
from tests.cli.running import Cli


@dataclass
class Stage:
    """Where a scenario plays: a hub in Python, the same one on the command line."""

    hub: Hub
    cli: Cli
    url: str
    monkeypatch: pytest.MonkeyPatch

    def worker(self, name: str = "w1", slots: int = 4, **can: Any) -> int:
        """A registered worker; its token."""
        offer = Capabilities(cpu_cores=4, memory_mb=8192, supported_task_types=("echo", "build"), **can)
        return self.hub.workers.register(name, capacity=slots, capabilities=offer).token

    def lease(self, name: str, token: int, want: int = 1) -> list[Task]:
        return self.hub.beat(Beat(name, token, tools=("echo", "build"), want=want)).leased

    def end(self, name: str, token: int, task: Task, *, success: bool = True, error: str = "") -> None:
        assert task.lease is not None
        result = TaskResult(success=success, output="out", error=error, exit_code=0 if success else 1)
        self.hub.beat(Beat(name, token, finished=[Finished(task.id, task.lease.token, result)]))

    def later(self, seconds: float) -> None:
        """Let the wall clock show so many seconds more than it does."""
        real = time.time
        self.monkeypatch.setattr("ghcoord.clock.SystemRuntime.now", lambda runtime: real() + seconds)


Scenario = Callable[[Stage], None]
SCENARIOS: dict[str, Scenario] = {}


def row(key: str) -> Callable[[Scenario], Scenario]:
    """The scenario of the row whose section and first name are ``key``."""

    def keep(scenario: Scenario) -> Scenario:
        assert key not in SCENARIOS
        SCENARIOS[key] = scenario
        return scenario

    return keep
