"""Tasks read inside a transaction."""

from __future__ import annotations

from ghcoord.coord.context import TASK_TABLE
from ghcoord.coord.layout import FLEET
from ghcoord.errors import Corrupt, InvalidName, NewerSchema
from ghcoord.model.task import Task
from ghcoord.store.tx import Tx

Pair = tuple[Task | None, Task | None]
"""A task before and after a change; ``None`` where there is none."""


def get(tx: Tx, task_id: str) -> Task | None:
    """The task, or ``None`` when there is none or a person broke its record."""
    try:
        return TASK_TABLE.get(tx, FLEET, task_id)
    except (Corrupt, NewerSchema, InvalidName):
        return None


def sized(tx: Tx, task_id: str) -> tuple[Task, int] | None:
    """As :func:`get`, with the bytes of its record."""
    try:
        path = TASK_TABLE.path(task_id)
        data = tx.read(FLEET, path)
        return None if data is None else (TASK_TABLE.decode(data, FLEET, path), len(data))
    except (Corrupt, NewerSchema, InvalidName):
        return None


def is_there(tx: Tx, task_id: str) -> bool:
    """Whether a record of that name is there, be it one that cannot be read."""
    try:
        return tx.read(FLEET, TASK_TABLE.path(task_id)) is not None
    except InvalidName:
        return False


def size_of(tx: Tx, task: Task) -> int:
    """Bytes of a task's record."""
    return len(tx.read(FLEET, TASK_TABLE.path(task.id)) or b"")
