"""What happens to workers that died: noticed, recovered, in the end removed."""

from __future__ import annotations

import builtins
import math
import threading
from collections.abc import Callable, Mapping
from itertools import islice

from ghcoord.coord.care.rehearse import rehearse
from ghcoord.coord.context import WORKER_TABLE, Context, put_worker
from ghcoord.coord.layout import ASSIGNED, FLEET, LEASED, LOCKS, WORKERS, worker_path
from ghcoord.coord.locks.locks import release_all_of
from ghcoord.coord.queue import leasing, records
from ghcoord.coord.sessions.records import displace_all
from ghcoord.coord.workers.reaper import Log, Reaped, Reaper, Recovered
from ghcoord.errors import NotFound, UsageError
from ghcoord.ids import encode_component
from ghcoord.model.lease import Judge
from ghcoord.model.worker import Worker, WorkerStatus, worker_key
from ghcoord.store.base import Entry, Oid
from ghcoord.store.snapshot import Snapshot
from ghcoord.store.tx import Tx

STALE_AFTER = 300.0
"""Seconds after which a silent worker is removed (reference: co:694)."""

NEAR = 100
"""Records of workers that are brought with one request, where reading costs any."""


class Recovery:
    """The part of a hub's workers that deals with the dead."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._mutex = threading.Lock()
        self._known: tuple[Entry | None, dict[str, Worker]] | None = None
        self._looked_at: Oid | None = None

    @property
    def _spaces(self) -> tuple[str, ...]:
        """Tasks and locks go together; where a server commits to one space at a time, locks are left to their ttl."""
        return (FLEET, LOCKS) if self._context.transactor.store.capabilities.multi_space else (FLEET,)

    def _scan(self) -> builtins.list[Worker]:
        found = WORKER_TABLE.scan(self._context.snapshot(FLEET))
        return sorted(found, key=lambda worker: worker.id)

    def stale(self, threshold: float | None = None) -> builtins.list[str]:
        """Ids of workers whose lease is over by the hub's clock; changes nothing.

        ``threshold`` in seconds since the last heartbeat replaces ttl + margin and may not be shorter.
        """
        workers = self._scan()
        judge = self._threshold(workers, threshold)
        now = self._context.now()
        return [w.id for w in workers if w.alive and judge(worker_key(w.id), w.lease, now)]

    def _threshold(self, workers: builtins.list[Worker], threshold: float | None) -> Judge:
        if threshold is None:
            return self._context.judge()
        longest = max((w.ttl for w in workers if w.alive), default=0.0) + self._margin
        if threshold < longest:
            raise UsageError(
                f"a threshold of {threshold:g} s is under the workers' lease and margin: give at least {longest:g} s"
            )
        return lambda key, lease, now: now - lease.renewed_at.timestamp() > threshold

    def mark_stale(self, threshold: float | None = None) -> builtins.list[str]:
        """Set workers whose lease is over to ``offline``; returns their ids. What they hold stays theirs."""
        judge = self._threshold(self._scan(), threshold)

        def run(tx: Tx) -> builtins.list[str]:
            found = [w for w in WORKER_TABLE.all(tx, FLEET) if w.alive and judge(worker_key(w.id), w.lease, tx.now)]
            for worker in found:
                _set_offline(tx, worker)
            return sorted(w.id for w in found)

        return self._context.transact((FLEET,), run)

    def recover(self, worker_id: str, judge: Judge | None = None) -> Recovered:
        """Take tasks and locks from a dead worker, in one commit over both, and set it offline.

        Raises ``NotFound``, and ``UsageError`` for a worker whose lease still runs.
        """
        expired = judge or self._context.judge()
        return self._context.transact(self._spaces, lambda tx: _recover_one(tx, worker_id, expired))

    def recover_dead(self, judge: Judge) -> dict[str, Recovered]:
        """Recover every worker that ``judge`` calls dead, and leases whose worker is offline or gone.

        What a daemon does all the time; returns what was taken, by worker.  What
        would be too much for one commit is left to the next call.
        """
        return self._context.transact(self._spaces, lambda tx: _recover_dead(tx, judge, leasing.HELD_BYTES))

    def reap(self, stale_after: float | None = None) -> int:
        """Recover every worker whose lease is over and remove those silent for ``stale_after`` seconds.

        The default is five minutes, never under lease and margin.  Returns how many were removed.
        """
        return len(self.reap_now(stale_after).removed)

    def reap_now(self, stale_after: float | None = None) -> Reaped:
        """As :meth:`reap`, saying what was taken from whom and who was removed."""
        return self._reap(self._context.judge(), self._limit(stale_after))

    def preview_reap(self, stale_after: float | None = None) -> Reaped:
        """What :meth:`reap` would do now; changes nothing."""
        limit, margin, judge = self._limit(stale_after), self._margin, self._context.judge()

        def run(tx: Tx) -> Reaped:
            recovered = _recover_dead(tx, judge, math.inf)
            return Reaped(recovered, _remove_gone(tx, limit, margin))

        return rehearse(self._context, self._spaces, run)

    def preview_recover(self, worker_id: str) -> Recovered:
        """What :meth:`recover` would take from the worker now; changes nothing, raises the same."""
        judge = self._context.judge()
        return rehearse(self._context, self._spaces, lambda tx: _recover_one(tx, worker_id, judge))

    def reaper(
        self,
        interval: float = 60.0,
        *,
        stale_after: float | None = None,
        log: Log | None = None,
        on_pass: Callable[[Reaped], None] | None = None,
    ) -> Reaper:
        """Reaping in the background every ``interval`` seconds: a context manager, ``.start()`` and ``.stop()``.

        For a hub whose workers are programs of their own; each daemon does it by
        itself.  ``log`` gets (level, text) of each pass, by default the logger
        ``ghcoord.reaper``; ``on_pass`` what a pass did.
        """
        limit = self._limit(stale_after)
        return Reaper(self._context.runtime, lambda: self._pass(limit), interval, log=log, on_pass=on_pass)

    def _pass(self, limit: float) -> Reaped:
        """One pass of a reaper: goes by what it has observed so far, and by the hub's clock where there is one."""
        context = self._context
        alive = [worker for worker in self._scan() if worker.alive]
        context.observer.look([(worker_key(w.id), w.lease) for w in alive], complete=worker_key(""))
        seen, clock = context.observer.judge(), context.judge()
        return self._reap(lambda key, lease, now: seen(key, lease, now) or clock(key, lease, now), limit)

    def _reap(self, judge: Judge, limit: float) -> Reaped:
        recovered: dict[str, Recovered] = {}
        while more := self.recover_dead(judge):
            for worker_id, taken in more.items():
                before = recovered.get(worker_id, Recovered(0, 0, 0))
                recovered[worker_id] = Recovered(*(a + b for a, b in zip(before, taken, strict=True)))
        return Reaped(recovered, self._remove_gone(limit))

    def _limit(self, stale_after: float | None) -> float:
        if stale_after is None:
            return STALE_AFTER
        self._threshold(self._scan(), stale_after)
        return stale_after

    @property
    def _margin(self) -> float:
        return self._context.transactor.store.capabilities.clock_margin

    def _remove_gone(self, limit: float) -> builtins.list[str]:
        """Remove offline workers that have been silent for ``limit`` seconds, and for their lease and a margin."""
        margin = self._margin
        return self._context.transact((FLEET,), lambda tx: _remove_gone(tx, limit, margin))

    def present(self, heads: Mapping[str, str] | None = None) -> dict[str, Worker]:
        """All workers by id, as of ``heads``, else as of now; nothing is read again that has not changed."""
        return dict(self._records(self._seen(heads)))

    def _seen(self, heads: Mapping[str, str] | None) -> Snapshot:
        context = self._context
        return context.snapshot(FLEET) if heads is None else context.pinned(FLEET, heads)

    def tend(self, heads: Mapping[str, str] | None = None) -> dict[str, Recovered]:
        """Observe the other workers and recover those that stood still too long: what each daemon does.

        Goes by this process's own observation, not by clocks, and by ``heads``
        where the caller has just read them.  Returns what was recovered, by worker.
        """
        context = self._context
        snapshot = self._seen(heads)
        workers = self._records(snapshot)
        alive = [worker for worker in workers.values() if worker.alive]
        context.observer.look([(worker_key(w.id), w.lease) for w in alive], complete=worker_key(""))
        judge = context.observer.judge()
        now = context.now()
        dead = any(judge(worker_key(w.id), w.lease, now) for w in alive)
        dead = dead or any(not w.alive and w.session_ids for w in workers.values())
        holders = {*snapshot.entries(LEASED), *snapshot.entries(ASSIGNED)}
        if not dead and holders <= {encode_component(worker.id) for worker in alive}:
            return {}
        return self.recover_dead(judge)

    def _records(self, snapshot: Snapshot) -> dict[str, Worker]:
        """All workers by id; read again only when one of them has changed."""
        with self._mutex:
            if self._looked_at != snapshot.head:
                known = self._known[1] if self._known is not None else {}
                paths = (worker_path(worker_id) for worker_id in islice(known, NEAR))
                snapshot.near([*paths, WORKERS, LEASED, ASSIGNED])
                _bring_folders(snapshot)
                self._looked_at = snapshot.head
            folder = snapshot.entry(WORKERS)
            if self._known is None or self._known[0] != folder:
                self._known = (folder, {worker.id: worker for worker in WORKER_TABLE.scan(snapshot)})
            return self._known[1]

    def sweep(self, heads: Mapping[str, str] | None = None) -> int:
        """Remove workers that have been offline for five minutes; returns how many. ``heads`` as for :meth:`tend`."""
        if any(not worker.alive for worker in self._records(self._seen(heads)).values()):
            return len(self._remove_gone(STALE_AFTER))
        return 0


