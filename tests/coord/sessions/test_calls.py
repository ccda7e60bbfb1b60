"""Calls in sessions: where they run, how many at a time, once for each key, and how they end."""

from __future__ import annotations

from typing import Any

import pytest

from ghcoord.coord import layout
from ghcoord.errors import (
    IllegalTransition,
    InvalidName,
    NoCapacity,
    NotFound,
    SessionLost,
    TaskFailed,
    UsageError,
    WaitTimeout,
)
from ghcoord.hub import Hub, Submission
from ghcoord.model.session import SessionReport
from ghcoord.model.task import State, TaskResult
from tests.coord.sessions.checks import active, check_world, found, opened, saved, worker
from tests.coord.world import BAD, GOOD, World, ids, token_of

ECHO: dict[str, Any] = {"message": "x"}


def test_a_call_goes_to_the_sessions_worker_alone(both: World) -> None:
    """Others do not see it, whatever they could run; it carries the session's limits and needs its sandbox."""
    hub = both.open()
    one, other = worker(hub, "w1"), worker(hub, "w2")
    hub.sessions.create("s1", worker="w2", sandbox="partial", limits={"timeout": 60, "active_tasks": 2})
    task = hub.sessions.submit_call("s1", "shell", {"command": "ls"})
    assert ("s1", 60.0, 1, "session/s1") == (
        task.session,
        task.timeout,
        task.max_failures,
        task.limit and task.limit.key,
    )
    assert "partial" == task.need.tier
    assert [] == one.lease(5)
    assert [task.id] == ids(other.lease(5))
    check_world(both)
    other.report(hub.tasks.list("leased")[0])
    assert State.SUCCEEDED == getattr(hub.tasks.get(task.id), "state", None)
    check_world(both)


def test_the_timeout_is_at_most_the_sessions(hub: Hub) -> None:
    """A shorter one counts, a longer one does not, and without any there is none."""
    worker(hub)
    hub.sessions.create("s1", limits={"timeout": 60})
    hub.sessions.create("s2")
    given = [
        (one, hub.sessions.submit_call(one, "echo", ECHO, timeout=t).timeout)
        for one, t in (("s1", 5), ("s1", 500), ("s2", 500), ("s2", None))
    ]
    assert [("s1", 5), ("s1", 60), ("s2", 500), ("s2", None)] == given


def test_a_session_runs_so_many_calls_at_a_time(world: World, hub: Hub) -> None:
    """Four unless it was made with another number; the others wait in their order."""
    daemon = worker(hub)
    active(hub, daemon, "s1")
    active(hub, daemon, "s2", limits={"active_tasks": 1})
    calls = [hub.sessions.submit_call(name, "echo", ECHO) for name in ("s1", "s2") for _ in range(6)]
    first = daemon.lease(10)
    assert [*ids(calls[:4]), calls[6].id] == ids(first)
    check_world(world)
    assert (4, 1) == tuple(hub.sessions.status(one).active_tasks for one in ("s1", "s2"))
    assert [calls[7].id] == ids(daemon.report(first[4], want=10).leased)
    check_world(world)


def test_a_call_and_a_task_go_by_priority(hub: Hub) -> None:
    """A worker with a session takes tasks for all as well, the best first."""
    daemon = worker(hub)
    hub.sessions.create("s1")
    call = hub.sessions.submit_call("s1", "echo", ECHO)
    hub.tasks.submit("echo", ECHO, id="high", priority=5)
    hub.tasks.submit("echo", ECHO, id="low")
    assert "high" == getattr(hub.balance.get_next_task("w1"), "id", None)
    assert ["high", call.id, "low"] == ids(daemon.lease(5))


def test_the_same_key_is_the_same_call(world: World, hub: Hub) -> None:
    """A repeated call gives the first one's task, however it ended; another content is refused."""
    daemon = worker(hub)
    hub.sessions.create("s1")
    hub.sessions.create("s2")
    first = hub.sessions.submit_call("s1", "echo", ECHO, key="k")
    assert first.id == hub.sessions.submit_call("s1", "echo", ECHO, key="k").id
    assert first.id != hub.sessions.submit_call("s1", "echo", ECHO, sequence=1).id
    assert first.id != hub.sessions.submit_call("s2", "echo", ECHO, key="k").id
    (leased,) = [one for one in daemon.lease(5) if one.id == first.id]
    daemon.report(leased, BAD)
    assert State.DEAD is hub.sessions.submit_call("s1", "echo", ECHO, key="k").state
    assert "boom" == hub.sessions.call("s1", "echo", ECHO, key="k").error
    for tool, args in (("echo", {"message": "y"}), ("fs.read", ECHO)):
        with pytest.raises(UsageError, match="the key 'k' of the session s1 belongs to another call, of echo"):
            hub.sessions.submit_call("s1", tool, args, key="k")
    with pytest.raises(UsageError, match="the sequence number 1 of the session s1 belongs to another call"):
        hub.sessions.submit_call("s1", "echo", {"message": "y"}, sequence=1)
    check_world(world)


