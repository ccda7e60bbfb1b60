"""What time brings: back-offs end, scheduled tasks fall due, preferences end, gates open, schedules fire.

Every beat of a worker runs it.  Each kind goes in pages, so that no commit
grows with what has piled up; what is left is due at once.
"""

from __future__ import annotations

from collections.abc import Callable

from ghcoord.coord import layout
from ghcoord.coord.layout import BACKING_OFF, FORGETTING, PREFERRED, REOPENING, SCHEDULED
from ghcoord.coord.queue import firing, gates, records, releasing, timers
from ghcoord.model import steps as model
from ghcoord.model.task import Task
from ghcoord.store.tx import Tx

PAGE = 200
"""Tasks or gates of one kind that one transaction moves at most."""

PAGE_BYTES = 4 * 1024 * 1024
"""Bytes of task records of one kind that it moves at most; a single larger one is moved alone."""


def run(tx: Tx) -> bool:
    """Do what is due; returns whether there is more to do at once, for which a page was too small."""
    _move(tx, SCHEDULED, model.due)
    _move(tx, BACKING_OFF, model.due)
    _move(tx, PREFERRED, model.unassign)
    gates.reopen_due(tx, PAGE)
    gates.forget_due(tx, PAGE)
    firing.fire_due(tx)
    return releasing.work(tx, PAGE)


def _move(tx: Tx, folder: str, step: Callable[[Task], Task]) -> None:
    """Take ``step`` with the tasks that are due in ``folder``."""
    changes: list[tuple[Task, Task]] = []
    room = PAGE_BYTES
    for at, name in timers.due(tx, folder, PAGE):
        task = records.get(tx, name)
        if task is None or layout.due_path(folder, at, name) not in layout.index_paths(task):
            timers.remove(tx, folder, at, name)
            continue
        room -= records.size_of(tx, task)
        if changes and room < 0:
            break
        changes.append((task, step(task)))
    if changes:
        records.put(tx, changes)


def next_due(tx: Tx) -> float | None:
    """When there is something to do next, in seconds since the epoch; in the past where there is already."""
    folders = (SCHEDULED, BACKING_OFF, PREFERRED, REOPENING, FORGETTING)
    times = [*(timers.next(tx, folder) for folder in folders), firing.next_fire(tx)]
    return min((at for at in times if at is not None), default=None)


def expects(tx: Tx) -> bool:
    """Whether tasks that were at work will go on by themselves: after a back-off, or when a gate opens."""
    return any(timers.next(tx, folder) is not None for folder in (BACKING_OFF, REOPENING))