def _bring_folders(snapshot: Snapshot) -> None:
    """Have the folders of the workers' records fetched, a level with each request, where that costs any."""
    if not snapshot.store.capabilities.remote:
        return
    level = [WORKERS]
    for _ in range(2):
        level = [f"{folder}/{name}" for folder in level for name in snapshot.entries(folder)][:NEAR]
        snapshot.near(level)


def need_worker(tx: Tx, worker_id: str) -> Worker:
    worker = WORKER_TABLE.get(tx, FLEET, worker_id)
    if worker is None:
        raise NotFound(f"there is no worker {worker_id!r}")
    return worker


def _set_offline(tx: Tx, worker: Worker) -> None:
    capacity = worker.capacity.model_copy(update={"active_tasks": 0})
    put_worker(tx, worker.model_copy(update={"status": WorkerStatus.OFFLINE, "capacity": capacity}))
    if worker.alive:
        tx.event(FLEET, "worker offline", worker=worker.id)


def _recover(tx: Tx, worker_id: str, worker: Worker | None) -> Recovered:
    tasks = leasing.lose_all(tx, worker_id, "its worker died")
    leasing.unassign_all(tx, worker_id)
    locks = release_all_of(tx, worker_id, "lock recovered") if LOCKS in tx.spaces else 0
    sessions = displace_all(tx, worker_id, worker, f"its worker {worker_id} died")
    if worker is not None:
        sessions = max(sessions, worker.active_sessions)
        _set_offline(tx, worker.model_copy(update={"active_sessions": 0, "session_ids": ()}))
    if tasks or locks or sessions:
        tx.event(FLEET, "worker recovered", worker=worker_id, tasks=tasks, locks=locks, sessions=sessions or None)
    return Recovered(locks, tasks, sessions)


