"""Tools for tasks: queued here, run by the hub's workers, waited for in bounded steps."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Annotated, Any

from pydantic import Field

from ghcoord.errors import GhcoordError, IllegalTransition
from ghcoord.faces.mcp.advice import for_agent
from ghcoord.faces.mcp.answer import Answer, Failure
from ghcoord.faces.mcp.call import Call
from ghcoord.faces.mcp.rows import TaskRow, task_line, task_row
from ghcoord.faces.mcp.shown import bounded, json_line, line, rows
from ghcoord.faces.mcp.takes import check_arguments
from ghcoord.faces.mcp.tools.taskoutput import task_logs, task_result
from ghcoord.faces.mcp.tools.taskwait import task_wait
from ghcoord.faces.mcp.toolspec import Arguments, Returns, Toolset, tool
from ghcoord.faces.mcp.visible import (
    RESERVED,
    USER,
    WORKSPACE,
    need_artifact,
    need_right,
    need_task,
    sees_task,
    submitter,
)
from ghcoord.faces.views import task_view
from ghcoord.hub import Submission, TaskQuery
from ghcoord.model.task import State, Task

MAX_AFTER = 20
"""Tasks that one may be submitted to run after."""

MAX_LISTED = 100
"""Tasks in one page."""

MAX_SCANNED = 500
"""Tasks that are read for one page, of which some may not be the caller's to see."""

MAX_OFFSET = 100_000
"""How far a list can be paged through."""

FETCH = "artifact.get"
"""The tool that brings an artifact into a session: it asks nobody whose that is."""

TaskId = Annotated[str, Field(min_length=1, max_length=128, description="The task's id, as task_submit gave it.")]
SessionId = Annotated[str, Field(min_length=1, max_length=128)]


class Submit(Arguments):
    """Of ``task_submit``."""

    tool: str = Field(
        min_length=1,
        max_length=64,
        description="What to run: a task type that workers serve, as worker_list shows, such as shell or run.python.",
    )
    args: dict[str, Any] = Field(
        default_factory=dict,
        description='The arguments of that tool, such as {"command": "make test"} for shell, {"code": "print(6)"} for '
        "run.python; worker_status shows what each takes.",
    )
    session_id: SessionId | None = Field(
        default=None, description="Run it in the workspace of this session of yours; else in a new, empty one."
    )
    priority: int = Field(default=0, ge=0, le=9, description="0 to 9; higher runs first.")
    retries: int = Field(default=0, ge=0, le=20, description="How many more times a failure is tried.")
    timeout_s: float | None = Field(default=None, gt=0, le=86_400, description="Seconds after which a try is ended.")
    delay_s: float | None = Field(
        default=None, ge=0, le=30 * 86_400, description="Seconds to wait before it may start."
    )
    after: tuple[TaskId, ...] = Field(
        default=(), max_length=MAX_AFTER, description="Tasks that must succeed first; if one fails this is cancelled."
    )
    requires: tuple[Annotated[str, Field(min_length=1, max_length=256)], ...] = Field(
        default=(), max_length=20, description="Labels that the worker must have, such as gpu or os=linux."
    )
    id: TaskId | None = Field(
        default=None, description="An id of your own: the same call with the same id again queues nothing more."
    )
    metadata: dict[str, Any] = Field(default_factory=dict, description="Anything to keep with it.")


class Submitted(Returns):
    """What ``task_submit`` returns."""

    task: TaskRow
    created: bool = Field(description="False when a task with this id was there already.")
    why_waits: str = Field(description="Why no worker can take it now; empty when one can.")


