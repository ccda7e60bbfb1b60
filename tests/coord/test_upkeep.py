"""What time brings to the queue, and the queue made anew from its records."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ghcoord.coord import layout
from ghcoord.coord.layout import FLEET, SCHEDULED
from ghcoord.coord.queue import listing, rebuild, timers, upkeep
from ghcoord.coord.tasks.tasks import Submission
from ghcoord.hub import Hub
from ghcoord.model.codec import stamp
from ghcoord.model.requirements import Requirements
from ghcoord.model.task import Assignment, Limit, State, Unique
from ghcoord.store.tx import Tx
from ghcoord.testing.clock import START
from tests.coord.world import BAD, GOOD, Daemon, World, edited, enqueue, ids, where

FOLDER = "index/due/test"

relaxed = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
"""Other work on the machine must not fail a test."""


def within(hub: Hub, run: Callable[[Tx], Any]) -> Any:
    return hub._context.transact((FLEET,), run)


# -- timers


@relaxed
@given(st.lists(st.tuples(st.integers(-(10**6), 10**11), st.sampled_from(["a", "b", "t7", "t8", "X.y"])), max_size=20))
def test_timers_come_in_their_order(timed: list[tuple[int, str]]) -> None:
    """Whatever the distance between them; what is taken back does not come."""
    world = World()
    hub = world.open()
    moments = sorted({(ms / 1000 + START, name) for ms, name in timed})
    kept, dropped = moments[::2], moments[1::2]
    within(hub, lambda tx: [timers.add(tx, FOLDER, at, name) for at, name in moments])
    within(hub, lambda tx: [timers.remove(tx, FOLDER, at, name) for at, name in dropped])
    assert (kept[0][0] if kept else None) == within(hub, lambda tx: timers.next(tx, FOLDER))
    now = [(at, name) for at, name in kept if at <= START]
    found = within(hub, lambda tx: timers.due(tx, FOLDER, 100))
    assert (now, len(now)) == (sorted(found), len(found))
    assert [at for at, _ in now] == [at for at, _ in found]
    assert found[:2] == within(hub, lambda tx: timers.due(tx, FOLDER, 2))


def test_what_is_no_timer_is_passed_over(world: World) -> None:
    """Strangers among the timers hold up nobody and are not taken for one; due ones out of place are deleted."""
    hub = world.open()
    within(hub, lambda tx: timers.add(tx, FOLDER, START - 1, "t1"))
    (good,) = (path for path in world.files(FLEET) if path.startswith(FOLDER))
    blocks = good.split("/")[3:7]
    strangers = {
        f"{FOLDER}/file": b"x",
        f"{FOLDER}/zz/yy": b"x",
        f"{FOLDER}/{blocks[0]}/00x/1/2/3": b"x",
        f"{FOLDER}/{'/'.join(blocks)}/ff/t1": b"out of place",
        f"{FOLDER}/{'/'.join(blocks)}/note": b"x",
    }
    within(hub, lambda tx: [tx.write(FLEET, path, data) for path, data in strangers.items()])
    assert [(START - 1, "t1")] == within(hub, lambda tx: timers.due(tx, FOLDER, 9))
    assert START - 1 == within(hub, lambda tx: timers.next(tx, FOLDER))
    assert f"{FOLDER}/{'/'.join(blocks)}/ff/t1" not in world.files(FLEET)


# -- upkeep


def test_a_worker_without_a_free_slot_does_what_is_due(both: World) -> None:
    """Others may wait for it: tasks fall due, preferences end and gates open while all slots are busy."""
    hub = both.open()
    busy = Daemon(hub, "w1", slots=1)
    hub.tasks.submit("echo", id="runs")
    busy.lease()
    hub.tasks.submit("echo", id="later", not_before=5)
    hub.tasks.submit("echo", id="mine", prefer="w1", prefer_for=4)
    hub.tasks.submit_many([Submission("echo", id=name, key="k", rate=(1, 6)) for name in ("k1", "k2")])
    other = Daemon(hub, "w2")
    assert ["k1"] == ids(other.lease(9))
    for expected, queued in ((4, ["mine", "k2"]), (5, ["later", "mine", "k2"]), (6, ["later", "mine", "k2"])):
        assert START + expected == busy.beat().next_due
        both.runtime.advance(START + expected - both.runtime.now())
        busy.beat(renew=True)
        assert sorted(queued) == sorted(ids(hub.tasks.list("queued")))
        both.check_index()
    assert ["later", "mine", "k2"] == ids(other.beat(want=9, renew=True).leased)


def test_large_tasks_fall_due_a_few_at_a_time(world: World) -> None:
    """No commit grows with the records that it moves; what is left is due at once."""
    hub = world.open()
    text = "x" * 800_000
    hub.tasks.submit_many([Submission("echo", {"pad": text}, not_before=5) for _ in range(12)])
    daemon = Daemon(hub)
    world.runtime.advance(5)
    page = upkeep.PAGE_BYTES // 800_000
    reply = daemon.beat(renew=True)
    assert page == hub.tasks.counts()["queued"]
    assert reply.next_due == START + 5
    while (daemon.beat().next_due or world.runtime.now() + 1) <= world.runtime.now():
        continue
    assert 12 == hub.tasks.counts()["queued"]
    world.check_index()


def test_a_timer_without_its_task_is_forgotten(world: World) -> None:
    """What somebody put there by hand moves nothing, and is not looked at again."""
    hub = world.open()
    daemon = Daemon(hub)
    enqueue(hub, "queued")
    for name in ("nobody", "queued", "..", "x" * 150):
        within(hub, lambda tx, name=name: timers.add(tx, SCHEDULED, START - 1, name))
    assert None is daemon.beat(renew=True).next_due
    assert [] == [path for path in world.files(FLEET) if path.startswith(SCHEDULED)]
    assert ["queued"] == ids(daemon.lease(9))


def test_scheduled_tasks_start_at_their_time(both: World) -> None:
    """Not before; then in the order of priority and submission, like others. A retry starts one at once."""
    hub = both.open()
    hub.tasks.submit("echo", id="a", not_before=10)
    hub.tasks.submit("echo", id="b", not_before=stamp(START + 9.5), priority=1)
    hub.tasks.submit("echo", id="c")
    hub.tasks.submit("echo", id="d", not_before=99)
    daemon = Daemon(hub)
    assert ["c"] == ids(daemon.lease(9))
    assert ["b", "a", "d"] == list(listing.ids_of(both.snapshot(FLEET), State.SCHEDULED))
    hub.tasks.retry("d")
    assert ["d"] == ids(daemon.lease(9))
    both.runtime.advance(9.499)
    assert [] == daemon.lease(9)
    both.runtime.advance(0.501)
    assert ["b", "a"] == ids(daemon.lease(9))
    both.check_index()


# -- lists


def test_ended_tasks_are_listed_by_the_time_they_ended(world: World) -> None:
    """Latest first, or oldest first until a moment: across seconds, minutes and months, and within a millisecond."""
    hub = world.open()
    daemon = Daemon(hub, slots=50)
    expected = []
    for pause in (0.0, 0.001, 0.3, 1.0, 70.0, 5 * 3600.0, 60 * 86400.0):
        world.runtime.advance(pause)
        daemon = Daemon(hub, slots=50)
        made = ids(hub.tasks.submit_many([Submission("echo") for _ in range(3)]))
        for task in daemon.lease(9):
            daemon.report(task)
        expected += [(world.runtime.now(), name) for name in made]
    snapshot = world.snapshot(FLEET)
    rounded = [(round(at, 3), name) for at, name in expected]
    assert rounded[::-1] == [*listing.ended(snapshot, State.SUCCEEDED)]
    assert rounded == [*listing.ended(snapshot, State.SUCCEEDED, oldest_first=True)]
    old = [*listing.ended(snapshot, State.SUCCEEDED, before=START + 80, oldest_first=True)]
    assert [one for one in rounded if one[0] <= START + 80] == old
    assert [] == [*listing.ended(snapshot, State.DEAD)]


# -- anew


def everything(hub: Hub, world: World) -> None:
    """Tasks in every state, with everything that tasks can have."""
    one = Daemon(hub, "w1", slots=9)
    enqueue(hub, "ok", "dead", "failed", "held", "cancelled", max_failures=2)
    tasks = {task.id: task for task in one.lease(5)}
    one.report(tasks["ok"], GOOD)
    one.report(tasks["failed"], BAD)
    hub.tasks.cancel("cancelled")
    enqueue(hub, "k1", "k2", "k3", limit=Limit(key="k", concurrency=2, rate=2, period=50))
    one.lease(1)
    enqueue(hub, "m1", limit=Limit(key="k", concurrency=2, rate=2, period=50), assigned=meant(until=None))
    enqueue(hub, "m2", assigned=meant(until=stamp(START + 60)), requirements=Requirements(min_cpu_cores=1))
    enqueue(hub, "later", state=State.SCHEDULED, due_at=stamp(START + 30), limit=Limit(key="z", concurrency=1))
    hub.tasks.submit("echo", id="after", after=["later"])
    enqueue(hub, "only", unique=Unique(digest="a" * 40, states=(State.QUEUED,)))
    enqueue(hub, "ABC.def", "t4000000", "x" * 128, tool="Build", type="compile")


def meant(until: Any) -> Assignment:
    return Assignment(worker="w1", at=stamp(START), until=until, pinned=until is None)


def test_everything_follows_from_the_records(world: World) -> None:
    """With index, counts and gates gone, all of it comes back as it was."""
    hub = world.open()
    everything(hub, world)
    world.check_index()
    before = {path: data for path, data in world.files(FLEET).items() if path != "space.json"}
    derived = [path for path in before if path.startswith(("index/", "gates/")) or path == layout.QUEUE_RECORD]
    assert len(derived) > 20
    world.put(FLEET, dict.fromkeys(derived))
    world.runtime.advance(1)
    within(hub, lambda tx: tx.event(FLEET, "somebody looks"))
    after = {path: data for path, data in world.files(FLEET).items() if path != "space.json"}
    # What only counted: the number of the next task, and when to forget a gate, may not be known any more.
    assert set(before) == set(after)
    assert {path for path in before if before[path] != after[path]} <= {layout.QUEUE_RECORD, layout.gate_path("k")}
    world.check_index()


def test_making_it_anew_changes_nothing(both: World) -> None:
    """Where nothing is broken, nothing is written."""
    hub = both.open()
    everything(hub, both)
    before = hub.commits
    within(hub, rebuild.rebuild)
    assert before == hub.commits


def test_tasks_are_moved_from_where_the_first_schema_had_them(world: World) -> None:
    """Ids that are numbers had no place of their own then; one whose new place is taken is left alone."""
    hub = world.open()
    names = ("t7", "plain", "b0123456789ab-3", "UPPER")
    enqueue(hub, *names)
    within(hub, lambda tx: [_to_former_place(tx, name) for name in names])
    within(hub, rebuild.rebuild)
    assert set(names) == set(world.check_index())
    path = where("task", "t7")
    within(
        hub, lambda tx: tx.write(FLEET, layout.former_task_path("t7"), edited(tx.read(FLEET, path) or b"", priority=9))
    )
    within(hub, rebuild.rebuild)
    assert 0 == json.loads(world.files(FLEET)[path])["priority"]


def _to_former_place(tx: Tx, name: str) -> None:
    data = tx.read(FLEET, layout.task_path(name)) or b""
    tx.delete(FLEET, layout.task_path(name))
    tx.write(FLEET, layout.former_task_path(name), data)


@pytest.mark.parametrize("name", ["t1", "t99999999999", "a", "b0123456789ab-7"])
def test_every_task_has_one_place(name: str) -> None:
    """It follows from the id alone."""
    assert layout.task_path(name) == layout.task_path(name)
    assert layout.task_path(name).endswith(f"/{name}.json")
