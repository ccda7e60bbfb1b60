"""Workers: one registration an id, heartbeats, and what becomes of the dead."""

from __future__ import annotations

import os
import socket
from typing import Any

import pytest

from ghcoord.errors import InvalidName, NoCapacity, NotFound, UsageError, WorkerReplaced
from ghcoord.hub import Hub
from ghcoord.model.requirements import Requirements
from ghcoord.model.task import State
from ghcoord.model.worker import Capabilities, Capacity, Health, SandboxInfo, WorkerStatus
from ghcoord.testing.clock import START
from tests.coord.world import Daemon, World, status


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


def test_what_is_not_given_is_detected(hub: Hub) -> None:
    """Capabilities may name a part: cores and memory are this machine's unless given, a fraction is rounded down."""
    hub.workers.register("w1", capabilities=Capabilities(supported_task_types=("build",), labels={"gpu": "true"}))
    hub.workers.register("w2", capabilities=Capabilities(memory_mb=1023.9))  # type: ignore[arg-type]
    machine = hub.machine()
    first, second = hub.workers.list()
    assert (machine.cpu_cores, machine.memory_mb) == (first.capabilities.cpu_cores, first.capabilities.memory_mb)
    assert (("build",), {"gpu": "true"}) == (first.capabilities.supported_task_types, first.capabilities.labels)
    assert (machine.cpu_cores, 1023) == (second.capabilities.cpu_cores, second.capabilities.memory_mb)


def test_bad_registrations_are_refused(hub: Hub) -> None:
    """Nothing is written for them."""
    before = hub.commits
    for call in (
        lambda: hub.workers.register("w1", capacity=-1),
        lambda: hub.workers.register("w1", capacity=10_001),
        lambda: hub.workers.register("w1", ttl=0.1),
        lambda: hub.workers.register("w1", max_sessions=-1),
        lambda: hub.workers.register("w1", max_sessions=10_001),
        lambda: hub.workers.register("w1", capacity=Capacity(max_tasks=10_001)),
        lambda: hub.workers.register("w1", capabilities=Capabilities(supported_task_types=("",))),
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


def test_health_waits_for_a_commit_that_is_made_anyway(world: World) -> None:
    """A tick with nothing but new health commits nothing; with a renewal it is published, and stays when not said."""
    hub = world.open()
    daemon = Daemon(hub)
    daemon.beat()
    before = hub.commits
    daemon.beat(health=Health(cpu=1.0))
    assert before == hub.commits
    daemon.beat(health=Health(cpu=2.0, health_status="degraded"), renew=True)
    daemon.beat(renew=True)
    worker = hub.workers.get("w1")
    assert worker is not None
    assert (Health(cpu=2.0, health_status="degraded"), before + 2) == (worker.health, hub.commits)


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


def test_workers_are_listed_by_size_labels_and_sessions(hub: Hub) -> None:
    """Each filter at its bound, all together, at most so many; slots and sessions are counted apart."""
    for name, cores, memory, labels in (
        ("a", 2, 1024, {"zone": "eu", "gpu": "true"}),
        ("b", 4, 2048, {"zone": "us"}),
        ("c", 8, 4096, {}),
    ):
        can = Capabilities(cpu_cores=cores, memory_mb=memory, labels=labels)
        hub.workers.register(name, capacity=0 if name == "a" else 1, max_sessions=1, capabilities=can)
    hub.workers.heartbeat("b", active_sessions=1)

    def listed(**by: Any) -> str:
        assert len(hub.workers.list(**by)) == hub.workers.count(**by)
        return "".join(worker.id for worker in hub.workers.list(**by))

    assert "bc" == listed(min_cpu_cores=4)
    assert "c" == listed(min_memory_mb=2049)
    assert "ab" == listed(labels={"zone": None})
    assert "a" == listed(labels={"zone": "eu"}) == listed(labels={"zone": "eu", "gpu": None})
    assert "" == listed(labels={"zone": "asia"}) == listed(labels={"zone": "us", "gpu": None})
    assert "bc" == listed(has_capacity=True)
    assert "ac" == listed(has_sessions=True)
    assert "b" == listed(has_sessions=False)
    assert "c" == listed(has_sessions=True, has_capacity=True, min_cpu_cores=8, status="active")
    assert ("ab", "", "abc") == (listed(limit=2), listed(limit=0), listed(limit=9))
    assert (3, 2, 1) == (hub.workers.count(), hub.workers.count("active", min_cpu_cores=4), hub.workers.count(limit=1))
    hub.workers.set_status("c", "offline")
    assert "a" == listed(has_sessions=True), "an offline worker takes no session"
    with pytest.raises(UsageError, match="limit must not be negative"):
        listed(limit=-1)


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


def test_a_worker_that_suits_is_found(world: World) -> None:
    """It is large enough and has the labels, the type and the capabilities; the sick and the silent are passed over."""
    hub = world.open()
    for name, cores, label in (("a", 2, "x"), ("b", 8, "x"), ("c", 8, "gpu"), ("d", 8, "gpu")):
        can = Capabilities(cpu_cores=cores, memory_mb=100, supported_task_types=("build",), labels={label: "true"})
        hub.workers.register(name, capacity=0, capabilities=can, ttl=30.0 if name == "d" else 15.0)

    def found(*args: Any, **by: Any) -> str:
        return hub.workers.find_with_capacity(*args, **by).id

    assert "a" == found() == found(Requirements(min_memory_mb=100)), "slots do not count here"
    assert "b" == found(Requirements(min_cpu_cores=3))
    assert "c" == found(Requirements(required_capabilities=("gpu", "build"))) == found(labels={"gpu": "true"})
    assert "a" == found(task_type="build")
    for wanted in ({"requirements": Requirements(min_memory_mb=101)}, {"task_type": "test"}, {"labels": {"z": None}}):
        with pytest.raises(NoCapacity):
            found(**wanted)
    hub.workers.heartbeat("c", health=Health(health_status="unhealthy"))
    assert "d" == found(labels={"gpu": None})
    world.runtime.advance(20)
    assert "d" == found(), "the leases of the others are over"
