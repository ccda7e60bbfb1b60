"""Waiting for many, results typed by a model, and tasks meant for a worker."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from ghcoord.coord.layout import FLEET
from ghcoord.coord.tasks.tasks import Submission
from ghcoord.errors import Corrupt, IllegalTransition, InvalidName, NotFound, TaskFailed, WaitTimeout
from ghcoord.hub import Hub
from ghcoord.model.task import State, Task, TaskResult
from tests.coord.world import BAD, GOOD, Daemon, World, ids, where


class Built(BaseModel):
    """What a build returns."""

    path: str
    size: int


def done(hub: Hub, result: TaskResult) -> Task:
    """A task that ended so."""
    task = hub.tasks.submit("echo")
    daemon = Daemon(hub, f"w-{task.id}")
    daemon.report(*daemon.lease(), result)
    return task


# -- many


def test_all_of_many(both: World) -> None:
    """Each is told as it ends, and all are returned once the last one has, however they ended."""
    hub = both.open()
    tasks = hub.tasks.submit_many([Submission("echo") for _ in range(3)])
    daemon = Daemon(hub)
    seen: list[str] = []
    steps = iter([lambda: daemon.report(*daemon.lease(), GOOD), lambda: daemon.report(*daemon.lease(), BAD)])

    def on_end(task: Task) -> None:
        seen.append(task.id)
        next(steps, lambda: None)()

    hub.tasks.cancel(tasks[2].id)
    ended = hub.tasks.wait_many([*ids(tasks), tasks[0].id], timeout=5, on_end=on_end)
    assert [tasks[2].id, tasks[0].id, tasks[1].id] == seen == list(ended)
    assert ["cancelled", "succeeded", "dead"] == [task.state for task in ended.values()]
    assert {} == hub.tasks.wait_many([])


def test_the_first_of_many(world: World) -> None:
    """With ``any`` those that have ended when the first has."""
    hub = world.open()
    tasks = hub.tasks.submit_many([Submission("echo") for _ in range(3)])
    with pytest.raises(WaitTimeout, match=f"3 of 3 tasks have not ended .the first: {tasks[0].id}.: not within 2 s"):
        hub.tasks.wait_many(ids(tasks), timeout=2, any=True)
    daemon = Daemon(hub)
    daemon.report(*daemon.lease())
    assert [tasks[0].id] == list(hub.tasks.wait_many(ids(tasks), any=True))
    with pytest.raises(WaitTimeout, match="2 of 3"):
        hub.tasks.wait_many(ids(tasks), timeout=1)


def test_what_waiting_costs(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are, a look is one request, and only records of tasks that have ended are decoded."""
    hub = world.open()
    tasks = hub.tasks.submit_many([Submission("echo") for _ in range(200)])
    daemon = Daemon(hub)
    from ghcoord.coord.tasks import wait as task_wait

    read: list[str] = []
    real = task_wait.TASK_TABLE.decode

    def counted(data: bytes, space: str, path: str) -> Any:
        task = real(data, space, path)
        read.append(task.id)
        return task

    monkeypatch.setattr(task_wait.TASK_TABLE, "decode", counted)
    watch = task_wait._Watch(hub._context, dict.fromkeys(ids(tasks)), None)
    for _ in range(3):
        watch.look()
    assert [] == read  # none has ended, which shows without decoding
    daemon.report(*daemon.lease())
    watch.look()
    assert [tasks[0].id] == [name for name in read if name in ids(tasks)][-1:]
    assert 5 > len(read)


def test_one_that_is_not_there(world: World) -> None:
    """Waiting for it, or for one that disappears, raises at once."""
    hub = world.open()
    task = hub.tasks.submit("echo")
    with pytest.raises(NotFound, match="no task 'nobody'"):
        hub.tasks.wait_many([task.id, "nobody"], timeout=5)
    world.put(FLEET, {where("task", task.id): None})
    with pytest.raises(NotFound):
        hub.tasks.wait_many([task.id], timeout=5)


# -- typed


def test_a_typed_result(world: World) -> None:
    """A registered function's return value, or another tool's data, made by a model or any callable."""
    hub = world.open()
    value = {"path": "x", "size": 3}
    function = done(hub, TaskResult(success=True, data={"value": value}))
    tool = done(hub, TaskResult(success=True, data=value))
    for task in (function, tool):
        assert Built(path="x", size=3) == hub.tasks.result(task.id, Built) == hub.tasks.wait(task.id, model=Built)
    assert 2 == hub.tasks.result(function.id, len)
    number = done(hub, TaskResult(success=True, data={"value": "7"}))
    assert 7 == hub.tasks.wait(number.id, model=int)
    nothing = done(hub, TaskResult(success=True, data={"value": None}))
    assert "None" == hub.tasks.result(nothing.id, str)


