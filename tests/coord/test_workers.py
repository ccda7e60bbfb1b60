"""Workers: one registration an id, heartbeats, and what becomes of the dead."""

from __future__ import annotations

import os
import socket

import pytest

from ghcoord.coord.recovery import STALE_AFTER
from ghcoord.errors import InvalidName, NoCapacity, NotFound, UsageError, WorkerReplaced
from ghcoord.hub import Hub
from ghcoord.model.task import State
from ghcoord.model.worker import Capabilities, Capacity, Health, SandboxInfo, WorkerStatus
from ghcoord.testing.clock import START
from tests.coord.world import Daemon, World, edited, token_of, where

MARGIN = 0.5


def status(hub: Hub, worker_id: str = "w1") -> str:
    worker = hub.workers.get(worker_id)
    return str(worker.status) if worker is not None else "gone"


def test_a_registration_says_what_the_worker_is(both: World) -> None:
    """What is not given is detected; the answer has the heartbeat interval and the registration's token."""
    hub = both.open()
    answer = hub.workers.register("w1", ttl=30.0)
    assert (True, "worker w1 registered", 10.0) == (
        answer.success,
        answer.message,
        answer.heartbeat_interval_seconds,
    )
    worker = hub.workers.get("w1")
    assert worker is not None
    assert (socket.gethostname(), os.getpid(), answer.token) == (worker.hostname, worker.pid, worker.token)
    assert worker.capabilities.cpu_cores >= 1
    assert worker.capabilities.memory_mb > 0
    assert (WorkerStatus.ACTIVE, 1) == (worker.status, worker.capacity.available_slots)
    assert START == worker.registered_at.timestamp() == worker.last_heartbeat.timestamp()


def test_everything_about_a_worker_may_be_given(hub: Hub) -> None:
    """Each argument is in the record."""
    can = Capabilities(cpu_cores=2, memory_mb=7, supported_task_types=("echo",), labels={"gpu": "no"})
    box = SandboxInfo(driver="bwrap", tier="full")
    hub.workers.register(
        "w1",
        hostname="h",
        capacity=Capacity(max_tasks=4, active_tasks=1),
        capabilities=can,
        max_sessions=9,
        metadata={"a": [1]},
        ttl=77.0,
        sandbox=box,
    )
    worker = hub.workers.get("w1")
    assert worker is not None
    assert ("h", 3, can, 9, {"a": [1]}, 77.0, box) == (
        worker.hostname,
        worker.capacity.available_slots,
        worker.capabilities,
        worker.max_sessions,
        worker.metadata,
        worker.ttl,
        worker.sandbox,
    )


def test_bad_registrations_are_refused(hub: Hub) -> None:
    """Nothing is written for them."""
    before = hub.commits
    for call in (
        lambda: hub.workers.register("w1", capacity=-1),
        lambda: hub.workers.register("w1", capacity=10_001),
        lambda: hub.workers.register("w1", ttl=0.1),
        lambda: hub.workers.register("w1", max_sessions=-1),
        lambda: hub.workers.register("w1", metadata={"a": float("nan")}),
    ):
        with pytest.raises(UsageError):
            call()
    for bad in ("", "a b", "../w", "w" * 129, "-w"):
        with pytest.raises(InvalidName):
            hub.workers.register(bad)
    assert before == hub.commits
    assert 0 == hub.workers.count()


def test_the_newest_registration_wins(both: World) -> None:
    """It requeues what the older one held, in its own commit; the older one learns it and may report nothing."""
    a, b = both.open("a"), both.open("b")
    old = Daemon(a)
    a.tasks.submit("echo", id="t1")
    (task,) = old.lease()
    before = b.commits
    new = Daemon(b)
    assert before + 1 == b.commits
    assert new.token > old.token
    assert State.QUEUED is both.check_index()["t1"].state
    assert 1 == both.check_index()["t1"].lost
    reply = old.report(task, want=1)
    assert (["t1"], True, []) == (list(reply.refused), reply.replaced, reply.leased)
    with pytest.raises(WorkerReplaced, match="newer registration"):
        a.workers.heartbeat("w1", token=old.token)
    assert ["t1"] == [one.id for one in new.lease()]
    assert "worker w1 updated" == b.workers.register("w1").message


