"""The queue's own record: how many tasks are in each state, of each line, and the next place in the queue."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ghcoord.coord import layout
from ghcoord.coord.layout import FLEET
from ghcoord.errors import UsageError
from ghcoord.model.codec import to_json
from ghcoord.model.task import State, Task
from ghcoord.store.tx import Tx

MAX_SEQUENCE = 2**40
"""Places in the queue that the names of its index have room for."""

MAX_CLASSES = 1000
"""Lines of equal needs that the tasks which have not ended stand in, at most: every worker looks at all of them."""


@dataclass(slots=True)
class Counts:
    """``queue.json``: ``states`` counts all tasks, ``classes`` those that have not ended, by the name of their line."""

    sequence: int = 0
    states: dict[State, int] = field(default_factory=dict)
    classes: dict[str, int] = field(default_factory=dict)

    def follow(self, old: Task | None, new: Task | None) -> None:
        """Count ``new`` instead of ``old``; ``None`` where there is none."""
        for task, change in ((old, -1), (new, 1)):
            if task is not None:
                self.states[task.state] = max(0, self.states.get(task.state, 0) + change)
        before, after = (task if task is not None and not task.ended else None for task in (old, new))
        if before is None or after is None or not _alike(before, after):
            for task, change in ((before, -1), (after, 1)):
                if task is not None:
                    name = layout.class_of(task.need)
                    self.classes[name] = max(0, self.classes.get(name, 0) + change)
        if new is not None:
            self.sequence = max(self.sequence, following(new))


def _alike(one: Task, other: Task) -> bool:
    """Whether two tasks need the same of a worker."""
    return one.type == other.type and one.tool == other.tool and one.requirements == other.requirements


def following(task: Task) -> int:
    """The sequence number after a task's; one that a person made up far ahead does not count."""
    return task.sequence + 1 if task.sequence < MAX_SEQUENCE // 2 else 0


def parse(raw: bytes | None) -> Counts:
    """The counts in a record; empty for one that a person broke, until ``rebuild`` makes it anew."""
    try:
        value = json.loads(raw) if raw is not None else {}
        states = {State(name): max(0, int(count)) for name, count in value.get("counts", {}).items()}
        classes = {str(name): max(0, int(count)) for name, count in value.get("classes", {}).items()}
        sequence = int(value.get("sequence", 0))
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        return Counts()
    return Counts(sequence if 0 <= sequence < MAX_SEQUENCE // 2 else 0, states, classes)


def read(tx: Tx) -> Counts:
    """The counts as the transaction sees them."""
    return parse(tx.read(FLEET, layout.QUEUE_RECORD))


def write(tx: Tx, counts: Counts) -> None:
    record: dict[str, Any] = {
        "classes": {name: count for name, count in counts.classes.items() if count},
        "counts": {str(state): count for state, count in counts.states.items() if count},
        "format": 1,
        "sequence": counts.sequence,
    }
    tx.write(FLEET, layout.QUEUE_RECORD, to_json(record).encode())


def check_classes(tx: Tx, tasks: Iterable[Task]) -> None:
    """Raises ``UsageError`` when ``tasks``, which are to be queued, would stand in too many different lines."""
    present = {name for name, count in read(tx).classes.items() if count}
    if len(present | {layout.class_of(task.need) for task in tasks}) > MAX_CLASSES:
        raise UsageError(
            f"open tasks would have more than {MAX_CLASSES:,} different needs (type, tool, cores, memory, "
            "capabilities): use fewer, and put what differs from task to task into args or metadata"
        )
