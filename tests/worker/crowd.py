"""Many daemons on a server with limits, in virtual time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any
from urllib.parse import urlsplit

import pytest

from ghcoord.bootstrap import open_hub
from ghcoord.config import Settings
from ghcoord.execution.sandbox.open import Probe
from ghcoord.execution.worker import WorkerDaemon
from ghcoord.hub import Hub
from ghcoord.model.tool import ToolContext
from ghcoord.store.base import Store
from ghcoord.store.budget.governor import Governor
from ghcoord.store.budget.limits import Limits
from ghcoord.store.open import Surroundings, open_store
from ghcoord.testing.scarce import ScarceServer, ScarceStore
from ghcoord.testing.simulation import FaultRates, SimRuntime, Simulation
from ghcoord.twin.inprocess import in_process
from ghcoord.twin.limits import TwinLimits
from ghcoord.twin.messages import Incoming
from ghcoord.twin.rest import Reply
from ghcoord.twin.server import Twin

NOWHERE = Path("/nonexistent")
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Where the twin's many small files cost the least."""

TOKEN = "ghp_crowd"


class Crowd:
    """Daemons in simulated processes, each on a machine of its own, or all on one when ``shared``.

    The hub lies on :class:`ghcoord.testing.scarce.ScarceServer`; with ``twin``
    on the GitHub twin, to which requests travel as long.
    """

    def __init__(
        self,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
        *,
        seed: int = 1,
        shared: bool = False,
        twin: bool = False,
    ) -> None:
        # The sandbox is real and would be probed for by each of them.
        monkeypatch.setattr("ghcoord.execution.offer.open_sandbox", lambda **given: None)
        monkeypatch.setattr("ghcoord.execution.offer.probe", lambda runtime: Probe(False, "it is not probed for"))
        self.simulation = Simulation(seed, FaultRates.none())
        self.server = ScarceServer(self.simulation.server_time)
        self.folder = folder
        self.requests: Counter[str] = Counter()
        """Requests to the twin, by process."""
        self.twin = self._make_twin() if twin else None
        self.state = folder / "machine" if shared else None
        self.daemons: dict[str, WorkerDaemon] = {}
        self.log: list[tuple[float, str, str]] = []
        self.ran: list[tuple[float, str]] = []
        self._boot = self.simulation.random.uniform(0, 1000)
        if shared:
            (folder / "machine").mkdir()
        if not twin:
            self._alone(self._begin)

    def _make_twin(self) -> Twin:
        """With the published limits, reached in this process by :func:`ghcoord.twin.inprocess.in_process`."""
        runtime = SimRuntime(self.simulation, "twin")
        made = Twin(Path(mkdtemp(dir=MEMORY)), limits=TwinLimits.published(), runtime=runtime)
        made.user("me", TOKEN)
        made.repository("me", "hub", empty=False, private=True)
        handle, scheduler, random = made.handle, self.simulation.scheduler, self.simulation.random

        def slow(incoming: Incoming) -> Reply:
            sender = scheduler._current
            assert sender is not None
            self.requests[sender.group] += 1
            scheduler.wait("a request travels", None, random.uniform(*self.server.latency))
            answer = handle(incoming)
            scheduler.wait("an answer travels", None, random.uniform(*self.server.latency))
            return answer

        made.handle = slow  # type: ignore[method-assign]
        return made

    @property
    def now(self) -> float:
        """Virtual seconds since the beginning."""
        return self.simulation.scheduler.time

    @contextmanager
    def reachable(self) -> Iterator[None]:
        """The twin, if there is one, answers."""
        if self.twin is None:
            yield
            return
        try:
            with in_process(self.twin):
                self._alone(self._begin)
                yield
        finally:
            self.twin.stop()
            rmtree(self.twin.folder)

    def _alone(self, run: Callable[[SimRuntime], None]) -> None:
        """Have ``run`` done by a process before the others begin."""
        self.simulation.process("before", lambda runtime, store: run(runtime))
        self.simulation.run(100_000)
        self.simulation.scheduler._finished.clear()

    def _begin(self, runtime: SimRuntime) -> None:
        """The hub is there before anybody comes."""
        with open_hub(self._store(runtime), runtime, Settings(), actor="me", state=NOWHERE, make=True):
            pass

    def _store(self, runtime: SimRuntime) -> Store:
        if self.state is not None:
            runtime._booted = self._boot  # the machine's
        if self.twin is None:
            ledger = None if self.state is None else self.state / "ledger.json"
            return ScarceStore(self.server, runtime, Governor("github.test/me", runtime, Limits(), file=ledger))
        url = f"github://{urlsplit(self.twin.url).netloc}/me/hub"
        around = Surroundings(environment={"GH_TOKEN": TOKEN}, state=self.state)
        return open_store(url, runtime, Settings(), around)

    def open(self, runtime: SimRuntime, actor: str) -> Hub:
        """The hub as another process."""
        return open_hub(self._store(runtime), runtime, Settings(), actor=actor, state=NOWHERE)

    def worker(self, name: str, *, after: float = 0.0, **options: Any) -> None:
        """A daemon in a process of its own, begun ``after`` so many seconds, with a tool ``nap``."""

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

        self.simulation.scheduler.later(after, lambda: self.simulation.process(name, run))

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
