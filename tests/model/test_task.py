"""Tasks: the table of transitions, and what each step does to a record."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from itertools import product
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ghcoord.errors import IllegalTransition, LeaseLost
from ghcoord.model import steps as model
from ghcoord.model.codec import stamp
from ghcoord.model.task import (
    ENDED,
    LOST_LIMIT,
    MAX_HISTORY,
    TRANSITIONS,
    Assignment,
    Backoff,
    Dependencies,
    Progress,
    State,
    Step,
    Task,
    TaskLease,
    TaskResult,
)

relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""Other work on the machine must not fail a test."""

NOW = 1_700_000_000.0

LEGAL: dict[State, dict[Step, State]] = {
    State.SCHEDULED: {Step.DUE: State.QUEUED, Step.CANCEL: State.CANCELLED, Step.RETRY: State.QUEUED},
    State.BLOCKED: {Step.UNBLOCK: State.QUEUED, Step.POSTPONE: State.SCHEDULED, Step.CANCEL: State.CANCELLED},
    State.QUEUED: {Step.LEASE: State.LEASED, Step.CANCEL: State.CANCELLED},
    State.LEASED: {
        Step.SUCCEED: State.SUCCEEDED,
        Step.FAIL: State.FAILED,
        Step.GIVE_UP: State.DEAD,
        Step.LOSE: State.QUEUED,
        Step.GIVE_BACK: State.QUEUED,
        Step.CANCEL: State.CANCELLED,
    },
    State.FAILED: {Step.DUE: State.QUEUED, Step.CANCEL: State.CANCELLED, Step.RETRY: State.QUEUED},
    State.SUCCEEDED: {},
    State.DEAD: {Step.RETRY: State.QUEUED},
    State.CANCELLED: {Step.RETRY: State.QUEUED},
}
"""The design's table, written a second time on purpose."""


def task(state: State = State.QUEUED, **changes: Any) -> Task:
    """A task in ``state`` as it could lie in a hub."""
    fields: dict[str, Any] = {"id": "t1", "tool": "echo", "created_at": stamp(NOW), "state": state, **changes}
    if state is State.LEASED:
        fields["attempt"] = fields.get("attempt", 1)
        fields["lease"] = TaskLease(worker="w1", token=7, attempt=fields["attempt"], at=stamp(NOW))
    if state in (State.FAILED, State.SCHEDULED):
        fields["due_at"] = stamp(NOW + 5)
    if state is State.BLOCKED:
        fields.setdefault("dependencies", Dependencies(after=("a", "b"), waiting_for=("a", "b")))
    return Task(**fields)


GOOD, BAD = TaskResult(success=True, output="fine"), TaskResult(success=False, error="boom")


@pytest.mark.parametrize(("state", "step"), [*product(State, Step)])
def test_every_pair_is_decided(state: State, step: Step) -> None:
    """Each step from each state leads where the design says, or raises."""
    target = LEGAL[state].get(step)
    if target is not None:
        assert target is model.step(task(state), step)
        return
    with pytest.raises(IllegalTransition, match=f"task t1 is {state}: it cannot {step}"):
        model.step(task(state), step)


def test_the_table_has_no_more_rows() -> None:
    """Nothing is legal besides what the design lists."""
    assert {(state, step): to for state, steps in LEGAL.items() for step, to in steps.items()} == TRANSITIONS


def test_from_everywhere_a_task_can_end() -> None:
    """No state is a trap: every one ends or leads on to one that does."""
    reach = set(ENDED)
    for _ in State:
        reach |= {state for (state, _), to in TRANSITIONS.items() if to in reach}
    assert set(State) == reach


@dataclass
class Action:
    """A function of the model, and the states from which it works."""

    run: Any
    works_from: frozenset[State]


WAITING = frozenset({State.SCHEDULED, State.BLOCKED, State.QUEUED, State.FAILED})

