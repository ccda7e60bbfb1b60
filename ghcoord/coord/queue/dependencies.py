"""Tasks that wait for others: who waits for whom, and what the end of one means to those who wait.

``index/dependents`` lists the blocked tasks by the task that they wait for.
When that one ends, it is noted in ``index/releasing``; from there
:mod:`~ghcoord.coord.queue.releasing` tells those who wait, a page at a time, so
that the end of a task costs the same however many wait for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ghcoord.coord import layout
from ghcoord.coord.layout import DEPENDENTS, FLEET, RELEASING
from ghcoord.coord.queue import lookup
from ghcoord.coord.queue.lookup import Pair
from ghcoord.errors import InvalidName
from ghcoord.ids import check_id
from ghcoord.model.task import IfFailed, State, Task
from ghcoord.store.tx import Tx


class Waiting(NamedTuple):
    """An entry of the index: who waits, and its path."""

    path: str
    task_id: str


def settle(tx: Tx, pairs: Sequence[Pair]) -> None:
    """Do what follows for those who wait, and for whom they wait, when each old task has become the new one."""
    anybody = bool(tx.names(FLEET, DEPENDENTS))
    for old, new in pairs:
        before, after = set(entries(old)), set(entries(new))
        anybody = anybody or bool(after)
        for path in before - after:
            tx.delete(FLEET, path)
        for path in after - before:
            tx.write(FLEET, path, layout.MARKER)
        if new is not None and after - before:
            _look_for_ended(tx, new)
        last = new or old
        if anybody and last is not None and (new is None or new.ended) and is_awaited(tx, last.id):
            tx.write(FLEET, layout.releasing_path(last.id), layout.MARKER)


def _look_for_ended(tx: Tx, task: Task) -> None:
    """Note which of those that ``task`` waits for have ended already, or were never there: people edit records."""
    for awaited in task.dependencies.waiting_for if task.dependencies is not None else ():
        one = lookup.get(tx, awaited)
        if one.ended if one is not None else not lookup.is_there(tx, awaited):
            try:
                tx.write(FLEET, layout.releasing_path(check_id(awaited, "task id")), layout.MARKER)
            except InvalidName:
                continue


def entries(task: Task | None) -> Iterator[str]:
    """The paths in the index of a blocked task."""
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
    return any(waiting(tx, task_id))


def waiting(tx: Tx, task_id: str, *, success: bool = True) -> Iterator[Waiting]:
    """Who waits for a task; without ``success`` only those for whom its end is enough."""
    for kind in (False, True) if success else (False,):
        top = layout.dependents_top(task_id, kind)
        for fan in tx.names(FLEET, top):
            yield from (Waiting(f"{top}/{fan}/{name}", name) for name in tx.names(FLEET, f"{top}/{fan}"))


def rebuild(tx: Tx, tasks: Sequence[Task]) -> None:
    """Make both indexes anew from the tasks that have dependencies."""
    blocked = {task.id: set(entries(task)) for task in tasks}
    wanted = {path for paths in blocked.values() for path in paths}
    for folder in (DEPENDENTS, RELEASING):
        for path in list(tx.walk(FLEET, folder)):
            if path not in wanted:
                tx.delete(FLEET, path)
    for path in wanted:
        tx.write(FLEET, path, layout.MARKER)
    for task in tasks:
        if blocked[task.id]:
            _look_for_ended(tx, task)
