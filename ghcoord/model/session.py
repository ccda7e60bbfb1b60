"""Sessions: the record, and what workers and callers say about one."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ghcoord.model.codec import Count, Moment, Number, Record, Token, stamp
from ghcoord.model.limits import Limits
from ghcoord.model.requirements import Requirements
from ghcoord.model.tier import Tier

MAX_CHECKPOINTS = 10
"""Checkpoints kept of a session unless the worker says otherwise (reference: wk:263)."""

MAX_RECENT = 10
"""Calls that a session's record remembers."""


MAX_REASON = 300
"""Characters kept of why a session was lost."""

LISTS_BYTES = 400_000
"""Bytes that the lists of all checkpoints in a record have together; the manifests hold them in full."""


class SessionState(StrEnum):
    """Where its files are. ``new``: it was never opened. ``active``: on its worker. ``parked``: in a checkpoint, from
    which the next worker opens it. ``lost``: gone, its worker died without a checkpoint that the hub has.
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
    origin: str = ""
    """The session that its content belongs to, where that is another one."""


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
    checkpoint that an opening without the files starts from; ``None`` with
    ``new`` for an empty workspace.  ``born`` is the revision that created it:
    another session of the same id, later, has another.
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
    born: Token | None = None
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

    @property
    def is_waiting(self) -> bool:
        """Whether no worker has it, and one could."""
        return self.worker_id is None and self.state in (SessionState.NEW, SessionState.PARKED)

    def checkpoint(self, checkpoint_id: str) -> Checkpoint | None:
        """Its checkpoint of that id."""
        return next((one for one in self.checkpoints if one.id == checkpoint_id), None)

    @property
    def published(self) -> Checkpoint | None:
        """Its newest checkpoint that any worker can restore."""
        return next((one for one in reversed(self.checkpoints) if one.published), None)

    @property
    def rescue(self) -> Checkpoint | None:
        """Where it goes on when its worker dies, as far as the hub has its files; ``None`` when it is lost then.

        That is the latest saved state of what it was last put to: not one that a
        restoration gave up, and no archive that nobody has restored.
        """
        start = None if self.restore_from is None else self.checkpoint(self.restore_from)
        if start is not None and start.published:
            return start
        return _latest(self.checkpoints, published=True)


class SessionReport(_Part):
    """What a worker says of a session that it has, with its next tick.

    ``calls`` counts all calls ever: the worker goes on from the record's number.
    What others need to know at once is that it was ``opened`` or ``lost``; the
    rest goes along with the next commit that is made anyway.
    """

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


# -- what happens to a session: each a pure function from a record to the next


def placed(session: Session, worker: str, *, revision: int) -> Session:
    """The session on ``worker``, under a new epoch. Its state stays until that one has opened it."""
    return session.model_copy(update={"worker_id": worker, "last_worker": worker, "epoch": revision})


def displaced(session: Session, why: str) -> Session:
    """The session without its worker: as new as before, parked when the hub has a checkpoint, else lost.

    The epoch stays, so that the same worker can take it back while nobody else has had it.
    """
    update: dict[str, Any] = {"worker_id": None, "active_tasks": 0, "usage": Usage()}
    if session.state not in (SessionState.ACTIVE, SessionState.PARKED):
        return session.model_copy(update=update)
    start = session.rescue
    if start is None:
        return lost(session, why)
    return session.model_copy(update={**update, "state": SessionState.PARKED, "restore_from": start.id})


def lost(session: Session, why: str) -> Session:
    """The session whose files its worker cannot bring back."""
    gone = {"worker_id": None, "active_tasks": 0, "usage": Usage(), "state": SessionState.LOST}
    return session.model_copy(update={**gone, "lost_because": why[:MAX_REASON]})


def taken_back(session: Session, worker: str) -> Session:
    """The session on the worker that had it last and still has its files, under the same epoch."""
    state = SessionState.ACTIVE if session.state is not SessionState.NEW else SessionState.NEW
    return session.model_copy(update={"worker_id": worker, "state": state, "lost_because": ""})


def touched(session: Session, at: float, *, now: float) -> Session:
    """The session used at ``at``, in seconds since the epoch, which no clock may put after ``now``."""
    moment = stamp(max(0.0, min(at, now)))
    return session.model_copy(update={"last_active": moment}) if moment > session.last_active else session


def opened(session: Session, report: SessionReport, *, now: float) -> Session:
    """The session after its worker has opened it."""
    if session.state is SessionState.ACTIVE and report.restored_from in (None, session.restored_from):
        return session
    update: dict[str, Any] = {"state": SessionState.ACTIVE, "lost_because": ""}
    if report.restored_from is not None and report.restored_from != session.restored_from:
        update |= {"restored_from": report.restored_from[:128], "restored_at": stamp(now)}
    elif report.restored_from is not None and session.state is SessionState.PARKED:
        update["restored_at"] = stamp(now)
    return session.model_copy(update=update)


def noted(session: Session, report: SessionReport, *, now: float) -> Session:
    """The session with what its worker says of its use."""
    update = {
        "calls": max(session.calls, report.calls),
        "active_tasks": report.active_tasks,
        "usage": report.usage,
        "recent": report.recent[-MAX_RECENT:] or session.recent,
    }
    return touched(session.model_copy(update=update), report.last_active, now=now)


def with_checkpoint(session: Session, made: Checkpoint, keep: int) -> tuple[Session, list[str]]:
    """The session with one more checkpoint, of which the last ``keep`` stay; the ids of those that go as well.

    The newest published one stays in any case: it is what another worker would start from.
    """
    every = (*(one for one in session.checkpoints if one.id != made.id), made)
    rescue = _latest(every, published=True)
    kept = tuple(one for at, one in enumerate(every) if at >= len(every) - max(1, keep) or one is rescue)
    gone = [one.id for one in every if one not in kept]
    return session.model_copy(update={"checkpoints": _slim(kept), "restore_from": made.id}), gone


def without_checkpoint(session: Session, checkpoint_id: str) -> Session:
    """The session without one of its checkpoints."""
    left = tuple(one for one in session.checkpoints if one.id != checkpoint_id)
    start = session.restore_from
    if start == checkpoint_id:
        other = _latest(left, published=True) or _latest(left) or (left[-1] if left else None)
        start = None if other is None else other.id
    return session.model_copy(update={"checkpoints": left, "restore_from": start})


def _latest(checkpoints: tuple[Checkpoint, ...], *, published: bool = False) -> Checkpoint | None:
    """The newest that a worker has made; with ``published`` of those in the hub."""
    found = (one for one in reversed(checkpoints) if one.worker and (one.published or not published))
    return next(found, None)


def _slim(checkpoints: tuple[Checkpoint, ...]) -> tuple[Checkpoint, ...]:
    """The checkpoints, of which the oldest lose their lists when all would make the record too large."""
    room = LISTS_BYTES
    kept: list[Checkpoint] = []
    for one in reversed(checkpoints):
        room -= sum(len(text.encode(errors="replace")) + 12 for text in (*one.modified, *one.packages))
        kept.append(one if room >= 0 else one.model_copy(update={"modified": (), "packages": ()}))
    return tuple(reversed(kept))
