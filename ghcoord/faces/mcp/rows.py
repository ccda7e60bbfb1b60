"""Records as answers have them: the keys and values of :mod:`ghcoord.faces.views`, fewer of them, none too long."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from pydantic import Field

from ghcoord.faces.artifact_views import artifact_view
from ghcoord.faces.mcp.advice import for_agent
from ghcoord.faces.mcp.shown import bounded, json_line, line
from ghcoord.faces.mcp.toolspec import Returns
from ghcoord.faces.mcp.visible import RESERVED, holds_elsewhere
from ghcoord.faces.views import View, iso, lock_view, task_view, worker_view
from ghcoord.units import format_duration, format_size

if TYPE_CHECKING:
    from ghcoord.faces.mcp.caller import Caller
    from ghcoord.model.artifact import Artifact
    from ghcoord.model.lock import Lock
    from ghcoord.model.task import Task
    from ghcoord.model.worker import Worker

MAX_ROW = 1_000
"""Characters, about, of one free-form value in a row of a list."""


MAX_ROW_TEXT = 400
"""Characters of one text in it."""

MAX_TYPES = 40
"""Task types in the line of a worker."""

MAX_WAITED_FOR = 20
"""Ids in a row of the tasks that it waits for."""


class TaskRow(Returns):
    """A task in a list."""

    id: str
    tool: str
    state: str
    priority: int
    attempt: int
    failures: int
    worker: str | None
    session: str | None
    created_at: str
    submitted_by: str
    started_at: str | None
    ended_at: str | None
    due_at: str | None
    waiting_for: list[str]
    cancel_requested: bool
    cancel_reason: str
    progress: dict[str, Any] | None
    error: str = Field(description="Why its last attempt failed; empty when it did not.")


class LockRow(Returns):
    """A grant of a lock."""

    name: str
    owner: str
    token: int
    mode: str
    permits: int
    depth: int
    acquired_at: str
    expires_at: str
    lease_left_s: float = Field(description="Seconds until the lease ends unless it is renewed; 0 when it is over.")
    yours: bool = Field(description="Whether it was taken through this server in your name.")
    yours_elsewhere: bool = Field(
        description="Whether you took it through another server process, such as this one before a restart."
    )
    paths: list[str]
    guards: list[str]
    metadata: dict[str, Any]


class WorkerRow(Returns):
    """A worker in a list."""

    id: str
    status: str
    silent: bool = Field(description="Its lease is over: it has died or cannot reach the hub.")
    hostname: str
    last_heartbeat: str
    capacity: dict[str, Any] = Field(description="Task slots: max_tasks, active_tasks, available_slots.")
    capabilities: dict[str, Any] = Field(
        description="cpu_cores, memory_mb, labels, and supported_task_types: what tasks it takes."
    )
    sandbox_tier: str
    max_sessions: int
    active_sessions: int
    health: dict[str, Any] | None


class ArtifactRow(Returns):
    """A stored file."""

    id: str
    name: str
    size: int = Field(description="Bytes.")
    sha256: str
    content_type: str
    created_at: str
    created_by: str
    session_id: str | None
    task_id: str | None
    expires_at: str | None
    uri: str = Field(description="The resource that has its content.")


def _picked(view: View, model: type[Returns], **more: Any) -> dict[str, Any]:
    """The fields of ``model`` from ``view``, each bounded, and ``more``."""
    return {name: more[name] if name in more else _small(view[name]) for name in model.model_fields}


def _small(value: Any) -> Any:
    return bounded(value, MAX_ROW, MAX_ROW_TEXT)


def task_row(task: Task) -> dict[str, Any]:
    """A task as :class:`TaskRow` has it."""
    failed = task.result is not None and not task.result.success
    error = for_agent(task.result.error) if failed and task.result is not None else ""
    view = task_view(task)
    waiting = [str(one)[:128] for one in view["waiting_for"][:MAX_WAITED_FOR]]
    said = view["progress"] and {key: _small(view["progress"][key]) for key in ("fraction", "message", "at")}
    return _picked(view, TaskRow, error=_small(error), waiting_for=waiting, progress=said)


def task_line(row: dict[str, Any]) -> str:
    """A row in one line of text: its id, tool, state, and what there is to say."""
    said = f"{row['id']}  {line(row['tool'], 64)}  {row['state']}"
    said += f" on {line(row['worker'], 64)}" if row["worker"] and row["state"] == "leased" else ""
    said += f"  (session {line(row['session'], 64)})" if row["session"] else ""
    return f"{said}{'  ' + about if (about := _about(row)) else ''}"


def _about(row: dict[str, Any]) -> str:
    if row["state"] == "cancelled":
        return line(row["cancel_reason"])
    if row["state"] == "blocked":
        return f"after {line(', '.join(row['waiting_for']))}"
    if row["state"] in ("scheduled", "failed") and row["due_at"]:
        return f"due {row['due_at']}{': ' + line(row['error']) if row['error'] else ''}"
    if row["state"] == "leased" and row["progress"]:
        return progress_line(row["progress"])
    return line(row["error"])


def progress_line(progress: dict[str, Any]) -> str:
    """``40% half done``."""
    fraction = progress.get("fraction")
    percent = f"{fraction:.0%} " if isinstance(fraction, int | float) else ""
    return f"{percent}{line(progress.get('message') or '')}".strip()


def lock_row(lock: Lock, now: datetime, caller: Caller) -> dict[str, Any]:
    """A grant as :class:`LockRow` has it, for ``caller``."""
    left = round(max(0.0, (lock.expires_at - now).total_seconds()), 3)
    view = lock_view(lock)
    view["metadata"] = {key: value for key, value in view["metadata"].items() if not key.startswith(RESERVED)}
    elsewhere = holds_elsewhere(caller, lock)
    return _picked(view, LockRow, lease_left_s=left, yours=lock.owner == caller.owner, yours_elsewhere=elsewhere)


def lock_line(row: dict[str, Any]) -> str:
    """A grant in one line of text."""
    mode = "" if row["mode"] == "exclusive" else f", {row['mode']}"
    whose = "you" if row["yours"] else f"'{line(row['owner'], 128)}'"
    whose = f"you through another server process ({whose})" if row["yours_elsewhere"] else whose
    left = f"{format_duration(row['lease_left_s'])} left" if row["lease_left_s"] > 0 else "its lease is over"
    return f"{line(row['name'])}  held by {whose}, token {row['token']}{mode}, {left}"


def worker_row(worker: Worker, now: datetime, margin: float) -> dict[str, Any]:
    """A worker as :class:`WorkerRow` has it."""
    view = worker_view(worker, margin)
    return _picked(view, WorkerRow, silent=is_silent(worker, now), sandbox_tier=str(worker.tier)[:20])


def is_silent(worker: Worker, now: datetime) -> bool:
    """Whether its lease is over and nobody has noticed yet."""
    return worker.alive and worker.lease.expires_at <= now


def worker_line(row: dict[str, Any]) -> str:
    """A worker in one line of text."""
    capacity, labels_of = row["capacity"], row["capabilities"].get("labels")
    tools = row["capabilities"].get("supported_task_types") or []
    serves = line(", ".join(map(str, tools[:MAX_TYPES])), 600)
    serves += f" and {len(tools) - MAX_TYPES} more" if len(tools) > MAX_TYPES else ""
    state = "silent" if row["silent"] else row["status"]
    labels = f"; labels {json_line(labels_of, 200)}" if labels_of else ""
    return (
        f"{line(row['id'], 128)}  {state}  slots {capacity['active_tasks']}/{capacity['max_tasks']}  "
        f"sessions {row['active_sessions']}/{row['max_sessions']}  sandbox {line(row['sandbox_tier'], 20)}  "
        f"serves {serves or 'nothing'}{labels}"
    )


def artifact_row(artifact: Artifact) -> dict[str, Any]:
    """A stored file as :class:`ArtifactRow` has it."""
    return _picked(artifact_view(artifact), ArtifactRow, uri=f"ghcoord://artifacts/{artifact.id}")


def artifact_line(row: dict[str, Any]) -> str:
    """A stored file in one line of text."""
    of = f"  of task {line(row['task_id'], 64)}" if row["task_id"] else ""
    of += f"  of session {line(row['session_id'], 64)}" if row["session_id"] else ""
    return f"{row['id']}  {line(row['name'])}  {format_size(row['size'])}  {line(row['content_type'], 100)}{of}"


def seconds_after(moment: datetime, now: datetime) -> str:
    """``2026-11-21T10:00:00.000Z, in 40s``."""
    return f"{iso(moment)}, in {format_duration(max(0, round((moment - now).total_seconds())))}"
