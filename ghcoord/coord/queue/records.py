"""Tasks put, changed and removed: each with everything that follows from it, in one place.

What follows is the index, the counts, gates, timers, unique keys and the
tasks that wait for others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ghcoord.coord import layout
from ghcoord.coord.context import TASK_TABLE, WORKER_TABLE
from ghcoord.coord.layout import FLEET
from ghcoord.coord.queue import counts, dependencies, gates, uniqueness
from ghcoord.coord.queue.lookup import Pair, get, size_of
from ghcoord.errors import Corrupt, InvalidName, NewerSchema, TooLarge
from ghcoord.model import steps as model
from ghcoord.model.codec import MAX_RECORD, encode
from ghcoord.model.task import State, Task
from ghcoord.store.tx import Tx

HEADROOM = 50_000
"""Bytes that a record with a result leaves free: the histories of further attempts must fit as well."""

__all__ = ["add", "fits", "get", "is_over", "key_of", "next_sequences", "put", "reindex", "remove", "size_of"]


def fits(task: Task) -> bool:
    """Whether a task's record leaves room for what happens to it later."""
    try:
        return len(encode(task)) <= MAX_RECORD - HEADROOM
    except TooLarge:
        return False


def next_sequences(tx: Tx, count: int) -> range:
    """``count`` new places at the end of the queue."""
    present = counts.read(tx)
    first = present.sequence
    present.sequence = first + count
    counts.write(tx, present)
    return range(first, first + count)


def add(tx: Tx, tasks: Iterable[Task]) -> list[Task]:
    """Put new tasks into the queue; returns them as they are there. Raises ``TooLarge``."""
    added = _placed(tx, list(tasks))
    for task in added:
        TASK_TABLE.put(tx, FLEET, task.id, task)
    reindex(tx, [(None, task) for task in added])
    return added


def put(tx: Tx, pairs: Iterable[tuple[Task, Task]]) -> list[Task]:
    """Replace each old task by the new one; returns what was put.

    A task whose record got too large is dead from then on, with the reason as
    its result, so that it stops nobody else.
    """
    changes = list(pairs)
    placed = _placed(tx, [new for _, new in changes])
    written = [_written(tx, new) for new in placed]
    reindex(tx, [(old, new) for (old, _), new in zip(changes, written, strict=True)])
    return written


def remove(tx: Tx, *tasks: Task) -> None:
    """Take tasks out of the hub, with all that was kept about them."""
    for task in tasks:
        TASK_TABLE.remove(tx, FLEET, task.id)
    reindex(tx, [(task, None) for task in tasks])


def _written(tx: Tx, task: Task) -> Task:
    try:
        TASK_TABLE.put(tx, FLEET, task.id, task)
    except TooLarge as error:
        dead = model.bury(task, f"its record got too large: {error.message}", now=tx.now)
        TASK_TABLE.put(tx, FLEET, task.id, dead)
        tx.event(FLEET, "task dead", task=task.id, key=key_of(task), error=error.message)
        return dead
    return task


def _placed(tx: Tx, tasks: list[Task]) -> list[Task]:
    """``tasks`` in whose assignments the queued ones may trust: to a worker that is there, and not over yet."""
    queued = [task for task in tasks if task.state is State.QUEUED and task.assigned is not None]
    if not queued:
        return tasks
    names = {task.assigned.worker for task in queued if task.assigned is not None}
    present = {name for name in names if _is_present(tx, name)}
    return [
        model.unassign(task)
        if task.state is State.QUEUED
        and task.assigned is not None
        and (task.assigned.worker not in present or is_over(task, tx.now))
        else task
        for task in tasks
    ]


def _is_present(tx: Tx, worker_id: str) -> bool:
    try:
        worker = WORKER_TABLE.get(tx, FLEET, worker_id)
    except (Corrupt, NewerSchema, InvalidName):
        return False
    return worker is not None and worker.alive


def is_over(task: Task, now: float) -> bool:
    """Whether the task was meant for a worker only until a moment before ``now`` (seconds)."""
    return task.assigned is not None and task.assigned.until is not None and task.assigned.until.timestamp() <= now


def key_of(task: Task) -> str | None:
    """The key whose gate the task has to pass."""
    return task.limit.key if task.limit is not None else None


def reindex(tx: Tx, pairs: Sequence[Pair]) -> None:
    """Do what follows when each old task has become the new one, whose record is there already."""
    if not pairs:
        return
    present = counts.read(tx)
    for old, new in pairs:
        before = layout.index_paths(old) if old is not None else ()
        after = layout.index_paths(new) if new is not None else ()
        for path in before:
            if path not in after:
                tx.delete(FLEET, path)
        for path in after:
            if path not in before:
                tx.write(FLEET, path, layout.MARKER)
        present.follow(old, new)
    counts.write(tx, present)
    gates.follow(tx, pairs)
    uniqueness.settle(tx, pairs)
    dependencies.settle(tx, pairs)
