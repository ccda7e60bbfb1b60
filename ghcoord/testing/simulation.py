"""Many simulated processes over one in-memory hub, with crashes and lost, late and outdated messages.

::

    simulation = Simulation(seed)
    simulation.process("a", lambda runtime, store: work(runtime, store))
    simulation.run()

Everything that happens follows from the seed.  A failure names the seed and
shows the end of the trace.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ghcoord.clock import Event, Thread
from ghcoord.store.base import ChangeSet, Oid, Operation, Store
from ghcoord.store.inmemory import MemoryStore
from ghcoord.testing.clock import START
from ghcoord.testing.faults import CommitFault, FaultyStore, HeadsFault
from ghcoord.testing.scheduler import Crash, Scheduler, SimulationFailure, Task

__all__ = ["Crash", "FaultRates", "SimRuntime", "SimStore", "Simulation", "SimulationFailure"]

LATENCY = 0.004
"""Most seconds that one message takes; so servers' clocks move while clients talk."""

MOST_DELAY = 0.4
"""Most seconds by which a late request is late."""


@dataclass(frozen=True, slots=True)
class FaultRates:
    """How likely each fault is, for each call that could meet it.

    ``crash`` is the chance at each of the two points of a call, before and
    after its effect, for processes that may be restarted.  ``skew`` is the most
    seconds by which a process's wall clock is wrong, either way.
    """

    request_lost: float = 0.03
    reply_lost: float = 0.05
    delayed: float = 0.03
    conflict_after_landing: float = 0.03
    unavailable: float = 0.02
    throttled: float = 0.0
    stale_heads: float = 0.08
    heads_unavailable: float = 0.01
    crash: float = 0.01
    skew: float = 0.0

    @classmethod
    def none(cls) -> FaultRates:
        """No faults at all: only the order of things is left to the seed."""
        return cls(0, 0, 0, 0, 0, 0, 0, 0, 0, 0)


class Simulation:
    """One run. ``store`` is the hub that all processes share, without faults: for checks after the run.

    ``make_store`` makes that hub from its clock; a broken one may be planted.
    """

    def __init__(
        self,
        seed: int,
        rates: FaultRates | None = None,
        *,
        make_store: Callable[[Callable[[], float]], Store] = MemoryStore,
    ) -> None:
        self.rates = rates if rates is not None else FaultRates()
        self.scheduler = Scheduler(seed)
        self.random = self.scheduler.random
        self.store = make_store(self.server_time)
        self.seen: list[dict[str, Oid]] = [self.store.heads()]
        self.crashes = 0

    @property
    def trace(self) -> list[str]:
        """What happened, a line a step; the same seed gives the same trace."""
        return self.scheduler.trace

    def server_time(self) -> float:
        """The hub's clock, in seconds since the epoch."""
        return START + self.scheduler.time

    def process(self, name: str, run: Callable[[SimRuntime, Store], None], *, restarts: int = 0) -> None:
        """Add a process; ``run`` is its main thread and begins anew, up to ``restarts`` times, when it crashes.

        When ``run`` returns, the process ends and its other threads with it.
        """
        self._start(name, 0, run, restarts)

    def run(self, max_steps: int = 100_000) -> None:
        """Run all processes to their end; raises :class:`SimulationFailure`."""
        self.scheduler.run(max_steps)

    def _start(self, name: str, life: int, run: Callable[[SimRuntime, Store], None], restarts: int) -> None:
        group = name if life == 0 else f"{name}+{life}"
        runtime = SimRuntime(self, group)

        def crash() -> None:
            self.crashes += 1
            self.scheduler.note(f"{group}: killed")
            self.scheduler.kill(group)
            self.scheduler.later(self.random.uniform(0, 0.2), lambda: self._start(name, life + 1, run, restarts - 1))

        store = SimStore(self, group, crash if restarts > 0 else None)

        def main() -> None:
            try:
                run(runtime, store)
            finally:
                self.scheduler.kill(group)

        self.scheduler.add(group, group, main)