def test_deregistering_gives_everything_back(both: World) -> None:
    """The record is gone and its tasks are queued, in one commit; sessions nobody knows are named."""
    hub = both.open()
    daemon = Daemon(hub)
    hub.tasks.submit("echo", id="t1")
    daemon.lease()
    before = hub.commits
    answer = hub.workers.deregister("w1", ["s2", "s1"])
    assert (True, ("s1", "s2"), before + 1) == (answer.success, answer.unknown_session_ids, hub.commits)
    assert None is hub.workers.get("w1")
    assert State.QUEUED is both.check_index()["t1"].state
    with pytest.raises(NotFound, match="no worker 'w1'"):
        hub.workers.deregister("w1")


def test_a_replaced_process_cannot_deregister_its_successor(world: World) -> None:
    """With its token, a process that stops late leaves the newer registration alone."""
    hub = world.open()
    old = Daemon(hub)
    new = Daemon(hub)
    hub.tasks.submit("echo", id="t1")
    new.lease()
    with pytest.raises(WorkerReplaced):
        hub.workers.deregister("w1", token=old.token)
    assert State.LEASED is world.check_index()["t1"].state
    hub.workers.deregister("w1", token=new.token)
    assert State.QUEUED is world.check_index()["t1"].state


# -- heartbeats


def test_a_heartbeat_renews_the_lease(both: World) -> None:
    """Reported in time, a worker is never stale; what it says is in its record."""
    hub = both.open()
    token = hub.workers.register("w1", ttl=10.0).token
    for _ in range(5):
        both.runtime.advance(9)
        reply = hub.workers.heartbeat("w1", active_sessions=2, session_ids=["s"], health=Health(cpu=0.5), token=token)
        assert (True, ("s",)) == (reply.acknowledged, reply.unknown_session_ids)
        assert [] == hub.workers.stale()
    worker = hub.workers.get("w1")
    assert worker is not None
    assert (2, Health(cpu=0.5), token) == (worker.active_sessions, worker.health, worker.token)


def test_heartbeats_that_are_refused(hub: Hub) -> None:
    """Unknown workers, impossible numbers, and outdated registrations."""
    with pytest.raises(NotFound, match="no worker 'w1'"):
        hub.workers.heartbeat("w1")
    token = hub.workers.register("w1").token
    with pytest.raises(UsageError, match="must not be negative"):
        hub.workers.heartbeat("w1", active_sessions=-1)
    with pytest.raises(WorkerReplaced):
        hub.workers.heartbeat("w1", token=token + 1)
    hub.workers.set_status("w1", "offline")
    with pytest.raises(WorkerReplaced, match="declared offline"):
        hub.workers.heartbeat("w1", token=token)
    assert "offline" == status(hub)
    with pytest.raises(InvalidName):
        hub.workers.heartbeat("../x")


def test_an_offline_worker_that_reports_is_active_again(hub: Hub) -> None:
    """Without a token, a heartbeat is a sign of life."""
    hub.workers.register("w1")
    hub.workers.set_status("w1", "offline")
    hub.workers.heartbeat("w1")
    assert "active" == status(hub)


def test_a_keepalive_keeps_a_worker_alive(world: World) -> None:
    """Started late in the lease, it still reports in time; stopped, the worker becomes stale."""
    hub = world.open()
    hub.workers.register("w1", ttl=30.0)
    world.runtime.advance(25)
    beating = hub.workers.keepalive("w1")
    beating.start()
    for _ in range(20):
        world.runtime.advance(10)
        assert [] == hub.workers.stale()
    beating.stop()
    world.runtime.advance(31)
    assert ["w1"] == hub.workers.stale()
    with pytest.raises(NotFound):
        hub.workers.keepalive("w2")


