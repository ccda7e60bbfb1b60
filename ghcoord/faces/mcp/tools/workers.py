"""Tools for workers: who runs tasks and sessions, and what with."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from ghcoord.errors import InvalidName
from ghcoord.faces.mcp.advice import for_agent
from ghcoord.faces.mcp.answer import Answer, Failure
from ghcoord.faces.mcp.call import Call
from ghcoord.faces.mcp.rows import (
    MAX_TYPES,
    TaskRow,
    WorkerRow,
    is_silent,
    task_line,
    task_row,
    worker_line,
    worker_row,
)
from ghcoord.faces.mcp.shown import bounded, json_line, line, rows
from ghcoord.faces.mcp.takes import spelled_of
from ghcoord.faces.mcp.toolspec import Arguments, Returns, Toolset, tool
from ghcoord.faces.mcp.visible import sees_task
from ghcoord.faces.views import worker_view
from ghcoord.hub import TaskQuery
from ghcoord.model.task import State
from ghcoord.model.worker import WorkerStatus

MAX_LISTED = 100
"""Workers in one page."""

MAX_TASKS = 20
"""Running tasks shown of one worker."""

MAX_SESSIONS = 100
"""Sessions shown of one worker."""


class List(Arguments):
    """Of ``worker_list``."""

    statuses: tuple[WorkerStatus, ...] = Field(default=(), max_length=4, description="Only these; default all.")
    task_type: str | None = Field(default=None, max_length=64, description="Only those that serve this task type.")
    has_capacity: bool = Field(default=False, description="Only those with a free task slot.")
    limit: int = Field(default=30, ge=1, le=MAX_LISTED)
    after: str | None = Field(default=None, max_length=128, description="The last id of the page before.")


class Listed(Returns):
    """What ``worker_list`` returns."""

    workers: list[WorkerRow]
    total: int
    next_after: str | None = Field(description="Give it as after for the next page; null at the end.")


@tool(
    "worker_list",
    title="List workers",
    toolset=Toolset.WORKERS,
    takes=List,
    returns=Listed,
    read_only=True,
    idempotent=True,
)
def worker_list(call: Call, args: List) -> Answer:
    """List the hub's workers: which task types each serves, free slots, room for sessions, sandbox, labels. Use it
    before task_submit to see what can be run, or when a task waits. A silent worker has died or is cut off."""
    found = call.hub.workers.list(args.statuses or None, args.has_capacity or None, args.task_type)
    rest = [one for one in found if args.after is None or one.id > args.after]
    now, margin = call.hub.now(), call.hub.clock_margin
    page = [worker_row(one, now, margin) for one in rest[: args.limit]]
    after = page[-1]["id"] if len(rest) > len(page) else None
    empty = "No such worker." if any((args.statuses, args.task_type, args.has_capacity, args.after)) else _nobody()
    more = f'{len(found)} in all; more: after "{after}".' if after is not None else ""
    text = rows([worker_line(row) for row in page], empty, more)
    return Answer(text, {"workers": page, "total": len(found), "next_after": after})


def _nobody() -> str:
    return for_agent("No worker is registered: start one with 'ghcoord worker start'; until then queued tasks wait.")


class One(Arguments):
    """Of ``worker_status``."""

    worker_id: str = Field(min_length=1, max_length=128, description="The worker's id, as worker_list shows.")


class StatusOf(WorkerRow):
    """What ``worker_status`` returns."""

    drain_requested: bool
    registered_at: str
    expires_at: str = Field(description="When its lease ends unless it sends another sign of life.")
    noticed_after: float = Field(description="Seconds after which its death is noticed and its tasks go elsewhere.")
    recent_types: dict[str, Any] = Field(description="How many tasks it has lately ended, by type.")
    metadata: dict[str, Any]
    takes: dict[str, str] = Field(
        description="The args of its task types for task_submit, ? after those that may be left out; of registered "
        "functions nothing is known."
    )
    sessions: list[str] = Field(description="Ids of your sessions on it.")
    tasks: list[TaskRow] = Field(description="What it runs now, as far as you may see it.")


@tool(
    "worker_status",
    title="Look at a worker",
    toolset=Toolset.WORKERS,
    takes=One,
    returns=StatusOf,
    read_only=True,
    idempotent=True,
)
def worker_status(call: Call, args: One) -> Answer:
    """Look at one worker: whether it is alive, what it can run, what it runs now, and which of your sessions it has.
    Use it when a task or a session on it does not go on, or to see what args its task types take."""
    hub = call.hub
    try:
        worker = hub.workers.get(args.worker_id)
    except InvalidName:
        worker = None
    if worker is None:
        why = f"there is no worker {line(args.worker_id, 128)!r}"
        raise Failure(why, "Call worker_list for those that there are.", code="NOT_FOUND")
    now = hub.now()
    row, view = worker_row(worker, now, hub.clock_margin), worker_view(worker, hub.clock_margin)
    running = hub.tasks.list(query=TaskQuery(states=(State.LEASED,), worker=worker.id), limit=4 * MAX_TASKS)
    tasks = [task_row(task) for task in running if sees_task(call, task)][:MAX_TASKS]
    sessions = _own_sessions(call, worker.session_ids)
    more = {name: bounded(view[name]) for name in ("recent_types", "metadata")}
    plain = {name: view[name] for name in ("drain_requested", "registered_at", "expires_at", "noticed_after")}
    takes = spelled_of(call, worker.capabilities.supported_task_types[:MAX_TYPES])
    said = [
        worker_line(row),
        f"host {line(worker.hostname, 200)}, last heartbeat {view['last_heartbeat']}, lease ends {view['expires_at']}",
        *([f"health {json_line(row['health'])}"] if row["health"] else []),
        *(f"task type {line(name, 64)} takes {line(told)}" for name, told in takes.items()),
        *([f"your sessions on it: {', '.join(sessions)}"] if sessions else []),
        *([f"runs:\n{rows([task_line(one) for one in tasks], '')}"] if tasks else ["runs nothing that you may see"]),
    ]
    if is_silent(worker, now) or not worker.alive:
        said.append(
            f"It is silent: its tasks go to others about {worker.ttl + hub.clock_margin:.0f} s after its last sign of "
            "life, its sessions as far as they have a checkpoint (session_restore)."
        )
    return Answer("\n".join(said), {**row, **plain, **more, "takes": takes, "sessions": sessions, "tasks": tasks})


def _own_sessions(call: Call, ids: tuple[str, ...]) -> list[str]:
    mine = call.hub.sessions.list(user=call.caller.user_id, workspace=call.caller.workspace_id)
    here = set(ids)
    return [session.id for session in mine if session.id in here][:MAX_SESSIONS]


TOOLS = (worker_list, worker_status)