def test_a_key_whose_task_was_purged_is_not_run_again(hub: Hub) -> None:
    """As long as the session lives; it says so."""
    daemon = worker(hub)
    hub.sessions.create("s1")
    hub.sessions.submit_call("s1", "echo", ECHO, key="k")
    hub.sessions.submit_call("s1", "echo", ECHO, sequence=7)
    for task in daemon.lease(5):
        daemon.report(task)
    from ghcoord.hub import TaskQuery

    assert 2 == hub.tasks.purge(TaskQuery(states=("succeeded",))).changed
    with pytest.raises(UsageError, match="the key 'k' ran in the session s1 and its task has been removed since"):
        hub.sessions.submit_call("s1", "echo", ECHO, key="k")
    with pytest.raises(UsageError, match="sequence number 7 ran"):
        hub.sessions.submit_call("s1", "echo", ECHO, sequence=7)


def test_a_call_that_never_began_may_be_repeated(world: World, hub: Hub) -> None:
    """One that was cancelled with its lost session is queued again under its key when the session is back."""
    daemon = worker(hub)
    made = active(hub, daemon)
    hub.sessions.record_checkpoint("s1", made.epoch, saved(made))
    call = hub.sessions.submit_call("s1", "echo", ECHO, key="k")
    daemon.beat(sessions=[SessionReport(id="s1", epoch=made.epoch, lost="its disk is broken")])
    with pytest.raises(SessionLost, match="its disk is broken; restore it from a checkpoint"):
        hub.sessions.submit_call("s1", "echo", ECHO)
    with pytest.raises(SessionLost):
        hub.sessions.submit_call("s1", "echo", ECHO, key="k")
    hub.sessions.restore("s1")
    again = hub.sessions.submit_call("s1", "echo", ECHO, key="k")
    assert (call.id, State.QUEUED) == (again.id, again.state)
    check_world(world)
    assert [call.id] == ids(daemon.lease(5))


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        ({"tool": "a b"}, InvalidName, "tool name"),
        ({"tool": "x" * 65}, InvalidName, "at most 64"),
        ({"args": [1]}, UsageError, "args must be a JSON object"),
        ({"args": {"x": object()}}, UsageError, "not JSON"),
        ({"key": "k", "sequence": 1}, UsageError, "not both"),
        ({"key": ""}, InvalidName, "key is empty"),
        ({"key": 5}, UsageError, "not a text"),
        ({"sequence": -1}, UsageError, "sequence number"),
        ({"sequence": True}, UsageError, "sequence number"),
        ({"timeout": 0}, UsageError, "timeout"),
        ({"session_id": "s9"}, NotFound, "no session 's9'"),
        ({"session_id": "../.."}, InvalidName, "session id"),
        ({"tool": "gpu.train"}, UsageError, "the worker w1 of the session s1 has no tool 'gpu.train': it has echo"),
    ],
)
def test_a_wrong_call_is_refused(hub: Hub, call: dict[str, Any], error: type[Exception], says: str) -> None:
    """With what is wrong, and nothing is queued."""
    worker(hub)
    hub.sessions.create("s1")
    with pytest.raises(error, match=says):
        hub.sessions.submit_call(**{"session_id": "s1", "tool": "echo", "args": ECHO, **call})
    assert 0 == hub.tasks.counts()["queued"]


def test_options_that_a_session_decides_are_refused(hub: Hub) -> None:
    """A call takes no worker, key or requirements; a schedule makes no calls; nobody else has a session's key."""
    worker(hub)
    hub.sessions.create("s1")
    for option in (
        {"worker": "w1"},
        {"prefer": "w1"},
        {"key": "k", "concurrency": 1},
        {"requirements": {"min_cpu_cores": 1}},
        {"sandbox": "none"},
    ):
        with pytest.raises(UsageError, match="a call of a session takes no"):
            hub.tasks.submit("echo", ECHO, session="s1", **option)
    with pytest.raises(UsageError, match="are those of sessions"):
        hub.tasks.submit("echo", ECHO, key="session/s1", concurrency=1)
    with pytest.raises(UsageError, match="'session' is no option of a schedule's tasks"):
        hub.schedules.put("nightly", "@daily", "echo", ECHO, session="s1")  # type: ignore[call-arg]
    with pytest.raises(NotFound, match="no session 's9'"):
        hub.tasks.submit("echo", ECHO, session="s9")


