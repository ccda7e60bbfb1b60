"""Workers: registration, heartbeats, and recovery of those that died."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ghcoord.coord.context import WORKER_TABLE, Context, put_worker
from ghcoord.coord.layout import FLEET, worker_path
from ghcoord.coord.locks.keepalive import Keepalive
from ghcoord.coord.queue import leasing
from ghcoord.coord.sessions import records as sessions
from ghcoord.coord.sessions.placing import fits_still
from ghcoord.coord.workers.recovery import Recovery, need_worker
from ghcoord.errors import NoCapacity, NotFound, UsageError
from ghcoord.ids import check_id, check_name
from ghcoord.model import worker as model
from ghcoord.model.codec import check_value, stamp
from ghcoord.model.lease import RENEW_AT, check_ttl
from ghcoord.model.requirements import Need, Requirements
from ghcoord.model.worker import (
    UNHEALTHY,
    Capabilities,
    Capacity,
    Health,
    SandboxInfo,
    Worker,
    WorkerStatus,
    worker_key,
)
from ghcoord.store.tx import Tx

DEFAULT_TTL = 90.0
"""Seconds a registration lives without a heartbeat: three intervals of the reference's 30 s."""


class Registration(NamedTuple):
    """The answer to a registration. ``token`` identifies it against a newer one of the same id."""

    success: bool
    message: str
    heartbeat_interval_seconds: float
    token: int


class HeartbeatReply(NamedTuple):
    """The answer to a heartbeat."""

    acknowledged: bool
    message: str
    unknown_session_ids: tuple[str, ...]


class Deregistration(NamedTuple):
    """The answer to a deregistration."""

    success: bool
    message: str
    unknown_session_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Machine:
    """What this host offers a worker."""

    hostname: str
    pid: int
    cpu_cores: int
    memory_mb: int


