"""Tasks: the record, the table of transitions, and what each transition does."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ghcoord.errors import IllegalTransition, LeaseLost
from ghcoord.model.codec import MAX_ATTEMPT, Count, Moment, Number, Record, Token, stamp

MAX_HISTORY = 20
"""Attempts kept in a record, newest last."""

LOST_LIMIT = 10
"""Lost leases after which a task is dead: something about it kills its workers."""


class State(StrEnum):
    """Where a task stands. ``failed`` waits for its back-off to end; ``dead`` is the dead letter."""

    QUEUED = "queued"
    LEASED = "leased"
    FAILED = "failed"
    SUCCEEDED = "succeeded"
    DEAD = "dead"
    CANCELLED = "cancelled"


ENDED = frozenset({State.SUCCEEDED, State.DEAD, State.CANCELLED})
"""States that only an explicit retry leaves."""


class Step(StrEnum):
    """What can happen to a task."""

    LEASE = "lease"
    SUCCEED = "succeed"
    FAIL = "fail"
    GIVE_UP = "give up"
    LOSE = "lose"
    GIVE_BACK = "give back"
    DUE = "due"
    CANCEL = "cancel"
    RETRY = "retry"


TRANSITIONS: dict[tuple[State, Step], State] = {
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


class Task(Record):
    """A unit of work. ``sequence`` orders the queue within a priority (higher priority first).

    ``max_failures`` counts tries that ended in failure; attempts that lost
    their lease count apart, in ``lost``.  ``attempt`` is never reset.
    """

    id: str = Field(min_length=1)
    tool: str = Field(min_length=1)
    args: dict[str, Any] = Field(default_factory=dict)
    state: State = State.QUEUED
    priority: int = Field(default=0, ge=0, le=9)
    sequence: Number = 0
    created_at: Moment
    submitted_by: str = ""
    timeout: float | None = Field(default=None, gt=0)
    max_failures: int = Field(default=1, ge=1, le=1000)
    backoff: Backoff = Backoff()
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
        if self.state is State.FAILED and self.due_at is None:
            raise ValueError("a failed task needs due_at, the end of its back-off")
        return self

    @property
    def worker(self) -> str | None:
        """The worker that runs it now or ran it last."""
        if self.lease is not None:
            return self.lease.worker
        return self.history[-1].worker if self.history else None

    @property
    def ended(self) -> bool:
        return self.state in ENDED


def step(task: Task, what: Step) -> State:
    """The state after ``what``; raises ``IllegalTransition``."""
    target = TRANSITIONS.get((task.state, what))
    if target is None:
        raise IllegalTransition(f"task {task.id} is {task.state}: it cannot {what} from there")
    return target


def lease(task: Task, worker: str, *, now: float, revision: int) -> Task:
    """The task held by ``worker``; the lease token is the revision of the granting transaction."""
    attempt = min(task.attempt + 1, MAX_ATTEMPT)
    return task.model_copy(
        update={
            "state": step(task, Step.LEASE),
            "attempt": attempt,
            "lease": TaskLease(worker=worker, token=revision, attempt=attempt, at=stamp(now)),
            "due_at": None,
            "progress": None,
        }
    )


def check_fence(task: Task | None, task_id: str, worker: str, token: int) -> Task:
    """``task`` if ``worker`` holds it under ``token``; raises ``LeaseLost``."""
    if task is None:
        raise LeaseLost(f"task {task_id} no longer exists")
    held = task.lease
    if task.state is not State.LEASED or held is None:
        raise LeaseLost(f"task {task_id} is {task.state}, no longer leased to {worker}")
    if held.worker != worker or held.token != token:
        raise LeaseLost(f"task {task_id} is leased to {held.worker} under token {held.token}, not {token}")
    return task


def _leave(task: Task, what: Step, outcome: str, error: str, now: float, **changes: Any) -> Task:
    """``task`` after its attempt ended by ``what``, with the attempt in its history."""
    held = task.lease
    history = task.history
    if held is not None:
        ended = Attempt(
            attempt=held.attempt,
            worker=held.worker,
            token=held.token,
            started_at=held.at,
            ended_at=stamp(now),
            outcome=outcome,
            error=error[:500],
        )
        history = (*history, ended)[-MAX_HISTORY:]
    target = step(task, what)
    update: dict[str, Any] = {"state": target, "lease": None, "history": history, **changes}
    if target in ENDED:
        update["ended_at"] = stamp(now)
    return task.model_copy(update=update)


def finish(task: Task, result: TaskResult, *, now: float) -> Task:
    """The task after its holder's result: succeeded, failed with a back-off, dead, or cancelled on request."""
    if result.success:
        return _leave(task, Step.SUCCEED, "succeeded", "", now, result=result, cancel_requested=False)
    if task.cancel_requested:
        return _leave(task, Step.CANCEL, "cancelled", result.error, now, result=result)
    failures = min(task.failures + 1, MAX_ATTEMPT)
    if failures >= task.max_failures:
        return _leave(task, Step.GIVE_UP, "failed", result.error, now, result=result, failures=failures)
    due = stamp(now + backoff_delay(task, failures))
    return _leave(task, Step.FAIL, "failed", result.error, now, result=result, failures=failures, due_at=due)


