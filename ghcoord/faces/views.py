"""Records as plain dictionaries with stable keys: the one shape that every face shows.

Times are ISO 8601 in UTC with milliseconds and ``Z``, durations are seconds.
A key is always there; what has no value is ``None``.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ghcoord.coord.events import Event
    from ghcoord.coord.memory import Change
    from ghcoord.model.lock import Lock
    from ghcoord.model.memory import MemoryEntry
    from ghcoord.model.task import Task, TaskResult
    from ghcoord.model.worker import Worker

View = dict[str, Any]


def iso(at: datetime) -> str:
    """``2025-11-08T12:00:00.000Z``: texts of this form sort as the times do."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def iso_or_none(at: datetime | None) -> str | None:
    """As :func:`iso`, ``None`` for no time."""
    return None if at is None else iso(at)


def in_use(tasks: int, slots: int) -> str:
    """``2/3``, and ``3/3 +2`` when two more are leased ahead."""
    return f"{min(tasks, slots)}/{slots}{f' +{tasks - slots}' if tasks > slots else ''}"


def lock_view(lock: Lock) -> View:
    """A lock; ``expires_at`` is when the lease ends unless renewed."""
    return {
        "name": lock.name,
        "owner": lock.owner,
        "token": lock.token,
        "acquired_at": iso(lock.acquired_at),
        "expires_at": iso(lock.expires_at),
        "metadata": lock.metadata,
    }


def worker_view(worker: Worker) -> View:
    """A worker; ``capacity`` counts task slots, ``max_sessions`` and ``active_sessions`` sessions."""
    return {
        "id": worker.id,
        "hostname": worker.hostname,
        "pid": worker.pid,
        "status": str(worker.status),
        "drain_requested": worker.drain_requested,
        "registered_at": iso(worker.registered_at),
        "last_heartbeat": iso(worker.last_heartbeat),
        "expires_at": iso(worker.lease.expires_at),
        "ttl": worker.ttl,
        "token": worker.token,
        "capacity": {
            "max_tasks": worker.capacity.max_tasks,
            "active_tasks": worker.capacity.active_tasks,
            "available_slots": worker.capacity.available_slots,
        },
        "capabilities": {
            "cpu_cores": worker.capabilities.cpu_cores,
            "memory_mb": worker.capabilities.memory_mb,
            "supported_task_types": list(worker.capabilities.supported_task_types),
            "labels": dict(worker.capabilities.labels),
        },
        "sandbox": None if worker.sandbox is None else {"driver": worker.sandbox.driver, "tier": worker.sandbox.tier},
        "max_sessions": worker.max_sessions,
        "active_sessions": worker.active_sessions,
        "session_ids": list(worker.session_ids),
        "health": None
        if worker.health is None
        else {
            "cpu": worker.health.cpu,
            "memory": worker.health.memory,
            "active_tasks": worker.health.active_tasks,
            "health_status": worker.health.health_status,
        },
        "metadata": worker.metadata,
    }


def result_view(result: TaskResult) -> View:
    """How an attempt ended; ``duration`` in seconds."""
    return {
        "success": result.success,
        "output": result.output,
        "error": result.error,
        "exit_code": result.exit_code,
        "duration": result.duration,
        "data": result.data,
        "truncated": result.truncated,
        "artifacts": list(result.artifacts),
        "completed_at": iso_or_none(result.completed_at),
    }


def task_view(task: Task) -> View:
    """A task; ``worker`` runs it now or ran it last, ``retries`` and ``backoff`` are as submitted."""
    return {
        "id": task.id,
        "tool": task.tool,
        "args": task.args,
        "state": str(task.state),
        "priority": task.priority,
        "attempt": task.attempt,
        "worker": task.worker,
        "result": None if task.result is None else result_view(task.result),
        "created_at": iso(task.created_at),
        "submitted_by": task.submitted_by,
        "started_at": iso_or_none(_started_at(task)),
        "ended_at": iso_or_none(task.ended_at),
        "due_at": iso_or_none(task.due_at),
        "timeout": task.timeout,
        "retries": task.max_failures - 1,
        "backoff": task.backoff.base,
        "backoff_cap": task.backoff.cap,
        "failures": task.failures,
        "lost": task.lost,
        "cancel_requested": task.cancel_requested,
        "cancel_reason": task.cancel_reason,
        "progress": None
        if task.progress is None
        else {
            "fraction": task.progress.fraction,
            "message": task.progress.message,
            "tail": task.progress.tail,
            "at": iso(task.progress.at),
        },
        "lease": None
        if task.lease is None
        else {
            "worker": task.lease.worker,
            "token": task.lease.token,
            "attempt": task.lease.attempt,
            "at": iso(task.lease.at),
        },
        "history": [
            {
                "attempt": one.attempt,
                "worker": one.worker,
                "token": one.token,
                "started_at": iso(one.started_at),
                "ended_at": iso(one.ended_at),
                "outcome": one.outcome,
                "error": one.error,
            }
            for one in task.history
        ],
        "metadata": task.metadata,
    }


def _started_at(task: Task) -> datetime | None:
    if task.lease is not None:
        return task.lease.at
    return task.history[-1].started_at if task.history else None


def memory_view(entry: MemoryEntry, namespace: str) -> View:
    """A key's value with its revision; ``ttl`` in seconds or ``None``."""
    return {
        "key": entry.key,
        "value": entry.value,
        "namespace": namespace,
        "revision": entry.revision,
        "updated_at": iso(entry.updated_at),
        "updated_by": entry.updated_by,
        "ttl": entry.ttl,
        "expires_at": iso_or_none(entry.expires_at),
    }


def change_view(change: Change, namespace: str) -> View:
    """What a watch saw."""
    return {
        "kind": change.kind,
        "key": change.key,
        "value": change.value,
        "namespace": namespace,
        "revision": change.revision,
    }


def event_view(event: Event) -> View:
    """One thing that happened; ``fields`` holds what it was about."""
    return {"at": iso(event.at), "space": event.space, "kind": event.kind, "fields": dict(event.fields)}