def _recover_one(tx: Tx, worker_id: str, judge: Judge) -> Recovered:
    worker = need_worker(tx, worker_id)
    if worker.alive and not judge(worker_key(worker_id), worker.lease, tx.now):
        raise UsageError(
            f"worker {worker_id!r} is alive: drain it, or wait until its lease of {worker.ttl:g} s is over"
        )
    return _recover(tx, worker_id, worker)


def _recover_dead(tx: Tx, judge: Judge, room: float) -> dict[str, Recovered]:
    """Recover the dead as long as what they hold has at most ``room`` bytes; at least one, if there is one."""
    workers = {worker.id: worker for worker in WORKER_TABLE.all(tx, FLEET)}
    dead = {w.id for w in workers.values() if w.alive and judge(worker_key(w.id), w.lease, tx.now)}
    dead |= {w.id for w in workers.values() if not w.alive and w.session_ids}
    dead |= {name for name in leasing.holders(tx) if name not in workers or not workers[name].alive}
    recovered: dict[str, Recovered] = {}
    for name in sorted(dead):
        room -= sum(records.size_of(tx, task) for task in leasing.leased_to(tx, name))
        if recovered and room < 0:
            break
        recovered[name] = _recover(tx, name, workers.get(name))
    return recovered


def _remove_gone(tx: Tx, limit: float, margin: float) -> list[str]:
    def gone(worker: Worker) -> bool:
        silent = tx.now - worker.last_heartbeat.timestamp()
        return not worker.alive and silent > max(limit, worker.ttl + margin)

    over = [worker for worker in WORKER_TABLE.all(tx, FLEET) if gone(worker)]
    removed = [worker.id for worker in over]
    for worker in over:
        displace_all(tx, worker.id, worker, f"its worker {worker.id} was removed")
    for worker_id in removed:
        leasing.lose_all(tx, worker_id, "its worker was removed")
        leasing.unassign_all(tx, worker_id)
        WORKER_TABLE.remove(tx, FLEET, worker_id)
        tx.event(FLEET, "worker removed", worker=worker_id)
    return sorted(removed)
