"""Submitting: every argument kept or refused by name, batches whole and resumable, in few commits."""

from __future__ import annotations

from typing import Any

import pytest

from ghcoord.coord.tasks import CHUNK, Submission
from ghcoord.errors import (
    InvalidName,
    TooLarge,
    UsageError,
)
from ghcoord.hub import Hub
from ghcoord.model.task import State
from ghcoord.testing.clock import START
from ghcoord.testing.faults import CommitFault
from tests.coord.world import World, ids

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
