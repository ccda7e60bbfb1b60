"""One task changed: cancelled, retried, meant for a worker."""

from __future__ import annotations

from collections.abc import Callable

from ghcoord.coord.context import TASK_TABLE, WORKER_TABLE, Context
from ghcoord.coord.layout import FLEET
from ghcoord.coord.queue import records, releasing, uniqueness
from ghcoord.coord.sessions import records as sessions
from ghcoord.errors import NotFound
from ghcoord.model import steps as model
from ghcoord.model.task import Task
from ghcoord.store.tx import Tx

CASCADE = 200
"""Tasks that are told in the same commit that one which they wait for has ended; workers tell the others."""

MAX_REASON = 500
"""Characters of a reason that a record keeps."""


class Changing:
    """The part of a hub's tasks that changes one of them."""

    _context: Context

    def cancel(self, task_id: str, reason: str = "") -> Task:
        """Cancel a task: at once when it is not running, else its worker is asked to.

        Those that wait for it are told.  Raises ``NotFound``, and
        ``IllegalTransition`` when it has ended.
        """
        actor = self._context.actor

        def run(tx: Tx) -> Task:
            task = need(tx, task_id)
            cancelled = model.cancel(task, reason[:MAX_REASON], now=tx.now)
            if cancelled != task:
                (cancelled,) = records.put(tx, [(task, cancelled)])
                kind = "task cancelled" if cancelled.ended else "task cancel requested"
                tx.event(FLEET, kind, task=task_id, by=actor, reason=reason[:200] or None)
                releasing.work(tx, CASCADE)
            return cancelled

        return self._context.transact((FLEET,), run)

    def retry(self, task_id: str) -> Task:
        """Queue a dead, cancelled, scheduled or backing-off task now, its failures forgiven.

        Raises ``NotFound``, and ``IllegalTransition`` from other states and
        where another task stands for its unique key.
        """
        actor = self._context.actor

        def run(tx: Tx) -> Task:
            task = need(tx, task_id)
            queued = model.retry(task, sequence=task.sequence)
            uniqueness.check_retry(tx, task)
            sessions.check_retry(tx, task)
            queued = queued.model_copy(update={"sequence": records.next_sequences(tx, 1)[0]})
            (put,) = records.put(tx, [(task, queued)])
            tx.event(FLEET, "task retried", task=task_id, by=actor)
            return put

        return self._context.transact((FLEET,), run)

    def assign(self, task_id: str, worker_id: str) -> Task:
        """Mean a task that has not started for one worker, until that one is gone or somebody moves it.

        Raises ``NotFound`` for a task or a living worker that is not there, and
        ``IllegalTransition`` for a task that runs or has ended.
        """

        def run(tx: Tx) -> Task:
            check_worker(tx, worker_id)
            return self._put(tx, task_id, lambda task: model.assign(task, worker_id, now=tx.now), "task assigned")

        return self._context.transact((FLEET,), run)

    def unassign(self, task_id: str) -> Task:
        """Let any worker take a task again. Raises ``NotFound``."""
        return self._context.transact((FLEET,), lambda tx: self._put(tx, task_id, model.unassign, "task unassigned"))

    def _put(self, tx: Tx, task_id: str, step: Callable[[Task], Task], kind: str) -> Task:
        task = need(tx, task_id)
        changed = step(task)
        if changed == task:
            return task
        (put,) = records.put(tx, [(task, changed)])
        worker = changed.assigned.worker if changed.assigned is not None else None
        tx.event(FLEET, kind, task=task_id, worker=worker, by=self._context.actor)
        return put


def need(tx: Tx, task_id: str) -> Task:
    """The task; raises ``NotFound``."""
    task = TASK_TABLE.get(tx, FLEET, task_id)
    if task is None:
        raise NotFound(f"there is no task {task_id!r}")
    return task


def check_worker(tx: Tx, worker_id: str) -> None:
    """Raise ``NotFound`` unless the worker is registered and alive."""
    worker = WORKER_TABLE.get(tx, FLEET, worker_id)
    if worker is None or not worker.alive:
        raise NotFound(f"there is no worker {worker_id!r} that is alive: see 'ghcoord worker list'")