def test_a_keepalive_of_a_replaced_registration_ends(world: World) -> None:
    """With a token it stops beating for the newer registration, and says that it is lost."""
    hub = world.open()
    beating = hub.workers.keepalive("w1", token=hub.workers.register("w1", ttl=9.0).token)
    beating.start()
    hub.workers.register("w1", ttl=9.0)
    world.runtime.advance(10)
    assert beating.lost
    assert ["w1"] == hub.workers.stale()
    beating.stop()


# -- looking and setting


def test_workers_are_listed_by_what_they_can(hub: Hub) -> None:
    """By status or several, free slots, and task type; sorted by id."""
    for name, slots, tool in (("c", 1, "echo"), ("a", 0, "echo"), ("b", 2, "shell")):
        hub.workers.register(name, capacity=slots, capabilities=Capabilities(supported_task_types=(tool,)))
    hub.workers.set_status("b", "draining")
    hub.workers.set_status("c", "offline")

    def listed(**by: object) -> str:
        return "".join(worker.id for worker in hub.workers.list(**by))  # type: ignore[arg-type]

    assert "abc" == listed()
    assert 3 == hub.workers.count()
    assert "a" == listed(status="active") == listed(status=WorkerStatus.ACTIVE)
    assert "bc" == listed(status=["draining", "offline"])
    assert "b" == listed(has_capacity=True), "an offline worker has none"
    assert "ac" == listed(has_capacity=False)
    assert "ac" == listed(task_type="echo")
    assert "" == listed(task_type="echo", has_capacity=True)
    with pytest.raises(UsageError, match="unknown status: one of active"):
        listed(status="sleeping")


def test_a_status_and_part_of_the_capacity(hub: Hub) -> None:
    """What is not named stays; the same again makes no commit."""
    hub.workers.register("w1", capacity=Capacity(max_tasks=4, active_tasks=3))
    changed = hub.workers.set_status("w1", "busy", {"max_tasks": 8})
    assert (WorkerStatus.BUSY, 8, 3, False) == (
        changed.status,
        changed.capacity.max_tasks,
        changed.capacity.active_tasks,
        changed.drain_requested,
    )
    assert changed == hub.workers.get("w1")
    before = hub.commits
    hub.workers.set_status("w1", "busy", {"max_tasks": 8})
    assert before == hub.commits
    for bad in ({"slots": 1}, {"max_tasks": -1}):
        with pytest.raises(UsageError, match="capacity takes"):
            hub.workers.set_status("w1", "busy", bad)
    with pytest.raises(UsageError, match="unknown status 'x'"):
        hub.workers.set_status("w1", "x")
    with pytest.raises(NotFound):
        hub.workers.set_status("w2", "busy")


def test_draining_is_a_request_that_can_be_taken_back(world: World) -> None:
    """A draining worker is told so and gets nothing; set active again, it works."""
    hub = world.open()
    daemon = Daemon(hub)
    hub.tasks.submit("echo")
    assert hub.workers.drain("w1").drain_requested
    reply = daemon.beat(want=1)
    assert (True, []) == (reply.drain, reply.leased)
    hub.workers.set_status("w1", "active")
    assert 1 == len(daemon.lease())
    with pytest.raises(NotFound):
        hub.workers.drain("w2")


def test_a_worker_with_room_is_found(hub: Hub) -> None:
    """The first active one with room for a session."""
    with pytest.raises(NoCapacity, match="worker start"):
        hub.workers.find_with_capacity()
    for name in ("a", "b", "c"):
        hub.workers.register(name, max_sessions=2)
    hub.workers.set_status("a", "busy")
    hub.workers.heartbeat("b", active_sessions=2)
    assert "c" == hub.workers.find_with_capacity().id
    hub.workers.heartbeat("c", active_sessions=2)
    with pytest.raises(NoCapacity):
        hub.workers.find_with_capacity()


# -- the dead


def two_with_work(world: World) -> tuple[Hub, Daemon, Daemon]:
    """Two workers with a task each and a lock each."""
    hub = world.open()
    for number in (1, 2):
        hub.tasks.submit("echo", id=f"t{number}")
    daemons = Daemon(hub, "w1"), Daemon(hub, "w2")
    for daemon in daemons:
        daemon.lease()
        hub.locks.acquire(f"of-{daemon.worker_id}", daemon.worker_id, ttl=3600)
    return hub, *daemons


