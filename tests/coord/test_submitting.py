"""Submitting: every argument kept or refused by name, batches whole and resumable, in few commits."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from ghcoord.coord.tasks.tasks import CHUNK, Submission
from ghcoord.errors import (
    InvalidName,
    TooLarge,
    UsageError,
)
from ghcoord.faces.views import iso, task_view
from ghcoord.hub import Hub
from ghcoord.model.task import State
from ghcoord.testing.clock import START
from ghcoord.testing.faults import CommitFault
from tests.coord.world import Daemon, World, ids, where

# -- submitting


def test_a_task_is_recorded_as_submitted(both: World) -> None:
    """Every argument is in the record, and who submitted it when."""
    hub = both.open("ann")
    task = hub.tasks.submit(
        "echo",
        {"a": [1, None, "é"], "none": None},
        priority=3,
        retries=2,
        backoff=1.5,
        backoff_cap=9.0,
        timeout=60.0,
        metadata={"m": 1},
        id="t1",
    )
    assert task == hub.tasks.get("t1")
    assert ("t1", "echo", {"a": [1, None, "é"], "none": None}, 3, 3, 60.0, {"m": 1}, "ann", START) == (
        task.id,
        task.tool,
        task.args,
        task.priority,
        task.max_failures,
        task.timeout,
        task.metadata,
        task.submitted_by,
        task.created_at.timestamp(),
    )
    assert (1.5, 9.0, State.QUEUED, 0) == (task.backoff.base, task.backoff.cap, task.state, task.attempt)
    both.check_index()


def test_submitting_the_same_again_is_harmless(both: World) -> None:
    """The same id and content is the same task, also spelt with tuples; other content is refused."""
    hub = both.open()
    first = hub.tasks.submit("echo", {"a": (1, 2), "n": None}, id="t1")
    before = hub.commits
    assert first.id == hub.tasks.submit("echo", {"n": None, "a": (1, 2)}, id="t1").id
    assert first.sequence == hub.tasks.submit("echo", {"a": [1, 2], "n": None}, id="t1").sequence
    assert before == hub.commits
    for tool, args in (("echo", {"a": [1]}), ("shell", {"a": [1, 2], "n": None}), ("echo", {"a": [1, 2]})):
        with pytest.raises(UsageError, match="id 't1' is taken by another task"):
            hub.tasks.submit(tool, args, id="t1")
    assert {"t1"} == set(both.check_index())


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ({"tool": ""}, "tool name is empty"),
        ({"tool": "a b"}, "tool name"),
        ({"tool": 5}, "tool name"),
        ({"id": "../x"}, "task id"),
        ({"requirements": 5}, "requirements"),
        ({"requirements": []}, "requirements"),
        ({"prefer": "w1", "prefer_for": None}, "time that a worker is preferred for"),
        ({"unique": 5}, "unique is true or false"),
        ({"id": 5}, "task id"),
        ({"priority": 10}, "priority 10 is out of range"),
        ({"priority": -1}, "priority"),
        ({"priority": True}, "priority"),
        ({"priority": 1.5}, "priority"),
        ({"priority": "1"}, "priority"),
        ({"retries": -1}, "retries"),
        ({"retries": 1000}, "retries"),
        ({"retries": "1"}, "retries"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": -1}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
        ({"timeout": 1e12}, "timeout"),
        ({"timeout": "5m"}, "timeout"),
        ({"backoff": -1}, "back-off"),
        ({"backoff": float("nan")}, "back-off"),
        ({"backoff": "x"}, "back-off"),
        ({"backoff_cap": 1e9}, "back-off"),
        ({"args": [1]}, "args must be a JSON object"),
        ({"args": None}, "args must be"),
        ({"args": {"a": object()}}, "args is not JSON"),
        ({"args": {1: 2}}, "key that is not a string"),
        ({"args": {"a": float("inf")}}, "args is not JSON"),
        ({"args": {"a": "\ud800"}}, "args is not JSON"),
        ({"metadata": "x"}, "metadata must be"),
        ({"type": "a b"}, "task type"),
        ({"type": 5}, "task type"),
        ({"estimated_duration": 0}, "estimated duration"),
        ({"estimated_duration": "1m"}, "estimated duration"),
        ({"requirements": {"cores": 2}}, "'cores' is no requirement"),
        ({"requirements": {"min_cpu_cores": -1}}, "min_cpu_cores"),
        ({"requirements": {"min_memory_mb": 1.5}}, "min_memory_mb"),
        ({"requirements": {"required_capabilities": [""]}}, "capability is empty"),
        ({"requirements": {"required_capabilities": ["x"] * 21}}, "required_capabilities"),
        ({"not_before": -1}, "not_before"),
        ({"not_before": "5m"}, "not_before"),
        ({"not_before": float("inf")}, "not_before"),
        ({"not_before": datetime(2030, 1, 1)}, "no time zone"),
        ({"not_before": datetime(1, 1, 1, tzinfo=UTC)}, "between 1970"),
        ({"key": "k"}, "give concurrency, rate or both"),
        ({"key": ""}, "key is empty"),
        ({"key": 5, "concurrency": 1}, "key 5 is not a text"),
        ({"concurrency": 1}, "a limit needs a key"),
        ({"rate": (1, 1.0)}, "a limit needs a key"),
        ({"key": "k", "concurrency": 0}, "concurrency 0 is out of range"),
        ({"key": "k", "concurrency": True}, "concurrency"),
        ({"key": "k", "rate": "10/m"}, "is not .number, seconds."),
        ({"key": "k", "rate": (0, 1)}, "number of a rate"),
        ({"key": "k", "rate": (1, 0)}, "period of a rate"),
        ({"key": "k", "rate": (1, "1m")}, "period of a rate"),
        ({"key": "k", "rate": (1,)}, "is not .number, seconds."),
        ({"worker": "a b"}, "worker id"),
        ({"worker": "w1", "prefer": "w2"}, "worker or prefer"),
        ({"prefer": "w1", "prefer_for": 0}, "preferred for"),
    ],
)
def test_bad_submissions_are_refused(hub: Hub, bad: dict[str, Any], why: str) -> None:
    """Each mistake is named before anything of the batch is queued."""
    before = hub.commits
    with pytest.raises(UsageError, match=why):
        hub.tasks.submit_many([Submission("echo"), Submission(**{"tool": "echo", **bad})])
    assert before == hub.commits


def test_what_is_too_large_is_refused_before_anything_is_queued(hub: Hub) -> None:
    """Also where only args and metadata together are, or where indentation makes it so."""
    before = hub.commits
    for bad in (
        Submission("echo", {"a": "x" * 1_000_000}),
        Submission("echo", {"a": "x" * 600_000}, metadata={"b": "x" * 600_000}),
        Submission("echo", {"a": [1] * 300_000}),
    ):
        with pytest.raises(TooLarge):
            hub.tasks.submit_many([*[Submission("echo")] * (CHUNK + 1), bad])
    assert before == hub.commits


def test_many_large_tasks_are_split_into_commits_that_fit(world: World) -> None:
    """A batch far beyond what one commit takes is queued all the same."""
    hub = world.open()
    tasks = hub.tasks.submit_many([Submission("echo", {"a": "x" * 800_000}) for _ in range(90)])
    assert 90 == len(tasks) == hub.tasks.counts()["queued"]


def test_a_thousand_tasks_are_two_commits(world: World) -> None:
    """500 in a commit, in their order, with progress."""
    hub = world.open()
    before, told = hub.commits, list[int]()
    tasks = hub.tasks.submit_many([Submission("echo", {"n": n}) for n in range(1000)], on_progress=told.append)
    assert before + 2 == hub.commits
    assert [500, 1000] == told
    assert list(range(1000)) == [task.args["n"] for task in tasks]
    assert ids(tasks) == ids(hub.tasks.list("queued"))
    assert ids(tasks[:7]) == ids(hub.tasks.list("queued", limit=7))
    assert 1000 == hub.tasks.counts()["queued"]


def test_an_interrupted_batch_is_completed_by_repeating_it(both: World) -> None:
    """With a batch id only what is missing is queued, in the same order; without one everything is new."""
    hub = both.open()
    batch = [Submission("echo", {"n": n}) for n in range(CHUNK + 20)]

    class Interrupted(Exception):
        pass

    def interrupt(done: int) -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        hub.tasks.submit_many(batch, batch="nightly", on_progress=interrupt)
    assert CHUNK == hub.tasks.counts()["queued"]
    before = hub.commits
    tasks = hub.tasks.submit_many(batch, batch="nightly")
    assert before + 1 == hub.commits
    assert list(range(CHUNK + 20)) == [task.args["n"] for task in hub.tasks.list("queued")]
    assert ids(tasks) == ids(hub.tasks.submit_many(batch, batch="nightly"))
    assert before + 1 == hub.commits
    assert not set(ids(tasks)) & set(ids(hub.tasks.submit_many(batch[:3], batch="other")))
    assert not set(ids(tasks)) & set(ids(hub.tasks.submit_many(batch[:3])))


def test_bad_batches_are_refused(hub: Hub) -> None:
    """Two tasks of one id, and batch ids that are none."""
    with pytest.raises(UsageError, match="same id"):
        hub.tasks.submit_many([Submission("echo", id="t1")] * 2)
    with pytest.raises(InvalidName, match="batch id"):
        hub.tasks.submit_many([Submission("echo")], batch="")
    assert [] == hub.tasks.submit_many([])


def test_a_lost_reply_queues_once(world: World) -> None:
    """The submission landed, the answer did not: there is one task."""
    hub, faulty = world.open_faulty()
    for fault in (CommitFault.REPLY_LOST, CommitFault.REQUEST_LOST, CommitFault.CONFLICT_AFTER_LANDING):
        faulty.fail_commits(fault)
        hub.tasks.submit("echo")
    assert 3 == len(world.check_index())


# -- options


def test_all_options_are_recorded(both: World) -> None:
    """Type, needs, times, limits, uniqueness and preferences are in the record and in what the faces show."""
    hub = both.open("ann")
    Daemon(hub, "w1")
    at = datetime(2030, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    task = hub.tasks.submit(
        "echo",
        type="small",
        estimated_duration=90.0,
        requirements={"min_cpu_cores": 2, "min_memory_mb": 512, "required_capabilities": ["gpu", "os=linux"]},
        not_before=at,
        key="api",
        concurrency=3,
        rate=(10, 60.0),
        unique_key="k",
        unique_for=3600.0,
        prefer="w1",
        prefer_for=7.0,
        sandbox="partial",
    )
    assert task == hub.tasks.get(task.id)
    view = task_view(task)
    assert {
        "type": "small",
        "state": "scheduled",
        "due_at": "2030-01-01T10:00:00.000Z",
        "not_before": "2030-01-01T10:00:00.000Z",
        "estimated_duration": 90.0,
        "requirements": {
            "min_cpu_cores": 2,
            "min_memory_mb": 512,
            "required_capabilities": ["gpu", "os=linux"],
            "sandbox": "partial",
        },
        "session": None,
        "key": "api",
        "concurrency": 3,
        "rate": [10, 60.0],
        "worker": "w1",
        "after": [],
        "waiting_for": [],
        "if_failed": None,
        "schedule": None,
        "batch": None,
        "trace": None,
    }.items() <= view.items()
    assert (3600.0, True) == (view["unique"]["period"], "succeeded" in view["unique"]["states"])
    assert ("w1", False) == (view["assigned"]["worker"], view["assigned"]["pinned"])
    assert view["assigned"]["until"] == iso(datetime.fromtimestamp(START + 7, UTC))
    assert view["assigned_at"] == view["created_at"]


def test_options_and_a_submission_say_the_same(world: World) -> None:
    """What submit takes is what a Submission holds, under the same names."""
    hub = world.open()
    names = set(inspect.signature(hub.tasks.submit).parameters)
    assert {field.name for field in fields(Submission)} == names


def test_not_before(world: World) -> None:
    """Seconds from now, or a time; one that is past queues at once; it is queued when a worker's tick finds it due."""
    hub = world.open()
    daemon = Daemon(hub)
    past = datetime.fromtimestamp(START - 5, UTC)
    assert State.QUEUED is hub.tasks.submit("other", not_before=past).state
    assert State.QUEUED is hub.tasks.submit("other", not_before=0).state
    late = hub.tasks.submit("echo", not_before=2.5)
    soon = hub.tasks.submit("echo", not_before=datetime.fromtimestamp(START + 2, UTC))
    assert [soon.id, late.id] == ids(hub.tasks.list("scheduled"))
    assert START + 2 == daemon.beat().next_due
    world.runtime.advance(2)
    assert [soon.id] == ids(daemon.lease(5))
    world.runtime.advance(1)
    assert [late.id] == ids(daemon.lease(5))
    world.check_index()


