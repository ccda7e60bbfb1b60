"""Tasks that wait for others: who waits for whom, and what the end of one means to those who wait.

``index/dependents`` lists the blocked tasks by the task that they wait for.
When that one ends, it is noted in ``index/releasing``; from there
:func:`work` tells those who wait, a page at a time, so that the end of a task
costs the same however many wait for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ghcoord.coord import layout
from ghcoord.coord.context import TASK_TABLE
from ghcoord.coord.layout import DEPENDENTS, FLEET, RELEASING
from ghcoord.coord.queue import records
from ghcoord.errors import InvalidName
from ghcoord.ids import check_id
from ghcoord.model import steps as model
from ghcoord.model.task import IfFailed, State, Task
from ghcoord.store.tx import Tx

PAGE_BYTES = 8 * 1024 * 1024
"""Bytes of task records that one call of :func:`work` changes; a single larger one is changed alone."""

Pair = tuple[Task | None, Task | None]


class _Waiting(NamedTuple):
    """An entry of the index: who waits, and its path."""

    path: str
    task_id: str


def settle(tx: Tx, pairs: Sequence[Pair]) -> None:
    """Do what follows for those who wait, and for whom they wait, when each old task has become the new one."""
    for old, new in pairs:
        before, after = set(_entries(old)), set(_entries(new))
        for path in before - after:
            tx.delete(FLEET, path)
        for path in after - before:
            tx.write(FLEET, path, layout.MARKER)
        if new is not None and after - before:
            _look_for_ended(tx, new)
        last = new or old
        if last is not None and (new is None or new.ended) and is_awaited(tx, last.id):
            tx.write(FLEET, layout.releasing_path(last.id), layout.MARKER)


def _look_for_ended(tx: Tx, task: Task) -> None:
    """Note which of those that ``task`` waits for have ended already, or were never there: people edit records."""
    for awaited in task.dependencies.waiting_for if task.dependencies is not None else ():
        one = records.get(tx, awaited)
        if one.ended if one is not None else not _is_there(tx, awaited):
            try:
                tx.write(FLEET, layout.releasing_path(check_id(awaited, "task id")), layout.MARKER)
            except InvalidName:
                continue


def _entries(task: Task | None) -> Iterator[str]:
    if task is None or task.dependencies is None or task.state is not State.BLOCKED:
        return
    success = task.dependencies.if_failed is IfFailed.WAIT
    for awaited in task.dependencies.waiting_for:
        try:
            yield layout.dependent_path(check_id(awaited, "task id"), task.id, success)
        except InvalidName:
            continue  # made up by a person: nothing of that name can end


def is_awaited(tx: Tx, task_id: str) -> bool:
    """Whether a blocked task waits for this one, be it only to be told that it has ended."""
    return any(_waiting(tx, task_id))


def _waiting(tx: Tx, task_id: str, *, success: bool = True) -> Iterator[_Waiting]:
    """Who waits for a task; without ``success`` only those for whom its end is enough."""
    for kind in (False, True) if success else (False,):
        top = layout.dependents_top(task_id, kind)
        for fan in tx.names(FLEET, top):
            yield from (_Waiting(f"{top}/{fan}/{name}", name) for name in tx.names(FLEET, f"{top}/{fan}"))


# -- telling those who wait


def work(tx: Tx, limit: int) -> bool:
    """Tell up to ``limit`` of those who wait that a task has ended; returns whether more are to be told."""
    room = [limit, PAGE_BYTES]
    unreadable: set[str] = set()
    while (found := next((path for path in tx.walk(FLEET, RELEASING) if path not in unreadable), None)) is not None:
        if room[0] <= 0 or room[1] <= 0:
            return True
        task_id = found.rpartition("/")[2]
        ended = records.get(tx, task_id)
        if ended is None and _is_there(tx, task_id):
            unreadable.add(found)
        elif _release(tx, task_id, ended, room):
            tx.delete(FLEET, found)
    return False


def _is_there(tx: Tx, task_id: str) -> bool:
    try:
        return tx.read(FLEET, TASK_TABLE.path(task_id)) is not None
    except InvalidName:
        return False


def _release(tx: Tx, task_id: str, ended: Task | None, room: list[int]) -> bool:
    """Tell those who wait for a task, as far as there is room; returns whether all have been told."""
    if ended is not None and not ended.ended:
        return True  # it was retried: its next end counts
    changes: list[tuple[Task, Task]] = []
    complete = True
    for path, name in _waiting(tx, task_id, success=ended is None or ended.state is State.SUCCEEDED):
        task = records.get(tx, name)
        if task is None or path not in set(_entries(task)):
            tx.delete(FLEET, path)
            room[0] -= 1
            continue
        size = records.size_of(tx, task)
        if room[0] <= 0 or (changes and room[1] < size):
            complete = False
            break
        room[0] -= 1
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


# -- from the records


def rebuild(tx: Tx, tasks: Sequence[Task]) -> None:
    """Make both indexes anew from the tasks that have dependencies."""
    blocked = {task.id: set(_entries(task)) for task in tasks}
    wanted = {path for entries in blocked.values() for path in entries}
    for folder in (DEPENDENTS, RELEASING):
        for path in list(tx.walk(FLEET, folder)):
            if path not in wanted:
                tx.delete(FLEET, path)
    for path in wanted:
        tx.write(FLEET, path, layout.MARKER)
    for task in tasks:
        if blocked[task.id]:
            _look_for_ended(tx, task)
