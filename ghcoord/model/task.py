"""Tasks: the record, its parts, and the table of transitions; :mod:`ghcoord.model.steps` says what each step does."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from ghcoord.model.codec import MAX_ATTEMPT, Count, Moment, Number, Record, Token
from ghcoord.model.requirements import Need, Requirements
from ghcoord.tracing import valid

MAX_HISTORY = 20
"""Attempts kept in a record, newest last."""

LOST_LIMIT = 10
"""Lost leases after which a task is dead: something about it kills its workers."""

MAX_CONCURRENCY = 10_000
"""Tasks of one key that run at a time, at most."""

MAX_RATE = 1_000
"""Starts within a period that a key can be limited to: its gate remembers each of them."""

MAX_PERIOD = 366 * 86400.0
"""Longest period of a rate in seconds."""


class State(StrEnum):
    """Where a task stands.

    ``scheduled`` waits for its time, ``blocked`` for other tasks, ``failed``
    for its back-off to end; ``dead`` is the dead letter.
    """

    SCHEDULED = "scheduled"
    BLOCKED = "blocked"
    QUEUED = "queued"
    LEASED = "leased"
    FAILED = "failed"
    SUCCEEDED = "succeeded"
    DEAD = "dead"
    CANCELLED = "cancelled"


ENDED = frozenset({State.SUCCEEDED, State.DEAD, State.CANCELLED})
"""States that only an explicit retry leaves."""

TIMED = frozenset({State.SCHEDULED, State.FAILED})
"""States that end by themselves at ``due_at``."""


class Step(StrEnum):
    """What can happen to a task."""

    LEASE = "lease"
    SUCCEED = "succeed"
    FAIL = "fail"
    GIVE_UP = "give up"
    LOSE = "lose"
    GIVE_BACK = "give back"
    DUE = "due"
    UNBLOCK = "unblock"
    POSTPONE = "postpone"
    CANCEL = "cancel"
    RETRY = "retry"


TRANSITIONS: dict[tuple[State, Step], State] = {
    (State.SCHEDULED, Step.DUE): State.QUEUED,
    (State.SCHEDULED, Step.RETRY): State.QUEUED,
    (State.SCHEDULED, Step.CANCEL): State.CANCELLED,
    (State.BLOCKED, Step.UNBLOCK): State.QUEUED,
    (State.BLOCKED, Step.POSTPONE): State.SCHEDULED,
    (State.BLOCKED, Step.CANCEL): State.CANCELLED,
    (State.QUEUED, Step.LEASE): State.LEASED,
    (State.QUEUED, Step.CANCEL): State.CANCELLED,
    (State.LEASED, Step.SUCCEED): State.SUCCEEDED,
    (State.LEASED, Step.FAIL): State.FAILED,
    (State.LEASED, Step.GIVE_UP): State.DEAD,
    (State.LEASED, Step.LOSE): State.QUEUED,
    (State.LEASED, Step.GIVE_BACK): State.QUEUED,
    (State.LEASED, Step.CANCEL): State.CANCELLED,
    (State.FAILED, Step.DUE): State.QUEUED,
    (State.FAILED, Step.CANCEL): State.CANCELLED,
    (State.FAILED, Step.RETRY): State.QUEUED,
    (State.DEAD, Step.RETRY): State.QUEUED,
    (State.CANCELLED, Step.RETRY): State.QUEUED,
}
"""Every legal step. The one from ``leased`` by ``cancel`` is taken only by the holder or at the lease's end."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)


class TaskResult(_Part):
    """How an attempt ended.

    ``output`` is stdout or the tool's text, ``error`` the message, ``data`` the tool's own fields.
    """

    success: bool
    output: str = ""
    error: str = ""
    exit_code: int | None = None
    duration: float = Field(default=0.0, ge=0)
    data: dict[str, Any] = Field(default_factory=dict)
    truncated: bool = False
    artifacts: tuple[str, ...] = ()
    completed_at: Moment | None = None


class TaskLease(_Part):
    """Who runs the task now; the worker's own lease is what expires."""

    worker: str = Field(min_length=1)
    token: Token
    attempt: int = Field(ge=1, le=MAX_ATTEMPT)
    at: Moment


class Attempt(_Part):
    """One past attempt."""

    attempt: Count
    worker: str
    token: Number
    started_at: Moment
    ended_at: Moment
    outcome: str
    error: str = ""


class Progress(_Part):
    """What a running task last said; ``tail`` is the end of its output so far, of ``seen`` characters."""

    fraction: float | None = Field(default=None, ge=0, le=1)
    message: str = ""
    tail: str = ""
    seen: Number = 0
    at: Moment


class Backoff(_Part):
    """Exponential back-off: ``base`` seconds doubled with each failure, at most ``cap`` seconds."""

    base: float = Field(default=2.0, ge=0, le=86400)
    cap: float = Field(default=300.0, ge=0, le=7 * 86400)