def test_a_call_is_not_placed_by_itself(hub: Hub) -> None:
    """Assigning it is refused, rebalancing leaves it, and only its session's worker suits."""
    worker(hub, "w1")
    worker(hub, "w2")
    hub.sessions.create("s1", worker="w2")
    task = hub.sessions.submit_call("s1", "echo", ECHO)
    for assign in (hub.balance.assign, lambda one: hub.tasks.assign(one, "w1")):
        with pytest.raises(
            UsageError, match="is a call of the session 's1': it runs on the worker that has the session"
        ):
            assign(task.id)
    assert "w2" == getattr(hub.balance.select_worker(task.id), "id", None)
    assert 0 == hub.balance.rebalance().tasks_moved
    assert {} == hub.workers.tend(), "a session's calls are nobody's held tasks"


def test_batches_and_dependencies_work_in_a_session(world: World, hub: Hub) -> None:
    """Calls may be submitted together and wait for each other and for their time."""
    daemon = worker(hub)
    hub.sessions.create("s1")
    first, second, third = hub.tasks.submit_many(
        [
            Submission("echo", ECHO, id="a", session="s1"),
            Submission("echo", ECHO, id="b", session="s1", after=["a"], retries=1, backoff=5),
            Submission("echo", ECHO, id="c", session="s1", not_before=60.0),
        ]
    )
    check_world(world)
    assert ["queued", "blocked", "scheduled"] == [first.state, second.state, third.state]
    (running,) = daemon.lease(5)
    (running,) = daemon.report(running, want=5).leased
    daemon.report(running, BAD)
    assert "failed" == getattr(hub.tasks.get("b"), "state", None)
    check_world(world)
    world.runtime.advance(9)
    assert ["b"] == ids(daemon.lease(5))
    hub.sessions.destroy("s1")
    assert "cancelled" == getattr(hub.tasks.get("c"), "state", None)
    check_world(world)


def test_bulk_commands_count_calls_as_tasks(world: World, hub: Hub) -> None:
    """Cancelled, retried and purged like others; not retried where the session is gone."""
    from ghcoord.hub import TaskQuery

    worker(hub)
    hub.sessions.create("s1")
    calls = [hub.sessions.submit_call("s1", "echo", ECHO) for _ in range(3)]
    assert 3 == hub.tasks.cancel_many(TaskQuery()).changed
    check_world(world)
    assert 3 == hub.tasks.retry_many(TaskQuery(states=("cancelled",))).changed
    check_world(world)
    hub.sessions.destroy("s1")
    refused = hub.tasks.retry_many(TaskQuery(states=("cancelled",))).refused
    assert set(ids(calls)) == set(refused)
    assert 3 == hub.tasks.purge(TaskQuery(states=("cancelled",))).changed
    check_world(world)


# -- waiting


@pytest.mark.parametrize("result", [GOOD, BAD])
def test_a_failed_call_is_a_result(hub: Hub, monkeypatch: pytest.MonkeyPatch, result: TaskResult) -> None:
    """``call`` gives back what the worker reports, success or not; it raises nothing."""
    daemon = worker(hub)
    hub.sessions.create("s1")
    real = hub.sessions.submit_call

    def then_done(*args: Any, **more: Any) -> Any:
        task = real(*args, **more)
        daemon.report(daemon.lease(1)[0], result)
        return task

    monkeypatch.setattr(hub.sessions, "submit_call", then_done)
    done = hub.sessions.call("s1", "echo", ECHO)
    assert (result.success, result.output, result.error) == (done.success, done.output, done.error)


def test_waiting_ends(hub: Hub) -> None:
    """After the time given; the call goes on, and the same key finds it."""
    daemon = worker(hub)
    hub.sessions.create("s1")
    with pytest.raises(WaitTimeout):
        hub.sessions.call("s1", "echo", ECHO, key="k", wait=2)
    daemon.report(daemon.lease(1)[0], GOOD)
    assert "fine" == hub.sessions.call("s1", "echo", ECHO, key="k", wait=0).output


def test_a_cancelled_call_is_a_result(hub: Hub) -> None:
    """One that somebody cancelled says so, without an exception."""
    worker(hub)
    hub.sessions.create("s1")
    task = hub.sessions.submit_call("s1", "echo", ECHO, key="k")
    hub.tasks.cancel(task.id, "no longer needed")
    hub.tasks.submit("echo", ECHO)
    with pytest.raises(WaitTimeout):  # it was never begun: the same key queues it again
        hub.sessions.call("s1", "echo", ECHO, key="k", wait=0)
    hub.sessions.destroy("s1")
    assert "its session was destroyed by me" == getattr(hub.tasks.get(task.id), "cancel_reason", None)


