"""Waiting for tasks to end: one, all of many, or the first of many."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any, overload

from ghcoord.coord.context import TASK_TABLE, Context
from ghcoord.coord.layout import FLEET
from ghcoord.coord.tasks.read import Model, T, typed_value
from ghcoord.errors import NotFound, TaskFailed, WaitTimeout
from ghcoord.model.task import ENDED, State, Task, TaskResult
from ghcoord.store.base import Entry, Oid

LOOK_EVERY = 0.25
"""Seconds between looks at the hub's heads, which cost next to nothing."""

SHORT = 2.0
"""Seconds in which most short calls of a session end: in these it looks five times as often."""

_OPEN = tuple(f'"state": "{state}"'.encode() for state in State if state not in ENDED)
_ENDED = tuple(state.encode() for state in State if state in ENDED)


def _is_open(record: bytes) -> bool:
    """Whether the task cannot have ended, as far as that shows without decoding its record."""
    for word in _ENDED:
        if word in record:
            return False
    return any(word in record for word in _OPEN)


class Waiting:
    """The part of a hub's tasks that waits for their ends."""

    _context: Context

    @overload
    def wait(self, task_id: str, timeout: float | None = ...) -> TaskResult: ...

    @overload
    def wait(self, task_id: str, timeout: float | None = ..., *, model: Model[T]) -> T: ...

    def wait(self, task_id: str, timeout: float | None = 300.0, *, model: Model[Any] | None = None) -> Any:
        """The result once the task has ended: success or not.

        ``timeout`` in seconds, ``None`` for ever.  With a ``model`` the value
        that it returned, and ``TaskFailed`` when it did not succeed (see
        :meth:`result`).  Raises ``NotFound``, ``WaitTimeout``, and
        ``TaskFailed`` for a task that was cancelled before it ran.
        """
        (task,) = self.wait_many([task_id], timeout).values()
        if model is not None:
            return typed_value(task, model)
        if task.result is None:
            raise TaskFailed(f"task {task_id} was {task.state}: {task.cancel_reason or 'it never ran'}")
        return task.result

    def wait_many(
        self,
        task_ids: Collection[str],
        timeout: float | None = 300.0,
        *,
        any: bool = False,
        on_end: Callable[[Task], None] | None = None,
    ) -> dict[str, Task]:
        """The tasks by id once all have ended, however they did; with ``any`` those that had when the first had.

        ``on_end`` gets each task as it is seen to have ended.  However many
        there are, each look costs one request, and only records that changed
        are read.  Raises ``NotFound`` and ``WaitTimeout``, after ``timeout``
        seconds (``None``: never).
        """
        watch = _Watch(self._context, dict.fromkeys(task_ids), on_end)

        def look() -> dict[str, Task] | None:
            watch.look()
            enough = not watch.left or (any and watch.ended)
            return watch.ended if enough else None

        interval = min(self._context.poll_interval, LOOK_EVERY)
        started = self._context.runtime.monotonic()

        def left() -> float | None:
            return None if timeout is None else max(0.0, timeout - (self._context.runtime.monotonic() - started))

        try:
            with suppress(WaitTimeout):
                return self._context.poll(
                    look, SHORT if timeout is None else min(SHORT, timeout), "", interval / 5, FLEET
                )
            return self._context.poll(look, left(), "", interval, FLEET)
        except WaitTimeout:
            raise WaitTimeout(f"{watch.what_is_left()}: not within {timeout:g} s") from None


class _Watch:
    """The tasks that somebody waits for, and what has been seen of them."""

    def __init__(self, context: Context, wanted: dict[str, None], on_end: Callable[[Task], None] | None) -> None:
        self._context = context
        self._on_end = on_end
        self._head: Oid | None = ""
        self._seen: dict[str, Entry | None] = {}
        self._total = len(wanted)
        self.left = dict(wanted)
        self.ended: dict[str, Task] = {}

    def look(self) -> None:
        snapshot = self._context.snapshot(FLEET)
        if snapshot.head == self._head:
            return
        self._head = snapshot.head
        for task_id in list(self.left):
            path = TASK_TABLE.path(task_id)
            entry = snapshot.entry(path)
            if entry is None:
                raise NotFound(f"there is no task {task_id!r}")
            if entry == self._seen.get(task_id):
                continue
            self._seen[task_id] = entry
            data = snapshot.store.blob(entry.oid) if entry.is_file else b""
            if _is_open(data):
                continue
            task = TASK_TABLE.decode(data, FLEET, path)
            if task.ended:
                del self.left[task_id]
                self.ended[task_id] = task
                if self._on_end is not None:
                    self._on_end(task)

    def what_is_left(self) -> str:
        first = next(iter(self.left), "")
        if self._total == 1:
            return f"task {first} has not ended"
        return f"{len(self.left)} of {self._total} tasks have not ended (the first: {first})"