class IfFailed(StrEnum):
    """What becomes of a task when one that it waits for ends without success."""

    CANCEL = "cancel"
    RUN = "run"
    WAIT = "wait"


class Dependencies(_Part):
    """The tasks that must end first: ``after`` all of them, ``waiting_for`` those that have not."""

    after: tuple[str, ...]
    waiting_for: tuple[str, ...] = ()
    if_failed: IfFailed = IfFailed.CANCEL


class Limit(_Part):
    """How many tasks of one ``key`` may run at a time, and start within ``period`` seconds."""

    key: str = Field(min_length=1, max_length=256)
    concurrency: int | None = Field(default=None, ge=1, le=MAX_CONCURRENCY)
    rate: int | None = Field(default=None, ge=1, le=MAX_RATE)
    period: float | None = Field(default=None, gt=0, le=MAX_PERIOD)

    @model_validator(mode="after")
    def _whole(self) -> Limit:
        if (self.rate is None) is not (self.period is None):
            raise ValueError("a rate needs a number and a period")
        return self


class Unique(_Part):
    """Which other task this one must not stand beside.

    ``digest`` stands for the key, or for type, tool and arguments.  Another task
    of the same digest counts while it is in one of ``states``, and, with a
    ``period``, for so many seconds after it was submitted.
    """

    digest: str = Field(pattern="^[0-9a-f]{40}$")
    period: float | None = Field(default=None, gt=0)
    states: tuple[State, ...]


class Assignment(_Part):
    """The worker that a task is meant for.

    ``until`` ends a preference.  A ``pinned`` one is the submitter's wish, which
    rebalancing leaves alone.  It lasts at most as long as the worker's registration.
    """

    worker: str = Field(min_length=1)
    at: Moment
    until: Moment | None = None
    pinned: bool = False


class Task(Record):
    """A unit of work. ``sequence`` orders the queue within a priority (higher priority first).

    ``type`` is what workers declare to serve; it defaults to the tool's name.
    ``due_at`` is when a scheduled or failed task is queued, ``not_before`` the
    submitter's wish.  ``max_failures`` counts tries that ended in failure;
    attempts that lost their lease count apart, in ``lost``.  ``attempt`` is
    never reset.  ``estimated_duration`` is in seconds.  ``session`` is the one
    that it is a call of: only the worker that has it runs the task.  ``trace``
    is the submitter's traceparent, which every attempt passes on.
    """

    shown = ("format", "state", "priority")

    id: str = Field(min_length=1)
    tool: str = Field(min_length=1)
    type: str = ""
    args: dict[str, Any] = Field(default_factory=dict)
    state: State = State.QUEUED
    priority: int = Field(default=0, ge=0, le=9)
    sequence: Number = 0
    created_at: Moment
    submitted_by: str = ""
    timeout: float | None = Field(default=None, gt=0)
    max_failures: int = Field(default=1, ge=1, le=1000)
    backoff: Backoff = Backoff()
    estimated_duration: float | None = Field(default=None, gt=0)
    requirements: Requirements | None = None
    not_before: Moment | None = None
    dependencies: Dependencies | None = None
    limit: Limit | None = None
    unique: Unique | None = None
    assigned: Assignment | None = None
    session: str | None = None
    schedule: str | None = None
    batch: str | None = None
    trace: Annotated[str, BeforeValidator(valid)] = ""
    metadata: dict[str, Any] = Field(default_factory=dict)
    attempt: Count = 0
    failures: Count = 0
    lost: Count = 0
    lease: TaskLease | None = None
    due_at: Moment | None = None
    cancel_requested: bool = False
    cancel_reason: str = ""
    progress: Progress | None = None
    result: TaskResult | None = None
    ended_at: Moment | None = None
    history: tuple[Attempt, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Task:
        if (self.state is State.LEASED) is not (self.lease is not None):
            raise ValueError("a task has a lease exactly while it is leased")
        if self.state in TIMED and self.due_at is None:
            raise ValueError(f"a {self.state} task needs due_at, when it is queued")
        if (self.state is State.BLOCKED) is not bool(self.dependencies and self.dependencies.waiting_for):
            raise ValueError("a task waits for others exactly while it is blocked")
        return self

    @property
    def need(self) -> Need:
        """What a worker must offer to run it."""
        return Need.of(self.type, self.tool, self.requirements)

    @property
    def worker(self) -> str | None:
        """The worker that runs it now, is meant to run it, or ran it last."""
        if self.lease is not None:
            return self.lease.worker
        if self.assigned is not None and not self.ended:
            return self.assigned.worker
        return self.history[-1].worker if self.history else None

    @property
    def ended(self) -> bool:
        return self.state in ENDED
