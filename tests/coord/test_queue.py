"""The queue: order, exactly one completion, cancelling and retrying."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from ghcoord.coord import layout
from ghcoord.coord.layout import FLEET
from ghcoord.coord.queue import upkeep
from ghcoord.coord.tasks.tasks import Submission
from ghcoord.coord.workers.tick import Finished, Returned
from ghcoord.errors import (
    IllegalTransition,
    InvalidName,
    NotFound,
    TaskFailed,
    UsageError,
)
from ghcoord.model.task import LOST_LIMIT, State, TaskResult
from ghcoord.testing.clock import START
from tests.coord.world import BAD, GOOD, Daemon, World, ids, kinds, token_of


def test_priority_first_then_first_come(both: World) -> None:
    """Higher priorities go first; within one, the order of submission, across tools."""
    hub = both.open()
    for number, (tool, priority) in enumerate(
        [("echo", 0), ("shell", 9), ("echo", 5), ("echo", 9), ("other", 9), ("shell", 5), ("echo", 0)]
    ):
        hub.tasks.submit(tool, id=f"t{number}", priority=priority)
    daemon = Daemon(hub, tools=("shell", "echo"))
    assert ["t1", "t3", "t4", "t2", "t5", "t0", "t6"] == ids(hub.tasks.list("queued"))
    assert ["t1", "t3"] == ids(daemon.lease(2))
    assert ["t2", "t5", "t0"] == ids(daemon.lease(3))
    assert ["t6"] == ids(daemon.lease(9)), "tools that are not offered are skipped"
    assert [] == daemon.lease(9)
    assert ["t4"] == ids(hub.tasks.list("queued"))
    both.check_index()


def test_order_holds_over_many(world: World) -> None:
    """First come, first served across the levels of the index, also where numbers get longer."""
    hub = world.open()
    tasks = hub.tasks.submit_many([Submission("echo", {"n": n}, priority=n % 2) for n in range(700)])
    daemon = Daemon(hub, slots=1000)
    expected = [t.args["n"] for t in tasks if t.priority == 1] + [t.args["n"] for t in tasks if t.priority == 0]
    leased = [task.args["n"] for _ in range(10) for task in daemon.lease(70)]
    assert expected == leased


def test_a_made_up_end_of_the_queue_is_not_counted_from(world: World) -> None:
    """The places that the index has names for do not run out, and the next task is behind the last one."""
    hub = world.open()
    hub.tasks.submit("echo")
    world.put(FLEET, {layout.QUEUE_RECORD: json.dumps({"sequence": 2**40 - 1}).encode()})
    assert [1, 2] == [hub.tasks.submit("echo").sequence for _ in range(2)]
    world.check_index()


def test_a_returned_task_keeps_its_place_a_retried_one_goes_to_the_end(world: World) -> None:
    """Giving back and losing do not cost the place in the queue."""
    hub = world.open()
    tasks = [hub.tasks.submit("echo", id=f"t{n}") for n in range(3)]
    daemon = Daemon(hub)
    (first,) = daemon.lease()
    daemon.beat(returned=(Returned("t0", token_of(first), "draining"),))
    assert ids(tasks) == ids(hub.tasks.list("queued"))
    hub.tasks.cancel("t0")
    hub.tasks.retry("t0")
    assert ["t1", "t2", "t0"] == ids(hub.tasks.list("queued"))


def test_lists_by_state(world: World) -> None:
    """One state or several, by tool, with a limit: what runs, the queue in order, the latest ends; bad ones named."""
    hub = world.open()
    for number in range(12):
        hub.tasks.submit("echo" if number % 2 else "other", id=f"t{number:02}", retries=number % 2)
    daemon = Daemon(hub, slots=20, tools=("echo", "other"))
    leased = daemon.lease(9)
    for task in leased[:6]:
        daemon.report(task, BAD if task.args or int(task.id[1:]) < 4 else GOOD)
    assert ["t05", "t04"] == ids(hub.tasks.list("succeeded"))
    assert ["t02", "t00"] == ids(hub.tasks.list("dead"))
    failed = ids(hub.tasks.list("failed"))
    assert ["t01", "t03"] == sorted(failed)
    assert ["t08", "t07", "t06"] == ids(hub.tasks.list("leased"))
    assert ["t08"] == ids(hub.tasks.list(State.LEASED, limit=1))
    assert ["t08", "t06"] == ids(hub.tasks.list("leased", tool="other"))
    assert [*failed, "t02", "t00"] == ids(hub.tasks.list(["dead", "failed"]))
    running, waiting = ["t08", "t07", "t06"], ["t09", "t10", "t11"]
    assert [*running, *waiting, *failed, "t05", "t04", "t02", "t00"] == ids(hub.tasks.list())
    assert [*running, "t09"] == ids(hub.tasks.list(limit=4))
    assert [] == hub.tasks.list([]) == hub.tasks.list(limit=0) == hub.tasks.list("cancelled")
    for bad in ("running", "", ["queued", "x"]):
        with pytest.raises(UsageError, match="unknown state: one of scheduled, blocked, queued"):
            hub.tasks.list(bad)
    with pytest.raises(UsageError, match="limit"):
        hub.tasks.list(limit=-1)
    listed = Counter(task.state for task in hub.tasks.list())
    assert hub.tasks.counts() == {state: listed[state] for state in State}


# -- the life of a task


def test_one_result_ends_a_task(both: World) -> None:
    """Leased, run, reported: the result is there, the counts follow each step."""
    hub = both.open()
    hub.tasks.submit("echo", id="t1")
    daemon = Daemon(hub)
    (task,) = daemon.lease(5)
    assert (State.LEASED, 1, "w1") == (task.state, task.attempt, task.worker)
    assert task == hub.tasks.get("t1")
    assert {"leased": 1} == {state: n for state, n in hub.tasks.counts().items() if n}
    reply = daemon.report(task)
    assert ({}, {}) == (reply.refused, reply.held)
    assert GOOD == hub.tasks.result("t1")
    assert {"succeeded": 1} == {state: n for state, n in hub.tasks.counts().items() if n}
    both.check_index()
    assert ["task succeeded", "task leased", "task submitted"] == [e.kind for e in hub.events(task="t1")]


def test_a_repeated_report_is_silent_a_late_one_is_refused_and_audited(both: World) -> None:
    """Completion happens once: the same report again changes and says nothing; another's leaves its trace."""
    hub = both.open()
    hub.tasks.submit("echo", id="t1")
    old, new = Daemon(hub, "w1"), Daemon(hub, "w2")
    (task,) = old.lease()
    both.runtime.advance(10)
    new.beat(renew=True)
    both.runtime.advance(8)
    hub.workers.recover("w1")
    (again,) = new.lease()
    assert 2 == again.attempt
    both.runtime.advance(1)
    refusal = old.report(task, TaskResult(success=True, output="too late")).refused["t1"]
    assert f"leased to w2 under token {token_of(again)}" in refusal
    assert State.LEASED is both.check_index()["t1"].state
    (refused,) = [event for event in hub.events() if event.kind == "task result refused"]
    assert ("t1", "w1", token_of(task), True) == tuple(
        refused.fields[k] for k in ("task", "worker", "token", "success")
    )
    assert {} == new.report(again).refused
    before = hub.commits
    assert {} == new.report(again).refused
    assert {} == new.report(again, BAD).refused
    assert ["task result refused"] == [kind for kind in kinds(hub) if "refused" in kind]
    assert before + 2 >= hub.commits
    assert "t1" in old.report(task).refused
    done = both.check_index()["t1"]
    assert (State.SUCCEEDED, GOOD, 2, 1) == (done.state, done.result, done.attempt, done.lost)


