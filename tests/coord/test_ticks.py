"""Waiting for tasks, their logs, and what working costs in commits."""

from __future__ import annotations

from typing import Any

import pytest

from ghcoord.coord.tasks.tasks import Submission
from ghcoord.coord.workers.tick import Beat, Finished, Said
from ghcoord.errors import (
    NotFound,
    WaitTimeout,
)
from ghcoord.hub import Hub
from ghcoord.model.requirements import Need
from ghcoord.model.task import TaskResult
from tests.coord.world import BAD, GOOD, Daemon, World, kinds, token_of, where


def test_waiting_returns_the_result(world: World) -> None:
    """Success or failure, as soon as the task has ended."""
    hub = world.open()
    daemon = Daemon(world.open("w"))
    hub.tasks.submit("echo", id="t1")

    def work() -> None:
        world.runtime.sleep(3)
        (task,) = daemon.lease()
        world.runtime.sleep(3)
        daemon.report(task, BAD)

    world.runtime.spawn(work, "worker")
    started = world.runtime.monotonic()
    assert BAD == hub.tasks.wait("t1", timeout=60)
    assert 6 <= world.runtime.monotonic() - started < 7
    assert BAD == hub.tasks.wait("t1", timeout=0), "ended already"


def test_waiting_ends(hub: Hub) -> None:
    """After the timeout, for a task that is not there, and for one that disappears."""
    hub.tasks.submit("echo", id="t1")
    with pytest.raises(WaitTimeout, match="task t1 has not ended: not within 7 s"):
        hub.tasks.wait("t1", timeout=7)
    for call in (hub.tasks.wait, hub.tasks.result, lambda task_id: list(hub.tasks.logs(task_id))):
        with pytest.raises(NotFound, match="no task 't9'"):
            call("t9")
    assert None is hub.tasks.get("t9")
    assert None is hub.tasks.result("t1")


def said(task: Any, tail: str, fraction: float | None = None, seen: int | None = None) -> Said:
    return Said(task.id, token_of(task), fraction, "working", tail, len(tail) if seen is None else seen)


def test_following_the_logs(world: World) -> None:
    """What a running task says comes as it is said; at the end what the result adds."""
    hub = world.open()
    worker = world.open("w")
    daemon = Daemon(worker)
    hub.tasks.submit("echo", id="t1")
    (task,) = daemon.lease()

    def work() -> None:
        for tail, seen in (("one\n", 4), ("one\ntwo\n", 8), ("two\nthree\n", 14)):
            world.runtime.sleep(5)
            daemon.beat(said=(said(task, tail, 0.5, seen),))
        world.runtime.sleep(5)
        daemon.report(task, TaskResult(success=True, data={"stdout": "one\ntwo\nthree\nfour", "stderr": "warn\n"}))

    world.runtime.spawn(work, "worker")
    assert ["one\n", "two\n", "three\n", "four\nwarn\n"] == list(hub.tasks.logs("t1", follow=True, timeout=60))
    assert ["one\ntwo\nthree\nfour\nwarn\n"] == list(hub.tasks.logs("t1"))


def test_logs_of_what_says_nothing(hub: Hub) -> None:
    """Nothing so far; following it ends with the timeout."""
    hub.tasks.submit("echo", id="t1")
    assert [] == list(hub.tasks.logs("t1"))
    with pytest.raises(WaitTimeout, match="said nothing new"):
        list(hub.tasks.logs("t1", follow=True, timeout=3))
    hub.tasks.cancel("t1")
    assert [] == list(hub.tasks.logs("t1", follow=True))


def test_progress_counts_only_from_the_holder(world: World) -> None:
    """The record shows it; what a lost lease says is dropped."""
    hub = world.open()
    hub.tasks.submit("echo", id="t1")
    daemon = Daemon(hub)
    (task,) = daemon.lease()
    daemon.beat(said=(said(task, "tail", 0.25),))
    progress = world.check_index()["t1"].progress
    assert progress is not None
    assert (0.25, "working", "tail") == (progress.fraction, progress.message, progress.tail)
    before = world.snapshot("fleet").read("queue.json"), hub.commits
    hub.beat(Beat("w1", daemon.token, said=(Said("t1", 3, 0.9, "old", "old", 3), Said("t9", 3, 0.9, "old", "old", 3))))
    assert progress == world.check_index()["t1"].progress
    assert before[0] == world.snapshot("fleet").read("queue.json")


