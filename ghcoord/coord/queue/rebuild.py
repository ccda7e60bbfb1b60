"""The index, the counts and the gates made anew from the records, after a person broke one of them."""

from __future__ import annotations

from datetime import datetime

from ghcoord.coord import layout
from ghcoord.coord.context import TASK_TABLE
from ghcoord.coord.layout import FLEET
from ghcoord.coord.queue import counts, dependencies, gates, uniqueness
from ghcoord.coord.queue.counts import Counts
from ghcoord.model import gate as model
from ghcoord.model.gate import Gate
from ghcoord.model.task import State, Task
from ghcoord.store.tx import Tx

FORMER = ("index/backing-off",)
"""Folders of the index of earlier versions."""


def rebuild(tx: Tx) -> None:
    """Make everything that follows from the tasks' records anew."""
    fresh = Counts()
    wanted: set[str] = set()
    linked: list[Task] = []
    unique: list[Task] = []
    limited: list[Task] = []
    for task in TASK_TABLE.all(tx, FLEET):
        wanted.update(layout.index_paths(task))
        fresh.count(task, 1)
        if task.dependencies is not None:
            linked.append(task)
        if task.unique is not None:
            unique.append(task)
        if task.limit is not None:
            limited.append(task)
    for folder in (*layout.QUEUE_INDEX, *FORMER):
        for path in list(tx.walk(FLEET, folder)):
            if path in wanted:
                wanted.discard(path)
            else:
                tx.delete(FLEET, path)
    for path in wanted:
        tx.write(FLEET, path, layout.MARKER)
    fresh.sequence = max(fresh.sequence, counts.read(tx).sequence)
    counts.write(tx, fresh)
    gates.rebuild(tx, _gates(limited, tx.now))
    uniqueness.rebuild(tx, unique)
    dependencies.rebuild(tx, linked)


def _gates(tasks: list[Task], now: float) -> dict[str, Gate]:
    """What the tasks say of their gates: the latest limits, what runs, and the starts that they remember."""
    found: dict[str, Gate] = {}
    starts: dict[str, list[datetime]] = {}
    for task in sorted(tasks, key=lambda task: task.sequence):
        if task.limit is None:
            continue
        key = task.limit.key
        seen = starts.setdefault(key, [])
        seen += [attempt.started_at for attempt in task.history]
        gate = found.get(key) or Gate(key=key)
        if task.state is State.LEASED and task.lease is not None:
            seen.append(task.lease.at)
            gate = gate.model_copy(update={"running": gate.running + 1})
        found[key] = model.limited(gate, task.limit)
    remembered = {key: gate.model_copy(update={"starts": tuple(sorted(starts[key]))}) for key, gate in found.items()}
    return {key: model.pruned(gate, now) for key, gate in remembered.items()}
