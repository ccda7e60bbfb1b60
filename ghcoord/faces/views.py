"""Records as plain dictionaries with stable keys: the one shape that every face shows.

Times are ISO 8601 in UTC with milliseconds and ``Z``, durations are seconds.
A key is always there; what has no value is ``None``.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ghcoord.coord.audit.events import Event
    from ghcoord.coord.memory.memory import Change, Imported, MemoryVersion, NamespaceUsage
    from ghcoord.coord.workers.balance import RebalanceResult
    from ghcoord.coord.workers.reaper import Reaped, Recovered
    from ghcoord.model.lock import Lock, Waiter
    from ghcoord.model.lock_stats import LockStats
    from ghcoord.model.memory import MemoryEntry
    from ghcoord.model.placement import LoadDistribution
    from ghcoord.model.schedule import Schedule
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
    """A grant; ``expires_at`` is when the lease ends unless renewed, ``paths`` are the patterns of a path lock."""
    return {
        "name": lock.name,
        "owner": lock.owner,
        "token": lock.token,
        "acquired_at": iso(lock.acquired_at),
        "expires_at": iso(lock.expires_at),
        "metadata": lock.metadata,
        "mode": str(lock.mode),
        "permits": lock.permits,
        "depth": lock.depth,
        "paths": list(lock.paths),
        "guards": list(lock.guards),
    }


def lock_state_view(holders: Sequence[Lock], waiters: Sequence[Waiter]) -> View:
    """A held lock: its oldest grant as in :func:`lock_view`, then all of them, and who waits in its queue."""
    return {
        **lock_view(holders[0]),
        "holders": [lock_view(lock) for lock in holders],
        "waiters": [waiter_view(waiter) for waiter in waiters],
    }


def waiter_view(waiter: Waiter) -> View:
    """One who waits for a lock; ``deadline`` is when it gives up."""
    return {
        "owner": waiter.owner,
        "mode": str(waiter.mode),
        "since": iso(waiter.since),
        "deadline": iso(waiter.deadline),
        "offered_at": iso_or_none(waiter.offered_at),
    }


def lock_stats_view(stats: LockStats) -> View:
    """Figures of a lock; times in seconds."""
    return {
        "name": stats.name,
        "acquisitions": stats.acquisitions,
        "contended": stats.contended,
        "expired": stats.expired,
        "left": stats.left,
        "held_total": stats.held_total,
        "held_max": stats.held_max,
        "waited_total": stats.waited_total,
        "waited_max": stats.waited_max,
        "last_owner": stats.last_owner,
        "updated_at": iso(stats.updated_at),
    }


def worker_view(worker: Worker, margin: float) -> View:
    """A worker; ``capacity`` counts task slots, ``max_sessions`` and ``active_sessions`` sessions.

    ``recent_types`` counts the tasks that it has lately ended, by type.  Were
    it to die now, others could tell after ``noticed_after`` seconds without a
    sign of it: its lease and the hub's ``margin``.
    """
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
        "noticed_after": round(worker.ttl + margin, 3),
        "account": worker.account,
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
        "sandbox": None if worker.sandbox is None else worker.sandbox.model_dump(include={"driver", "tier", "limits"}),
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
            "reason": worker.health.reason,
        },
        "recent_types": dict(worker.recent_types),
        "metadata": worker.metadata,
    }


def reaped_view(done: Reaped) -> View:
    """What reaping did, or would do: ``recovered`` and ``removed_ids`` name workers, ``taken`` says what they held."""
    return {
        "recovered": sorted(done.recovered),
        "removed": len(done.removed),
        "removed_ids": list(done.removed),
        "taken": [recovered_view(worker_id, taken) for worker_id, taken in sorted(done.recovered.items())],
    }


def recovered_view(worker_id: str, taken: Recovered) -> View:
    """What was taken from a dead worker."""
    return {"worker": worker_id, "locks": taken.locks, "tasks": taken.tasks, "sessions": taken.sessions}


def distribution_view(found: LoadDistribution) -> View:
    """How the load lies; percentages of slots, ``spread`` in percentage points."""
    return {**found._asdict(), "worker_loads": [one._asdict() for one in found.worker_loads]}


def rebalance_view(result: RebalanceResult) -> View:
    """What was moved, or would be; ``to_worker`` is ``None`` for what any worker may take."""
    return {**result._asdict(), "moves": [move._asdict() for move in result.moves]}


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
    """A task; ``worker`` runs it now, is meant to, or ran it last; ``retries`` and ``backoff`` are as submitted.

    ``type`` is what a worker must serve; ``rate`` is (number, seconds); ``waiting_for``
    are those of ``after`` that have not ended.
    """
    return {
        "id": task.id,
        "tool": task.tool,
        "type": task.need.type,
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
        "not_before": iso_or_none(task.not_before),
        **_waits_view(task),
        **_limit_view(task),
        **_assignment_view(task),
        "session": task.session,
        "schedule": task.schedule,
        "batch": task.batch,
        "trace": task.trace or None,
        "estimated_duration": task.estimated_duration,
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


def _waits_view(task: Task) -> View:
    waits = task.dependencies
    return {
        "after": list(waits.after) if waits is not None else [],
        "waiting_for": list(waits.waiting_for) if waits is not None else [],
        "if_failed": str(waits.if_failed) if waits is not None else None,
    }


def _limit_view(task: Task) -> View:
    limit, unique = task.limit, task.unique
    return {
        "key": limit.key if limit is not None else None,
        "concurrency": limit.concurrency if limit is not None else None,
        "rate": [limit.rate, limit.period] if limit is not None and limit.rate is not None else None,
        "unique": None
        if unique is None
        else {"digest": unique.digest, "period": unique.period, "states": [str(state) for state in unique.states]},
    }


def _assignment_view(task: Task) -> View:
    need, meant = task.need, task.assigned
    given = task.lease.at if task.lease is not None else meant.at if meant is not None else None
    return {
        "requirements": {
            "min_cpu_cores": need.cpu_cores,
            "min_memory_mb": need.memory_mb,
            "required_capabilities": list(need.capabilities),
            "sandbox": str(need.tier),
        },
        "assigned_at": iso_or_none(given),
        "assigned": None
        if meant is None
        else {
            "worker": meant.worker,
            "at": iso(meant.at),
            "until": iso_or_none(meant.until),
            "pinned": meant.pinned,
        },
    }


def schedule_view(schedule: Schedule) -> View:
    """A schedule; ``next_fire`` is its next due time, ``None`` while paused; ``options`` are those of its tasks."""
    return {
        "name": schedule.name,
        "cron": schedule.cron,
        "timezone": schedule.timezone,
        "tool": schedule.template.tool,
        "args": schedule.template.args,
        "options": schedule.template.options,
        "missed": str(schedule.missed),
        "grace": schedule.grace,
        "overlap": schedule.overlap,
        "paused": schedule.paused,
        "next_fire": iso_or_none(schedule.next_fire),
        "last_fire": iso_or_none(schedule.last_fire),
        "last_task": schedule.last_task,
        "fires": schedule.fires,
        "created_at": iso(schedule.created_at),
        "created_by": schedule.created_by,
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


def version_view(version: MemoryVersion, namespace: str) -> View:
    """What a key once was; ``kind`` is ``set``, ``deleted`` or ``expired``, ``commit`` where that appeared."""
    return {
        "revision": version.revision,
        "at": iso(version.at),
        "by": version.by,
        "kind": version.kind,
        "deleted": version.deleted,
        "value": version.value,
        "ttl": version.ttl,
        "namespace": namespace,
        "commit": version.commit,
    }


def usage_view(usage: NamespaceUsage) -> View:
    """What a namespace holds: keys, bytes of their records, when it last changed."""
    return {
        "namespace": usage.namespace,
        "keys": usage.keys,
        "bytes": usage.bytes,
        "revision": usage.revision,
        "updated_at": iso(usage.updated_at),
    }


def import_view(done: Imported, *, dry_run: bool) -> View:
    """What an import set, found in its place already, and left alone."""
    return {
        "created": done.created,
        "overwritten": done.overwritten,
        "skipped": done.skipped,
        "unchanged": done.unchanged,
        "dry_run": dry_run,
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
