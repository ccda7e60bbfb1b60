"""Workers: the record and its transitions."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from math import floor, isfinite
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from ghcoord.errors import WorkerReplaced
from ghcoord.model.codec import Moment, Number, Record, Token, stamp
from ghcoord.model.lease import MAX_TTL, Lease
from ghcoord.model.requirements import Offer
from ghcoord.model.tier import Tier

MAX_RECENT = 32
"""Task types that a worker remembers having run."""

RECENT_TOTAL = 1000
"""Tasks that this memory counts at most: beyond that all counts are halved, so that what was long ago fades."""

MAX_TYPE = 200
"""Longest task type in characters that is remembered."""


MAX_ACCOUNT = 300
"""Longest account in characters."""


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


def _rounded_down(value: object) -> object:
    return floor(value) if isinstance(value, float) and isfinite(value) else value


class Capabilities(_Part):
    """What a worker can run: cores, memory in whole MiB, the task types it serves, and labels.

    A fraction of a MiB is rounded down.  ``tools`` are the programs and
    functions that it has, where those are not all of its types.
    """

    cpu_cores: Number = 1
    memory_mb: Annotated[Number, BeforeValidator(_rounded_down)] = 0
    supported_task_types: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    labels: dict[str, str] = Field(default_factory=dict)

    @property
    def offer(self) -> Offer:
        """What it offers besides its sandbox, which :attr:`Worker.offer` adds."""
        tools = self.tools or self.supported_task_types
        return Offer(self.supported_task_types, tools, self.cpu_cores, self.memory_mb, self.labels)


class SandboxInfo(_Part):
    """Which sandbox the worker runs tasks in: ``tier`` is ``full``, ``partial`` or ``none``.

    ``limits`` says of each limit whether it is kept ``hard`` or ``soft``, and by what.
    """

    driver: str = "none"
    tier: str = "none"
    limits: dict[str, str] = Field(default_factory=dict)


UNHEALTHY = "unhealthy"
"""The verdict of a worker that is given nothing new."""


class Health(_Part):
    """What a heartbeat may say: load average, memory in MiB, running tasks, and a verdict with its reason."""

    cpu: float | None = None
    memory: float | None = None
    active_tasks: int | None = None
    health_status: str = Field(default="healthy", pattern="^(healthy|degraded|unhealthy)$")
    reason: str = Field(default="", max_length=500)


class Worker(Record):
    """A registered worker. ``token`` tells this registration from an earlier one of the same id.

    ``ttl`` is in seconds; ``renewal`` the revision of the last heartbeat.
    ``account`` is ``host/login`` at the server of the hub: who has the same
    shares its limits; ``None`` on hubs without any.
    ``recent_types`` counts the tasks that it has lately ended, by type.
    """

    id: str = Field(min_length=1)
    token: Token
    hostname: str = ""
    pid: int | None = None
    account: str | None = Field(default=None, max_length=MAX_ACCOUNT)
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
    recent_types: dict[str, Number] = Field(default_factory=dict)
    metadata: dict[str, Any] = Field(default_factory=dict)

    @property
    def lease(self) -> Lease:
        return Lease(self.id, self.token, self.renewal, self.ttl, self.last_heartbeat)

    @property
    def alive(self) -> bool:
        """Whether it counts as present: nobody has declared it offline."""
        return self.status is not WorkerStatus.OFFLINE

    @property
    def health_status(self) -> str:
        """Its verdict on itself; a worker that says nothing counts as healthy."""
        return self.health.health_status if self.health is not None else "healthy"

    @property
    def tier(self) -> str:
        """The tier of its sandbox; ``none`` for a worker that names no sandbox."""
        return self.sandbox.tier if self.sandbox is not None else Tier.NONE

    @property
    def offer(self) -> Offer:
        """What it offers, its sandbox included, to be held against what a task needs."""
        return self.capabilities.offer._replace(sandbox=self.tier)

    @property
    def calls_only(self) -> bool:
        """Whether it has no slot for tasks: it runs calls of its own sessions, which are made for it by name."""
        return self.capacity.max_tasks == 0

    @property
    def session_room(self) -> int:
        """Sessions that it still takes; task slots are counted apart, in ``capacity``."""
        return max(0, self.max_sessions - max(self.active_sessions, len(self.session_ids)))


def trimmed(worker: Worker) -> Worker:
    """``worker`` with only what ghcoord itself needs of it: for a record that got too large to be written."""
    kept = {"format", "id", "token", "pid", "status", "drain_requested", "registered_at", "last_heartbeat"}
    kept |= {"renewal", "ttl", "capacity", "sandbox", "max_sessions", "active_sessions", "session_ids"}
    return Worker(**{name: getattr(worker, name) for name in kept})


def worker_key(worker_id: str) -> str:
    """What observers call the lease of a worker."""
    return f"worker:{worker_id}"


def heartbeat(worker: Worker, *, now: float, revision: int, **changes: Any) -> Worker:
    """``worker`` with its lease begun anew, and other fields changed, the ``ttl`` among them if it is given."""
    return worker.model_copy(update={"last_heartbeat": stamp(now), "renewal": revision, **changes})


def note_types(worker: Worker, finished: Iterable[str]) -> Worker:
    """``worker`` after it has ended tasks of these types; remembers the 32 that it ran most, recent ones first."""
    ended = [one for one in finished if one and len(one) <= MAX_TYPE]
    if not ended:
        return worker
    counts = dict(worker.recent_types)
    for one in ended:
        counts[one] = counts.get(one, 0) + 1
    while sum(counts.values()) > RECENT_TOTAL:
        counts = {name: count // 2 for name, count in counts.items() if count > 1 or name in ended}
    latest = set(ended)
    most = sorted(counts, key=lambda name: (name not in latest, -counts[name], name))[:MAX_RECENT]
    return worker.model_copy(update={"recent_types": {name: max(1, counts[name]) for name in sorted(most)}})


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