def test_results_of_tasks_that_are_no_more_are_refused(world: World) -> None:
    """A token of nobody, a task that never was, a task deleted by hand."""
    hub = world.open()
    daemon = Daemon(hub)
    hub.tasks.submit("echo", id="t1")
    (task,) = daemon.lease()
    wrong = daemon.beat(finished=(Finished("t1", 5, GOOD), Finished("t9", 5, GOOD)))
    assert {"t1", "t9"} == set(wrong.refused)
    assert "no longer exists" in wrong.refused["t9"]
    assert {"t1": token_of(task)} == wrong.held


def test_failures_are_retried_after_their_back_off(world: World) -> None:
    """Not before it is due; then in its old place; after the last one it is dead, with the result."""
    hub = world.open()
    daemon = Daemon(hub)
    hub.tasks.submit("echo", id="t1", retries=1, backoff=10.0)
    hub.tasks.submit("echo", id="t2")
    (task,) = daemon.lease()
    reply = daemon.report(task, BAD)
    failed = world.check_index()["t1"]
    assert failed.due_at is not None
    due = failed.due_at.timestamp()
    assert START + 5 <= due < START + 10
    assert reply.next_due == pytest.approx(due, abs=0.002)
    world.runtime.advance(due - START - 0.01)
    daemon.beat(renew=True)
    assert ["t2"] == ids(daemon.lease(5))
    world.runtime.advance(0.02)
    (again,) = daemon.lease(5)
    assert ("t1", 2, None) == (again.id, again.attempt, daemon.beat().next_due)
    daemon.report(again, BAD)
    dead = world.check_index()["t1"]
    assert (State.DEAD, 2, 2, BAD) == (dead.state, dead.failures, dead.attempt, dead.result)