def test_a_silent_worker_is_stale_after_ttl_and_margin(world: World) -> None:
    """Not before; looking changes nothing; a longer threshold may be given, a shorter is refused."""
    hub, _, second = two_with_work(world)
    world.runtime.advance(10)
    second.beat(renew=True)
    world.runtime.advance(5 + MARGIN)
    before = hub.commits
    assert [] == hub.workers.stale() == hub.workers.mark_stale()
    world.runtime.advance(0.1)
    assert ["w1"] == hub.workers.stale()
    assert [] == hub.workers.stale(20)
    with pytest.raises(UsageError, match=r"under the workers' lease and margin: give at least 15\.5 s"):
        hub.workers.stale(15)
    with pytest.raises(UsageError, match="give at least"):
        hub.workers.mark_stale(15)
    with pytest.raises(UsageError, match="give at least"):
        hub.workers.reap(15)
    assert before == hub.commits
    world.runtime.advance(5)
    assert ["w1"] == hub.workers.mark_stale(20)
    assert ("offline", "active") == (status(hub), status(hub, "w2"))
    assert [] == hub.workers.mark_stale(20), "once"


def test_marked_offline_what_a_worker_holds_stays_its(world: World) -> None:
    """Its result still counts until somebody recovers it; then no more."""
    hub, first, second = two_with_work(world)
    world.runtime.advance(16)
    second.beat(renew=True)
    hub.workers.mark_stale()
    task = world.check_index()["t1"]
    assert State.LEASED is task.state
    reply = first.report(task)
    assert ({}, True, False) == (reply.refused, bool(reply.lost), reply.replaced)
    assert State.SUCCEEDED is world.check_index()["t1"].state


def test_recovering_is_one_commit_over_both_spaces(both: World) -> None:
    """Tasks queued, locks free, worker offline: all at once, and its late result is refused."""
    hub, first, _ = two_with_work(both)
    task = both.check_index()["t1"]
    with pytest.raises(UsageError, match="worker 'w1' is alive"):
        hub.workers.recover("w1")
    with pytest.raises(NotFound):
        hub.workers.recover("w9")
    both.runtime.advance(18)
    heads = [both.snapshot(space).head for space in ("fleet", "locks")]
    before = hub.commits
    assert (1, 1, 0) == hub.workers.recover("w1")
    assert before + 1 == hub.commits
    store = both.store()
    for space, head in zip(("fleet", "locks"), heads, strict=True):
        assert (head,) == store.commit_info(both.snapshot(space).head or "").parents
    assert (State.QUEUED, 1) == (both.check_index()["t1"].state, both.check_index()["t1"].lost)
    assert ["of-w2"] == [lock.name for lock in hub.locks.list()]
    assert ("offline", "active") == (status(hub), status(hub, "w2"))
    assert "t1" in first.report(task).refused
    assert (0, 0, 0) == hub.workers.recover("w1"), "again: nothing left"


def test_reaping_recovers_and_in_the_end_removes(world: World) -> None:
    """Dead workers are recovered at once and removed after five minutes, or after the time given."""
    hub, *_ = two_with_work(world)
    world.runtime.advance(16)
    assert 0 == hub.workers.reap()
    assert ["offline", "offline"] == [worker.status for worker in hub.workers.list()]
    assert {State.QUEUED} == {task.state for task in world.check_index().values()}
    assert [] == hub.locks.list()
    hub.workers.register("w3")
    world.runtime.advance(STALE_AFTER - 16)
    assert 0 == hub.workers.reap()
    world.runtime.advance(0.1)
    hub.workers.heartbeat("w3")
    assert 2 == hub.workers.reap()
    assert ["w3"] == [worker.id for worker in hub.workers.list()]
    hub.workers.set_status("w3", "offline")
    world.runtime.advance(100)
    assert 1 == hub.workers.reap(95)
    assert 0 == hub.workers.count()


