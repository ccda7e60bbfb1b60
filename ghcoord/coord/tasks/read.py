"""Tasks looked at: one, those of a query, how many there are, what they left."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Collection, Iterator
from functools import partial
from itertools import islice
from typing import Any, TypeVar, overload

from pydantic import ValidationError

from ghcoord.coord import layout
from ghcoord.coord.context import TASK_TABLE, Context
from ghcoord.coord.layout import FLEET
from ghcoord.coord.queue import counts
from ghcoord.coord.tasks.logs import Follower, FullLogs, whole_output
from ghcoord.coord.tasks.query import TaskQuery, find, states_of
from ghcoord.coord.tasks.reasons import why_waits
from ghcoord.errors import Corrupt, NotFound, TaskFailed, UsageError
from ghcoord.model.requirements import Need
from ghcoord.model.task import State, Task, TaskResult

T = TypeVar("T")

Model = type[T] | Callable[[Any], T]
"""What makes something typed of a JSON value: a pydantic model, or any callable."""


class Reading:
    """The part of a hub's tasks that looks at them."""

    _context: Context
    _full_logs: FullLogs | None = None

    def get(self, task_id: str) -> Task | None:
        """The task's record."""
        return TASK_TABLE.find(self._context.snapshot(FLEET), task_id)

    def list(
        self,
        state: str | Collection[str] | None = None,
        limit: int | None = None,
        tool: str | None = None,
        *,
        query: TaskQuery | None = None,
    ) -> builtins.list[Task]:
        """Tasks of one state or several, or those of ``query``, at most ``limit``.

        Those that run come first, then queued ones in the order in which they
        will run, those that wait, and ended ones, latest first.  With a limit
        no more is read than it takes.
        """
        if query is None:
            query = TaskQuery(states=(state,) if isinstance(state, str) else tuple(state or ()), tool=tool)
        elif state is not None or tool is not None:
            raise UsageError("a query has its own states and tool: give either")
        if limit is not None and limit < 0:
            raise UsageError("the limit must not be negative")
        if state is not None and not query.states:
            return []
        query.check()
        return list(islice(find(self._context.snapshot(FLEET), query, self._context.now()), limit))

    def count(self, query: TaskQuery | None = None) -> int:
        """How many tasks ``query`` means; free when it names only states, else the tasks are read."""
        query = query or TaskQuery()
        query.check()
        if query.is_by_state:
            present = self.counts()
            return sum(present[state] for state in states_of(query.states))
        return sum(1 for _ in find(self._context.snapshot(FLEET), query, self._context.now()))

    def counts(self) -> dict[str, int]:
        """How many tasks are in each state."""
        present = counts.parse(self._context.snapshot(FLEET).read(layout.QUEUE_RECORD)).states
        return {str(state): present.get(state, 0) for state in State}

    def why_waits(self, task: Task | str) -> str:
        """Why no worker runs a queued task, or the one of that id, and what helps; empty where one is about to.

        Raises ``NotFound``.
        """
        found = self._need(task) if isinstance(task, str) else task
        context = self._context
        return why_waits(context.snapshot(FLEET), found, context.judge(), context.now())

    def needs(self) -> dict[Need, int]:
        """How many tasks that have not ended need what of a worker."""
        present = counts.parse(self._context.snapshot(FLEET).read(layout.QUEUE_RECORD)).classes
        known = {layout.parse_need(name): count for name, count in sorted(present.items()) if count}
        return {need: count for need, count in known.items() if need is not None}

    @overload
    def result(self, task_id: str) -> TaskResult | None: ...

    @overload
    def result(self, task_id: str, model: Model[T]) -> T | None: ...

    def result(self, task_id: str, model: Model[Any] | None = None) -> Any:
        """The result of the last attempt that had one; ``None`` when there was none.

        With a ``model`` the value that the task returned, as :func:`typed_value`
        does it.  Raises ``NotFound``.
        """
        task = self._need(task_id)
        if model is None or task.result is None:
            return task.result
        return typed_value(task, model)

    def logs(self, task_id: str, follow: bool = False, timeout: float | None = None) -> Iterator[str]:
        """The task's output: all of it once it has ended, before that the tail that its worker last published.

        With ``follow`` goes on until the task has ended, marking what passed by
        between two publications.  Raises ``NotFound``, and ``WaitTimeout`` when
        nothing new came for ``timeout`` seconds.
        """
        task = self._need(task_id)
        if not follow:
            whole = self._full_logs.of(task) if self._full_logs is not None else None
            yield from filter(None, [whole_output(task)] if whole is None else whole)
            return
        follower = Follower(self._full_logs)
        while True:
            if text := follower.next(task):
                yield text
            if task.ended:
                return
            task = self._context.poll(partial(self._changed, task), timeout, f"task {task_id} said nothing new")

    def _changed(self, before: Task) -> Task | None:
        now = self._need(before.id)
        return now if now != before else None

    def _need(self, task_id: str) -> Task:
        task = self.get(task_id)
        if task is None:
            raise NotFound(f"there is no task {task_id!r}")
        return task


def typed_value(task: Task, model: Model[T]) -> T:
    """The value that a successful task returned, made by ``model``.

    That is what a registered function returned, and ``data`` of other tools.
    Raises ``TaskFailed`` for a task that did not succeed, ``Corrupt`` for a
    value that does not fit.
    """
    if task.result is None or not task.result.success:
        raise TaskFailed(f"task {task.id} {how_it_ended(task)}: it returned no value")
    data = task.result.data
    value = data["value"] if data.keys() == {"value"} else data
    make: Callable[[Any], T] = getattr(model, "model_validate", model)
    try:
        return make(value)
    except (ValueError, TypeError) as error:
        name = getattr(model, "__name__", model)
        raise Corrupt(f"what task {task.id} returned does not fit {name}: {_why(error)}") from error


def _why(error: Exception) -> str:
    """A validation's first complaint, as ``size: Field required``."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False, include_input=False)[0]
    return ": ".join(part for part in (".".join(map(str, first["loc"])), first["msg"]) if part)


def how_it_ended(task: Task) -> str:
    """``is cancelled: wrong input``, ``is dead: exit code 3``."""
    why = task.cancel_reason if task.state is State.CANCELLED else task.result.error if task.result is not None else ""
    return f"is {task.state}{f': {why}' if why else ''}"
