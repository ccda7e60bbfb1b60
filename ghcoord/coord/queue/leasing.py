"""Who runs what: tasks leased, finished, given back and lost, and tasks that are meant for a worker."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice

from ghcoord.coord import layout
from ghcoord.coord.layout import ASSIGNED, FLEET, LEASED
from ghcoord.coord.queue import lookup, records
from ghcoord.coord.queue.choosing import choose
from ghcoord.coord.sessions.records import with_calls
from ghcoord.errors import LeaseLost
from ghcoord.model import steps as model
from ghcoord.model.codec import MAX_DEPTH, MAX_RECORD
from ghcoord.model.task import State, Task, TaskResult
from ghcoord.model.worker import Worker
from ghcoord.store.tx import Tx

_REPORTED = frozenset({"succeeded", "failed", "cancelled"})

KEPT = 1000
"""Characters of its texts that are kept of a result which does not fit beside the task's arguments."""

MOST_INDENTED = 2 * MAX_DEPTH + 10
"""Bytes that a byte of a result without any space takes in a record, at most: each value stands on its own line."""

HELD_BYTES = 16 * 1024 * 1024
"""Bytes of task records that one worker holds at most.

A commit takes 64 MiB on a local hub: what a worker finishes (as much again,
with its results), leases and what upkeep moves fit into one.
"""

UNASSIGN_PAGE = 500
"""Tasks meant for a worker that one transaction puts back for all, at most."""


UNASSIGN_BYTES = 2 * 1024 * 1024
"""Bytes of their records, a single larger one apart: several workers may be recovered in one commit."""


def lease(
    tx: Tx,
    worker: Worker,
    tools: Iterable[str],
    count: int,
    held: Sequence[Task] | None = None,
    ahead: int = 0,
    most: int = HELD_BYTES,
    avoid: Collection[str] = (),
) -> list[Task]:
    """Lease the best ``count`` queued tasks that ``worker`` can run with ``tools``, in order.

    Fewer when there are fewer, or when all that the worker holds would have
    more than ``most`` bytes and no longer fit into one commit: then it could
    not be taken back at once.
    ``held`` is what it holds already, where the caller knows.  For ``ahead`` of
    the tasks there is no slot yet: those have no key, whose limits are for
    tasks that start.  Calls of the sessions in ``avoid`` are left alone.  A worker without slots gets calls of its
    own sessions, nothing else.
    """
    if count <= 0:
        return []
    offer = worker.offer._replace(tools=frozenset(tools))
    present = leased_to(tx, worker.id) if held is None else held
    room = most - sum(records.size_of(tx, task) for task in present)
    sessions = [one for one in with_calls(tx, worker) if one not in avoid]
    chosen = choose(tx, worker.id, offer, count, room, ahead, sessions, calls_only=worker.calls_only)
    if not chosen:
        return []
    granted = [(task, model.lease(task, worker.id, now=tx.now, revision=tx.revision)) for task in chosen]
    leased = [task for task in records.put(tx, granted) if task.state is State.LEASED]
    for task in leased:
        tx.event(
            FLEET,
            "task leased",
            task=task.id,
            type=task.need.type,
            worker=worker.id,
            session=task.session,
            attempt=task.attempt,
            token=tx.revision,
            key=records.key_of(task),
        )
    return leased


# -- the end of a lease


def finish(tx: Tx, worker: str, reports: Iterable[tuple[str, int, TaskResult]]) -> dict[str, str]:
    """Apply the holder's results, each with the task's id and the lease's token; returns why some were refused.

    A result from a lost lease is refused and audited, never applied.
    """
    refused: dict[str, str] = {}
    changes: dict[str, tuple[Task, Task]] = {}
    for task_id, token, result in reports:
        if task_id in changes:
            _put_finished(tx, worker, changes)
            changes = {}
        task, size = lookup.sized(tx, task_id) or (None, 0)
        try:
            held = model.check_fence(task, task_id, worker, token)
        except LeaseLost as refusal:
            if not _ended_by(task, worker, token, _REPORTED):
                refused[task_id] = refusal.message
                _audit(tx, "task result refused", task_id, worker, token, refusal, success=result.success)
            continue
        changes[task_id] = (held, _ended(held, size, result, tx.now))
    _put_finished(tx, worker, changes)
    return refused


def _put_finished(tx: Tx, worker: str, changes: dict[str, tuple[Task, Task]]) -> None:
    for (held, _), ended in zip(changes.values(), records.put(tx, changes.values()), strict=True):
        failed = ended.result is None or not ended.result.success
        tx.event(
            FLEET,
            f"task {ended.state}",
            task=ended.id,
            worker=worker,
            attempt=held.attempt,
            key=records.key_of(held),
            error=ended.result.error[:300] if failed and ended.result is not None else None,
        )


