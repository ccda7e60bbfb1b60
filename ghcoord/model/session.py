"""Sessions: the record, and what workers and callers say about one."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ghcoord.model.codec import Count, Moment, Number, Record, Token
from ghcoord.model.limits import Limits
from ghcoord.model.requirements import Requirements
from ghcoord.model.tier import Tier

MAX_CHECKPOINTS = 10
"""Checkpoints kept of a session unless the worker says otherwise (reference: wk:263)."""

MAX_RECENT = 10
"""Calls that a session's record remembers."""


class SessionState(StrEnum):
    """``new``: never opened. ``active``: its worker has it. ``parked``: no worker has it, a checkpoint waits for the
    next. ``lost``: its worker died without a checkpoint.
    """

    NEW = "new"
    ACTIVE = "active"
    PARKED = "parked"
    LOST = "lost"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)


class Checkpoint(_Part):
    """A saved state of a session's files. ``size`` is in bytes; ``packages`` is the exact lock of its environment.

    ``published`` tells that the hub holds its content, so that any worker can
    restore it; otherwise only the worker's own folder does.
    """

    id: str = Field(min_length=1, max_length=64)
    created_at: Moment
    name: str = Field(default="", max_length=200)
    files: Number = 0
    size: Number = 0
    modified: tuple[str, ...] = ()
    """Files that changed since the checkpoint before, at most 100."""
    packages: tuple[str, ...] = ()
    """``name==version``, sorted."""
    published: bool = True
    epoch: Token
    worker: str = ""


class CallNote(_Part):
    """A call that a session has lately ended."""

    tool: str
    task: str = ""
    success: bool
    at: Moment
    duration: float = Field(default=0.0, ge=0)
    error: str = Field(default="", max_length=300)


class Usage(_Part):
    """What a session uses, as far as its worker could tell: MiB, seconds of CPU so far, MiB on disk."""

    memory_mb: float | None = None
    cpu_seconds: float | None = None
    disk_mb: float | None = None
    processes: int | None = None


class Session(Record):
    """A session. ``worker_id`` is the worker that has it, ``None`` while none does.

    ``epoch`` is the revision of its latest placement, and fences what a worker
    says: one that had it before is not believed.  ``restore_from`` is the
    checkpoint that the next opening starts from; ``None`` with ``new`` for an
    empty workspace.
    """

    id: str = Field(min_length=1, max_length=128)
    workspace_id: str = ""
    user_id: str = ""
    state: SessionState = SessionState.NEW
    created_at: Moment
    created_by: str = ""
    last_active: Moment
    metadata: dict[str, Any] = Field(default_factory=dict)
    env: dict[str, str] = Field(default_factory=dict)
    limits: Limits = Limits()
    allow: tuple[str, ...] = ()
    """Hosts that pkg.install may reach through the relay besides the package index."""
    sandbox: Tier = Tier.FULL
    requirements: Requirements | None = None
    worker_id: str | None = None
    last_worker: str | None = None
    epoch: Token
    restore_from: str | None = None
    restored_from: str | None = None
    """The checkpoint that the present files came from, when they were restored."""
    restored_at: Moment | None = None
    lost_because: str = ""
    checkpoints: tuple[Checkpoint, ...] = ()
    """Oldest first."""
    calls: Count = 0
    active_tasks: Count = 0
    usage: Usage = Usage()
    recent: tuple[CallNote, ...] = ()


class SessionReport(_Part):
    """What a worker says of a session that it has, with its next tick."""

    id: str
    epoch: Token
    opened: bool = False
    """Its workspace was made, reattached or restored: the record becomes ``active``."""
    restored_from: str | None = None
    lost: str = ""
    """Why its files are gone."""
    last_active: float = 0.0
    """Seconds since the epoch, by the hub's clock."""
    calls: Count = 0
    active_tasks: Count = 0
    usage: Usage = Usage()
    recent: tuple[CallNote, ...] = ()


class SessionStatus(_Part):
    """What is known of a session: ``memory`` and ``disk`` in MiB, ``cpu`` in seconds, and its last calls."""

    id: str
    state: SessionState
    worker_id: str | None
    memory: float | None = None
    cpu: float | None = None
    disk: float | None = None
    last_active: Moment
    active_tasks: Count = 0
    calls: Count = 0
    tasks: tuple[CallNote, ...] = ()