class Workers(Recovery):
    """The workers of a hub."""

    def __init__(self, context: Context, *, machine: Callable[[], Machine]) -> None:
        super().__init__(context)
        self._machine = machine

    def register(
        self,
        worker_id: str,
        *,
        hostname: str | None = None,
        capacity: int | Capacity | None = None,
        capabilities: Capabilities | None = None,
        max_sessions: int = 5,
        metadata: dict[str, Any] | None = None,
        ttl: float = DEFAULT_TTL,
        sandbox: SandboxInfo | None = None,
        health: Health | None = None,
        account: str | None = None,
        timeout: float = 30.0,
    ) -> Registration:
        """Register ``worker_id``; a second registration replaces the first and requeues what that one held.

        It keeps its sessions, as far as its sandbox is still good enough for them.

        ``capacity`` is the number of task slots (default 1), ``max_sessions``
        that of sessions.  Host name, cores and memory are detected where not
        given.  ``ttl`` in seconds is how long the worker counts as alive without
        a heartbeat; it is told to send one every third of it.  ``account`` is
        whose limits at the hub's server it uses.  ``timeout`` in seconds bounds
        the tries against others; 0 makes one.
        """
        check_id(worker_id, "worker id")
        check_ttl(ttl)
        if account is not None and len(account) > model.MAX_ACCOUNT:
            raise UsageError(f"an account of {len(account)} characters is too long")
        machine = self._machine()
        count = capacity.max_tasks if isinstance(capacity, Capacity) else 1 if capacity is None else capacity
        _in_range(count, "slots")
        _in_range(max_sessions, "sessions")
        slots = capacity if isinstance(capacity, Capacity) else Capacity(max_tasks=count)
        can = _completed(capabilities or Capabilities(), machine)
        details = check_value(dict(metadata or {}), "metadata")

        def run(tx: Tx) -> Registration:
            before = WORKER_TABLE.get(tx, FLEET, worker_id)
            if before is not None:
                leasing.lose_all(tx, worker_id, "a newer registration of its worker")
                leasing.unassign_all(tx, worker_id, pinned=False)  # it may offer less than before
            kept = _keep_sessions(tx, before, sandbox)
            at = stamp(tx.now)
            worker = Worker(
                id=worker_id,
                token=tx.revision,
                hostname=hostname if hostname is not None else machine.hostname,
                pid=machine.pid,
                account=account,
                registered_at=at,
                last_heartbeat=at,
                renewal=tx.revision,
                ttl=ttl,
                capacity=slots,
                capabilities=can,
                sandbox=sandbox,
                max_sessions=max_sessions,
                active_sessions=len(kept),
                session_ids=kept,
                health=health,
                metadata=details,
            )
            WORKER_TABLE.put(tx, FLEET, worker_id, worker)
            word = "updated" if before is not None else "registered"
            tx.event(FLEET, f"worker {word}", worker=worker_id, hostname=worker.hostname)
            return Registration(True, f"worker {worker_id} {word}", round(ttl * RENEW_AT, 3), tx.revision)

        return self._context.transact((FLEET,), run, timeout, {FLEET: (worker_path(worker_id),)})

    def heartbeat(
        self,
        worker_id: str,
        *,
        active_sessions: int | None = None,
        session_ids: Collection[str] = (),
        health: Health | None = None,
        token: int | None = None,
    ) -> HeartbeatReply:
        """Renew a worker's lease. Raises ``NotFound`` for an unknown worker.

        With the ``token`` of the registration, raises ``WorkerReplaced`` when a
        newer one exists.  An offline worker that reports is active again.
        """

        def run(tx: Tx) -> HeartbeatReply:
            worker = need_worker(tx, worker_id)
            if token is not None:
                model.current(worker, worker_id, token)
            changes: dict[str, Any] = {}
            if active_sessions is not None:
                if active_sessions < 0:
                    raise UsageError("active_sessions must not be negative")
                changes["active_sessions"] = max(active_sessions, len(worker.session_ids))
            if health is not None:
                changes["health"] = health
            if not worker.alive:
                changes["status"] = WorkerStatus.ACTIVE
            unknown = tuple(sorted(set(session_ids) - set(worker.session_ids)))
            if unknown:
                tx.event(FLEET, "worker reported unknown sessions", worker=worker_id, sessions=list(unknown)[:20])
            renewed = model.heartbeat(worker, now=tx.now, revision=tx.revision, **changes)
            put_worker(tx, renewed)
            return HeartbeatReply(True, f"worker {worker_id} is alive", unknown)

        return self._context.transact((FLEET,), run)

    def keepalive(self, worker_id: str, *, token: int | None = None) -> Keepalive:
        """A heartbeat in the background, for a program that is a worker: ``.start()`` and ``.stop()``.

        The first one is sent at once: how much of the lease is left is not known here.
        """
        worker = self.get(worker_id)
        if worker is None:
            raise NotFound(f"there is no worker {worker_id!r}")
        runtime = self._context.runtime
        return Keepalive(
            runtime,
            worker.ttl,
            lambda: self.heartbeat(worker_id, token=token),
            granted_at=runtime.monotonic() - worker.ttl * RENEW_AT,
            name=worker_id,
        )

    def deregister(
        self, worker_id: str, session_ids: Collection[str] = (), *, token: int | None = None, timeout: float = 30.0
    ) -> Deregistration:
        """Remove a worker; tasks that it still holds go back to the queue. Raises ``NotFound``.

        Those of its sessions that ``session_ids`` names are destroyed, the others
        left for another worker: parked, or lost where there is no checkpoint.
        With the ``token`` of a registration, raises ``WorkerReplaced`` when a
        newer one exists, so that a process that stops late leaves that alone.
        ``timeout`` as for :meth:`register`.
        """

        actor = self._context.actor

        def run(tx: Tx) -> Deregistration:
            worker = need_worker(tx, worker_id)
            if token is not None and worker.token != token:
                model.current(worker, worker_id, token)
            present = {session.id: session for session in sessions.on(tx, worker)}
            unknown = tuple(sorted(set(session_ids) - set(present)))
            leasing.lose_all(tx, worker_id, "its worker deregistered")
            for session_id in sorted(set(session_ids) & set(present)):
                sessions.destroy(tx, present[session_id], actor, f"its session was destroyed by {actor}")
            sessions.displace_all(tx, worker_id, worker, f"its worker {worker_id} deregistered")
            leasing.unassign_all(tx, worker_id)
            WORKER_TABLE.remove(tx, FLEET, worker_id)
            tx.event(FLEET, "worker deregistered", worker=worker_id, unknown_sessions=list(unknown)[:20] or None)
            return Deregistration(True, f"worker {worker_id} deregistered", unknown)

        return self._context.transact((FLEET,), run, timeout)

    def set_status(self, worker_id: str, status: str | WorkerStatus, capacity: dict[str, int] | None = None) -> Worker:
        """Set a worker's status, and the capacity fields given (``max_tasks``, ``active_tasks``).

        ``draining`` is a request that the worker's daemon follows.  Raises ``NotFound``, ``UsageError``.
        """
        try:
            wanted = WorkerStatus(status)
        except ValueError:
            known = ", ".join(WorkerStatus)
            raise UsageError(f"unknown status {str(status)[:40]!r}: one of {known}") from None
        changes = dict(capacity or {})
        if set(changes) - {"max_tasks", "active_tasks"} or any(v < 0 for v in changes.values()):
            raise UsageError("capacity takes max_tasks and active_tasks, not negative")

        def run(tx: Tx) -> Worker:
            worker = need_worker(tx, worker_id)
            changed = worker.model_copy(
                update={
                    "status": wanted,
                    "drain_requested": wanted is WorkerStatus.DRAINING,
                    "capacity": worker.capacity.model_copy(update=changes),
                }
            )
            if changed != worker:
                put_worker(tx, changed)
                tx.event(FLEET, f"worker {wanted}", worker=worker_id)
            return changed

        return self._context.transact((FLEET,), run)

    def drain(self, worker_id: str) -> Worker:
        """Ask a worker to finish what it runs, take nothing new, and stop."""
        return self.set_status(worker_id, WorkerStatus.DRAINING)

    def get(self, worker_id: str) -> Worker | None:
        """The worker's record."""
        return WORKER_TABLE.find(self._context.snapshot(FLEET), worker_id)

    def list(
        self,
        status: str | Collection[str] | None = None,
        has_capacity: bool | None = None,
        task_type: str | None = None,
        *,
        has_sessions: bool | None = None,
        labels: Mapping[str, str | None] | None = None,
        min_cpu_cores: int = 0,
        min_memory_mb: int = 0,
        limit: int | None = None,
    ) -> builtins.list[Worker]:
        """Workers sorted by id, at most ``limit``, those that meet all that is given.

        ``status``: one or several.  ``has_capacity``: a free task slot.
        ``has_sessions``: room for another session, which is counted apart from
        slots.  ``task_type``: serves it.  ``labels``: has them all, ``None`` for
        any value.  ``min_memory_mb`` in MiB.
        """
        wanted = None if status is None else {status} if isinstance(status, str) else set(status)
        if wanted is not None and wanted - set(WorkerStatus):
            raise UsageError(f"unknown status: one of {', '.join(WorkerStatus)}")
        if limit is not None and limit < 0:
            raise UsageError("the limit must not be negative")
        kept = [
            worker
            for worker in self._scan()
            if (wanted is None or worker.status in wanted)
            and (has_capacity is None or has_capacity is (worker.alive and worker.capacity.available_slots > 0))
            and (has_sessions is None or has_sessions is (worker.alive and worker.session_room > 0))
            and (task_type is None or task_type in worker.capabilities.supported_task_types)
            and has_labels(worker, labels or {})
            and worker.capabilities.cpu_cores >= min_cpu_cores
            and worker.capabilities.memory_mb >= min_memory_mb
        ]
        return kept[:limit]

    def count(self, status: str | Collection[str] | None = None, **filters: Any) -> int:
        """How many workers are registered, of those that meet what :meth:`list` takes."""
        return len(self.list(status, **filters))

    def find_with_capacity(
        self,
        requirements: Requirements | None = None,
        *,
        task_type: str | None = None,
        labels: Mapping[str, str | None] | None = None,
    ) -> Worker:
        """The first active worker with room for another session; raises ``NoCapacity``.

        Sessions count here, not task slots: ``list(has_capacity=True)`` goes by
        those.  It meets ``requirements``, serves ``task_type`` and has
        ``labels``, is not unhealthy, and its lease runs.
        """
        judge, now = self._context.judge(), self._context.now()
        need = Need.of("", "", requirements)
        for worker in self.list(WorkerStatus.ACTIVE, has_sessions=True, task_type=task_type, labels=labels):
            silent = judge(worker_key(worker.id), worker.lease, now)
            if not silent and worker.health_status != UNHEALTHY and need.fits(worker.offer):
                return worker
        raise NoCapacity("no worker has room for another session: start one with 'ghcoord worker start'")


