"""A server of workflow runs in memory, and scalers on a hub in manual time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import count

from ghcoord.coord.scaling.autoscaler import Autoscaler
from ghcoord.coord.scaling.decision import Policy
from ghcoord.errors import OutcomeUnknown, Throttled, Unavailable
from ghcoord.hub import Hub
from ghcoord.store.dispatching import Accepted, RemoteRun
from tests.coord.world import World


class Killed(BaseException):
    """The scaler's process died here."""


@dataclass
class Server:
    """Runs by their worker. ``faults`` go wrong with the next dispatches, one each:

    ``lost``: done, no answer; ``never``: not done, no answer; ``refused``: not
    done, and said so; ``silent``: done, without telling the run; ``killed before``
    and ``killed after``: the scaler's process dies there.
    """

    now: Callable[[], float]
    runs: dict[str, RemoteRun] = field(default_factory=dict)
    inputs: dict[str, Mapping[str, str]] = field(default_factory=dict)
    sent: list[tuple[float, str]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    down: bool = False
    deaf: bool = False
    """Cancellations are accepted and do nothing."""
    asked: int = 0
    on_send: Callable[[str], None] = lambda worker: None
    wait: float = 0.0
    _numbers: count[int] = field(default_factory=lambda: count(1))

    def start(self, worker_id: str, inputs: Mapping[str, str]) -> Accepted:
        fault = self.faults.pop(0) if self.faults else ""
        if fault == "killed before":
            raise Killed
        if fault == "refused":
            raise Throttled("too fast", self.now() + 60)
        self.on_send(worker_id)
        self.sent.append((self.now(), worker_id))
        if fault == "never":
            raise OutcomeUnknown("no answer")
        number = next(self._numbers)
        self.runs[worker_id] = RemoteRun(number, f"worker {worker_id}", "queued", None, self.now(), f"http://{number}")
        self.inputs[worker_id] = inputs
        if fault == "killed after":
            raise Killed
        if fault == "lost":
            raise OutcomeUnknown("no answer")
        return Accepted() if fault == "silent" else Accepted(number, f"http://{number}")

    def listed(self, since: float) -> list[RemoteRun]:
        return sorted((run for run in self.runs.values() if run.created >= since), key=lambda run: -run.id)

    def cancel(self, run_id: int) -> bool:
        self._check()
        for worker, run in self.runs.items():
            if run.id == run_id and not run.over:
                if not self.deaf:
                    self.end(worker, "cancelled")
                return True
        return False

    def ready_in(self) -> float:
        return self.wait

    def close(self) -> None: ...

    def end(self, worker: str, conclusion: str = "success") -> None:
        """The run is over."""
        if worker in self.runs:
            self.runs[worker] = replace(self.runs[worker], status="completed", conclusion=conclusion)

    def open(self) -> list[str]:
        """Workers whose run is not over."""
        return [worker for worker, run in self.runs.items() if not run.over]

    def _check(self) -> None:
        self.asked += 1
        if self.down:
            raise Unavailable("the server cannot be reached")


@dataclass
class Dispatching:
    """The server as the dispatcher of one scaler."""

    server: Server
    place: str = "worker.yml of github:me/hub"

    def check(self) -> None: ...

    def start(self, worker_id: str, inputs: Mapping[str, str]) -> Accepted:
        return self.server.start(worker_id, inputs)

    def runs(self, since: float) -> list[RemoteRun]:
        self.server._check()
        return self.server.listed(since)

    def cancel(self, run_id: int) -> bool:
        return self.server.cancel(run_id)

    def ready_in(self) -> float:
        return self.server.ready_in()

    def close(self) -> None: ...


POLICY = Policy(minimum=0, maximum=4, per_run=2, cool_down=60.0, start_timeout=300.0, budget=20)


@dataclass
class Plant:
    """A hub with a server, scalers, and workers that are started by hand."""

    world: World = field(default_factory=World)

    def __post_init__(self) -> None:
        self.hub = self.world.open()
        self.server = Server(self.world.runtime.now)

    def scaler(self, policy: Policy = POLICY, *, hub: Hub | None = None, once: bool = False) -> Autoscaler:
        """Another candidate; with a hub of its own it is as one of another machine."""
        return (hub or self.hub).scaling.autoscaler(
            "worker", Dispatching(self.server), policy, inputs={"slots": "2"}, once=once
        )

    def submit(self, number: int = 1) -> list[str]:
        return [self.hub.tasks.submit("echo", {"message": "x"}).id for _ in range(number)]

    def advance(self, seconds: float) -> None:
        self.world.runtime.advance(seconds)

    def run(self, worker: str, slots: int = 2) -> int:
        """The run's worker registers."""
        self.server.runs[worker] = replace(self.server.runs[worker], status="in_progress")
        return self.hub.workers.register(worker, capacity=slots, ttl=90.0).token

    def states(self) -> dict[str, str]:
        """The state of each run in the record."""
        scaler = self.hub.scaling.get("worker")
        return {run.worker: str(run.state) for run in scaler.runs} if scaler is not None else {}

    def close(self) -> None:
        self.world.close()
