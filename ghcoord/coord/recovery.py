"""What happens to workers that died: noticed, recovered, in the end removed."""

from __future__ import annotations

import builtins
import threading
from typing import NamedTuple

from ghcoord.coord import queue
from ghcoord.coord.context import WORKER_TABLE, Context, put_worker
from ghcoord.coord.layout import FLEET, LEASED, LOCKS, WORKERS
from ghcoord.coord.locks import release_all_of
from ghcoord.errors import NotFound, UsageError
from ghcoord.ids import encode_component
from ghcoord.model.lease import Judge
from ghcoord.model.worker import Worker, WorkerStatus, worker_key
from ghcoord.store.base import Entry
from ghcoord.store.snapshot import Snapshot
from ghcoord.store.tx import Tx

STALE_AFTER = 300.0
"""Seconds after which a silent worker is removed (reference: co:694)."""


class Recovered(NamedTuple):
    """What was taken from a dead worker."""

    locks: int
    tasks: int
    sessions: int


class Recovery:
    """The part of a hub's workers that deals with the dead."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._mutex = threading.Lock()
        self._known: tuple[Entry | None, dict[str, Worker]] | None = None

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
        margin = self._context.transactor.store.capabilities.clock_margin
        longest = max((w.ttl for w in workers if w.alive), default=0.0) + margin
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

        def run(tx: Tx) -> Recovered:
            worker = need_worker(tx, worker_id)
            if worker.alive and not expired(worker_key(worker_id), worker.lease, tx.now):
                raise UsageError(
                    f"worker {worker_id!r} is alive: drain it, or wait until its lease of {worker.ttl:g} s is over"
                )
            return _recover(tx, worker_id, worker)

        return self._context.transact((FLEET, LOCKS), run)

    def recover_dead(self, judge: Judge) -> dict[str, Recovered]:
        """Recover every worker that ``judge`` calls dead, and leases whose worker is offline or gone.

        What a daemon does all the time; returns what was taken, by worker.  What
        would be too much for one commit is left to the next call.
        """

        def run(tx: Tx) -> dict[str, Recovered]:
            workers = {worker.id: worker for worker in WORKER_TABLE.all(tx, FLEET)}
            dead = {w.id for w in workers.values() if w.alive and judge(worker_key(w.id), w.lease, tx.now)}
            dead |= {name for name in queue.holders(tx) if name not in workers or not workers[name].alive}
            recovered: dict[str, Recovered] = {}
            room = queue.HELD_BYTES
            for name in sorted(dead):
                room -= sum(queue.size_of(tx, task) for task in queue.leased_to(tx, name))
                if recovered and room < 0:
                    break
                recovered[name] = _recover(tx, name, workers.get(name))
            return recovered

        return self._context.transact((FLEET, LOCKS), run)

    def reap(self, stale_after: float | None = None) -> int:
        """Recover every worker whose lease is over and remove those silent for ``stale_after`` seconds.

        The default is five minutes, never under lease and margin.  Returns how many were removed.
        """
        limit = STALE_AFTER
        if stale_after is not None:
            self._threshold(self._scan(), stale_after)
            limit = stale_after
        while self.recover_dead(self._context.judge()):
            pass
        return self._remove_gone(limit)

    def _remove_gone(self, limit: float) -> int:
        """Remove offline workers that have been silent for ``limit`` seconds, and for their lease and a margin."""
        margin = self._context.transactor.store.capabilities.clock_margin

        def gone(worker: Worker, now: float) -> bool:
            silent = now - worker.last_heartbeat.timestamp()
            return not worker.alive and silent > max(limit, worker.ttl + margin)

        def run(tx: Tx) -> int:
            removed = [w for w in WORKER_TABLE.all(tx, FLEET) if gone(w, tx.now)]
            for worker in removed:
                queue.lose_all(tx, worker.id, "its worker was removed")
                WORKER_TABLE.remove(tx, FLEET, worker.id)
                tx.event(FLEET, "worker removed", worker=worker.id)
            return len(removed)

        return self._context.transact((FLEET,), run)

    def tend(self) -> dict[str, Recovered]:
        """Observe the other workers and recover those that stood still too long: what each daemon does.

        Goes by this process's own observation, not by clocks.  Returns what was recovered, by worker.
        """
        context = self._context
        snapshot = context.snapshot(FLEET)
        workers = self._records(snapshot)
        alive = [worker for worker in workers.values() if worker.alive]
        context.observer.look([(worker_key(w.id), w.lease) for w in alive], complete=worker_key(""))
        judge = context.observer.judge()
        now = context.now()
        dead = any(judge(worker_key(w.id), w.lease, now) for w in alive)
        if not dead and {encode_component(w.id) for w in alive}.issuperset(snapshot.entries(LEASED)):
            return {}
        return self.recover_dead(judge)

    def _records(self, snapshot: Snapshot) -> dict[str, Worker]:
        """All workers by id; read again only when one of them has changed."""
        folder = snapshot.entry(WORKERS)
        with self._mutex:
            if self._known is None or self._known[0] != folder:
                self._known = (folder, {worker.id: worker for worker in WORKER_TABLE.scan(snapshot)})
            return self._known[1]

    def sweep(self) -> int:
        """Remove workers that have been offline for five minutes; returns how many."""
        if any(not worker.alive for worker in self._scan()):
            return self._remove_gone(STALE_AFTER)
        return 0


def need_worker(tx: Tx, worker_id: str) -> Worker:
    worker = WORKER_TABLE.get(tx, FLEET, worker_id)
    if worker is None:
        raise NotFound(f"there is no worker {worker_id!r}")
    return worker


def _set_offline(tx: Tx, worker: Worker) -> None:
    offline = worker.model_copy(
        update={"status": WorkerStatus.OFFLINE, "capacity": worker.capacity.model_copy(update={"active_tasks": 0})}
    )
    put_worker(tx, offline)
    tx.event(FLEET, "worker offline", worker=worker.id)


def _recover(tx: Tx, worker_id: str, worker: Worker | None) -> Recovered:
    tasks = queue.lose_all(tx, worker_id, "its worker died")
    locks = release_all_of(tx, worker_id, "lock recovered")
    if worker is not None and worker.alive:
        _set_offline(tx, worker)
    if tasks or locks:
        tx.event(FLEET, "worker recovered", worker=worker_id, tasks=tasks, locks=locks)
    return Recovered(locks, tasks, 0)
