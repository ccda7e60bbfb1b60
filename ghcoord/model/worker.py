"""Workers: the record and its transitions."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ghcoord.errors import WorkerReplaced
from ghcoord.model.codec import Moment, Number, Record, Token, stamp
from ghcoord.model.lease import MAX_TTL, Lease


class WorkerStatus(StrEnum):
    """``active``: takes tasks. ``busy``: no slot is free. ``draining``: finishes, takes none. ``offline``: gone."""

    ACTIVE = "active"
    BUSY = "busy"
    DRAINING = "draining"
    OFFLINE = "offline"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)


class Capacity(_Part):
    """Task slots; free ones are derived."""

    max_tasks: Number = 1
    active_tasks: Number = 0

    @property
    def available_slots(self) -> int:
        return max(0, self.max_tasks - self.active_tasks)


class Capabilities(_Part):
    """What a worker can run: cores, memory in whole MiB, the task types (tools) it serves, and labels."""

    cpu_cores: Number = 1
    memory_mb: Number = 0
    supported_task_types: tuple[str, ...] = ()
    labels: dict[str, str] = Field(default_factory=dict)


class SandboxInfo(_Part):
    """Which sandbox the worker runs tasks in: ``tier`` is ``full``, ``partial`` or ``none``."""

    driver: str = "none"
    tier: str = "none"


class Health(_Part):
    """What a heartbeat may say: load average, memory in MiB, running tasks, and a verdict."""

    cpu: float | None = None
    memory: float | None = None
    active_tasks: int | None = None
    health_status: str = Field(default="healthy", pattern="^(healthy|degraded|unhealthy)$")


class Worker(Record):
    """A registered worker. ``token`` tells this registration from an earlier one of the same id.

    ``ttl`` is in seconds; ``renewal`` the revision of the last heartbeat.
    """

    id: str = Field(min_length=1)
    token: Token
    hostname: str = ""
    pid: int | None = None
    status: WorkerStatus = WorkerStatus.ACTIVE
    drain_requested: bool = False
    registered_at: Moment
    last_heartbeat: Moment
    renewal: Token
    ttl: float = Field(gt=0, le=MAX_TTL)
    capacity: Capacity = Capacity()
    capabilities: Capabilities = Capabilities()
    sandbox: SandboxInfo | None = None
    max_sessions: Number = 5
    active_sessions: Number = 0
    session_ids: tuple[str, ...] = ()
    health: Health | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)

    @property
    def lease(self) -> Lease:
        return Lease(self.id, self.token, self.renewal, self.ttl, self.last_heartbeat)

    @property
    def alive(self) -> bool:
        """Whether it counts as present: nobody has declared it offline."""
        return self.status is not WorkerStatus.OFFLINE


def trimmed(worker: Worker) -> Worker:
    """``worker`` with only what ghcoord itself needs of it: for a record that got too large to be written."""
    kept = {"format", "id", "token", "pid", "status", "drain_requested", "registered_at", "last_heartbeat"}
    kept |= {"renewal", "ttl", "capacity", "max_sessions", "active_sessions"}
    return Worker(**{name: getattr(worker, name) for name in kept})


def worker_key(worker_id: str) -> str:
    """What observers call the lease of a worker."""
    return f"worker:{worker_id}"


def heartbeat(worker: Worker, *, now: float, revision: int, **changes: Any) -> Worker:
    """``worker`` with its lease begun anew, and other fields changed."""
    return worker.model_copy(update={"last_heartbeat": stamp(now), "renewal": revision, **changes})


REPLACED = "REPLACED"
"""Code of the error for a registration that a newer one of the same id has replaced."""


def current(worker: Worker | None, worker_id: str, token: int) -> Worker:
    """``worker`` if it is the registration ``token`` and alive; raises ``WorkerReplaced``."""
    if worker is None:
        raise WorkerReplaced(f"the worker {worker_id!r} is no longer registered", worker_id)
    if worker.token != token:
        raise WorkerReplaced(f"a newer registration of the worker {worker_id!r} exists", worker_id, code=REPLACED)
    if not worker.alive:
        raise WorkerReplaced(f"the worker {worker_id!r} was declared offline", worker_id)
    return worker