def test_a_value_that_does_not_fit(world: World) -> None:
    """The error names the task, the model and what is wrong."""
    hub = world.open()
    task = done(hub, TaskResult(success=True, data={"value": {"path": "x"}}))
    with pytest.raises(Corrupt, match=f"what task {task.id} returned does not fit Built: size: Field required"):
        hub.tasks.result(task.id, Built)
    with pytest.raises(Corrupt, match="does not fit int"):
        hub.tasks.wait(task.id, model=int)


def test_no_value(world: World) -> None:
    """A task that failed returned none, and says why; one that has not ended has no result yet."""
    hub = world.open()
    failed = done(hub, BAD)
    with pytest.raises(TaskFailed, match=f"task {failed.id} is dead: boom"):
        hub.tasks.wait(failed.id, model=Built)
    waits = hub.tasks.submit("echo")
    assert None is hub.tasks.result(waits.id, Built)
    hub.tasks.cancel(waits.id, "no need")
    with pytest.raises(TaskFailed, match="is cancelled: no need"):
        hub.tasks.wait(waits.id, model=Built)
    with pytest.raises(NotFound):
        hub.tasks.result("nobody", Built)


# -- meant for a worker


def test_assign(both: World) -> None:
    """Only that worker gets the task, until somebody takes that back or the worker is gone."""
    hub = both.open()
    one, two = Daemon(hub, "w1"), Daemon(hub, "w2")
    task = hub.tasks.assign(hub.tasks.submit("echo").id, "w2")
    assert task.assigned is not None
    assert ("w2", "w2", False, None) == (
        task.worker,
        task.assigned.worker,
        task.assigned.pinned,
        task.assigned.until,
    )
    assert [] == one.lease()
    before = hub.commits
    assert None is hub.tasks.unassign(task.id).assigned
    assert None is hub.tasks.unassign(task.id).worker
    assert before + 1 == hub.commits
    assert [task.id] == ids(one.lease())
    other = hub.tasks.assign(hub.tasks.submit("echo").id, "w2")
    assert [other.id] == ids(two.lease())
    last = hub.tasks.assign(hub.tasks.submit("echo").id, "w2")
    both.runtime.advance(10)
    one.beat(renew=True)
    both.runtime.advance(10)
    one.beat(renew=True)
    hub.workers.recover("w2")
    assert [other.id, last.id] == sorted(ids(one.lease(5)))
    both.check_index()


def test_what_cannot_be_assigned(world: World) -> None:
    """A task that runs or has ended, one that is not there, a worker that is not there or gone."""
    hub = world.open()
    daemon = Daemon(hub)
    task = hub.tasks.submit("echo")
    with pytest.raises(NotFound, match="no worker 'nobody'"):
        hub.tasks.assign(task.id, "nobody")
    with pytest.raises(InvalidName, match="worker id"):
        hub.tasks.assign(task.id, "../x")
    with pytest.raises(NotFound, match="no task"):
        hub.tasks.assign("nobody", "w1")
    with pytest.raises(NotFound, match="no task"):
        hub.tasks.unassign("nobody")
    (leased,) = daemon.lease()
    with pytest.raises(IllegalTransition, match="is leased"):
        hub.tasks.assign(leased.id, "w1")
    daemon.report(leased)
    with pytest.raises(IllegalTransition, match="is succeeded"):
        hub.tasks.assign(leased.id, "w1")
    hub.workers.deregister("w1")
    with pytest.raises(NotFound, match="no worker 'w1' that is alive"):
        hub.tasks.assign(hub.tasks.submit("echo").id, "w1")


def test_what_waits_can_be_assigned(world: World) -> None:
    """A scheduled or blocked task keeps its worker until it is queued."""
    hub = world.open()
    one, two = Daemon(hub, "w1"), Daemon(hub, "w2")
    later = hub.tasks.submit("echo", not_before=5.0)
    blocked = hub.tasks.submit("echo", after=[later.id])
    for task in (later, blocked):
        hub.tasks.assign(task.id, "w2")
    world.runtime.advance(6)
    one.beat(renew=True)
    assert [] == one.lease()
    (leased,) = two.lease()
    assert later.id == leased.id
    two.report(leased)
    assert ([], [blocked.id]) == (one.lease(), ids(two.lease()))


def test_pinned_and_preferred_from_the_start(world: World) -> None:
    """A pin must name a living worker; a preference ends by itself, also for one that never was there."""
    hub = world.open()
    one, two = Daemon(hub, "w1"), Daemon(hub, "w2")
    with pytest.raises(NotFound, match="no worker 'w3' that is alive"):
        hub.tasks.submit("echo", worker="w3")
    pinned = hub.tasks.submit("echo", worker="w2")
    assert (True, "w2") == (pinned.assigned is not None and pinned.assigned.pinned, pinned.worker)
    preferred = hub.tasks.submit("echo", prefer="w2", prefer_for=5.0)
    free = hub.tasks.submit("echo", prefer="w3")
    assert [free.id] == ids(one.lease(5))
    world.runtime.advance(6)
    assert [preferred.id] == ids(one.lease(5))
    assert [pinned.id] == ids(two.lease(5))
    assert State.LEASED is two.hub.tasks.list()[0].state
