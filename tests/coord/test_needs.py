"""Who gets which task: what it needs of a worker, and for whom it is meant."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ghcoord.coord import layout, lines
from ghcoord.coord.queue import counts, leasing
from ghcoord.coord.tasks.tasks import Submission
from ghcoord.coord.workers.tick import Returned
from ghcoord.errors import UsageError
from ghcoord.model.requirements import Need, Requirements
from ghcoord.model.task import State
from ghcoord.model.tier import Tier
from ghcoord.model.worker import Capabilities
from tests.coord.world import BAD, Daemon, World, edited, enqueue, ids, token_of, where

relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""Other work on the machine must not fail a test."""

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
needs = st.builds(
    Need,
    names,
    names,
    st.integers(0, 2**53),
    st.integers(0, 2**53),
    st.lists(names, max_size=4, unique=True).map(lambda found: tuple(sorted(found))),
    st.sampled_from([None, *Tier]),
)


@relaxed
@given(needs, needs)
def test_a_line_is_named_after_its_need(one: Need, other: Need) -> None:
    """Its name says the need, or was cut; different needs have different names, which any file system takes."""
    name = layout.class_of(one)
    assert layout.parse_need(name) == one or (layout.parse_need(name) is None and "%-" in name)
    assert (one == other) is (name == layout.class_of(other))
    assert 0 < len(name) <= lines.MAX_CLASS
    assert "/" not in name
    assert name.isascii()


def test_names_of_lines_read_well() -> None:
    """Type, tool where it is another, cores, MiB, a sandbox that was named, capabilities."""
    assert "echo" == layout.class_of(Need("echo", "echo"))
    assert "build+make@c=4,m=2048,gpu,os%3dlinux" == layout.class_of(
        Need("build", "make", 4, 2048, ("gpu", "os=linux"))
    )
    assert "shell" == layout.class_of(Need("shell", "shell")), "what the tool decides is in no name"
    assert "shell@s=none,gpu" == layout.class_of(Need("shell", "shell", capabilities=("gpu",), sandbox=Tier.NONE))
    for stranger in ("a@s=odd", "a@gpu,s=full", "a@s=full,c=1"):
        assert None is layout.parse_need(stranger), stranger
    for stranger in ("", "@", "a@", "a@c=0", "a@c=x", "a@m=1,c=1", "a+a", "%zz", "+gated", "a@c=" + "9" * 99):
        assert None is layout.parse_need(stranger), stranger


OFFERS = {
    "small": Capabilities(cpu_cores=2, memory_mb=1000, supported_task_types=("echo",)),
    "large": Capabilities(cpu_cores=32, memory_mb=64_000, supported_task_types=("echo", "train")),
    "labelled": Capabilities(
        cpu_cores=2, memory_mb=512, supported_task_types=("echo",), labels={"gpu": "a100", "os": "linux"}
    ),
}


@pytest.mark.parametrize(
    ("fields", "who"),
    [
        ({}, {"small", "large", "labelled"}),
        ({"requirements": Requirements(min_cpu_cores=3)}, {"large"}),
        ({"requirements": Requirements(min_memory_mb=1000)}, {"small", "large"}),
        ({"requirements": Requirements(required_capabilities=("gpu",))}, {"labelled"}),
        ({"requirements": Requirements(required_capabilities=("os=linux", "gpu"))}, {"labelled"}),
        ({"requirements": Requirements(required_capabilities=("os=bsd",))}, set()),
        ({"requirements": Requirements(required_capabilities=("train",))}, {"large"}),
        ({"requirements": Requirements(min_cpu_cores=1, required_capabilities=("x" * 200, "y" * 200))}, set()),
        ({"type": "train"}, {"large"}),
        ({"type": "train", "requirements": Requirements(min_cpu_cores=33)}, set()),
        ({"tool": "other"}, set()),
    ],
)
def test_a_worker_gets_what_it_can_do(world: World, fields: dict[str, Any], who: set[str]) -> None:
    """Cores, memory, labels, types and tools: all must be there."""
    hub = world.open()
    enqueue(hub, "a", **fields)
    enqueue(hub, "z")
    able = set()
    for name, capabilities in OFFERS.items():
        daemon = Daemon(hub, name, capabilities=capabilities)
        leased = daemon.lease(9)
        able |= {name} if "a" in ids(leased) else set()
        daemon.beat(returned=[Returned(task.id, token_of(task), "next") for task in leased])
        assert "z" in ids(leased), "the others go past it"
    assert who == able
    world.check_index()