def test_many_back_offs_end_in_pages(world: World) -> None:
    """However many are due at once, one tick moves a bounded number; all come back."""
    hub = world.open()
    total = upkeep.PAGE + 50
    hub.tasks.submit_many([Submission("echo", retries=1, backoff=0.5) for _ in range(total)])
    daemon = Daemon(hub, slots=1000)
    leased = daemon.lease(total)
    daemon.beat(finished=[Finished(task.id, token_of(task), BAD) for task in leased])
    assert total == hub.tasks.counts()["failed"]
    world.runtime.advance(5)
    assert 1 == len(daemon.lease(1))
    assert upkeep.PAGE - 1 == hub.tasks.counts()["queued"]
    world.check_index()
    assert 1 == len(daemon.lease(1))
    assert (0, total - 2) == (hub.tasks.counts()["failed"], hub.tasks.counts()["queued"])


def test_a_task_that_kills_its_workers_dies(world: World) -> None:
    """After so many lost leases it is not tried again."""
    hub = world.open()
    hub.tasks.submit("echo", id="t1", retries=3)
    for number in range(LOST_LIMIT):
        daemon = Daemon(hub, f"w{number}")
        assert 1 == len(daemon.lease())
        hub.workers.deregister(f"w{number}")
    dead = world.check_index()["t1"]
    assert (State.DEAD, LOST_LIMIT, LOST_LIMIT, 0) == (dead.state, dead.lost, dead.attempt, dead.failures)
    assert dead.result is not None
    assert "lost 10 times" in dead.result.error


def test_giving_back_under_a_lost_lease_is_refused_and_audited(world: World) -> None:
    """It does not take the task from its new holder; the same return again is silent."""
    hub = world.open()
    hub.tasks.submit("echo", id="t1")
    old, new = Daemon(hub, "w1"), Daemon(hub, "w2")
    (task,) = old.lease()
    back = Returned("t1", token_of(task), "draining")
    old.beat(returned=(back,))
    before = kinds(hub)
    assert 0 == world.check_index()["t1"].lost
    world.runtime.advance(1)
    (again,) = new.lease()
    old.beat(returned=(back,))
    assert {"t1": token_of(again)} == new.beat().held
    assert "task return refused" not in kinds(hub)
    old.beat(returned=(Returned("t1", 3, "who?"),))
    assert "task return refused" in kinds(hub)
    assert "task return refused" not in before


