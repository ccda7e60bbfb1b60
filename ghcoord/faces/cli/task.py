"""``ghcoord task``: submit tasks and follow them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ghcoord.errors import NotFound, TaskFailed, UsageError, WaitTimeout
from ghcoord.faces import views
from ghcoord.faces.cli.batch import progress_bar, read_batch
from ghcoord.faces.cli.common import check_each, duration, group, number, parse_object, parse_pairs, verb
from ghcoord.faces.cli.context import invocation, open_hub
from ghcoord.faces.cli.hints import say_unserved
from ghcoord.faces.cli.output import clean, clean_text, emit, emit_line, fields, note, respond, say, table, to_json
from ghcoord.units import format_duration

if TYPE_CHECKING:
    from ghcoord.hub import Hub
    from ghcoord.model.task import Task

app = group("Submit tasks and follow them.")

STATES = ("queued", "leased", "failed", "succeeded", "dead", "cancelled")

SOON = 3.0
"""Seconds of waiting before it is said that no worker is alive: one may just be starting."""

Id = Annotated[str, typer.Argument(metavar="ID", help="The task's id.")]


@verb(app, "submit")
def submit(
    tool: Annotated[str | None, typer.Argument(metavar="TOOL", help="What to run: echo, run.python, shell …")] = None,
    arg: Annotated[
        list[str] | None,
        typer.Option("--arg", "-a", metavar="K=V", help="An argument as a text; k:=json for any other value."),
    ] = None,
    args_json: Annotated[
        str | None, typer.Option("--args-json", metavar="JSON", help="All arguments as one JSON object; --arg adds.")
    ] = None,
    priority: Annotated[int, number("--priority", "-p", help="0 to 9, higher first.")] = 0,
    retries: Annotated[int, number("--retries", help="Tries after the first failure.")] = 0,
    timeout: Annotated[float | None, duration("--timeout", help="Ends an attempt that takes longer.")] = None,
    backoff: Annotated[
        float, duration("--backoff", help="Before the first retry, doubled with each; default 2s.", show_default=False)
    ] = 2.0,
    backoff_cap: Annotated[
        float, duration("--backoff-cap", help="Longest back-off; default 5m.", show_default=False)
    ] = 300.0,
    meta: Annotated[
        list[str] | None, typer.Option("--meta", metavar="K=V", help="Metadata; k:=json for other values than texts.")
    ] = None,
    id_: Annotated[
        str | None,
        typer.Option("--id", metavar="ID", help="The task's id; submitting the same again changes nothing."),
    ] = None,
    batch: Annotated[
        str | None, typer.Option("--batch", metavar="FILE", help="Submit one task a line; '-' reads standard input.")
    ] = None,
    batch_id: Annotated[
        str | None,
        typer.Option("--batch-id", metavar="ID", help="Ids follow from this: repeating queues only what is missing."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end; exits 8 when a task failed.")] = False,
    wait_timeout: Annotated[
        float | None, duration("--wait-timeout", help="Longest --wait; exits 9; default 5m.")
    ] = None,
) -> None:
    """Queue a task and print its id, or many with --batch.

    A line of a batch is a JSON object with tool, args and any of priority,
    retries, timeout, backoff, backoff_cap, metadata, id; options given here
    hold for lines that do not say otherwise. All lines are checked before the
    first task is queued.

    Example:
      ghcoord task submit echo --arg message=hello --priority 5
      ghcoord task submit run.python -a 'code=import sys; print(sys.argv)' -a 'args:=["a"]'
      ghcoord task submit run.python --args-json '{"code": "print(6*7)"}' --wait
      printf '{"tool": "echo", "args": {"message": "%s"}}\\n' a b | ghcoord task submit --batch -
    """
    if wait_timeout is not None and not wait:
        raise UsageError("--wait-timeout goes with --wait")
    patience = 300.0 if wait_timeout is None else wait_timeout
    options: dict[str, Any] = {
        "priority": priority,
        "retries": retries,
        "backoff": backoff,
        "backoff_cap": backoff_cap,
        "timeout": timeout,
        "metadata": parse_pairs(meta, "--meta"),
    }
    if batch is not None:
        if tool is not None or arg or args_json is not None or id_ is not None:
            raise UsageError("--batch takes tools, arguments and ids from the file: leave them out")
        _submit_batch(batch, options, batch_id, patience if wait else None)
        return
    if tool is None:
        raise UsageError("name the tool, as in 'ghcoord task submit echo', or give --batch FILE")
    if batch_id is not None:
        raise UsageError("--batch-id goes with --batch; one task takes --id")
    args = {**(parse_object(args_json, "--args-json") if args_json is not None else {}), **parse_pairs(arg, "--arg")}
    with open_hub() as hub:
        task = hub.tasks.submit(tool, args, id=id_, **options)
        if not wait:
            respond(views.task_view(task), lambda: say(task.id))
            say_unserved(hub, [task])
            return
        ended = _await(hub, task.id, patience, [task])
    _report_end(ended)


def _submit_batch(file: str, options: dict[str, Any], batch_id: str | None, patience: float | None) -> None:
    submissions = read_batch(file, options)
    with open_hub() as hub:
        with progress_bar(len(submissions)) as progress:
            made = hub.tasks.submit_many(submissions, batch=batch_id, on_progress=progress)
        ids = [task.id for task in made]
        report: dict[str, Any] = {"submitted": len(ids), "batch_id": batch_id, "ids": ids}
        if patience is None:
            named = f" as batch {batch_id}" if batch_id is not None else ""
            look = "'ghcoord task list' shows them, --json prints their ids"
            respond(report, lambda: say(f"{len(ids)} tasks submitted{named}: {look}"))
            say_unserved(hub, made)
            return
        deadline = hub.runtime.monotonic() + patience
        ended = [_await(hub, task_id, max(0.0, deadline - hub.runtime.monotonic()), made) for task_id in ids]
    states = {state: sum(task.state == state for task in ended) for state in ("succeeded", "dead", "cancelled")}
    respond({**report, **states}, lambda: say(", ".join(f"{count} {state}" for state, count in states.items())))
    if states["succeeded"] < len(ended):
        raise typer.Exit(8)


def _await(hub: Hub, task_id: str, timeout: float, unserved: list[Task]) -> Task:
    """The task once it has ended, however it did; raises ``WaitTimeout``, ``NotFound``.

    When that takes a while, says once which of ``unserved`` no worker runs, and empties it.
    """
    soon = min(SOON, timeout)
    try:
        try:
            hub.tasks.wait(task_id, soon)
        except WaitTimeout:
            say_unserved(hub, unserved)
            unserved.clear()
            hub.tasks.wait(task_id, timeout - soon)
    except TaskFailed:
        pass  # it was cancelled before it ran: the record says so
    except WaitTimeout:
        state = _need(hub, task_id).state
        raise WaitTimeout(f"task {task_id} is still {state} after {format_duration(timeout)}") from None
    return _need(hub, task_id)


def _need(hub: Hub, task_id: str) -> Task:
    task = hub.tasks.get(task_id)
    if task is None:
        raise NotFound(f"there is no task {task_id[:140]!r}")
    return task


def _report_end(task: Task) -> None:
    """Print how a task ended; exits 8 unless it succeeded."""
    if invocation().json:
        emit(views.task_view(task))
    elif task.result is not None and task.result.output:
        print(clean_text(task.result.output.removesuffix("\n")))
    if task.state != "succeeded":
        if not invocation().json:
            note(f"error: task {task.id} {_how_it_ended(task)}")
        raise typer.Exit(8)


def _how_it_ended(task: Task) -> str:
    """Why a task did not succeed, and where to look further if it ran."""
    if task.state == "cancelled":
        return f"is cancelled{f': {task.cancel_reason}' if task.cancel_reason else ''}"
    why = task.result.error if task.result is not None else ""
    look = f" (see 'ghcoord task logs {task.id}')" if task.attempt else ""
    return f"is {task.state}{f': {why}' if why else ''}{look}"


@verb(app, "list")
def list_(
    state: Annotated[
        list[str] | None,
        typer.Option("--state", "-s", metavar="S", help=f"{', '.join(STATES)}; several."),
    ] = None,
    limit: Annotated[int | None, number("--limit", least=0, help="At most N.")] = None,
    tool: Annotated[str | None, typer.Option("--tool", metavar="T", help="Only tasks of this tool.")] = None,
) -> None:
    """List tasks: queued ones in the order in which they will run, others newest first.

    A task that failed and waits for its back-off is failed; one out of tries is dead.

    Example:
      ghcoord task list --state dead --limit 20
    """
    check_each(state, STATES, "--state")
    with open_hub() as hub:
        found = hub.tasks.list(state or None, limit, tool)
    respond(
        [views.task_view(task) for task in found],
        lambda: table(
            ("ID", "TOOL", "STATE", "PRI", "TRY", "WORKER", "RESULT"),
            [
                (task.id, task.tool, task.state, task.priority, task.attempt, task.worker, _in_short(task))
                for task in found
            ],
            keep=("ID",),
            right=("PRI", "TRY"),
            empty="no tasks",
        ),
    )


def _in_short(task: Task) -> str:
    if task.state == "cancelled":
        return task.cancel_reason or "-"
    if task.result is not None:
        return (task.result.output.strip() if task.result.success else task.result.error) or "-"
    if task.progress is not None:
        percent = f"{task.progress.fraction:.0%} " if task.progress.fraction is not None else ""
        return (percent + task.progress.message).strip() or "-"
    return "-"


@verb(app, "show")
def show(task_id: Id) -> None:
    """Show a task: its arguments, attempts and result.

    Example:
      ghcoord task show t0123456789ab
    """
    with open_hub() as hub:
        task = _need(hub, task_id)
    respond(views.task_view(task), lambda: _show(task))


def _show(task: Task) -> None:
    result = task.result
    fields(
        [
            ("task", task.id),
            ("tool", task.tool),
            ("args", to_json(task.args, None)),
            ("state", _state(task)),
            ("priority", task.priority),
            ("attempts", _attempts(task)),
            ("worker", task.worker),
            ("created", f"{views.iso(task.created_at)} by {task.submitted_by}"),
            ("due", views.iso_or_none(task.due_at)),
            ("ended", views.iso_or_none(task.ended_at)),
            ("timeout", None if task.timeout is None else format_duration(task.timeout)),
            ("progress", short if task.lease is not None and (short := _in_short(task)) != "-" else None),
            ("reason", task.cancel_reason or None),
            ("metadata", to_json(task.metadata, None) if task.metadata else None),
            ("error", result.error if result is not None and result.error not in ("", "cancelled") else None),
            ("exit code", result.exit_code if result is not None else None),
            ("duration", format_duration(result.duration) if result is not None else None),
        ]
    )
    for one in task.history:
        why = f": {one.error}" if one.error not in ("", one.outcome) else ""
        print(clean(f"  try {one.attempt} on {one.worker}: {one.outcome}{why}"))
    if result is not None and result.output:
        print(clean_text(result.output.rstrip("\n")))


def _state(task: Task) -> str:
    asked = task.cancel_requested and not task.ended
    return f"{task.state}, its worker is asked to cancel it" if asked else str(task.state)


def _attempts(task: Task) -> str:
    """``2, 1 failed of 3 allowed, 1 lost with its worker``."""
    if not task.attempt:
        return f"none yet, {task.max_failures} allowed" if not task.ended else "none"
    parts = [str(task.attempt), f"{task.failures} failed of {task.max_failures} allowed"]
    return ", ".join([*parts, *([f"{task.lost} lost with their lease"] if task.lost else [])])


@verb(app, "wait")
def wait(
    task_id: Id,
    timeout: Annotated[
        float, duration("--timeout", help="Longest wait; exits 9; default 5m.", show_default=False)
    ] = 300.0,
) -> None:
    """Wait until a task has ended and print its output. Exits 8 when it failed, 9 after --timeout.

    Example:
      ghcoord task wait t0123456789ab --timeout 5m
    """
    with open_hub() as hub:
        ended = _await(hub, task_id, timeout, [_need(hub, task_id)])
    _report_end(ended)


@verb(app, "cancel")
def cancel(
    task_id: Id,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Kept in the record.")] = "",
) -> None:
    """Cancel a task: at once while it is queued, else its worker ends it. Exits 4 when it has ended.

    Example:
      ghcoord task cancel t0123456789ab --reason "wrong input"
    """
    with open_hub() as hub:
        task = hub.tasks.cancel(task_id, reason)
    what = "cancelled" if task.ended else f"running on {task.worker}, which is asked to cancel it"
    respond(views.task_view(task), lambda: say(f"{task.id} {what}"))


@verb(app, "retry")
def retry(task_id: Id) -> None:
    """Queue a dead, cancelled or backing-off task again. Exits 4 for one in another state.

    Example:
      ghcoord task retry t0123456789ab
    """
    with open_hub() as hub:
        task = hub.tasks.retry(task_id)
    respond(views.task_view(task), lambda: say(f"{task.id} queued"))


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
      ghcoord task logs t0123456789ab --follow
    """
    if timeout is not None and not follow:
        raise UsageError("--timeout goes with --follow")
    with open_hub() as hub:
        if follow:
            say_unserved(hub, [_need(hub, task_id)])
        pieces = hub.tasks.logs(task_id, follow, timeout)
        if invocation().json and not follow:
            emit({"id": task_id, "text": "".join(pieces)})
            return
        for piece in pieces:
            if invocation().json:
                emit_line({"id": task_id, "text": piece})
            else:
                print(clean_text(piece), end="" if piece.endswith("\n") or follow else "\n", flush=True)