class SimEvent:
    """An event between threads of one simulated process."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._flag = False

    def set(self) -> None:
        self._flag = True

    def clear(self) -> None:
        self._flag = False

    def is_set(self) -> bool:
        return self._flag

    def wait(self, timeout: float | None = None) -> bool:
        self._scheduler.wait("waits", self.is_set, timeout)
        return self._flag


class SimThread:
    """A further thread of a simulated process."""

    def __init__(self, scheduler: Scheduler, task: Task) -> None:
        self._scheduler = scheduler
        self._task = task

    def join(self, timeout: float | None = None) -> None:
        self._scheduler.wait(f"joins {self._task.name}", lambda: self._task.done, timeout)

    def is_alive(self) -> bool:
        return not self._task.done


class SimRuntime:
    """The :class:`ghcoord.clock.Runtime` of one simulated process; its wall clock may be wrong."""

    def __init__(self, simulation: Simulation, process: str) -> None:
        self._scheduler = simulation.scheduler
        self._process = process
        self._skew = simulation.random.uniform(-1, 1) * simulation.rates.skew
        self._booted = simulation.random.uniform(0, 1000)

    def now(self) -> float:
        return START + self._scheduler.time + self._skew

    def monotonic(self) -> float:
        return self._booted + self._scheduler.time

    def sleep(self, seconds: float) -> None:
        if seconds > 0:
            self._scheduler.wait("sleeps", None, seconds)

    def uniform(self, low: float, high: float) -> float:
        return self._scheduler.random.uniform(low, high)

    def randbits(self, bits: int) -> int:
        return self._scheduler.random.getrandbits(bits)

    def event(self) -> Event:
        return SimEvent(self._scheduler)

    def spawn(self, run: Callable[[], None], name: str) -> Thread:
        self._scheduler.alive()
        return SimThread(self._scheduler, self._scheduler.add(f"{self._process}/{name}", self._process, run))

    def boot_id(self) -> str:
        return f"boot of {self._process}"


class SimStore(FaultyStore):
    """One process's handle on the shared hub.

    It yields before and after ``heads`` and ``commit``.  Objects never change,
    so reading one is no point at which the order could matter.
    """

    def __init__(self, simulation: Simulation, process: str, crash: Callable[[], None] | None) -> None:
        super().__init__(simulation.store, simulation.seen)
        self._simulation = simulation
        self._scheduler = simulation.scheduler
        self._process = process
        self._crash = crash

    def point(self, what: str) -> None:
        """Where others may come between, and where the process may die."""
        if self._crash is not None and self._chance(self._simulation.rates.crash):
            crash, self._crash = self._crash, None
            crash()
        self._scheduler.time += self._simulation.random.uniform(0, LATENCY)
        self._scheduler.step(f"{self._process} {what}")

    def _chance(self, rate: float) -> bool:
        return rate > 0 and self._simulation.random.random() < rate

    def next_commit_fault(self) -> CommitFault | None:
        rates = self._simulation.rates
        for fault, rate in (
            (CommitFault.REQUEST_LOST, rates.request_lost),
            (CommitFault.REPLY_LOST, rates.reply_lost),
            (CommitFault.DELAYED, rates.delayed),
            (CommitFault.CONFLICT_AFTER_LANDING, rates.conflict_after_landing),
            (CommitFault.UNAVAILABLE, rates.unavailable),
            (CommitFault.THROTTLED, rates.throttled),
        ):
            if self._chance(rate):
                self._scheduler.note(f"{self._process}: {fault.value}")
                return fault
        return None

    def next_heads_fault(self) -> HeadsFault | None:
        rates = self._simulation.rates
        if self._chance(rates.heads_unavailable):
            return HeadsFault.UNAVAILABLE
        if self._chance(rates.stale_heads):
            self.stale_by = self._simulation.random.randint(1, 4)
            return HeadsFault.STALE
        return None

    def delay(self, land: Callable[[], None]) -> None:
        def arrive() -> None:
            self._scheduler.note(f"{self._process}: a late request arrives")
            land()

        self._scheduler.later(self._simulation.random.uniform(0, MOST_DELAY), arrive)

    def heads(self) -> dict[str, Oid]:
        self.point("asks for the heads")
        try:
            found = super().heads()
            if not self.capabilities.atomic_heads and len(found) > 1 and self._chance(0.5):
                self.point("is told some of the heads")
                later = super().heads()
                found = {space: (later if self._chance(0.5) else found).get(space, found[space]) for space in found}
        finally:
            self.point("is told the heads")
        return found

    def commit(
        self,
        expected: Mapping[str, Oid | None],
        changes: Mapping[str, ChangeSet],
        op: Operation,
    ) -> dict[str, Oid]:
        self.point(f"commits to {', '.join(sorted(changes))}")
        answer = "failure"
        try:
            made = super().commit(expected, changes, op)
            answer = ", ".join(f"{space} {oid[:8]}" for space, oid in sorted(made.items()))
        except Exception as error:
            answer = type(error).__name__
            raise
        finally:
            self.point(f"is told: {answer}")
        return made

    def close(self) -> None:
        """The hub outlives the process."""
