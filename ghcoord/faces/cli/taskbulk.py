"""``ghcoord task cancel``, ``retry`` and ``purge``, by id or by query, ``assign`` and ``unassign``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ghcoord.errors import GhcoordError, IllegalTransition, UsageError
from ghcoord.faces import views
from ghcoord.faces.cli import taskselect as select
from ghcoord.faces.cli.batch import progress_bar
from ghcoord.faces.cli.common import confirm
from ghcoord.faces.cli.context import invocation, open_hub
from ghcoord.faces.cli.output import note, respond, say
from ghcoord.faces.cli.tasktext import in_short
from ghcoord.faces.cli.taskwait import need

if TYPE_CHECKING:
    from ghcoord.hub import Hub, TaskQuery
    from ghcoord.model.task import Task

Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID...]", help="The tasks' ids; or filters.")]
All = Annotated[bool, typer.Option("--all", help="All tasks for which it can be done.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="The task's id.")]

REFUSED_SHOWN = 10
"""Refusals that are shown one by one."""


def cancel(
    task_ids: Ids = None,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Kept in the record.")] = "",
    state: select.States = None,
    tool: select.Tool = None,
    type_: select.Type = None,
    worker: select.Worker = None,
    key: select.Key = None,
    schedule: select.Schedule = None,
    batch: select.Batch = None,
    by: select.By = None,
    meta: select.Meta = None,
    older_than: select.OlderThan = None,
    all_: All = False,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Cancel tasks: at once while they wait, else their workers end them.

    By ids, exits 4 for one that has ended; or all that have not ended and meet
    the filters, after showing how many they are. Those that wait for a
    cancelled task are told.

    Example:
      ghcoord task cancel t42 --reason "wrong input"
      ghcoord task cancel --tool build --older-than 2h --dry-run
    """
    filters = select.Filters(state, tool, type_, worker, key, schedule, batch, by, meta, older_than)
    with open_hub() as hub:
        if task_ids:
            _no_filters(filters, all_, dry_run)
            _each(task_ids, lambda task_id: hub.tasks.cancel(task_id, reason), "cancelled", _say_cancelled)
            return

        def run(query: TaskQuery, **more: Any) -> Any:
            return hub.tasks.cancel_many(query, reason, **more)

        _many(hub, filters, all_, run, ("cancel", "cancelled"), dry_run=dry_run, yes=yes)


def _say_cancelled(task: Task) -> None:
    say(f"{task.id} {'cancelled' if task.ended else f'running on {task.worker}, which is asked to cancel it'}")