def test_a_session_lost_meanwhile_raises(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for a call in it hears at once, with the reason."""
    daemon = worker(hub)
    made = active(hub, daemon)
    real = hub.sessions.submit_call

    def then_lost(*args: Any, **more: Any) -> Any:
        task = real(*args, **more)
        daemon.beat(sessions=[SessionReport(id="s1", epoch=made.epoch, lost="its disk is broken")])
        return task

    monkeypatch.setattr(hub.sessions, "submit_call", then_lost)
    with pytest.raises(SessionLost, match="the session s1 was lost: its disk is broken; create another") as lost:
        hub.sessions.call("s1", "echo", ECHO)
    assert ("s1", "SESSION_LOST", 7) == (lost.value.session_id, lost.value.code, lost.value.exit_code)


def test_a_parked_session_without_room_anywhere(world: World, hub: Hub) -> None:
    """A call is refused, naming why, and nothing is queued; with room it waits for the next tick."""
    daemon = worker(hub)
    made = active(hub, daemon)
    hub.sessions.record_checkpoint("s1", made.epoch, saved(made))
    hub.sessions.park("w1", {"s1": made.epoch})
    hub.workers.deregister("w1")
    with pytest.raises(NoCapacity, match="start one with"):
        hub.sessions.call("s1", "echo", ECHO)
    other = worker(hub, "w2", tier="none")
    with pytest.raises(NoCapacity, match="w2 offers the sandbox tier none, not full"):
        hub.sessions.submit_call("s1", "echo", ECHO)
    assert {} == hub.tasks.needs()
    third = worker(hub, "w3")
    call = hub.sessions.submit_call("s1", "echo", ECHO)
    assert [] == other.beat(5, adopt=5).leased
    reply = third.beat(5, adopt=5)
    assert ([call.id], ["s1"]) == (ids(reply.leased), [*reply.sessions])
    check_world(world)


def test_a_checkpoint_is_a_call(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its result is the checkpoint; why it failed is raised."""
    daemon = worker(hub)
    made = active(hub, daemon)
    point = saved(made).model_dump(mode="json")
    asked: list[tuple[str, Any]] = []

    def answer(result: TaskResult) -> None:
        def call(session_id: str, tool: str, args: Any, **more: Any) -> TaskResult:
            asked.append((tool, args))
            return result

        monkeypatch.setattr(hub.sessions, "call", call)

    answer(TaskResult(success=True, data={"checkpoint": point}))
    assert "c1" == hub.sessions.checkpoint("s1", "before").id
    assert ("session.checkpoint", {"name": "before"}) == asked[-1]
    answer(TaskResult(success=False, error="too large"))
    with pytest.raises(TaskFailed, match="too large"):
        hub.sessions.checkpoint("s1")
    with pytest.raises(NotFound, match="no checkpoint to compare with"):
        hub.sessions.diff("s1")
    hub.sessions.record_checkpoint("s1", made.epoch, saved(made))
    with pytest.raises(TaskFailed):
        hub.sessions.diff("s1", text=True)
    assert ("session.diff", {"a": "c1", "text": True}) == asked[-1]


def test_a_retry_in_a_lost_session_is_refused(hub: Hub) -> None:
    """It says what became of the session."""
    daemon = worker(hub)
    made = active(hub, daemon)
    call = hub.sessions.submit_call("s1", "echo", ECHO)
    daemon.beat(sessions=[SessionReport(id="s1", epoch=made.epoch, lost="gone")])
    with pytest.raises(IllegalTransition, match="its session s1 is lost"):
        hub.tasks.retry(call.id)


def test_names_that_are_cut_in_the_index(world: World, hub: Hub) -> None:
    """A session whose name is too long for a file's is adopted all the same."""
    name = "S" + "A" * 126 + "z"
    assert "%-" in layout.unplaced_path(name)
    worker(hub)
    made = hub.sessions.create(name)
    hub.sessions.park("w1", {name: made.epoch})
    other = worker(hub, "w2")
    call = hub.sessions.submit_call(name, "echo", ECHO)
    reply = other.beat(1, adopt=1, sessions=[opened(made)])
    assert ([call.id], [name]) == (ids(reply.leased), [*reply.sessions])
    assert token_of(reply.leased[0])
    assert found(hub, name).worker_id == "w2"
    check_world(world)
