"""Which tasks are meant, and how to find them by reading no more than it takes."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ghcoord.coord import layout
from ghcoord.coord.context import TASK_TABLE
from ghcoord.coord.queue import listing
from ghcoord.errors import Corrupt, InvalidName, NewerSchema, UsageError
from ghcoord.ids import check_id
from ghcoord.model.codec import sane
from ghcoord.model.task import ENDED, State, Task
from ghcoord.store.snapshot import Snapshot
from ghcoord.units import MAX_DURATION

ORDER = (State.LEASED, State.QUEUED, State.FAILED, State.SCHEDULED, State.BLOCKED)
"""In which order tasks of several states are listed; those that have ended follow."""


@dataclass(frozen=True, slots=True)
class TaskQuery:
    """Tasks that meet all that is given. An empty query means all tasks.

    ``worker`` runs the task, is meant to, or ran it last.  ``key`` is that of
    its limit, ``schedule`` and ``batch`` are what made it.  ``metadata`` are
    keys with their values.  ``older_than`` is in seconds since its submission;
    ``ended_before`` is an aware datetime, or seconds ago.  ``ids`` names tasks.
    """

    states: Collection[str] = ()
    tool: str | None = None
    type: str | None = None
    worker: str | None = None
    key: str | None = None
    schedule: str | None = None
    batch: str | None = None
    submitted_by: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    older_than: float | None = None
    ended_before: datetime | float | None = None
    ids: Collection[str] | None = None

    def check(self) -> None:
        """Raise ``UsageError`` naming what is wrong."""
        states_of(self.states)
        for given, what in ((self.older_than, "older_than"), (self.ended_before, "ended_before")):
            if given is None or isinstance(given, datetime):
                continue
            if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given <= MAX_DURATION:
                raise UsageError(f"{what} {given!r} is out of range: give 0 to {MAX_DURATION:.0f} seconds")
        if isinstance(self.ended_before, datetime):
            if self.ended_before.tzinfo is None:
                raise UsageError("ended_before has no time zone: give an aware datetime, or seconds ago")
            try:
                sane(self.ended_before)
            except ValueError as error:
                raise UsageError(f"ended_before: {error}") from None
        if not isinstance(self.metadata, Mapping):
            raise UsageError("metadata must be a JSON object")
        if isinstance(self.ids, str):
            raise UsageError("ids must be a list of task ids")
        for one in self.ids or ():
            check_id(one, "task id")

    @property
    def is_by_state(self) -> bool:
        """Whether nothing but states is given, so that the hub's counts answer how many there are."""
        return self == TaskQuery(self.states)

    def matches(self, task: Task, now: float) -> bool:
        """Whether ``task`` is meant at the hub's time ``now`` (seconds)."""
        for wanted, found in (
            (self.tool, task.tool),
            (self.type, task.need.type),
            (self.worker, task.worker),
            (self.key, None if task.limit is None else task.limit.key),
            (self.schedule, task.schedule),
            (self.batch, task.batch),
            (self.submitted_by, task.submitted_by),
        ):
            if wanted is not None and wanted != found:
                return False
        return (
            (not self.states or task.state in self.states)
            and (self.ids is None or task.id in self.ids)
            and all(name in task.metadata and task.metadata[name] == value for name, value in self.metadata.items())
            and (self.older_than is None or now - task.created_at.timestamp() >= self.older_than)
            and self._ended_in_time(task, now)
        )

    def _ended_in_time(self, task: Task, now: float) -> bool:
        if self.ended_before is None:
            return True
        limit = self.ended_before.timestamp() if isinstance(self.ended_before, datetime) else now - self.ended_before
        return task.ended and task.ended_at is not None and task.ended_at.timestamp() <= limit


def states_of(given: Collection[str]) -> list[State]:
    """States by their names, all for none; raises ``UsageError``."""
    names = [given] if isinstance(given, str) else [*given] or list(State)
    try:
        return [State(name) for name in dict.fromkeys(names)]
    except (ValueError, TypeError):
        raise UsageError(f"unknown state: one of {', '.join(State)}") from None


def find(snapshot: Snapshot, query: TaskQuery, now: float) -> Iterator[Task]:
    """The tasks that ``query`` means, read one by one as they are asked for.

    Those that run come first, newest first, then queued ones in the order in
    which they will run, those that wait, and ended ones, latest first.
    """
    wanted = states_of(query.states)
    ids = _indexed(snapshot, wanted) if query.ids is None else dict.fromkeys(query.ids)
    for task_id in ids:
        task = read(snapshot, task_id)
        if task is not None and task.state in wanted and query.matches(task, now):
            yield task


def read(snapshot: Snapshot, task_id: str) -> Task | None:
    """The task, or ``None`` when there is none or a person broke its record."""
    try:
        return TASK_TABLE.find(snapshot, task_id)
    except (Corrupt, NewerSchema, InvalidName):
        return None


def _indexed(snapshot: Snapshot, states: Collection[State]) -> Iterator[str]:
    """Ids of the tasks in these states from the index, in the order of :func:`find`."""
    for state in ORDER:
        if state is State.LEASED and state in states:
            names = (path.rpartition("/")[2] for path, _ in snapshot.walk(layout.LEASED))
            yield from (name.partition("-")[2] for name in sorted(names, reverse=True))
        elif state in states:
            yield from listing.ids_of(snapshot, state)
    ended = [listing.ended(snapshot, state) for state in State if state in ENDED and state in states]
    yield from (task_id for _, task_id in heapq.merge(*ended, key=lambda one: one[0], reverse=True))
