"""``ghcoord task``: submit tasks and follow them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from ghcoord.errors import UsageError
from ghcoord.faces import views
from ghcoord.faces.cli import taskbulk
from ghcoord.faces.cli import taskselect as select
from ghcoord.faces.cli.common import duration, group, number, verb
from ghcoord.faces.cli.context import invocation, open_hub
from ghcoord.faces.cli.hints import say_unserved
from ghcoord.faces.cli.output import clean_text, emit, emit_line, respond, say
from ghcoord.faces.cli.tasksubmit import submit
from ghcoord.faces.cli.tasktext import show_table, show_task
from ghcoord.faces.cli.taskwait import await_all, exit_unless_succeeded, need, report_end

if TYPE_CHECKING:
    from ghcoord.model.task import Task

app = group("Submit tasks and follow them.")

Id = Annotated[str, typer.Argument(metavar="ID", help="The task's id.")]

verb(app, "submit")(submit)


@verb(app, "list")
def list_(
    state: select.States = None,
    limit: Annotated[int | None, number("--limit", least=0, help="At most N.")] = None,
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
) -> None:
    """List tasks that meet all filters.

    Those that run come first, then queued ones in the order in which they will
    run, those that wait, and ended ones, latest first. A task that failed and
    waits for its back-off is failed; one out of tries is dead. With --limit no
    more is read than it takes.

    Example:
      ghcoord task list --state dead --limit 20
      ghcoord task list --schedule nightly --ended-before 1d
    """
    filters = select.Filters(state, tool, type_, worker, key, schedule, batch, by, meta, older_than, ended_before)
    with open_hub() as hub:
        found = hub.tasks.list(limit=limit, query=filters.query(hub))
    respond([views.task_view(task) for task in found], lambda: show_table(found))


@verb(app, "show")
def show(task_id: Id) -> None:
    """Show a task: its arguments, attempts and result, and why it waits if no worker takes it.

    Example:
      ghcoord task show t42
    """
    with open_hub() as hub:
        task = need(hub, task_id)
        why = hub.tasks.why_waits(task)
    respond({**views.task_view(task), "waiting_because": why or None}, lambda: show_task(task, why))


@verb(app, "wait")
def wait(
    task_ids: Annotated[list[str], typer.Argument(metavar="ID...", help="The tasks' ids.")],
    timeout: Annotated[
        float, duration("--timeout", help="Longest wait; exits 9; default 5m.", show_default=False)
    ] = 300.0,
    any_: Annotated[bool, typer.Option("--any", help="Until the first of them has ended.")] = False,
) -> None:
    """Wait until tasks have ended. Exits 8 when one failed, 9 after --timeout.

    Of one task the output is printed, of several how they ended.

    Example:
      ghcoord task wait t42 --timeout 5m
      ghcoord task wait t42 t43 t44 --any
    """
    with open_hub() as hub:
        ended = await_all(hub, [need(hub, task_id) for task_id in task_ids], timeout, any=any_)
    if len(task_ids) == 1:
        report_end(ended[0])
        return
    respond([views.task_view(task) for task in ended], lambda: _say_ends(ended))
    exit_unless_succeeded(ended)


def _say_ends(ended: Sequence[Task]) -> None:
    show_table(ended)
    counts = Counter(str(task.state) for task in ended)
    say(", ".join(f"{count} {state}" for state, count in sorted(counts.items())))


for _name in ("cancel", "retry", "purge", "assign", "unassign"):
    verb(app, _name)(getattr(taskbulk, _name))


@verb(app, "logs")
def logs(
    task_id: Id,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the task has ended.")] = False,
    timeout: Annotated[
        float | None, duration("--timeout", help="With --follow: exits 9 when nothing new comes for this long.")
    ] = None,
) -> None:
    """Print a task's output, while it runs the end of it.

    With --json an object with id and text; with --follow one a line.

    Example:
      ghcoord task logs t42 --follow
    """
    if timeout is not None and not follow:
        raise UsageError("--timeout goes with --follow")
    with open_hub() as hub:
        if follow:
            say_unserved(hub, [need(hub, task_id)])
        pieces = hub.tasks.logs(task_id, follow, timeout)
        if invocation().json and not follow:
            emit({"id": task_id, "text": "".join(pieces)})
            return
        for piece in pieces:
            if invocation().json:
                emit_line({"id": task_id, "text": piece})
            else:
                print(clean_text(piece), end="" if piece.endswith("\n") or follow else "\n", flush=True)