def test_a_scheduled_task_is_cancelled_or_run_at_once(world: World) -> None:
    """Before its time has come."""
    hub = world.open()
    one, two = (hub.tasks.submit("echo", not_before=60.0) for _ in range(2))
    assert State.CANCELLED is hub.tasks.cancel(one.id).state
    assert State.QUEUED is hub.tasks.retry(two.id).state
    world.check_index()


def test_ids(both: World) -> None:
    """A task is called after its place in the queue; a place whose id somebody chose is left out."""
    hub = both.open()
    assert ["t0", "t1"] == ids([hub.tasks.submit("echo") for _ in range(2)])
    assert "t3" == hub.tasks.submit("echo", id="t3").id
    assert ["t4", "t5"] == ids(hub.tasks.submit_many([Submission("echo")] * 2))
    assert "t7" == hub.tasks.submit("echo", id="t7").id
    hub.tasks.submit("echo", id="t6")
    assert "t8" == hub.tasks.submit("echo").id
    both.check_index()


def test_ids_of_a_batch(both: World) -> None:
    """They follow from the batch's id and the place in it, lie together, and say so."""
    hub = both.open()
    tasks = hub.tasks.submit_many([Submission("echo"), Submission("echo", id="mine"), Submission("echo")], batch="b/1")
    assert re.fullmatch(r"b[0-9a-f]{12}-0 mine b[0-9a-f]{12}-2", " ".join(ids(tasks)))
    assert {"b/1"} == {task.batch for task in tasks}
    folders = {where("task", task.id).rpartition("/")[0] for task in (tasks[0], tasks[2])}
    assert 1 == len(folders)
    taken = tasks[0].id
    with pytest.raises(UsageError, match="is taken by another task"):
        hub.tasks.submit("other", id=taken)


