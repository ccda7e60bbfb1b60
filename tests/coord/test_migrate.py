"""A hub of an earlier schema is migrated when it is opened, and a newer one is left alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ghcoord.coord.layout import FLEET, HUB_RECORD, LOCKS, META
from ghcoord.errors import Denied, LeaseLost, NewerSchema, RevisionMismatch
from ghcoord.model.task import State
from ghcoord.store.base import ROOT_RECORD
from ghcoord.store.heads import stamp_of
from ghcoord.store.takeover import SCHEMA
from ghcoord.store.unbundle import load_bundle
from tests.coord.world import PREFIX, Daemon, World, edited, kinds, where
from tests.store.gitrepo import fsck

BUNDLE = Path(__file__).parents[1] / "data" / "schema1.bundle"
"""A hub that version 1 wrote; ``make_schema1.py`` beside it says what is in it."""


@pytest.fixture
def old(tmp_path: Path) -> Iterator[World]:
    """That hub, with the clock where it stood then."""
    world = World(tmp_path / "hub.git")
    load_bundle(BUNDLE, tmp_path / "hub.git", PREFIX, lambda what, count: None)
    yield world
    world.close()


def schemas(world: World) -> dict[str, int]:
    heads = world.store().heads()
    return {space: json.loads(world.snapshot(space).read(ROOT_RECORD) or b"{}").get("schema") for space in heads}


def test_everything_is_kept(old: World) -> None:
    """Tasks of every state, locks with their tokens, keys with their revisions, workers, history."""
    before = {space: old.files(space) for space in old.store().heads()}
    hub = old.open()
    assert 1 == hub.migrated_from
    assert {SCHEMA} == set(schemas(old).values())
    assert SCHEMA == json.loads(old.files(META)[HUB_RECORD])["schema"]
    tasks = old.check_index()
    ended = {State.SUCCEEDED: "ends-well", State.DEAD: "is-dead", State.CANCELLED: "is-cancelled"}
    other = {State.FAILED: "backs-off", State.LEASED: "is-leased"}
    expected = {name: state for state, name in (ended | other).items()} | {
        f"waits-{n}": State.QUEUED for n in range(20)
    }
    assert expected == {task.id: task.state for task in tasks.values()}
    result = tasks["ends-well"].result
    assert result is not None
    assert {"answer": 42} == result.data
    for space, files in before.items():
        for path, data in files.items():
            if path.startswith(("tasks/", "workers/", "keys/", "fences/")):
                assert data == old.files(space)[path], path
    locks = hub.locks.list(include_expired=True)
    assert ["deploy", "Über/straße"] == sorted(lock.name for lock in locks)
    token = next(lock.token for lock in locks if lock.name == "deploy")
    assert ["guarded", "plain", "short-lived"] == hub.memory.list()
    assert ["Upper/Case"] == hub.memory.list("Team A")
    with pytest.raises(LeaseLost):
        hub.memory.set("guarded", "late", fence=("deploy", token - 1))
    hub.memory.set("guarded", "v2", fence=("deploy", token))
    entry = hub.memory.entry("plain")
    assert entry is not None
    with pytest.raises(RevisionMismatch):
        hub.memory.set("plain", 1, if_revision=entry.revision - 1)
    hub.memory.set("plain", 1, if_revision=entry.revision)
    fsck(old.folder or Path())


def test_work_goes_on(old: World) -> None:
    """What waits is leased in its order, and the attempt that ran before ends under its own lease."""
    hub = old.open()
    daemon = Daemon(hub, "w2", tools=("build",))
    first = [task.id for task in daemon.lease(7)]
    assert [f"waits-{n}" for n in range(2, 20, 3)] + ["waits-1"] == first
    leased = hub.tasks.get("is-leased")
    assert leased is not None
    assert leased.lease is not None
    assert "w1" == leased.lease.worker


def test_it_is_done_once(old: World) -> None:
    """Who opens it next changes nothing, and the event is there for all to see."""
    old.open()
    heads = old.store().heads()
    again = old.open("later")
    assert None is again.migrated_from
    assert heads == old.store().heads()
    assert ["space migrated"] * 2 == [kind for kind in kinds(again) if kind == "space migrated"], "fleet and locks"


def test_interrupted_it_is_finished_by_the_next(old: World) -> None:
    """The hub's record comes last: until then whoever opens the hub goes on where it stopped."""
    store = old.store()
    real, left = store.commit, [2]

    def dying(*args: Any, **more: Any) -> dict[str, str]:
        if not left[0]:
            raise Denied("the disk is read only")
        left[0] -= 1
        return real(*args, **more)

    store.commit = dying  # type: ignore[method-assign]
    with pytest.raises(Denied, match="must be migrated to 2 first, by somebody who may write"):
        old.open(store=store)
    assert {1, SCHEMA} == set(schemas(old).values())
    assert 1 == old.open().migrated_from
    assert {SCHEMA} == set(schemas(old).values())
    old.check_index()


