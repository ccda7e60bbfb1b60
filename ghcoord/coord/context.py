"""What the domain objects share: the transactor, the runtime, who is acting, and the tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from ghcoord.clock import Runtime
from ghcoord.coord import layout
from ghcoord.coord.care.settings import ConfigReader, HubConfig
from ghcoord.coord.observer import Observer
from ghcoord.coord.scaling.records import Scaler
from ghcoord.coord.table import Table
from ghcoord.errors import TooLarge, WaitTimeout
from ghcoord.model.artifact import Artifact
from ghcoord.model.gate import Gate
from ghcoord.model.lease import Judge, by_server_clock, never
from ghcoord.model.lock import LockRecord
from ghcoord.model.lock_paths import PathClaim
from ghcoord.model.lock_stats import LockStats
from ghcoord.model.memory import Fence, MemoryEntry
from ghcoord.model.schedule import Schedule
from ghcoord.model.session import Session
from ghcoord.model.task import Task
from ghcoord.model.worker import Worker, trimmed
from ghcoord.store.known import FRESH
from ghcoord.store.snapshot import Snapshot
from ghcoord.store.transact import Near, Transactor
from ghcoord.store.tx import Tx

T = TypeVar("T")

TASK_TABLE = Table(Task, layout.TASKS, layout.task_path, "id")
GATE_TABLE = Table(Gate, layout.GATES, layout.gate_path, "key")
SCHEDULE_TABLE = Table(Schedule, layout.SCHEDULES, layout.schedule_path, "name")
SCALER_TABLE = Table(Scaler, layout.SCALERS, layout.scaler_path, "name")
SESSION_TABLE = Table(Session, layout.SESSIONS, layout.session_path, "id")
WORKER_TABLE = Table(Worker, layout.WORKERS, layout.worker_path, "id")
LOCK_TABLE = Table(LockRecord, layout.LOCK_RECORDS, layout.lock_path, "name")
LOCK_STATS_TABLE = Table(LockStats, layout.LOCK_STATS, layout.lock_stats_path, "name")
PATH_TABLE = Table(PathClaim, layout.PATH_CLAIMS, layout.path_claim_path, "token")
KEY_TABLE = Table(MemoryEntry, layout.KEYS, layout.key_path, "key")
ARTIFACT_TABLE = Table(Artifact, layout.ARTIFACTS, layout.artifact_path, "id")
FENCE_TABLE = Table(Fence, layout.FENCES, layout.fence_path, "lock")


@dataclass(frozen=True, slots=True)
class Context:
    """Shared by the domain objects of one hub. ``actor`` is who acts, as it appears in events."""

    transactor: Transactor
    runtime: Runtime
    observer: Observer
    actor: str
    poll_interval: float
    config_reader: ConfigReader = field(default_factory=ConfigReader)

    def config(self) -> HubConfig:
        """The settings of the hub, at most one poll interval old; free in between.

        Read it before a transaction, never inside: a transaction is a function of its spaces alone.
        """
        return self.config_reader.read(self.transactor, self.poll_interval).config

    def is_configured(self, name: str) -> bool:
        """Whether somebody set the hub's setting ``name``, as far as :meth:`config` knows."""
        return name in self.config_reader.read(self.transactor, self.poll_interval).given

    def forget_config(self) -> None:
        """Look at the hub's settings afresh: this process has just changed them."""
        self.config_reader.forget()

    def transact(
        self, spaces: tuple[str, ...], run: Callable[[Tx], T], timeout: float = 30.0, near: Near | None = None
    ) -> T:
        return self.transactor.transact(spaces, run, timeout=timeout, near=near)

    def snapshot(self, space: str) -> Snapshot:
        """The space as it is; where asking costs requests, as it was at most a second ago."""
        return self.transactor.recent_view(space, age=FRESH)[space]

    def pinned(self, space: str, heads: Mapping[str, str]) -> Snapshot:
        """The space as of ``heads``, which somebody has just read."""
        return Snapshot(self.transactor.store, space, heads.get(space))

    def judge(self) -> Judge:
        """Who may call a foreign lease expired, for a one-shot decision."""
        capabilities = self.transactor.store.capabilities
        return by_server_clock(capabilities.clock_margin) if capabilities.server_time else never

    def now(self) -> float:
        """The hub's time in seconds."""
        return self.transactor.store.server_time()

    def poll(
        self,
        look: Callable[[], T | None],
        timeout: float | None,
        what: str,
        interval: float | None = None,
        space: str | None = None,
    ) -> T:
        """Call ``look`` until it returns something; raises ``WaitTimeout`` after ``timeout`` seconds.

        It is called every ``interval`` seconds, and after each commit that this
        process makes to ``space``.
        """
        runtime = self.runtime
        step = interval or self.poll_interval
        deadline = None if timeout is None else runtime.monotonic() + timeout
        moved = runtime.event()
        forget = self.transactor.moved.add(space, moved.set) if space is not None else None
        try:
            while True:
                moved.clear()
                found = look()
                if found is not None:
                    return found
                left = None if deadline is None else deadline - runtime.monotonic()
                if left is not None and left <= 0:
                    raise WaitTimeout(f"{what}: not within {timeout:g} s")
                moved.wait(step if left is None else min(step, left))
        finally:
            if forget is not None:
                forget()


def put_worker(tx: Tx, worker: Worker) -> None:
    """Write a worker's record; one that got too large keeps its lease and loses what is not needed for it."""
    try:
        WORKER_TABLE.put(tx, layout.FLEET, worker.id, worker)
    except TooLarge as error:
        WORKER_TABLE.put(tx, layout.FLEET, worker.id, trimmed(worker))
        tx.event(layout.FLEET, "worker record cut", worker=worker.id, error=error.message)
