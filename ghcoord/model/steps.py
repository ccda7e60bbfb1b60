"""What can happen to a task: each step a pure function from a record to the next, along the table in ``task``."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import Any

from ghcoord.errors import IllegalTransition, LeaseLost, UsageError
from ghcoord.model.codec import MAX_ATTEMPT, stamp
from ghcoord.model.task import (
    ENDED,
    LOST_LIMIT,
    MAX_HISTORY,
    TRANSITIONS,
    Assignment,
    Attempt,
    Dependencies,
    State,
    Step,
    Task,
    TaskLease,
    TaskResult,
)


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
            "assigned": task.assigned if task.assigned is not None and task.assigned.pinned else None,
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
        update={
            "state": step(task, Step.CANCEL),
            "cancel_reason": reason,
            "due_at": None,
            "dependencies": None if task.dependencies is None else _met(task.dependencies),
            "ended_at": stamp(now),
        }
    )


def _met(dependencies: Dependencies) -> Dependencies:
    return dependencies.model_copy(update={"waiting_for": ()})


def retry(task: Task, *, sequence: int) -> Task:
    """A dead, cancelled, scheduled or backing-off task in the queue, its failures forgiven, its attempts kept.

    What it once waited for no longer holds it up.
    """
    return task.model_copy(
        update={
            "state": step(task, Step.RETRY),
            "failures": 0,
            "lost": 0,
            "due_at": None,
            "ended_at": None,
            "dependencies": None if task.dependencies is None else _met(task.dependencies),
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
        type=task.type[:200],
        state=State.DEAD,
        priority=task.priority,
        session=task.session,
        trace=task.trace,
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
    """A task whose time has come, or whose back-off is over."""
    return task.model_copy(update={"state": step(task, Step.DUE), "due_at": None})


def unblock(task: Task, ended: str, *, now: float) -> Task:
    """A blocked task that no longer waits for the task ``ended``: queued, or scheduled, when that was the last."""
    if task.dependencies is None or task.state is not State.BLOCKED:
        raise IllegalTransition(f"task {task.id} is {task.state}: it waits for no other task")
    left = tuple(one for one in task.dependencies.waiting_for if one != ended)
    dependencies = task.dependencies.model_copy(update={"waiting_for": left})
    if left:
        return task.model_copy(update={"dependencies": dependencies})
    if task.not_before is not None and task.not_before.timestamp() > now:
        later = {"state": step(task, Step.POSTPONE), "due_at": task.not_before}
        return task.model_copy(update={"dependencies": dependencies, **later})
    return task.model_copy(update={"dependencies": dependencies, "state": step(task, Step.UNBLOCK)})


def assign(task: Task, worker: str, *, now: float, until: float | None = None, pinned: bool = False) -> Task:
    """A task that has not started, meant for ``worker``; ``until`` in seconds since the epoch ends a preference.

    Raises ``IllegalTransition``, and ``UsageError`` for a call of a session.
    """
    check_placeable(task)
    if task.ended or task.state is State.LEASED:
        raise IllegalTransition(f"task {task.id} is {task.state}: only one that has not started can be assigned")
    end = None if until is None else stamp(until)
    return task.model_copy(update={"assigned": Assignment(worker=worker, at=stamp(now), until=end, pinned=pinned)})


def check_placeable(task: Task) -> None:
    """Raises ``UsageError`` for a call of a session, which is placed by placing its session."""
    if task.session is not None:
        raise UsageError(
            f"task {task.id} is a call of the session {task.session!r}: it runs on the worker that has the session"
        )


def unassign(task: Task) -> Task:
    """A task meant for no worker in particular."""
    return task.model_copy(update={"assigned": None})


def backoff_delay(task: Task, failures: int) -> float:
    """Seconds until the next try: exponential, with a jitter of a half that depends on task and attempt only."""
    delay = min(task.backoff.cap, task.backoff.base * 2.0 ** min(failures - 1, 40))
    digest = hashlib.sha256(f"{task.id}:{task.attempt}".encode()).digest()
    return delay * (0.5 + int.from_bytes(digest[:4]) / 2**33)


def running_for(task: Task, now: float) -> timedelta | None:
    """How long the present attempt has been running by the hub's clock."""
    return stamp(now) - task.lease.at if task.lease is not None else None
