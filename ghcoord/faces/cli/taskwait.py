"""Waiting for tasks on the command line, and how their ends are told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from ghcoord.errors import NotFound, WaitTimeout
from ghcoord.faces import views
from ghcoord.faces.cli.batch import progress_bar
from ghcoord.faces.cli.context import invocation
from ghcoord.faces.cli.hints import say_unserved
from ghcoord.faces.cli.output import clean_text, emit, note
from ghcoord.units import format_duration

if TYPE_CHECKING:
    from ghcoord.hub import Hub
    from ghcoord.model.task import Task

SOON = 3.0
"""Seconds of waiting before it is said that no worker is alive: one may just be starting."""


def need(hub: Hub, task_id: str) -> Task:
    """The task; raises ``NotFound``."""
    task = hub.tasks.get(task_id)
    if task is None:
        raise NotFound(f"there is no task {task_id[:140]!r}")
    return task


def await_all(hub: Hub, tasks: Sequence[Task], timeout: float, *, any: bool = False) -> list[Task]:
    """The tasks once all have ended, however they did, or with ``any`` those that had when the first had.

    When that takes a while, says once which of them no worker runs.  Raises
    ``WaitTimeout`` and ``NotFound``.
    """
    ids = list(dict.fromkeys(task.id for task in tasks))
    ended: dict[str, Task] = {}
    soon = min(SOON, timeout)
    with progress_bar(len(ids), "waiting") if len(ids) > 1 else _quiet() as progress:

        def on_end(task: Task) -> None:
            ended[task.id] = task
            progress(len(ended))

        try:
            try:
                hub.tasks.wait_many(ids, soon, any=any, on_end=on_end)
            except WaitTimeout:
                say_unserved(hub, [task for task in tasks if task.id not in ended])
                left = [task_id for task_id in ids if task_id not in ended]
                hub.tasks.wait_many(left, timeout - soon, any=any, on_end=on_end)
        except WaitTimeout:
            raise _too_late(hub, [task_id for task_id in ids if task_id not in ended], len(ids), timeout) from None
    return [ended[task_id] for task_id in ids if task_id in ended]


@contextmanager
def _quiet() -> Iterator[Callable[[int], None]]:
    yield lambda done: None


def _too_late(hub: Hub, left: Sequence[str], total: int, timeout: float) -> WaitTimeout:
    state = need(hub, left[0]).state
    if total == 1:
        return WaitTimeout(f"task {left[0]} is still {state} after {format_duration(timeout)}")
    return WaitTimeout(
        f"{len(left)} of {total} tasks have not ended after {format_duration(timeout)}: {left[0]} is {state}"
    )


def report_end(task: Task) -> None:
    """Print how a task ended; exits 8 unless it succeeded."""
    if invocation().json:
        emit(views.task_view(task))
    elif task.result is not None and task.result.output:
        print(clean_text(task.result.output.removesuffix("\n")))
    if task.state != "succeeded" and not invocation().json:
        note(f"error: task {task.id} {how_it_ended(task)}")
    exit_unless_succeeded([task])


def exit_unless_succeeded(ended: Sequence[Task]) -> None:
    """Exit with 8 when one of the tasks did not succeed."""
    if any(task.state != "succeeded" for task in ended):
        raise typer.Exit(8)


def how_it_ended(task: Task) -> str:
    """Why a task did not succeed, and where to look further if it ran."""
    if task.state == "cancelled":
        return f"is cancelled{f': {task.cancel_reason}' if task.cancel_reason else ''}"
    why = task.result.error if task.result is not None else ""
    look = f" (see 'ghcoord task logs {task.id}')" if task.attempt else ""
    return f"is {task.state}{f': {why}' if why else ''}{look}"