@tool(
    "task_submit",
    title="Submit a task",
    toolset=Toolset.TASKS,
    takes=Submit,
    returns=Submitted,
    read_only=False,
    open_world=True,
)
def task_submit(call: Call, args: Submit) -> Answer:
    """Queue work for the hub's workers and return at once with the task's id. Use it for work that takes longer than
    a call may, that another machine should do, or that must survive this conversation; for quick commands in a
    session call the session's tools directly. Then call task_wait with the id, and task_result. Each task starts in
    an empty workspace unless session_id is given."""
    for key in args.metadata:
        if key.startswith(RESERVED):
            raise Failure(f"metadata: keys that begin with {RESERVED!r} are the server's own", "Choose another key.")
    if args.session_id is not None:
        call.services.owners.need(call.caller, args.session_id)
    for before in args.after:
        need_task(call, before)
    name = _tool_name(call, args.tool)
    check_arguments(call, name, args.args, in_session=args.session_id is not None)
    if name == FETCH:
        need_artifact(call, str(args.args.get("id", "")))
    offered = call.hub.tasks.offer(
        Submission(
            name,
            args.args,
            priority=args.priority,
            retries=args.retries,
            timeout=args.timeout_s,
            metadata={**args.metadata, **submitter(call.caller)},
            id=args.id,
            requirements={"required_capabilities": list(args.requires)} if args.requires else None,
            not_before=args.delay_s or None,
            after=args.after,
            session=args.session_id,
            trace=call.trace,
        )
    )
    task, why = offered.task, ""
    with suppress(GhcoordError):  # it is queued: an error now would have it submitted twice
        # A worker may have taken it in the very commit that queued it.
        task = call.hub.tasks.get(task.id) or task
        why = line(for_agent(call.hub.tasks.why_waits(task)), 1000)
    row = task_row(task)
    done = "submitted" if offered.created else "was there already with this id; nothing was queued"
    text = f"Task {row['id']} {done}: {task_line(row)}"
    text += f"\nNo worker can take it now: {why}. It waits until one can." if why else ""
    text += f'\nNext: task_wait with ids ["{row["id"]}"], then task_result.'
    return Answer(text, {"task": row, "created": offered.created, "why_waits": why})


def _tool_name(call: Call, name: str) -> str:
    """The worker's name of a tool that MCP lists under another: ``run.python`` for ``run_python``."""
    return next((one.name for one in call.workers.tools() if name == one.name.replace(".", "_")), name)


class One(Arguments):
    """Of ``task_status``."""

    task_id: TaskId


class StatusOf(TaskRow):
    """What ``task_status`` returns."""

    args: dict[str, Any]
    metadata: dict[str, Any]
    after: list[str]
    retries: int
    timeout: float | None
    lost: int = Field(description="Tries that were lost with their worker.")
    history: list[dict[str, Any]] = Field(description="Past tries, newest last.")
    ended: bool = Field(description="Whether it has succeeded, is dead (failed for good) or cancelled.")
    why_waits: str = Field(description="Why no worker takes it; empty when one is about to or it is not queued.")


@tool(
    "task_status",
    title="Look at a task",
    toolset=Toolset.TASKS,
    takes=One,
    returns=StatusOf,
    read_only=True,
    idempotent=True,
)
def task_status(call: Call, args: One) -> Answer:
    """Look at one task: its state, worker, progress, arguments, tries, and why no worker takes it. States: scheduled,
    blocked (waits for others), queued, leased (runs), failed (will be tried again), succeeded, dead (failed for
    good), cancelled. Do not poll it: task_wait waits. task_result has what it returned, task_logs what it printed."""
    task = need_task(call, args.task_id)
    why = line(for_agent(call.hub.tasks.why_waits(task)), 1000)
    row, view = task_row(task), task_view(task)
    free = {name: bounded(view[name]) for name in ("args", "metadata", "after", "history")}
    plain = {name: view[name] for name in ("retries", "timeout", "lost")}
    data = {**row, **free, **plain, "ended": task.ended, "why_waits": why}
    said = [
        task_line(row),
        f"created {row['created_at']} by {line(task.metadata.get(USER) or row['submitted_by'], 128)}",
        f"args {json_line(task.args, 1000)}",
        f"try {task.attempt}, {task.failures} failed of {task.max_failures} allowed, {task.lost} lost",
        *([f"waits: {why}"] if why else []),
        *(["its worker is asked to cancel it"] if task.cancel_requested and not task.ended else []),
        *(["Next: task_result, task_logs."] if task.ended else ["Next: task_wait."]),
    ]
    return Answer("\n".join(said), data)


class Cancel(Arguments):
    """Of ``task_cancel``."""

    task_id: TaskId
    reason: str = Field(default="", max_length=500, description="Why, for others who look at it.")


class Cancelled(Returns):
    """What ``task_cancel`` returns."""

    id: str
    state: str
    ended: bool = Field(description="False while its worker has been asked and has not stopped it yet.")