def test_a_need_too_long_for_a_name_is_read_from_the_task(world: World) -> None:
    """Such tasks find their worker like others, also when the first of the line has gone."""
    hub = world.open()
    labels = {"x" * 120: "", "y" * 120: "yes"}
    need = Requirements(required_capabilities=("x" * 120, "y" * 120 + "=yes"))
    enqueue(hub, "a", "b", "c", requirements=need)
    hub.tasks.cancel("a")
    assert [] == Daemon(hub, "w1").lease(9)
    able = Daemon(hub, "w2", capabilities=Capabilities(labels=labels))
    assert ["b", "c"] == ids(able.lease(9))
    world.check_index()


def test_too_many_kinds_of_needs_are_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The submitter is told; kinds that are there already, and those whose tasks have ended, count no more."""
    monkeypatch.setattr(counts, "MAX_CLASSES", 3)
    hub = world.open()
    for tool in "abc":
        hub.tasks.submit(tool)
    with pytest.raises(UsageError, match=r"more than 3 different needs.*metadata"):
        hub.tasks.submit("d", not_before=60)
    hub.tasks.submit("a", key="k", concurrency=1)
    daemon = Daemon(hub, tools=("b",))
    daemon.report(daemon.lease()[0])
    hub.tasks.submit_many([Submission("d"), Submission("c")])
    with pytest.raises(UsageError, match="different needs"):
        hub.tasks.submit("b")
    world.check_index()


# -- meant for one worker


def test_what_is_meant_for_a_worker_is_seen_by_it_alone(both: World) -> None:
    """In its place among the others, by priority and age."""
    hub = both.open()
    one, other = Daemon(hub, "w1"), Daemon(hub, "w2")
    hub.tasks.submit("echo", id="a")
    hub.tasks.submit("echo", id="mine", worker="w1")
    hub.tasks.submit("echo", id="b", priority=1)
    hub.tasks.submit("echo", id="first", priority=2, worker="w1")
    hub.tasks.submit("other", id="cannot", priority=3, worker="w1")
    assert ["b"] == ids(other.lease())
    assert ["first", "a", "mine"] == ids(one.lease(9))
    assert [] == other.lease(9)
    assert ["cannot"] == ids(hub.tasks.list("queued"))
    both.check_index()


def test_a_pinned_task_comes_back_to_its_worker(world: World) -> None:
    """After a failure and a return it is still that worker's; another strategy's choice holds once."""
    hub = world.open()
    one, other = Daemon(hub, "w1"), Daemon(hub, "w2")
    hub.tasks.submit("echo", id="pinned", worker="w1", retries=3, backoff=0.1)
    hub.tasks.submit("echo", id="placed")
    hub.tasks.assign("placed", "w1")
    pinned, placed = one.lease(9)
    one.beat(returned=(Returned("placed", token_of(placed), "why"),))
    one.report(pinned, BAD)
    world.runtime.advance(1)
    assert ["placed"] == ids(other.lease(9))
    (again,) = one.lease(9)
    assert ("pinned", 2) == (again.id, again.attempt)
    world.check_index()


def goes(hub: Any, world: World) -> None:
    hub.workers.deregister("w1")


def dies(hub: Any, world: World) -> None:
    world.runtime.advance(60)
    hub.workers.recover("w1")


def is_removed(hub: Any, world: World) -> None:
    world.runtime.advance(400)
    hub.workers.reap()


def is_deleted(hub: Any, world: World) -> None:
    world.put("fleet", {layout.worker_path("w1"): None})
    world.runtime.advance(1)
    hub.workers.tend()


@pytest.mark.parametrize("how", [goes, dies, is_removed, is_deleted])
def test_what_is_meant_for_a_worker_that_is_gone_is_for_all(world: World, how: Any) -> None:
    """However it went, pinned or not, what it ran and what waits for its time."""
    hub = world.open()
    one = Daemon(hub, "w1")
    hub.tasks.submit("echo", id="runs", worker="w1")
    one.lease()
    hub.tasks.submit("echo", id="waits", worker="w1")
    hub.tasks.submit("echo", id="preferred", prefer="w1", prefer_for=9999)
    hub.tasks.submit("echo", id="later", worker="w1", not_before=500)
    how(hub, world)
    world.check_index()
    assert ["runs", "waits", "preferred"] == ids(Daemon(hub, "w2").lease(9))
    world.runtime.advance(500)
    assert ["later"] == ids(Daemon(hub, "w3").lease(9)), "its worker is not there when it falls due"
    world.check_index()


def test_a_new_registration_keeps_what_is_meant_for_the_worker(world: World) -> None:
    """A daemon that is started again finds its own."""
    hub = world.open()
    Daemon(hub, "w1")
    hub.tasks.submit("echo", id="a", worker="w1")
    again, other = Daemon(hub, "w1"), Daemon(hub, "w2")
    assert [] == other.lease(9)
    assert ["a"] == ids(again.lease(9))


def test_very_many_are_put_back_in_pages(world: World) -> None:
    """One commit moves a bounded number; whoever tends the hub moves the rest."""
    hub = world.open()
    Daemon(hub, "w1")
    total = leasing.UNASSIGN_PAGE + 30
    hub.tasks.submit_many([Submission("echo", worker="w1") for _ in range(total)])
    hub.workers.deregister("w1")
    assert 30 == len([task for task in hub.tasks.list("queued") if task.assigned is not None])
    world.check_index()
    hub.workers.tend()
    assert [] == [task for task in hub.tasks.list("queued") if task.assigned is not None]
    world.check_index()
    assert {} == hub.workers.tend()


def test_a_preference_ends(world: World) -> None:
    """Its worker has so many seconds; then any other may, if only somebody looks."""
    hub = world.open()
    Daemon(hub, "w1")
    other = Daemon(hub, "w2", slots=1)
    hub.tasks.submit("echo", id="a", prefer="w1", prefer_for=5)
    hub.tasks.submit("echo", id="late", prefer="w1", prefer_for=5, not_before=7)
    assert world.runtime.now() + 5 == other.beat(want=9).next_due
    world.runtime.advance(4.999)
    assert [] == other.lease(9)
    world.runtime.advance(0.001)
    assert ["a"] == ids(other.lease(9))
    world.runtime.advance(2)
    assert ["late"] == ids(other.beat(want=9, renew=True).leased), "over before it fell due"
    world.check_index()


def test_an_assignment_by_hand_is_taken_over(world: World) -> None:
    """A person means a task for a worker, or for one that there never was."""
    hub = world.open()
    one = Daemon(hub, "w1")
    enqueue(hub, "a", "b")
    meant = {"at": "2026-01-01T00:00:00Z", "pinned": True}
    changes: dict[str, bytes | None] = {
        where("task", name): edited(world.files("fleet")[where("task", name)], assigned={"worker": worker, **meant})
        for name, worker in (("a", "w1"), ("b", "nobody"))
    }
    world.put("fleet", changes)
    world.runtime.advance(1)
    other = Daemon(hub, "w2")
    assert [] == other.lease(9)
    assert ["a"] == ids(one.lease(9))
    world.check_index()
    hub.workers.tend()
    assert ["b"] == ids(other.lease(9))
    assert State.LEASED is world.check_index()["b"].state