ACTIONS = {
    "lease": Action(lambda t: model.lease(t, "w", now=NOW, revision=9), frozenset({State.QUEUED})),
    "finish well": Action(lambda t: model.finish(t, GOOD, now=NOW), frozenset({State.LEASED})),
    "finish badly": Action(lambda t: model.finish(t, BAD, now=NOW), frozenset({State.LEASED})),
    "lose": Action(lambda t: model.lose(t, "x", now=NOW), frozenset({State.LEASED})),
    "give back": Action(lambda t: model.give_back(t, "x", now=NOW), frozenset({State.LEASED})),
    "cancel": Action(lambda t: model.cancel(t, "x", now=NOW), WAITING | {State.LEASED}),
    "retry": Action(
        lambda t: model.retry(t, sequence=3),
        frozenset({State.SCHEDULED, State.FAILED, State.DEAD, State.CANCELLED}),
    ),
    "due": Action(model.due, frozenset({State.SCHEDULED, State.FAILED})),
    "unblock": Action(lambda t: model.unblock(t, "a", now=NOW), frozenset({State.BLOCKED})),
    "assign": Action(lambda t: model.assign(t, "w", now=NOW), WAITING),
}


@pytest.mark.parametrize(("name", "state"), [*product(ACTIONS, State)])
def test_functions_follow_the_table(name: str, state: State) -> None:
    """Each function raises exactly where the table has no row, and its result is a valid record."""
    action = ACTIONS[name]
    if state in action.works_from:
        changed = action.run(task(state))
        assert changed == Task.model_validate(changed.model_dump())
    else:
        with pytest.raises(IllegalTransition):
            action.run(task(state))


def test_a_lease_names_holder_token_and_attempt() -> None:
    """Leasing counts the attempt and forgets the progress and the due time of the one before."""
    before = task(attempt=4, progress=Progress(message="old", at=stamp(NOW)))
    leased = model.lease(before, "w2", now=NOW, revision=99)
    assert (State.LEASED, 5, None, None) == (leased.state, leased.attempt, leased.progress, leased.due_at)
    assert TaskLease(worker="w2", token=99, attempt=5, at=stamp(NOW)) == leased.lease
    assert "w2" == leased.worker


def test_success_ends() -> None:
    """A good result ends the task, keeps the result, and notes the attempt."""
    done = model.finish(task(State.LEASED), GOOD, now=NOW + 3)
    assert (State.SUCCEEDED, GOOD, None, stamp(NOW + 3)) == (done.state, done.result, done.lease, done.ended_at)
    assert done.ended
    assert [(1, "w1", 7, "succeeded", "")] == [(a.attempt, a.worker, a.token, a.outcome, a.error) for a in done.history]
    assert "w1" == done.worker, "the worker that ran it last"


def test_success_wins_over_a_request_to_cancel() -> None:
    """What was finished before the cancellation reached it is done."""
    done = model.finish(task(State.LEASED, cancel_requested=True), GOOD, now=NOW)
    assert (State.SUCCEEDED, False) == (done.state, done.cancel_requested)


def test_failures_count_up_to_the_limit() -> None:
    """A failure waits for its back-off; the last one allowed is the dead letter, with its result."""
    present = task(State.LEASED, max_failures=2)
    failed = model.finish(present, BAD, now=NOW)
    assert (State.FAILED, 1, 0, None) == (failed.state, failed.failures, failed.lost, failed.ended_at)
    assert failed.due_at is not None
    assert timedelta(seconds=1) <= failed.due_at - stamp(NOW) < timedelta(seconds=2)
    again = model.lease(model.due(failed), "w1", now=NOW, revision=8)
    dead = model.finish(again, BAD, now=NOW + 1)
    assert (State.DEAD, 2, 2, BAD, stamp(NOW + 1)) == (
        dead.state,
        dead.failures,
        dead.attempt,
        dead.result,
        dead.ended_at,
    )


def test_losses_count_apart_and_kill_in_the_end() -> None:
    """Lost leases are no failures; after LOST_LIMIT of them the task is dead and says why."""
    present = task()
    for number in range(1, LOST_LIMIT):
        present = model.lose(model.lease(present, "w", now=NOW, revision=number), "its worker died", now=NOW)
        assert (State.QUEUED, 0, number, number) == (present.state, present.failures, present.lost, present.attempt)
    dead = model.lose(model.lease(present, "w", now=NOW, revision=99), "its worker died", now=NOW)
    assert (State.DEAD, 0, LOST_LIMIT) == (dead.state, dead.failures, dead.lost)
    assert dead.result is not None
    assert f"its lease was lost {LOST_LIMIT} times: its worker died" == dead.result.error


def test_giving_back_counts_nothing() -> None:
    """A returned lease is neither a failure nor a loss."""
    back = model.give_back(task(State.LEASED), "draining", now=NOW)
    assert (State.QUEUED, 0, 0, 1) == (back.state, back.failures, back.lost, back.attempt)
    assert "given back" == back.history[-1].outcome


