"""What ``doctor --repair`` puts right: shown first, and the same afterwards done."""

from __future__ import annotations

import json

from ghcoord.coord import layout
from ghcoord.coord.care.repair import Repair
from ghcoord.coord.layout import FLEET, META, QUEUE_RECORD, SETTINGS_RECORD
from ghcoord.hub import Hub
from ghcoord.model.task import State
from ghcoord.store.base import ROOT_RECORD
from tests.coord.world import BAD, Daemon, World, kinds, status, where

SPACE = "memory/global"


def forged(world: World, space: str, changes: dict[str, bytes | None]) -> None:
    """Commit as ghcoord does, with trailers and a root record: what a broken writer leaves, which nobody adopts."""
    root = json.loads(world.files(space)[ROOT_RECORD])
    root["revision"] += 1
    text = f"{space}: update [skip ci]\n\nGhcoord-Op: {'b' * 20}\nGhcoord-Revision: {root['revision']}"
    world.put(space, {**changes, ROOT_RECORD: json.dumps(root).encode()}, message=text)


def both_ways(world: World, hub: Hub) -> list[Repair]:
    """The repairs, carried out; the plan was the same and changed nothing, and nothing is left to do."""
    heads = hub.heads()
    planned = hub.repair(dry_run=True)
    assert heads == hub.heads()
    done = hub.repair()
    assert planned == done
    assert [] == hub.repair()
    return done


def test_nothing_to_repair(both: World) -> None:
    """Of a sound hub nothing is changed, whatever is in it."""
    hub = both.open()
    assert [] == hub.repair()
    daemon, _ = Daemon(hub), Daemon(hub, "w2")
    hub.tasks.submit("echo", {}, id="a", retries=3)
    hub.tasks.submit("echo", {"n": 1}, id="b", priority=5, unique=True, unique_for=60)
    hub.tasks.submit("echo", {}, id="c", not_before=60.0)
    hub.tasks.submit("echo", {}, id="d", after=("a",))
    for n in range(4):
        hub.tasks.submit("echo", {"n": n}, key="k", concurrency=1, rate=(2, 30.0))
    hub.tasks.submit("echo", {}, worker="w2")
    hub.tasks.submit("echo", {}, prefer="w2")
    daemon.report(daemon.lease()[0])
    daemon.report(daemon.lease()[0], BAD)
    daemon.lease(3)
    hub.locks.acquire("x")
    hub.memory.set("k", 1, ttl=60)
    hub.memory.set("Long/key", {"a": [1]}, namespace="Team A")
    hub.config.set("locks.ttl", 9)
    for later in (0.0, 5.0):
        both.runtime.advance(later)
        before = hub.heads()
        assert [] == hub.repair(dry_run=True)
        assert [] == hub.repair()
        assert before == hub.heads()


def test_the_queues_index(both: World) -> None:
    """Index files that are missing or too many, and wrong counts, follow from the records again."""
    hub = both.open()
    for n in range(5):
        hub.tasks.submit("echo", {}, id=f"t{n}")
    index = [path for path in both.files(FLEET) if path.startswith("index/")]
    stray = index[0].replace("t0", "gone")
    forged(both, FLEET, {index[1]: None, stray: layout.MARKER, QUEUE_RECORD: b'{"counts": {"dead": 7}}'})
    (one,) = both_ways(both, hub)
    assert ("index", FLEET, "the queue's index and counts made anew") == (one.check, one.space, one.what)
    assert "3 files do not agree with the records: " in one.why
    assert 5 == len(both.check_index())
    assert 5 == len(Daemon(hub).lease(5))


def test_the_index_of_keys(world: World) -> None:
    """The same for a namespace."""
    hub = world.open()
    for n in range(5):
        hub.memory.set(f"k{n}", n)
    path = where("key", "k3")
    forged(world, SPACE, {path: None})
    (one,) = both_ways(world, hub)
    assert ("index", SPACE) == (one.check, one.space)
    assert ["k0", "k1", "k2", "k4"] == hub.memory.list()


def test_broken_records(world: World) -> None:
    """Records that cannot be read are set aside, with the reason, and what follows from them is made anew."""
    hub = world.open()
    hub.tasks.submit("echo", {}, id="good")
    hub.tasks.submit("echo", {}, id="bad")
    forged(world, FLEET, {where("task", "bad"): b"{"})
    broken, index = both_ways(world, hub)
    assert ("records", f"{where('task', 'bad')} set aside in broken/") == (broken.check, broken.what)
    assert "is not JSON" in broken.why
    assert "index" == index.check
    assert {"good"} == set(world.check_index())
    assert b"{" == world.files(FLEET)[f"broken/{where('task', 'bad')}"]
    assert "repaired" in kinds(hub)


def test_what_people_broke_a_moment_ago(world: World) -> None:
    """Their commits are adopted on the way: the last readable version comes back."""
    hub = world.open()
    hub.memory.set("k", "good")
    world.put(SPACE, {where("key", "k"): b"{"})
    planned = hub.repair(dry_run=True)
    assert ["records", "index"] == [one.check for one in planned]
    hub.repair()
    assert "good" == hub.memory.get("k")
    assert [] == hub.repair()


def test_settings_and_root_records(world: World) -> None:
    """Settings lose what cannot be used, and a root record that cannot be read is written anew."""
    hub = world.open()
    hub.config.set("locks.ttl", 9)
    hub.memory.set("k", 1)
    record = {"locks.ttl": "soon", "quota.locks": 3, "newer": 1}
    world.put(META, {SETTINGS_RECORD: json.dumps(record).encode()})
    world.put(SPACE, {ROOT_RECORD: b"?"})
    done = both_ways(world, hub)
    assert {("root", SPACE), ("settings", META)} == {(one.check, one.space) for one in done}
    assert {"quota.locks": 3} == hub.config.given()
    assert 0 < json.loads(world.files(SPACE)[ROOT_RECORD])["revision"]


def test_workers_that_are_gone(world: World) -> None:
    """What they held is recovered; locks that are over are removed."""
    hub = world.open()
    daemon = Daemon(hub)
    hub.tasks.submit("echo", {}, id="one")
    daemon.lease()
    hub.locks.acquire("held", "w1", ttl=1e6)
    hub.locks.acquire("over", "somebody", ttl=5)
    world.runtime.advance(60)
    done = both_ways(world, hub)
    assert {
        ("locks", "1 locks removed", "their leases are over"),
        ("workers", "1 tasks and 1 locks taken from 'w1'", "its lease is over"),
    } == {(one.check, one.what, one.why) for one in done}
    assert "offline" == status(hub)
    task = hub.tasks.get("one")
    assert task is not None
    assert State.QUEUED is task.state
    assert [] == hub.locks.list(include_expired=True)


def test_without_the_right_to_write(world: World) -> None:
    """A plan needs none."""
    hub, faulty = world.open_faulty()
    hub.tasks.submit("echo", {}, id="one")
    forged(world, FLEET, {QUEUE_RECORD: b"{}"})
    requests = faulty.requests
    assert 1 == len(hub.repair(dry_run=True))
    assert requests == faulty.requests