def _ended(held: Task, size: int, result: TaskResult, now: float) -> Task:
    """The task, whose record has ``size`` bytes, after ``result``; of what would get too large the ends are kept."""
    ended = model.finish(held, result, now=now)
    most = size + MOST_INDENTED * len(result.model_dump_json())
    if most > MAX_RECORD - 2 * records.HEADROOM and not records.fits(ended):
        kept = {"output": result.output[-KEPT:], "error": result.error[-KEPT:], "data": {}, "artifacts": ()}
        return model.finish(held, result.model_copy(update={**kept, "truncated": True}), now=now)
    return ended


def give_back(tx: Tx, worker: str, returns: Iterable[tuple[str, int, str]]) -> None:
    """Return leased tasks to the queue, each with id, token and reason; audited where they are no longer its own."""
    for task_id, token, reason in returns:
        task = records.get(tx, task_id)
        try:
            held = model.check_fence(task, task_id, worker, token)
        except LeaseLost as refusal:
            if not _ended_by(task, worker, token, {"given back"}):
                _audit(tx, "task return refused", task_id, worker, token, refusal)
            continue
        records.put(tx, [(held, model.give_back(held, reason[:500], now=tx.now))])
        tx.event(FLEET, "task given back", task=task_id, worker=worker, key=records.key_of(held), reason=reason)


def _ended_by(task: Task | None, worker: str, token: int, outcomes: Iterable[str]) -> bool:
    """Whether this very message was applied already, and its acknowledgement lost."""
    return task is not None and any(
        a.token == token and a.worker == worker and a.outcome in outcomes for a in task.history
    )


def _audit(
    tx: Tx, kind: str, task_id: str, worker: str, token: int, refusal: LeaseLost, success: bool | None = None
) -> None:
    tx.event(FLEET, kind, task=task_id, worker=worker, token=token, success=success, reason=refusal.message)


def lose_all(tx: Tx, worker: str, reason: str) -> int:
    """End every lease of ``worker``, its tasks going back to the queue; returns how many there were."""
    held = leased_to(tx, worker)
    if held:
        records.put(tx, [(task, model.lose(task, reason, now=tx.now)) for task in held])
        for task in held:
            tx.event(
                FLEET,
                "task lease lost",
                task=task.id,
                worker=worker,
                attempt=task.attempt,
                key=records.key_of(task),
                reason=reason,
            )
    return len(held)


# -- who holds what


def leased_to(tx: Tx, worker: str) -> list[Task]:
    """The tasks that ``worker`` holds."""
    found = (records.get(tx, task_id) for task_id in _ids(tx, layout.leased_top(worker)))
    return [task for task in found if task is not None and task.lease is not None and task.lease.worker == worker]


def assigned_to(tx: Tx, worker: str) -> Iterator[Task]:
    """The queued tasks that are meant for ``worker``, in no particular order."""
    # The first of a line behind a gate lies there twice.
    for task_id in dict.fromkeys(_ids(tx, layout.assigned_top(worker))):
        task = records.get(tx, task_id)
        if (
            task is not None
            and task.state is State.QUEUED
            and task.assigned is not None
            and task.assigned.worker == worker
        ):
            yield task


def _ids(tx: Tx, top: str) -> Iterator[str]:
    return (path.rpartition("/")[2].partition("-")[2] for path in tx.walk(FLEET, top))


def holders(tx: Tx) -> set[str]:
    """Ids of the workers that hold tasks, or for which queued ones are meant."""
    found = set()
    for top, place in ((LEASED, layout.leased_top), (ASSIGNED, layout.assigned_top)):
        for folder in tx.names(FLEET, top):
            tasks = (records.get(tx, task_id) for task_id in _ids(tx, f"{top}/{folder}"))
            names = (_concerns(task, top) for task in tasks if task is not None)
            here = (name for name in names if name is not None and place(name) == f"{top}/{folder}")
            found |= set(islice(here, 1))
    return found


def _concerns(task: Task, top: str) -> str | None:
    """The worker below whose name in ``top`` the task belongs."""
    if top == LEASED:
        return task.lease.worker if task.lease is not None else None
    return task.assigned.worker if task.assigned is not None and task.state is State.QUEUED else None


def unassign_all(tx: Tx, worker: str, limit: int = UNASSIGN_PAGE, *, pinned: bool = True) -> int:
    """Put queued tasks that are meant for ``worker`` back for all, at most ``limit``; returns how many.

    Without ``pinned`` those that their submitters pinned to it stay.
    """
    changes: dict[str, tuple[Task, Task]] = {}
    room = UNASSIGN_BYTES
    for task in assigned_to(tx, worker):
        if not pinned and task.assigned is not None and task.assigned.pinned:
            continue
        room -= records.size_of(tx, task)
        if len(changes) >= limit or (changes and room < 0):
            break
        changes[task.id] = (task, model.unassign(task))
    if changes:
        records.put(tx, changes.values())
        tx.event(FLEET, "tasks put back for all", worker=worker, tasks=len(changes))
    return len(changes)
