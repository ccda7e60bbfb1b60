"""The index, the counts and the gates made anew from the records, after a person broke one of them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from ghcoord.coord import layout
from ghcoord.coord.context import TASK_TABLE
from ghcoord.coord.layout import FLEET
from ghcoord.coord.queue import counts, dependencies, firing, gates, uniqueness
from ghcoord.coord.queue.counts import Counts
from ghcoord.coord.sessions import mending
from ghcoord.errors import Corrupt, InvalidName, NewerSchema
from ghcoord.ids import decode_component
from ghcoord.model import gate as model
from ghcoord.model.gate import Gate
from ghcoord.model.task import State, Task
from ghcoord.store.tx import Tx

FORMER = ("index/backing-off",)
"""Folders of the index of earlier versions."""

OF_GATES = (layout.READY, layout.ASSIGNED, layout.IN_SESSIONS, layout.REOPENING, layout.FORGETTING)
"""Folders of the index in which gates have files, too."""


def rebuild(tx: Tx) -> None:
    """Make everything that follows from the tasks' records anew."""
    fresh = Counts()
    wanted: set[str] = set()
    linked: list[Task] = []
    unique: list[Task] = []
    limited: list[Task] = []
    for task in _tasks(tx):
        wanted.update(layout.index_paths(task))
        fresh.follow(None, task)
        if task.dependencies is not None:
            linked.append(task)
        if task.unique is not None:
            unique.append(task)
        if task.limit is not None:
            limited.append(task)
    present = {path for folder in (*layout.QUEUE_INDEX, *FORMER) for path in tx.walk(FLEET, folder)}
    strays = {path for path in present - wanted if path.startswith(tuple(f"{folder}/" for folder in OF_GATES))}
    for path in present - wanted - strays:
        tx.delete(FLEET, path)
    for path in wanted - present:
        tx.write(FLEET, path, layout.MARKER)
    fresh.sequence = max(fresh.sequence, counts.read(tx).sequence)
    counts.write(tx, fresh)
    gates.rebuild(tx, _gates(limited, tx.now), strays)
    uniqueness.rebuild(tx, unique)
    dependencies.rebuild(tx, linked)
    mending.rebuild(tx)
    firing.rebuild(tx)


def _tasks(tx: Tx) -> Iterator[Task]:
    """Every readable task; one that lies where schema 1 had it is moved to its place."""
    for path in list(tx.walk(FLEET, layout.TASKS)):
        data = tx.read(FLEET, path)
        if data is None:
            continue
        place = _place(path)
        try:
            task = TASK_TABLE.decode(data, FLEET, place)
        except (Corrupt, NewerSchema):
            continue
        if place != path:
            if tx.read(FLEET, place) is not None:
                continue
            tx.write(FLEET, place, data)
            tx.delete(FLEET, path)
        yield task


def _place(path: str) -> str:
    """Where the record at ``path`` belongs, if schema 1 put it there; else ``path`` itself."""
    task_id = decode_component(path.rpartition("/")[2].removesuffix(".json"))
    try:
        return path if task_id is None or layout.former_task_path(task_id) != path else layout.task_path(task_id)
    except InvalidName:
        return path


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