def test_reaping_takes_from_all_the_dead_in_one_commit(world: World) -> None:
    """Noticing and recovering are one step: a worker that reports in between is never hit."""
    hub, first, _ = two_with_work(world)
    world.runtime.advance(16)
    before = hub.commits
    assert 0 == hub.workers.reap()
    assert before + 1 == hub.commits
    assert first.beat().lost


def test_tending_goes_by_ones_own_observation(world: World) -> None:
    """A worker is taken for dead when it stood still for ttl + margin before one's own eyes, whatever clocks say."""
    hub, first, second = two_with_work(world)
    other = world.open("other")
    world.runtime.advance(100)
    assert {} == other.workers.tend(), "first seen now"
    for _ in range(3):
        world.runtime.advance(15)
        second.beat(renew=True)
        world.runtime.jump_wall(10_000)
        if other.workers.tend():
            break
    assert ("offline", "active") == (status(hub), status(hub, "w2"))
    assert (State.QUEUED, State.LEASED) == (world.check_index()["t1"].state, world.check_index()["t2"].state)
    assert first.beat().lost
    before = other.commits
    assert {} == other.workers.tend()
    assert before == other.commits


def test_tending_says_what_it_recovered(world: World) -> None:
    """By worker, and only once."""
    hub, *_ = two_with_work(world)
    hub.workers.tend()
    world.runtime.advance(15 + MARGIN)
    assert {} == hub.workers.tend()
    world.runtime.advance(0.1)
    assert {"w1": (1, 1, 0), "w2": (1, 1, 0)} == hub.workers.tend()
    assert {} == hub.workers.tend()


@pytest.mark.parametrize("worker_id", ["w1", "W" * 128, "A.b_C-" + "X" * 100 + "1"])
def test_leases_whose_worker_is_gone_are_recovered(world: World, worker_id: str) -> None:
    """A worker's record deleted by hand, however its id is spelt: its tasks come back; of a live one they stay."""
    hub = world.open()
    hub.tasks.submit("echo", id="t1")
    daemon = Daemon(hub, worker_id)
    daemon.lease()
    before = hub.commits
    assert {} == hub.workers.tend()
    assert before == hub.commits
    world.put("fleet", {where("worker", worker_id): None})
    assert {worker_id: (0, 1, 0)} == hub.workers.tend()
    assert State.QUEUED is world.check_index()["t1"].state
    assert {} == hub.workers.tend()


def test_leases_of_a_worker_set_offline_are_recovered(world: World) -> None:
    """Whoever is declared offline loses its tasks at the next tending."""
    hub, *_ = two_with_work(world)
    hub.workers.set_status("w1", "offline")
    assert ["w1"] == list(hub.workers.tend())
    assert State.QUEUED is world.check_index()["t1"].state


def test_sweeping_removes_the_long_gone(world: World) -> None:
    """Offline for five minutes, or for a ttl that is longer; the living stay."""
    hub, *_ = two_with_work(world)
    hub.workers.register("slow", ttl=2 * STALE_AFTER)
    hub.workers.set_status("w1", "offline")
    hub.workers.set_status("slow", "offline")
    world.runtime.advance(STALE_AFTER + 1)
    before = hub.commits
    assert 1 == hub.workers.sweep()
    assert before + 1 == hub.commits
    assert ["slow", "w2"] == [worker.id for worker in hub.workers.list()]
    assert State.QUEUED is world.check_index()["t1"].state
    assert 0 == hub.workers.sweep()
    assert before + 1 == hub.commits


def test_a_broken_worker_record_stops_nobody_else(world: World) -> None:
    """Its own calls put it right again; the others are listed and work."""
    hub, first, second = two_with_work(world)
    path = where("worker", "w1")
    world.put("fleet", {path: b"{broken"})
    assert ["w2"] == [worker.id for worker in hub.workers.list()]
    assert 1 == len(hub.broken())
    assert {"t2": token_of(world.check_index()["t2"])} == second.beat(renew=True).held
    assert not first.beat(renew=True).lost, "the last good version came back"
    world.put("fleet", {path: edited(world.files("fleet")[path], status="draining", drain_requested=True)})
    assert first.beat().drain
