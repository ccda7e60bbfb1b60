"""A submitter's trace: in the task's record through every attempt, in the audit log, and never in the way."""

from __future__ import annotations

from typing import Any

import pytest

from ghcoord.coord.layout import FLEET
from ghcoord.errors import UsageError
from ghcoord.hub import Submission
from ghcoord.model import steps
from ghcoord.model.task import State, Task
from tests.coord.sessions.checks import worker
from tests.coord.world import BAD, Daemon, World, edited, ids, where
from tests.test_tracing import GOOD, TRACE


def traced(task: Task | None) -> str:
    assert task is not None
    return task.trace


def test_a_task_keeps_the_trace_of_its_submitter(both: World) -> None:
    """By submit, by a batch, and absent from the record where there is none."""
    hub = both.open()
    one = hub.tasks.submit("echo", trace=GOOD)
    two, three = hub.tasks.submit_many([Submission("echo", trace=GOOD), Submission("echo")])
    assert [GOOD, GOOD, ""] == [traced(hub.tasks.get(task.id)) for task in (one, two, three)]
    kept = [b'"trace"' in both.files(FLEET)[where("task", task.id)] for task in (one, two, three)]
    assert [True, True, False] == kept


def test_every_attempt_has_the_trace(world: World) -> None:
    """A failure, a lost worker, a retry by hand and the burial of a record change nothing about it."""
    hub = world.open()
    daemon = Daemon(hub)
    task = hub.tasks.submit("echo", retries=1, backoff=0, trace=GOOD)
    (first,) = daemon.lease()
    daemon.report(first, BAD)
    (second,) = daemon.lease()
    hub.workers.deregister("w1")
    assert (2, GOOD) == (second.attempt, traced(hub.tasks.get(task.id)))
    (third,) = Daemon(hub, "w2").lease()
    assert (3, GOOD) == (third.attempt, third.trace)
    hub.tasks.cancel(task.id)
    buried = steps.bury(third, "too large", now=1.0)
    assert (State.DEAD, GOOD) == (buried.state, buried.trace)


def test_a_call_of_a_session_keeps_the_trace(world: World) -> None:
    """The same call again is the first one's task, with the first one's trace."""
    hub = world.open()
    daemon = worker(hub)
    hub.sessions.create("s1")
    call = hub.sessions.submit_call("s1", "echo", {"message": "x"}, key="k", trace=GOOD)
    again = hub.sessions.submit_call("s1", "echo", {"message": "x"}, key="k", trace=GOOD.replace(TRACE, "1" * 32))
    assert (GOOD, call.id, GOOD) == (call.trace, again.id, again.trace)
    assert [GOOD] == [task.trace for task in daemon.lease()]


@pytest.mark.parametrize("bad", ["x", 5, None, ["00"]])
def test_what_is_no_trace_is_refused(world: World, bad: Any) -> None:
    """Nothing is queued then."""
    hub = world.open()
    worker(hub)
    hub.sessions.create("s1")
    for submit in (
        lambda: hub.tasks.submit("echo", trace=bad),
        lambda: hub.tasks.submit_many([Submission("echo", trace=bad)]),
        lambda: hub.sessions.submit_call("s1", "echo", trace=bad),
    ):
        with pytest.raises(UsageError, match="no W3C traceparent"):
            submit()
    assert [] == hub.tasks.list()
    with pytest.raises(UsageError, match="'trace' is no option of a schedule's tasks"):
        hub.schedules.put("s", "@daily", "echo", trace=GOOD)  # type: ignore[call-arg]


@pytest.mark.parametrize("bad", ["x", "x" * 500_000, "\x1b[31m", "00-\r\nA: b", 5, None, [GOOD], {"a": 1}])
def test_a_bad_trace_in_a_record_is_none(world: World, bad: Any) -> None:
    """What people write there stops neither the task nor the others, and no command gets to see it."""
    hub = world.open()
    daemon = Daemon(hub)
    hub.tasks.submit("echo", id="one", trace=GOOD)
    hub.tasks.submit("echo", id="two", trace=GOOD)
    path = where("task", "one")
    world.put(FLEET, {path: edited(world.files(FLEET)[path], trace=bad)})
    assert ("", GOOD) == (traced(hub.tasks.get("one")), traced(hub.tasks.get("two")))
    leased = daemon.lease(5)
    assert ["one", "two"] == ids(leased)
    for task in leased:
        daemon.report(task)
    assert [State.SUCCEEDED] * 2 == [task.state for task in hub.tasks.list()]
    world.check_index()


def test_a_record_of_an_older_version_is_read(world: World) -> None:
    """Without the field there is no trace, and what is written next has none either."""
    hub = world.open()
    hub.tasks.submit("echo", id="one")
    assert b"trace" not in world.files(FLEET)[where("task", "one")]
    (leased,) = Daemon(hub).lease()
    assert "" == leased.trace
    assert b"trace" not in world.files(FLEET)[where("task", "one")]


def test_the_audit_log_finds_the_submission(world: World) -> None:
    """The event of a traced task names the trace, that of another none."""
    hub = world.open()
    hub.tasks.submit("echo", id="one", trace=GOOD)
    hub.tasks.submit("echo", id="two")
    assert ["one"] == [event.fields["task"] for event in hub.audit.log(trace=TRACE)]
    (other,) = hub.audit.log(task="two")
    assert "trace" not in other.fields
