"""Those who wait for a task are told that it has ended: queued, scheduled, or cancelled, a page at a time."""

from __future__ import annotations

from ghcoord.coord.layout import FLEET, RELEASING
from ghcoord.coord.queue import dependencies, lookup, records
from ghcoord.model import steps as model
from ghcoord.model.task import IfFailed, State, Task
from ghcoord.store.tx import Tx

PAGE_BYTES = 8 * 1024 * 1024
"""Bytes of task records that one call of :func:`work` changes; a single larger one is changed alone."""


def work(tx: Tx, limit: int) -> bool:
    """Tell those who wait that a task has ended; returns whether there is more to do.

    ``limit`` is for those who are told, and for the ended tasks of which all have been told.
    """
    room = [limit, PAGE_BYTES]
    heard = 0
    unreadable: set[str] = set()
    while (found := next((path for path in tx.walk(FLEET, RELEASING) if path not in unreadable), None)) is not None:
        if room[0] <= 0 or room[1] <= 0 or heard >= limit:
            return True
        task_id = found.rpartition("/")[2]
        ended = lookup.get(tx, task_id)
        if ended is None and lookup.is_there(tx, task_id):
            unreadable.add(found)
        elif _release(tx, task_id, ended, room):
            tx.delete(FLEET, found)
            heard += 1
    return False


def _release(tx: Tx, task_id: str, ended: Task | None, room: list[int]) -> bool:
    """Tell those who wait for a task, as far as there is room; returns whether all have been told."""
    if ended is not None and not ended.ended:
        return True  # it was retried: its next end counts
    changes: list[tuple[Task, Task]] = []
    complete = True
    for path, name in dependencies.waiting(tx, task_id, success=ended is None or ended.state is State.SUCCEEDED):
        task = lookup.get(tx, name)
        size = 0 if task is None else lookup.size_of(tx, task)
        if room[0] <= 0 or (changes and room[1] < size):
            complete = False
            break
        room[0] -= 1
        if task is None or path not in dependencies.entries(task):
            tx.delete(FLEET, path)
            continue
        room[1] -= size
        changes.append((task, told(task, task_id, ended, tx.now)))
    for (before, _), after in zip(changes, records.put(tx, changes) if changes else (), strict=True):
        _say(tx, before, after, task_id)
    return complete


def told(task: Task, awaited: str, ended: Task | None, now: float) -> Task:
    """The blocked ``task`` after the one that it waits for has ended, or has been deleted (``None``)."""
    assert task.dependencies is not None
    policy = task.dependencies.if_failed
    if (ended is not None and ended.state is State.SUCCEEDED) or policy is IfFailed.RUN:
        return model.unblock(task, awaited, now=now)
    how = "no longer exists" if ended is None else f"is {ended.state}"
    return model.cancel(task, f"it waits for task {awaited}, which {how}", now=now)


def _say(tx: Tx, before: Task, after: Task, awaited: str) -> None:
    if after.state is State.CANCELLED:
        tx.event(FLEET, "task cancelled", task=after.id, after=awaited, reason=after.cancel_reason)
    elif after.state is not before.state:
        tx.event(FLEET, "task unblocked", task=after.id, after=awaited)
