"""Workers as people see them on a terminal: one, and a list of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from ghcoord.faces import views
from ghcoord.faces.cli.output import fields, table, to_json
from ghcoord.units import format_duration

if TYPE_CHECKING:
    from ghcoord.model.worker import Worker


def show_workers(found: Sequence[Worker], now: datetime) -> None:
    """A table; TASKS counts slots, not sessions."""
    table(
        ("ID", "STATUS", "HEALTH", "TASKS", "HEARTBEAT", "SANDBOX", "HOST"),
        [
            (
                worker.id,
                worker.status,
                worker.health.health_status if worker.health is not None else None,
                views.in_use(worker.capacity.active_tasks, worker.capacity.max_tasks),
                _ago(worker, now),
                worker.sandbox.driver if worker.sandbox is not None else None,
                worker.hostname,
            )
            for worker in found
        ],
        keep=("ID",),
        right=("TASKS", "HEARTBEAT"),
        empty="no workers",
    )


def show_worker(worker: Worker, now: datetime, margin: float) -> None:
    """Everything about one worker, a line each; ``margin`` is the hub's, in seconds."""
    can = worker.capabilities
    fields(
        [
            ("worker", worker.id),
            ("status", worker.status + (", drain requested" if worker.drain_requested else "")),
            ("host", f"{worker.hostname} pid {worker.pid}"),
            ("tasks", _slots(worker.capacity.active_tasks, worker.capacity.max_tasks)),
            ("sessions", f"{worker.active_sessions} of {worker.max_sessions}"),
            ("health", _health(worker)),
            ("heartbeat", f"{_ago(worker, now)}, lease {format_duration(worker.ttl)}"),
            ("if it dies", f"others notice {format_duration(worker.ttl + margin)} after its last heartbeat"),
            ("account", worker.account),
            ("registered", views.iso(worker.registered_at)),
            ("machine", f"{can.cpu_cores} cores, {can.memory_mb} MiB"),
            ("tools", ", ".join(can.tools) or None),
            ("task types", ", ".join(can.supported_task_types) or None),
            ("ran lately", ", ".join(f"{name} {count}" for name, count in worker.recent_types.items()) or None),
            ("labels", ", ".join(f"{key}={value}" for key, value in can.labels.items()) or None),
            ("sandbox", _sandbox(worker)),
            ("metadata", to_json(worker.metadata, None) if worker.metadata else None),
        ]
    )


def _sandbox(worker: Worker) -> str:
    found = worker.sandbox
    if found is None:
        return "none"
    kept = [f"{name.replace('_', ' ')} {how}" for name, how in found.limits.items() if name != "by"]
    by = f" (by {found.limits['by']})" if found.limits.get("by") else ""
    return f"{found.driver} ({found.tier})" + (f"; {', '.join(kept)}{by}" if kept else "")


def _ago(worker: Worker, now: datetime) -> str:
    return format_duration(max(0.0, (now - worker.last_heartbeat).total_seconds())) + " ago"


def _health(worker: Worker) -> str | None:
    health = worker.health
    if health is None:
        return None
    parts = [health.health_status + (f" ({health.reason})" if health.reason else "")]
    if health.cpu is not None:
        parts.append(f"load {health.cpu:g}")
    if health.memory is not None:
        parts.append(f"uses {health.memory:g} MiB")
    return ", ".join(parts)


def _slots(tasks: int, slots: int) -> str:
    ahead = f", {tasks - slots} more leased ahead" if tasks > slots else ""
    return f"{min(tasks, slots)} of {slots} slots{ahead}"