# -- what it costs


def test_a_tick_is_one_commit_and_an_idle_one_none(both: World) -> None:
    """Results, leases, progress and the renewal leave together; nothing to say leaves nothing."""
    hub = both.open()
    hub.tasks.submit_many([Submission("echo") for _ in range(6)])
    daemon = Daemon(hub, slots=3)
    leased = daemon.lease(3)
    both.runtime.advance(1)
    before, old = hub.commits, hub.workers.get("w1")
    reply = daemon.beat(
        want=2,
        renew=True,
        finished=[Finished(task.id, token_of(task), GOOD) for task in leased[:2]],
        said=(said(leased[2], "x"),),
    )
    assert (2, True, before + 1) == (len(reply.leased), reply.renewed, hub.commits)
    worker = hub.workers.get("w1")
    assert worker is not None
    assert old is not None
    assert worker.renewal > old.renewal
    assert ("busy", 3) == (worker.status, worker.capacity.active_tasks)
    for _ in range(3):
        reply = daemon.beat()
        assert (3, False) == (len(reply.held), reply.renewed)
    assert before + 1 == hub.commits
    assert daemon.beat(renew=True).renewed
    assert before + 2 == hub.commits
    assert "worker renewed" not in kinds(hub)


def test_an_idle_hub_costs_nothing(world: World) -> None:
    """A worker that wants tasks where there are none makes no commit, nor do all the ways of looking."""
    hub = world.open()
    hub.tasks.submit("unknown-tool")
    daemon = Daemon(hub)
    daemon.beat(want=5)
    before = hub.commits
    for _ in range(5):
        world.runtime.advance(1)
        assert [] == daemon.lease(5)
    hub.tasks.list()
    hub.tasks.counts()
    hub.tasks.needs()
    hub.workers.tend()
    hub.workers.sweep()
    hub.locks.clean()
    hub.events()
    hub.broken()
    assert before == hub.commits


def test_the_first_ticks_on_an_empty_hub_are_no_commits(world: World) -> None:
    """Nothing is written before there is a task."""
    daemon = Daemon(world.open())
    before = world.store().heads()
    daemon.beat()
    daemon.beat(want=3)
    assert before == world.store().heads()


def test_a_worker_that_lost_a_lease_shows_its_free_slot(world: World) -> None:
    """When a task is taken away by hand, the next look puts the record right; once."""
    hub = world.open()
    hub.tasks.submit("echo", id="t1")
    daemon = Daemon(hub)
    daemon.lease()
    world.put("fleet", {where("task", "t1"): None})
    before = hub.commits
    assert {} == daemon.beat().held
    worker = hub.workers.get("w1")
    assert worker is not None
    assert 0 == worker.capacity.active_tasks
    daemon.beat()
    assert before + 1 == hub.commits


def test_a_worker_is_told_of_others(world: World) -> None:
    """How many tasks run elsewhere, when the next back-off ends, and its status by its slots."""
    hub = world.open()
    hub.tasks.submit_many([Submission("echo", retries=1) for _ in range(4)])
    one, other = Daemon(hub, "w1", slots=2), Daemon(hub, "w2", slots=2)
    leased = one.lease(2)
    assert "busy" == getattr(hub.workers.get("w1"), "status", None)
    assert 2 == other.beat(want=1).elsewhere
    assert 1 == one.beat().elsewhere
    reply = one.report(leased[0], BAD)
    assert reply.next_due is not None
    assert "active" == getattr(hub.workers.get("w1"), "status", None)


def test_needs(hub: Hub) -> None:
    """How many tasks need what of a worker, with the tools' own names, until they have ended."""
    hub.tasks.submit_many([Submission("echo"), Submission("Build.All"), Submission("echo")])
    last = hub.tasks.submit("echo", type="small", requirements={"min_cpu_cores": 2})
    needs = {Need("Build.All", "Build.All"): 1, Need("echo", "echo"): 2, Need("small", "echo", 2): 1}
    assert needs == hub.tasks.needs()
    hub.tasks.cancel(last.id)
    assert 2 == len(hub.tasks.needs())