@pytest.mark.parametrize(
    "end",
    [
        lambda t: model.finish(t, BAD, now=NOW),
        lambda t: model.lose(t, "x", now=NOW),
        lambda t: model.give_back(t, "x", now=NOW),
    ],
    ids=["failed", "lost", "given back"],
)
def test_a_request_to_cancel_is_honoured_at_the_end_of_the_lease(end: Any) -> None:
    """However a lease ends other than well, a task asked to be cancelled is, and keeps the reason."""
    asked = model.cancel(task(State.LEASED, max_failures=5), "not needed", now=NOW)
    assert (State.LEASED, True, "not needed") == (asked.state, asked.cancel_requested, asked.cancel_reason)
    ended = end(asked)
    assert (State.CANCELLED, "not needed", stamp(NOW)) == (ended.state, ended.cancel_reason, ended.ended_at)


def test_the_last_allowed_loss_of_a_cancelled_task_cancels() -> None:
    """A request to cancel goes before the dead letter."""
    asked = task(State.LEASED, cancel_requested=True, lost=LOST_LIMIT - 1)
    assert State.CANCELLED is model.lose(asked, "x", now=NOW).state


@pytest.mark.parametrize("state", sorted(WAITING))
def test_cancelling_what_does_not_run_ends_it(state: State) -> None:
    """Nobody has to be asked where nobody runs it."""
    ended = model.cancel(task(state), "why", now=NOW)
    assert (State.CANCELLED, "why", None, stamp(NOW)) == (
        ended.state,
        ended.cancel_reason,
        ended.due_at,
        ended.ended_at,
    )
    assert ended == Task.model_validate(ended.model_dump())


def test_a_blocked_task_is_queued_when_the_last_that_it_waits_for_has_ended() -> None:
    """One after another, in any order; what it does not wait for changes nothing."""
    blocked = task(State.BLOCKED)
    assert blocked == model.unblock(blocked, "c", now=NOW)
    half = model.unblock(blocked, "b", now=NOW)
    assert (State.BLOCKED, ("a",)) == (half.state, half.dependencies and half.dependencies.waiting_for)
    free = model.unblock(half, "a", now=NOW)
    assert (State.QUEUED, ("a", "b")) == (free.state, free.dependencies and free.dependencies.after)


def test_a_blocked_task_that_may_not_start_yet_is_scheduled() -> None:
    """Its own time counts when its dependencies are met before; later it does not."""
    early = task(State.BLOCKED, dependencies=Dependencies(after=("a",), waiting_for=("a",)), not_before=stamp(NOW + 9))
    scheduled = model.unblock(early, "a", now=NOW)
    assert (State.SCHEDULED, stamp(NOW + 9)) == (scheduled.state, scheduled.due_at)
    assert State.QUEUED is model.due(scheduled).state
    assert State.QUEUED is model.unblock(early, "a", now=NOW + 9).state


def test_what_a_cancelled_or_retried_task_waited_for_is_forgotten() -> None:
    """A retry runs it, whatever has become of the others."""
    cancelled = model.cancel(task(State.BLOCKED), "x", now=NOW)
    assert () == (cancelled.dependencies and cancelled.dependencies.waiting_for)
    assert State.QUEUED is model.retry(cancelled, sequence=9).state


def test_an_assignment_ends_with_the_attempt_unless_it_is_pinned() -> None:
    """What was placed by a strategy is placed anew next time; what its submitter pinned stays."""
    placed = model.assign(task(), "w1", now=NOW, until=NOW + 5)
    assert placed.assigned == Assignment(worker="w1", at=stamp(NOW), until=stamp(NOW + 5))
    assert "w1" == placed.worker
    assert None is model.lease(placed, "w1", now=NOW, revision=3).assigned
    pinned = model.assign(task(), "w1", now=NOW, pinned=True)
    again = model.lose(model.lease(pinned, "w1", now=NOW, revision=3), "x", now=NOW)
    assert pinned.assigned == again.assigned
    assert None is model.unassign(again).assigned


def test_retry_forgives_but_never_resets_the_attempt() -> None:
    """After a retry failures and losses begin at zero; attempts and history go on."""
    dead = model.finish(task(State.LEASED, attempt=6, lost=4), BAD, now=NOW)
    assert State.DEAD is dead.state
    again = model.retry(dead, sequence=50)
    assert (State.QUEUED, 0, 0, 6, 50, None) == (
        again.state,
        again.failures,
        again.lost,
        again.attempt,
        again.sequence,
        again.ended_at,
    )
    assert dead.history == again.history
    assert 7 == model.lease(again, "w", now=NOW, revision=10).attempt