def retry(
    task_ids: Ids = None,
    state: select.States = None,
    tool: select.Tool = None,
    type_: select.Type = None,
    worker: select.Worker = None,
    key: select.Key = None,
    schedule: select.Schedule = None,
    batch: select.Batch = None,
    by: select.By = None,
    meta: select.Meta = None,
    older_than: select.OlderThan = None,
    ended_before: select.EndedBefore = None,
    all_: All = False,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Queue dead, cancelled, scheduled or backing-off tasks now.

    By ids, exits 4 for one in another state or whose unique key another task
    has; or all that meet the filters: dead ones, unless --state says otherwise.

    Example:
      ghcoord task retry t42
      ghcoord task retry --state dead --tool build --yes
    """
    filters = select.Filters(state, tool, type_, worker, key, schedule, batch, by, meta, older_than, ended_before)
    with open_hub() as hub:
        if task_ids:
            _no_filters(filters, all_, dry_run)
            _each(task_ids, hub.tasks.retry, "retried", lambda task: say(f"{task.id} queued"))
            return
        _many(hub, filters, all_, hub.tasks.retry_many, ("retry", "retried"), dry_run=dry_run, yes=yes)


def purge(
    task_ids: Ids = None,
    state: select.States = None,
    tool: select.Tool = None,
    type_: select.Type = None,
    worker: select.Worker = None,
    key: select.Key = None,
    schedule: select.Schedule = None,
    batch: select.Batch = None,
    by: select.By = None,
    meta: select.Meta = None,
    older_than: select.OlderThan = None,
    ended_before: select.EndedBefore = None,
    all_: All = False,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Remove tasks that have ended, by ids or those that meet the filters.

    Those that others wait for stay. Workers remove old ones by themselves: see
    retention in 'ghcoord config list'. Exits 4 when one named by its id stays.

    Example:
      ghcoord task purge --state succeeded --ended-before 1d --yes
      ghcoord task purge --all --dry-run
    """
    filters = select.Filters(state, tool, type_, worker, key, schedule, batch, by, meta, older_than, ended_before)
    if task_ids and filters.given:
        raise UsageError("give ids or filters, not both")
    with open_hub() as hub:
        for task_id in task_ids or ():
            _check_ended(need(hub, task_id))
        names = ("purge", "purged")
        _many(hub, filters, all_, hub.tasks.purge, names, ids=task_ids, dry_run=dry_run, yes=yes)


def _check_ended(task: Task) -> None:
    if not task.ended:
        raise IllegalTransition(f"task {task.id} is {task.state}: only tasks that have ended are purged")


def assign(
    task_id: Id, worker_id: Annotated[str, typer.Argument(metavar="WORKER", help="The worker that is to run it.")]
) -> None:
    """Mean a task that has not started for one worker, while that one is alive.

    Exits 3 when there is no such task or living worker, 4 when the task runs or
    has ended. 'ghcoord balance rebalance' may move it.

    Example:
      ghcoord task assign t42 w1
    """
    with open_hub() as hub:
        task = hub.tasks.assign(task_id, worker_id)
    respond(views.task_view(task), lambda: say(f"{task.id} is meant for {worker_id}"))


def unassign(task_id: Id) -> None:
    """Let any worker take a task again.

    Example:
      ghcoord task unassign t42
    """
    with open_hub() as hub:
        task = hub.tasks.unassign(task_id)
    respond(views.task_view(task), lambda: say(f"{task.id} is for any worker"))


# -- by ids


def _no_filters(filters: select.Filters, all_: bool, dry_run: bool) -> None:
    if filters.given or all_:
        raise UsageError("give ids or filters, not both")
    if dry_run:
        raise UsageError("--dry-run goes with filters: ids say what will happen")


def _each(task_ids: Sequence[str], change: Callable[[str], Task], done: str, tell: Callable[[Task], None]) -> None:
    """Change each task. Of one alone the error is raised; of several each is told, and the first sets the exit code."""
    if len(task_ids) == 1:
        task = change(task_ids[0])
        respond(views.task_view(task), lambda: tell(task))
        return
    changed: list[Task] = []
    refused: dict[str, str] = {}
    code = 0
    for task_id in dict.fromkeys(task_ids):
        try:
            changed.append(change(task_id))
        except GhcoordError as error:
            refused[task_id] = error.message
            code = code or error.exit_code
    respond({done: [task.id for task in changed], "refused": refused}, lambda: _tell_each(changed, refused, tell))
    if code:
        raise typer.Exit(code)


def _tell_each(changed: Sequence[Task], refused: dict[str, str], tell: Callable[[Task], None]) -> None:
    for task in changed:
        tell(task)
    for reason in refused.values():
        note(f"error: {reason}")


# -- by query


def _many(
    hub: Hub,
    filters: select.Filters,
    all_: bool,
    run: Callable[..., Any],
    verbs: tuple[str, str],
    *,
    dry_run: bool,
    yes: bool,
    ids: Sequence[str] | None = None,
) -> None:
    """Show what would be done, ask, do it, and say what was done; ``verbs`` are as in «cancel» and «cancelled»."""
    from dataclasses import replace

    present, past = verbs
    if not ids and not filters.given and not all_:
        raise UsageError(f"say which tasks to {present}: ids, filters such as --state and --tool, or --all")
    query = replace(filters.query(hub), ids=tuple(ids) if ids else None)
    plan = run(query, dry_run=True)
    if dry_run:
        view = {"count": plan.changed, "dry_run": True, "first": [views.task_view(task) for task in plan.first]}
        respond(view, lambda: _show_plan(plan.changed, plan.first, past, say))
        return
    if plan.changed and not yes:
        if not invocation().json:
            _show_plan(plan.changed, plan.first, past, note)
        confirm(f"{present.capitalize()} {_tasks(plan.changed)}?", yes)
    with progress_bar(plan.changed, present) as progress:
        done = run(query, on_progress=progress)
    respond({past: done.changed, "refused": done.refused}, lambda: _tell_done(done.changed, done.refused, past))
    if ids and done.refused:
        raise typer.Exit(4)


def _show_plan(count: int, first: Sequence[Task], past: str, tell: Callable[[object], None]) -> None:
    tell(f"{_tasks(count)} would be {past}{':' if first else ''}")
    for task in first:
        short = in_short(task)
        tell(f"  {task.id}  {task.tool}  {task.state}{f'  {short}' if short != '-' else ''}")
    if count > len(first):
        tell(f"  … and {count - len(first)} more")


def _tell_done(changed: int, refused: dict[str, str], past: str) -> None:
    say(f"{_tasks(changed)} {past}{f', {len(refused)} refused' if refused else ''}")
    for reason in list(refused.values())[:REFUSED_SHOWN]:
        note(reason)


def _tasks(count: int) -> str:
    return f"{count} task{'' if count == 1 else 's'}"