def test_the_quota_of_open_tasks(world: World) -> None:
    """A submission that would pass it is refused whole; what has ended does not count."""
    hub = world.open()
    hub.config.set("quota.open_tasks", 3)
    tasks = hub.tasks.submit_many([Submission("echo", not_before=60.0), Submission("echo")])
    before = hub.commits
    with pytest.raises(
        TooLarge, match=r"would have 4 open tasks, more than the 3 of its setting quota.open_tasks"
    ) as caught:
        hub.tasks.submit_many([Submission("echo")] * 2)
    assert ("QUOTA_EXCEEDED", before) == (caught.value.code, hub.commits)
    hub.tasks.cancel(tasks[0].id)
    hub.tasks.submit_many([Submission("echo")] * 2)
    hub.config.set("quota.open_tasks", 0)
    with pytest.raises(TooLarge):
        hub.tasks.submit("echo")
    assert tasks[1].id == hub.tasks.submit("echo", id=tasks[1].id).id, "it is there already"


def test_too_many_different_needs(world: World) -> None:
    """Lines that every worker looks at are limited; the refusal says what to do."""
    hub = world.open()
    hub.tasks.submit_many([Submission("echo", type=f"n{n}") for n in range(1000)])
    with pytest.raises(UsageError, match="put what differs from task to task into args or metadata"):
        hub.tasks.submit("echo", type="one-more")
    assert State.QUEUED is hub.tasks.submit("echo", type="n7").state