@tool(
    "task_cancel",
    title="Cancel a task",
    toolset=Toolset.TASKS,
    takes=Cancel,
    returns=Cancelled,
    read_only=False,
    destructive=True,
    idempotent=True,
)
def task_cancel(call: Call, args: Cancel) -> Answer:
    """Cancel a task: at once when it is not running, else its worker ends its processes within seconds. Tasks that
    wait for it are cancelled too. Cancelling one that is cancelled is harmless."""
    task = need_task(call, args.task_id)
    need_right(call, task)
    if task.state is not State.CANCELLED:
        try:
            task = call.hub.tasks.cancel(args.task_id, args.reason)
        except IllegalTransition:
            task = need_task(call, args.task_id)
            if task.state is not State.CANCELLED:
                why = f"the task {task.id} cannot be cancelled: it is {task.state}"
                raise Failure(why, "Call task_result for what it left.", code="ILLEGAL_TRANSITION") from None
    asked = "" if task.ended else "\nIts worker is asked to stop it. Next: task_wait to see that it has."
    said = "is cancelled" if task.ended else "is being cancelled"
    return Answer(f"Task {task.id} {said}.{asked}", {"id": task.id, "state": str(task.state), "ended": task.ended})


class List(Arguments):
    """Of ``task_list``."""

    states: tuple[State, ...] = Field(default=(), max_length=len(State), description="Only these states; default all.")
    tool: str | None = Field(default=None, max_length=64, description="Only tasks of this tool.")
    session_id: SessionId | None = Field(default=None, description="Only calls of this session of yours.")
    mine: bool = Field(default=False, description="Only those that you submitted through this server.")
    limit: int = Field(default=20, ge=1, le=MAX_LISTED)
    cursor: str | None = Field(default=None, max_length=10, description="next_cursor of the page before.")


class Listed(Returns):
    """What ``task_list`` returns."""

    tasks: list[TaskRow]
    counts: dict[str, int] = Field(description="How many tasks of the hub are in each state.")
    next_cursor: str | None = Field(description="For the next page; null at the end.")


@tool(
    "task_list",
    title="List tasks",
    toolset=Toolset.TASKS,
    takes=List,
    returns=Listed,
    read_only=True,
    idempotent=True,
)
def task_list(call: Call, args: List) -> Answer:
    """List the hub's tasks, a page at a time: running ones first, then queued ones in the order in which they will
    run, then those that wait, then ended ones, latest first. Narrow it with states, tool, session_id or mine."""
    if args.session_id is not None:
        call.services.owners.need(call.caller, args.session_id)
    start = _offset(args.cursor)
    mine = {USER: call.caller.user_id, WORKSPACE: call.caller.workspace_id} if args.mine else {}
    query = TaskQuery(states=args.states, tool=args.tool and _tool_name(call, args.tool), metadata=mine)
    found, after = _page(call, query, args, start)
    tasks = [task_row(task) for task in found]
    cursor = None if after is None else str(after)
    counts = call.hub.tasks.counts()
    summary = ", ".join(f"{count} {state}" for state, count in counts.items() if count) or "none"
    more = f"In the whole hub: {summary}." + (f' More: cursor "{cursor}".' if cursor else "")
    text = rows([task_line(row) for row in tasks], "No tasks on this page.", more)
    return Answer(text, {"tasks": tasks, "counts": counts, "next_cursor": cursor})


def _offset(cursor: str | None) -> int:
    if cursor is None:
        return 0
    if re.fullmatch(r"[0-9]{1,6}", cursor, re.ASCII) is None or int(cursor) > MAX_OFFSET:
        raise Failure("cursor: is not one that task_list gave", "Leave it out for the first page.")
    return int(cursor)


def _page(call: Call, query: TaskQuery, args: List, start: int) -> tuple[list[Task], int | None]:
    """The tasks that the caller sees from ``start`` on, and where the next page begins."""
    size = args.limit + 1
    while True:
        raw = call.hub.tasks.list(query=query, limit=start + size)[start:]
        kept: list[Task] = []
        for at, task in enumerate(raw):
            if (args.session_id is None or task.session == args.session_id) and sees_task(call, task):
                if len(kept) == args.limit:
                    return kept, start + at
                kept.append(task)
        if len(raw) < size:
            return kept, None
        if size == MAX_SCANNED:
            return kept, start + size if start + size <= MAX_OFFSET else None
        size = min(MAX_SCANNED, size * 4)


TOOLS = (task_submit, task_status, task_wait, task_result, task_logs, task_list, task_cancel)