def test_with_edits_by_hand_on_top(old: World) -> None:
    """What people committed to the older hub since its last writer is adopted as ever, broken records too."""
    path = where("task", "waits-3")
    old.put(FLEET, {path: edited(old.files(FLEET)[path], priority=9), where("task", "waits-4"): b"{"})
    key = where("key", "plain")
    old.put("memory/global", {key: edited(old.files("memory/global")[key], value="by hand")})
    hub = old.open()
    assert 1 == hub.migrated_from
    tasks = old.check_index()
    assert (9, "waits-4") == (tasks["waits-3"].priority, tasks["waits-4"].id)
    assert "by hand" == hub.memory.get("plain")
    assert {"guarded", "plain", "short-lived"} == set(hub.memory.list())
    assert "waits-3" == Daemon(hub, "w2", tools=("build",)).lease()[0].id
    assert [] == hub.repair(dry_run=True)


def test_a_late_writer_of_the_older_version(old: World) -> None:
    """A process of version 1 that runs on makes a space old again: the next transaction puts it right."""
    hub = old.open()
    fleet = old.files(FLEET)
    path = next(path for path in fleet if path.startswith("index/"))
    head = old.store().heads()[FLEET]
    revision = json.loads(fleet[ROOT_RECORD])["revision"] + 1
    root = json.dumps({"revision": revision, "schema": 1, "space": FLEET}).encode()
    old.put(
        FLEET,
        {path: None, ROOT_RECORD: root},
        message=f"fleet: update [skip ci]\n\nGhcoord-Op: {'a' * 20}\nGhcoord-Revision: {revision}",
    )
    assert head != old.store().heads()[FLEET]
    hub.tasks.submit("build", {})
    old.check_index()
    assert SCHEMA == schemas(old)[FLEET]


def test_a_newer_hub_is_refused_also_while_it_is_open(world: World) -> None:
    """Once a newer version has written to a space, nothing of this one is committed there."""
    hub = world.open()
    hub.locks.acquire("x")
    root = json.loads(world.files(LOCKS)[ROOT_RECORD])
    world.put(LOCKS, {ROOT_RECORD: json.dumps({**root, "schema": SCHEMA + 1}).encode()})
    head = world.store().heads()[LOCKS]
    with pytest.raises(NewerSchema, match="upgrade ghcoord"):
        hub.locks.acquire("y")
    assert head == world.store().heads()[LOCKS]
    hub.memory.set("other spaces", "go on")
    record = json.loads(world.files(META)[HUB_RECORD])
    world.put(META, {HUB_RECORD: json.dumps({**record, "schema": SCHEMA + 1}).encode()})
    world.put(LOCKS, {ROOT_RECORD: json.dumps(root).encode()})
    with pytest.raises(NewerSchema, match=f"the hub has schema {SCHEMA + 1}"):
        world.open()


@pytest.mark.parametrize("schema", ["0", "-5", "true", '"x"', "null", "1e99", "[]"])
def test_any_schema_may_stand_in_a_root_record(world: World, schema: str) -> None:
    """People write anything there: it is migrated from the first, or taken for the present one."""
    hub = world.open()
    hub.tasks.submit("echo", {}, id="one")
    revision = hub.revision(FLEET)
    world.put(FLEET, {ROOT_RECORD: b'{"revision": %d, "schema": %s}' % (revision, schema.encode())})
    hub.tasks.submit("echo", {}, id="two")
    assert {"one", "two"} == set(world.check_index())
    store = world.store()
    assert None is not stamp_of(store, store.commit_info(store.heads()[FLEET]))
