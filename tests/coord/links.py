"""Whether what connects tasks is what the records say: who waits for whom, unique keys, timers of schedules."""

from __future__ import annotations

import json

from ghcoord.coord import layout
from ghcoord.coord.context import SCHEDULE_TABLE, TASK_TABLE
from ghcoord.coord.layout import FLEET
from ghcoord.coord.queue.uniqueness import MOST
from ghcoord.model.task import IfFailed, State, Task
from ghcoord.store.base import Store
from ghcoord.store.snapshot import Snapshot


def check_links(store: Store, now: float) -> dict[str, Task]:
    """Assert that the indexes of the fleet follow from its records; returns the tasks by id."""
    snapshot = Snapshot(store, FLEET, store.heads().get(FLEET))
    tasks = {task.id: task for task in TASK_TABLE.scan(snapshot)}
    _check_waiting(snapshot, tasks)
    _check_unique(snapshot, tasks, now)
    due = {one.name: one.next_fire for one in SCHEDULE_TABLE.scan(snapshot) if one.next_fire is not None}
    timers = {layout.due_path(layout.FIRING, at.timestamp(), name) for name, at in due.items()}
    assert timers == _files(snapshot, layout.FIRING)
    return tasks


def _files(snapshot: Snapshot, top: str) -> set[str]:
    return {path for path, _ in snapshot.walk(top)}


def _check_waiting(snapshot: Snapshot, tasks: dict[str, Task]) -> None:
    wanted = set()
    telling = {path.rpartition("/")[2] for path in _files(snapshot, layout.RELEASING)}
    for task in tasks.values():
        if task.state is not State.BLOCKED or task.dependencies is None:
            continue
        success = task.dependencies.if_failed is IfFailed.WAIT
        for awaited in task.dependencies.waiting_for:
            wanted.add(layout.dependent_path(awaited, task.id, success))
            other = tasks.get(awaited)
            if other is None or (other.ended and not (success and other.state is not State.SUCCEEDED)):
                assert awaited in telling, f"{task.id} is never told that {awaited} has ended"
    assert wanted == _files(snapshot, layout.DEPENDENTS)


def _check_unique(snapshot: Snapshot, tasks: dict[str, Task], now: float) -> None:
    standing: dict[str, set[str]] = {}
    counting: dict[str, set[str]] = {}
    for task in tasks.values():
        terms = task.unique
        if terms is None or task.state not in terms.states:
            continue
        standing.setdefault(terms.digest, set()).add(task.id)
        if terms.period is None or now - task.created_at.timestamp() < terms.period:
            counting.setdefault(terms.digest, set()).add(task.id)
    found = {}
    for path in _files(snapshot, layout.UNIQUE):
        digest = path.rpartition("/")[2].removesuffix(".json")
        assert path == layout.unique_path(digest)
        found[digest] = set(json.loads(snapshot.read(path) or b"")["tasks"])
    for digest in {*standing, *counting, *found}:
        kept = found.get(digest, set())
        assert kept <= standing.get(digest, set()), f"{digest} names tasks that do not count"
        assert counting.get(digest, set()) <= kept or len(kept) >= MOST, f"{digest} has lost a task"