def test_retry_withdraws_the_cancellation() -> None:
    """A cancelled task that is retried runs: it is not cancelled again when its lease ends."""
    again = model.retry(model.cancel(task(), "oops", now=NOW), sequence=1)
    assert (False, "") == (again.cancel_requested, again.cancel_reason)
    assert State.QUEUED is model.lose(model.lease(again, "w", now=NOW, revision=3), "x", now=NOW).state


def test_the_history_is_bounded() -> None:
    """Only the newest attempts are kept, and long errors are cut."""
    present = task()
    for number in range(1, 60):
        leased = model.lease(present, "w", now=NOW, revision=number)
        present = model.give_back(leased, "x" * 2000, now=NOW)
    assert list(range(60 - MAX_HISTORY, 60)) == [a.attempt for a in present.history]
    assert {500} == {len(a.error) for a in present.history}


@pytest.mark.parametrize(
    ("held", "worker", "token", "why"),
    [
        (None, "w1", 7, "no longer exists"),
        (task(), "w1", 7, "is queued, no longer leased to w1"),
        (task(State.SUCCEEDED), "w1", 7, "is succeeded"),
        (task(State.LEASED), "w2", 7, "leased to w1 under token 7"),
        (task(State.LEASED), "w1", 6, "leased to w1 under token 7, not 6"),
        (task(State.LEASED), "w1", 8, "not 8"),
    ],
)
def test_the_fence_lets_only_the_holder_pass(held: Task | None, worker: str, token: int, why: str) -> None:
    """Any difference in holder or token, higher or lower, is a lost lease."""
    with pytest.raises(LeaseLost, match=why):
        model.check_fence(held, "t1", worker, token)


def test_the_fence_lets_the_holder_pass() -> None:
    """The present holder may report."""
    held = task(State.LEASED)
    assert held is model.check_fence(held, "t1", "w1", 7)


def test_records_that_contradict_themselves_are_refused() -> None:
    """A lease without the state, the state without a lease, a time without a date, a wait for nobody, no holder."""
    lease = TaskLease(worker="w", token=1, attempt=1, at=stamp(NOW))
    for wrong in (
        {"state": State.QUEUED, "lease": lease},
        {"state": State.LEASED, "lease": None},
        {"state": State.FAILED, "due_at": None},
        {"state": State.SCHEDULED, "due_at": None},
        {"state": State.BLOCKED},
        {"state": State.BLOCKED, "dependencies": Dependencies(after=("a",))},
        {"state": State.QUEUED, "dependencies": Dependencies(after=("a",), waiting_for=("a",))},
    ):
        with pytest.raises(ValueError, match=r"lease exactly while|needs due_at|exactly while it is blocked"):
            Task(id="t1", tool="echo", created_at=stamp(NOW), **wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 1 character"):
        TaskLease(worker="", token=1, attempt=1, at=stamp(NOW))


@relaxed
@given(
    base=st.floats(0, 86400), cap=st.floats(0, 7 * 86400), failures=st.integers(1, 1000), attempt=st.integers(0, 10**6)
)
def test_the_back_off_doubles_up_to_its_cap_with_jitter(base: float, cap: float, failures: int, attempt: int) -> None:
    """The delay lies in [half, whole) of base × 2ⁿ⁻¹, never above the cap, and depends on nothing else."""
    one = task(backoff=Backoff(base=base, cap=cap), attempt=attempt)
    full = min(cap, base * 2.0 ** min(failures - 1, 40))
    delay = model.backoff_delay(one, failures)
    assert full / 2 <= delay <= full
    assert delay < full or full < 1e-300
    assert delay == model.backoff_delay(one, failures)


def test_the_jitter_tells_tasks_and_attempts_apart() -> None:
    """Tasks that fail together do not come back together."""
    delays = {model.backoff_delay(task(id=f"t{n}", attempt=k), 1) for n in range(50) for k in range(4)}
    assert 200 == len(delays)


def test_running_time() -> None:
    """How long the present attempt runs; nothing for a task that is not running."""
    assert timedelta(seconds=4) == model.running_for(task(State.LEASED), NOW + 4)
    assert None is model.running_for(task(), NOW)