def lose(task: Task, reason: str, *, now: float) -> Task:
    """The task after its lease was lost: queued again, cancelled if that was asked, dead after too many losses."""
    lost = min(task.lost + 1, MAX_ATTEMPT)
    if task.cancel_requested:
        return _leave(task, Step.CANCEL, "lost", reason, now, lost=lost)
    if lost >= LOST_LIMIT:
        result = TaskResult(success=False, error=f"its lease was lost {lost} times: {reason}", completed_at=stamp(now))
        return _leave(task, Step.GIVE_UP, "lost", reason, now, lost=lost, result=result)
    return _leave(task, Step.LOSE, "lost", reason, now, lost=lost)


def give_back(task: Task, reason: str, *, now: float) -> Task:
    """The task after its holder returned it; counts neither as a failure nor as a loss."""
    if task.cancel_requested:
        return _leave(task, Step.CANCEL, "given back", reason, now)
    return _leave(task, Step.GIVE_BACK, "given back", reason, now)


def cancel(task: Task, reason: str, *, now: float) -> Task:
    """The task cancelled, or marked so that its holder cancels it. Ended tasks raise ``IllegalTransition``."""
    if task.state is State.LEASED:
        return task.model_copy(update={"cancel_requested": True, "cancel_reason": reason})
    return task.model_copy(
        update={"state": step(task, Step.CANCEL), "cancel_reason": reason, "due_at": None, "ended_at": stamp(now)}
    )


def retry(task: Task, *, sequence: int) -> Task:
    """A dead, cancelled or backing-off task in the queue again, its failures forgiven, its attempts kept."""
    return task.model_copy(
        update={
            "state": step(task, Step.RETRY),
            "failures": 0,
            "lost": 0,
            "due_at": None,
            "ended_at": None,
            "cancel_requested": False,
            "cancel_reason": "",
            "sequence": sequence,
        }
    )


def bury(task: Task, reason: str, *, now: float) -> Task:
    """The dead task left of one whose record can no longer be written: what it was, and why, without its contents.

    Not a step of a task's life: the arguments are gone, and the history of the hub has them.
    """
    return Task(
        id=task.id,
        tool=task.tool[:200],
        state=State.DEAD,
        priority=task.priority,
        sequence=task.sequence,
        created_at=task.created_at,
        max_failures=task.max_failures,
        attempt=task.attempt,
        failures=task.failures,
        lost=task.lost,
        result=TaskResult(success=False, error=reason, completed_at=stamp(now)),
        ended_at=stamp(now),
    )


def due(task: Task) -> Task:
    """A task whose back-off is over."""
    return task.model_copy(update={"state": step(task, Step.DUE), "due_at": None})


def backoff_delay(task: Task, failures: int) -> float:
    """Seconds until the next try: exponential, with a jitter of a half that depends on task and attempt only."""
    delay = min(task.backoff.cap, task.backoff.base * 2.0 ** min(failures - 1, 40))
    digest = hashlib.sha256(f"{task.id}:{task.attempt}".encode()).digest()
    return delay * (0.5 + int.from_bytes(digest[:4]) / 2**33)


def running_for(task: Task, now: float) -> timedelta | None:
    """How long the present attempt has been running by the hub's clock."""
    return stamp(now) - task.lease.at if task.lease is not None else None