@pytest.mark.parametrize("success", [True, False])
def test_a_result_always_fits(world: World, success: bool) -> None:
    """However large arguments and result are together, the task ends, with what fits of the result."""
    hub = world.open()
    args = {"a": "x" * 870_000}
    hub.tasks.submit("echo", args, id="t1")
    hub.tasks.submit("echo", id="t2")
    daemon = Daemon(hub)
    one, other = daemon.lease(2)
    huge = TaskResult(
        success=success, output="o" * 60_000, error="é" * 60_000, exit_code=3, data={"n": [1] * 190_000, "s": "y" * 9}
    )
    reply = daemon.beat(finished=(Finished("t1", token_of(one), huge), Finished("t2", token_of(other), huge)))
    assert {} == reply.refused
    for task_id in ("t1", "t2"):
        done = world.check_index()[task_id]
        assert (State.SUCCEEDED if success else State.DEAD) is done.state
        assert done.result is not None
        assert (success, 3, True) == (done.result.success, done.result.exit_code, done.result.truncated)
        assert done.result.error.endswith("é")
    assert args == world.check_index()["t1"].args


# -- cancelling and retrying


def test_cancelling_what_is_queued_ends_it(both: World) -> None:
    """At once; waiting for it says why; nobody gets it."""
    hub = both.open()
    hub.tasks.submit("echo", id="t1")
    cancelled = hub.tasks.cancel("t1", "not needed")
    assert (State.CANCELLED, "not needed") == (cancelled.state, cancelled.cancel_reason)
    assert [] == Daemon(hub).lease()
    with pytest.raises(TaskFailed, match="task t1 was cancelled: not needed"):
        hub.tasks.wait("t1")
    both.check_index()


@pytest.mark.parametrize(
    ("result", "state"),
    [(TaskResult(success=False, error="stopped"), State.CANCELLED), (GOOD, State.SUCCEEDED), (None, State.CANCELLED)],
)
def test_cancelling_what_runs_asks_its_worker(world: World, result: TaskResult | None, state: State) -> None:
    """The worker is told; the task ends with its lease: cancelled, unless it had succeeded before."""
    hub = world.open()
    hub.tasks.submit("echo", id="t1", retries=5)
    daemon = Daemon(hub)
    (task,) = daemon.lease()
    assert State.LEASED is hub.tasks.cancel("t1", "why").state
    before = hub.commits
    hub.tasks.cancel("t1", "why")
    assert before == hub.commits, "asked already"
    assert ["t1"] == daemon.beat().cancel
    if result is not None:
        daemon.report(task, result)
    else:
        hub.workers.deregister("w1")
    assert state is world.check_index()["t1"].state


def test_what_has_ended_cannot_be_cancelled_and_what_succeeded_not_retried(world: World) -> None:
    """The state machine has no such step, and says so; unknown tasks are not found."""
    hub = world.open()
    daemon = Daemon(hub)
    hub.tasks.submit("echo", id="t1")
    daemon.report(daemon.lease()[0])
    for call in (hub.tasks.cancel, hub.tasks.retry):
        with pytest.raises(IllegalTransition, match="task t1 is succeeded"):
            call("t1")
        with pytest.raises(NotFound, match="no task 't9'"):
            call("t9")
        with pytest.raises(InvalidName):
            call("../t")
    hub.tasks.submit("echo", id="t2")
    with pytest.raises(IllegalTransition, match="task t2 is queued"):
        hub.tasks.retry("t2")


def test_retrying_queues_again_with_the_attempts_kept(both: World) -> None:
    """A dead, a cancelled and a backing-off task run again, at the end of the queue."""
    hub = both.open()
    daemon = Daemon(hub)
    hub.tasks.submit("echo", id="dead")
    hub.tasks.submit("echo", id="failed", retries=3, backoff=1000.0, backoff_cap=1000.0)
    hub.tasks.submit("echo", id="cancelled")
    hub.tasks.submit("echo", id="last")
    for task in daemon.lease(2):
        daemon.report(task, BAD)
    hub.tasks.cancel("cancelled")
    for task_id in ("dead", "failed", "cancelled"):
        again = hub.tasks.retry(task_id)
        assert (State.QUEUED, 0) == (again.state, again.failures)
    assert ["last", "dead", "failed", "cancelled"] == ids(hub.tasks.list("queued"))
    both.check_index()
    assert [("last", 1), ("dead", 2), ("failed", 2), ("cancelled", 1)] == [(t.id, t.attempt) for t in daemon.lease(9)]