def _keep_sessions(tx: Tx, before: Worker | None, sandbox: SandboxInfo | None) -> tuple[str, ...]:
    """The sessions that a worker still has after it registered again with ``sandbox``."""
    kept = []
    for session in sessions.on(tx, before) if before is not None else ():
        if fits_still(sandbox.tier if sandbox is not None else "none", session):
            kept.append(session.id)
        else:
            sessions.displace(tx, session, "its worker came back with a weaker sandbox")
    return tuple(kept)


def has_labels(worker: Worker, labels: Mapping[str, str | None]) -> bool:
    """Whether the worker has all of ``labels``, with any value where that is ``None``."""
    has = worker.capabilities.labels
    return all(name in has and value in (None, has[name]) for name, value in labels.items())


def _in_range(count: int, what: str) -> None:
    if not 0 <= count <= 10_000:
        raise UsageError(f"{count} {what} are out of range: give 0 to 10,000")


def _completed(given: Capabilities, machine: Machine) -> Capabilities:
    """``given`` with the cores and the memory of this machine, unless it says others. Raises ``InvalidName``."""
    for name in given.supported_task_types:
        check_name(name, "task type")
    detected = {"cpu_cores": machine.cpu_cores, "memory_mb": machine.memory_mb}
    missing = {name: value for name, value in detected.items() if name not in given.model_fields_set}
    return given.model_copy(update=missing) if missing else given
