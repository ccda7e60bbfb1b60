"""Many daemons on a server with limits, in virtual time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ghcoord.bootstrap import open_hub
from ghcoord.config import Settings
from ghcoord.execution.worker import WorkerDaemon
from ghcoord.hub import Hub
from ghcoord.model.tool import ToolContext
from ghcoord.store.budget.governor import Governor
from ghcoord.store.budget.limits import Limits
from ghcoord.testing.scarce import ScarceServer, ScarceStore
from ghcoord.testing.simulation import FaultRates, SimRuntime, Simulation

NOWHERE = Path("/nonexistent")


class Crowd:
    """``ledger`` is the file that the processes of one machine share; without one each has a machine of its own."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, *, seed: int = 1, shared: bool = False) -> None:
        # The sandbox is real and would be probed for by each of them.
        monkeypatch.setattr("ghcoord.execution.worker.open_sandbox", lambda *, unsafe, runtime: None)
        self.simulation = Simulation(seed, FaultRates.none())
        self.server = ScarceServer(self.simulation.server_time)
        self.folder = folder
        self.ledger = folder / "ledger.json" if shared else None
        self.daemons: dict[str, WorkerDaemon] = {}
        self.log: list[tuple[float, str, str]] = []
        self.ran: list[tuple[float, str]] = []
        self._begin()
        self._boot = self.simulation.random.uniform(0, 1000)

    def _begin(self) -> None:
        """The hub is there before anybody comes."""
        with open_hub(
            self.server.store, SimRuntime(self.simulation, "before"), Settings(), actor="me", state=NOWHERE, make=True
        ):
            pass

    @property
    def now(self) -> float:
        """Virtual seconds since the beginning."""
        return self.simulation.scheduler.time

    def open(self, runtime: SimRuntime, actor: str) -> Hub:
        """The hub as another process."""
        if self.ledger is not None:
            runtime._booted = self._boot  # the machine's
        budget = Governor("github.test/me", runtime, Limits(), file=self.ledger)
        store = ScarceStore(self.server, runtime, budget)
        return open_hub(store, runtime, Settings(), actor=actor, state=NOWHERE)

    def worker(self, name: str, **options: Any) -> None:
        """A daemon in a process of its own; its tool ``nap`` sleeps for ``seconds``."""

        def run(runtime: SimRuntime, store: object) -> None:
            hub = self.open(runtime, name)

            @hub.tools.register("nap")
            def nap(seconds: float, ctx: ToolContext | None = None) -> None:
                assert ctx is not None
                runtime.sleep(seconds)
                self.ran.append((self.now, ctx.task_id))

            def log(level: str, text: str) -> None:
                self.log.append((self.now, f"{name} {level}", text))

            daemon = WorkerDaemon(hub, name, workspace=self.folder / name, log=log, **options)
            self.daemons[name] = daemon
            daemon.run()

        self.simulation.process(name, run)

    def user(self, run: Callable[[Hub, SimRuntime], None], name: str = "user") -> None:
        """Somebody who does ``run`` with the hub."""
        self.simulation.process(name, lambda runtime, store: run(self.open(runtime, name), runtime))

    def kill(self, name: str) -> None:
        self.simulation.scheduler.kill(name)

    def stop(self) -> None:
        """Let all drain."""
        for daemon in self.daemons.values():
            daemon.stop()

    def run(self, max_steps: int = 50_000_000) -> None:
        self.simulation.run(max_steps)
