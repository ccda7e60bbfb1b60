"""A server with limits in virtual time, for many simulated workers: what it refuses ends the run.

It counts each attempt to write, won or lost, as GitHub may, and takes its time
for each answer, so that those who write at the same moment get in each other's way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

from ghcoord.clock import Runtime
from ghcoord.errors import Conflict
from ghcoord.store.base import ChangeSet, Oid, Operation
from ghcoord.store.budget.base import Budget
from ghcoord.store.wrappers import WrappedStore
from ghcoord.testing.far import FarStore

MINUTE, HOUR = 60.0, 3600.0


@dataclass
class ScarceServer:
    """The hub that all share. ``now`` is its clock.

    ``per_minute`` and ``per_hour`` are the attempts to write that it allows;
    one more raises ``AssertionError``.  ``latency`` are the least and the most
    seconds of each way of a message.
    """

    now: Callable[[], float]
    per_minute: int = 80
    per_hour: int = 500
    latency: tuple[float, float] = (0.1, 0.5)
    attempts: list[float] = field(default_factory=list)
    won: list[float] = field(default_factory=list)
    polls: list[float] = field(default_factory=list)
    unchanged: int = 0
    reads: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = FarStore(self.now, "far:")
        self.store.capabilities = replace(self.store.capabilities, poll_interval=5.0, clock_margin=5.0)
        self._lately: deque[float] = deque()

    def attempt(self) -> None:
        """Count an attempt to write, and refuse one too many."""
        now = self.now()
        self.attempts.append(now)
        self._lately.append(now)
        while self._lately[0] <= now - HOUR:
            self._lately.popleft()
        minute = sum(at > now - MINUTE for at in self._lately)
        assert minute <= self.per_minute, f"{minute} attempts to write within a minute"
        assert len(self._lately) <= self.per_hour, f"{len(self._lately)} attempts to write within an hour"

    def busiest(self, window: float, moments: list[float] | None = None) -> int:
        """The most attempts, or other ``moments``, within any ``window`` seconds."""
        times = self.attempts if moments is None else moments
        most = first = 0
        for last, at in enumerate(times):
            while times[first] <= at - window:
                first += 1
            most = max(most, last - first + 1)
        return most


class ScarceStore(WrappedStore):
    """One process's way to ``server``, which asks its ``budget`` before each request."""

    def __init__(self, server: ScarceServer, runtime: Runtime, budget: Budget) -> None:
        super().__init__(server.store)
        self._server = server
        self._runtime = runtime
        self._budget = budget
        self._last: dict[str, Oid] | None = None
        self._near: Oid | None = None

    @property
    def budget(self) -> Budget:
        return self._budget

    def _travel(self) -> None:
        self._runtime.sleep(self._runtime.uniform(*self._server.latency))

    def heads(self) -> dict[str, Oid]:
        self._budget.admit("poll")
        self._travel()
        found = super().heads()
        self._server.polls.append(self._server.now())
        self._server.unchanged += found == self._last
        self._last = found
        self._travel()
        return found

    def near(self, head: Oid, paths: Collection[str]) -> None:
        if head == self._near:
            return
        self._near = head
        self._budget.admit("read")
        self._travel()
        self._server.reads.append(self._server.now())
        self._travel()

    def commit(
        self, expected: Mapping[str, Oid | None], changes: Mapping[str, ChangeSet], op: Operation
    ) -> dict[str, Oid]:
        self._budget.admit("write")
        self._travel()
        self._server.attempt()
        try:
            made = super().commit(expected, changes, op)
            self._server.won.append(self._server.now())
        except Conflict:
            self._travel()
            raise
        self._travel()
        return made

    def close(self) -> None:
        """The hub outlives the process."""
