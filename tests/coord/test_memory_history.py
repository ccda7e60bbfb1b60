"""The past of a key: every commit that changed it, its value at any revision, and an end that is said."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from ghcoord.coord.audit.history import History
from ghcoord.coord.memory.memory import SetKey
from ghcoord.errors import Corrupt, InvalidName, NotFound, UsageError
from ghcoord.hub import Hub
from ghcoord.store.base import CommitInfo, Oid
from ghcoord.store.snapshot import Snapshot
from ghcoord.store.wrappers import WrappedStore
from ghcoord.testing.clock import START
from tests.coord.memory_checks import check_namespace, set_together
from tests.coord.world import World, edited, where

SPACE = "memory/global"


def told(hub: Hub, key: str = "k", **more: Any) -> list[tuple[str, Any, str]]:
    """The history of a key: kind, value and author, newest first."""
    return [(one.kind, one.value, one.by) for one in hub.memory.history(key, **more)]


def test_every_change_of_a_key_is_there(both: World) -> None:
    """With value, author, time, revision and commit; changes of others are not among them."""
    a, b = both.open("a"), both.open("b")
    first = a.memory.set("k", 1)
    for number in range(5):
        b.memory.set(f"other{number}", 1)
    both.runtime.advance(10)
    second = b.memory.set("k", {"x": None}, ttl=5000)
    a.memory.delete("k")
    a.memory.set_many({"k": 2, "j": 1})
    newest, gone, middle, oldest = a.memory.history("k")
    assert [("set", 2, "a"), ("deleted", None, "a"), ("set", {"x": None}, "b"), ("set", 1, "a")] == told(a)
    assert (second.revision, second.updated_at, 5000.0) == (middle.revision, middle.at, middle.ttl)
    assert (first.revision, datetime.fromtimestamp(START, UTC)) == (oldest.revision, oldest.at)
    assert [False, True, False] == [newest.deleted, gone.deleted, middle.deleted]
    assert newest.revision > gone.revision > middle.revision
    assert both.store().heads()[SPACE] == newest.commit
    assert [] == told(a, "never") == told(a, "k", namespace="no-such")


def test_limits_of_what_is_shown(hub: Hub) -> None:
    """The newest so many; those from a revision on, exactly."""
    revisions = [hub.memory.set("k", number).revision for number in range(10)]
    assert [9, 8, 7] == [one.value for one in hub.memory.history("k", limit=3)]
    assert [9, 8, 7] == [one.value for one in hub.memory.history("k", since=revisions[7])]
    assert [] == hub.memory.history("k", since=revisions[9] + 1) == hub.memory.history("k", limit=0)
    assert 10 == len(hub.memory.history("k", limit=None))
    with pytest.raises(UsageError, match="limit of -1"):
        hub.memory.history("k", limit=-1)
    with pytest.raises(InvalidName):
        hub.memory.history("")


def test_only_what_differs_is_read(world: World) -> None:
    """For a commit that did not touch the key: the commit and its top tree, and no record."""
    hub = world.open()
    hub.memory.set("k", 1)
    for number in range(50):
        hub.memory.set(f"other{number}", number)
    hub.memory.set("k", 2)

    class Counting(WrappedStore):
        blobs = 0

        def blob(self, oid: Oid) -> bytes:
            data = self.inner.blob(oid)
            self.blobs += b'"value"' in data
            return data

    store = Counting(world.store())
    assert [2, 1] == [one.value for one in world.open("reader", store=store).memory.history("k")]
    assert 2 == store.blobs


def test_what_ended_by_itself_is_told_as_such(world: World) -> None:
    """Once it is removed: at the moment of its end, by nobody; not when it was set again before."""
    hub = world.open()
    entry = hub.memory.set("k", 1, ttl=10)
    world.runtime.advance(100)
    assert [("set", 1, "me")] == told(hub)
    assert 1 == hub.memory.sweep()
    assert [("expired", None, ""), ("set", 1, "me")] == told(hub)
    assert hub.memory.history("k")[0].at == entry.expires_at
    hub.memory.set("j", 1, ttl=10)
    world.runtime.advance(100)
    hub.memory.set("j", 2)
    assert [("set", 2, "me"), ("set", 1, "me")] == told(hub, "j")


class Typed(BaseModel):
    x: int


def test_a_value_as_it_was(both: World) -> None:
    """At its own revision, at any later one until the next change, also of other keys; typed if asked."""
    hub = both.open()
    early = hub.memory.set("other", 0).revision
    first = hub.memory.set("k", {"x": 1})
    between = hub.memory.set("other", 1).revision
    second = hub.memory.set("k", {"x": 2})
    hub.memory.delete("k")
    gone = hub.revision(SPACE)
    for revision, value in ((first.revision, 1), (between, 1), (second.revision, 2)):
        assert {"x": value} == hub.memory.get("k", revision=revision)
    assert Typed(x=1) == hub.memory.get("k", model=Typed, revision=between)
    assert first == hub.memory.entry("k", revision=between)
    for revision in (early, 1, gone):
        with pytest.raises(NotFound, match=f"'k' was not set in the namespace 'global' at revision {revision}"):
            hub.memory.get("k", revision=revision)
    with pytest.raises(UsageError, match=rf"no revision {gone + 1} yet: it is at {gone}"):
        hub.memory.get("k", revision=gone + 1)
    with pytest.raises(NotFound):
        hub.memory.get("k", "no-such", revision=5)


def test_a_value_with_a_ttl_as_it_was(world: World) -> None:
    """Until its end; afterwards it had ended, whether removed or not."""
    hub = world.open()
    entry = hub.memory.set("k", 1, ttl=10)
    world.runtime.advance(100)
    after = hub.memory.set("other", 1).revision
    assert 1 == hub.memory.get("k", revision=entry.revision)
    with pytest.raises(NotFound):
        hub.memory.get("k", revision=after)


def test_several_changes_in_one_commit(world: World) -> None:
    """The last is seen; a revision within the commit still gives what was set under it."""
    hub = world.open()
    before = hub.memory.set("k", 0).revision
    revisions = set_together(world, hub, SetKey("k", 1), SetKey("j", 1), SetKey("k", 2))
    assert [2, 0] == [one.value for one in hub.memory.history("k")]
    assert 1 == hub.memory.get("j", revision=revisions[1])
    assert 2 == hub.memory.get("k", revision=revisions[2])
    assert 0 == hub.memory.get("k", revision=before)


# -- people


def test_edits_by_hand_are_their_authors(both: World) -> None:
    """Shown once, with the person and the revision under which it was taken over; none before that."""
    hub = both.open()
    first = hub.memory.set("k", 1)
    path = where("key", "k")
    both.runtime.advance(10)
    made = both.put(SPACE, {path: edited(both.files(SPACE)[path], value=2)})
    assert [("set", 2, "A Person"), ("set", 1, "me")] == told(hub)
    assert 0 == hub.memory.history("k")[0].revision
    assert 1 == hub.memory.get("k", revision=first.revision), "the edit came later"
    both.runtime.advance(10)
    hub.memory.set("other", 1)
    entry = hub.memory.entry("k")
    assert entry is not None
    assert [("set", 2, "A Person"), ("set", 1, "me")] == told(hub)
    newest = hub.memory.history("k", since=first.revision + 1)
    assert [(entry.revision, made)] == [(one.revision, one.commit) for one in newest]
    assert (1, 2) == (hub.memory.get("k", revision=first.revision), hub.memory.get("k", revision=entry.revision))
    both.put(SPACE, {path: None})
    both.runtime.advance(10)
    hub.memory.set("other", 2)
    assert ("deleted", None, "A Person") == told(hub)[0]
    assert hub.memory.history("k")[0].revision > entry.revision


def test_what_was_broken_in_between_does_not_count(world: World) -> None:
    """A broken record that was set aside, its version before restored, is no change of the key."""
    hub = world.open()
    hub.memory.set("k", 1)
    world.put(SPACE, {where("key", "k"): b"{broken"})
    world.runtime.advance(1)
    hub.memory.set("other", 1)
    assert [("set", 1, "me")] == told(hub)
    assert 1 == hub.memory.get("k")


def test_merged_branches_are_followed(world: World) -> None:
    """A person's merge of an edit made aside: ghcoord's line goes on behind it."""
    hub = world.open()
    hub.memory.set("k", 1)
    base = world.store().heads()[SPACE]
    hub.memory.set("k", 2)
    aside = world.branch(base, {"note": b"mine"})
    world.put(SPACE, {"note": b"mine"}, aside)
    assert [("set", 2, "me"), ("set", 1, "me")] == told(hub)


# -- the end of what is kept


class Shallow(WrappedStore):
    """A store whose commits before one are gone, as after a shallow clone."""

    def __init__(self, inner: Any, lost: set[Oid]) -> None:
        super().__init__(inner)
        self.lost = lost

    def commit_info(self, oid: Oid) -> CommitInfo:
        if oid in self.lost:
            raise Corrupt(f"no commit {oid}")
        return self.inner.commit_info(oid)


def test_where_history_was_cut(world: World) -> None:
    """What is left is shown; a revision before it is said to be gone, not to have been unset."""
    hub = world.open()
    early = hub.memory.set("k", 1)
    lost = {world.store().heads()[SPACE]}
    second = hub.memory.set("k", 2)
    hub.memory.set("other", 1)
    reader = world.open("reader", store=Shallow(world.store(), lost))
    assert [2] == [one.value for one in reader.memory.history("k")]
    assert 2 == reader.memory.get("k", revision=second.revision)
    with pytest.raises(
        NotFound, match=rf"goes back to revision {second.revision}: what 'k' was at {early.revision} is"
    ):
        reader.memory.get("k", revision=early.revision)
    head = world.store().heads()[SPACE]
    assert 2 == len(list(History(reader._context.transactor.store, head).heads()))


def test_a_tree_that_is_gone_ends_it_too(world: World) -> None:
    """Nothing else fails."""
    hub = world.open()
    hub.memory.set("k", 1)
    root = world.snapshot(SPACE).root
    hub.memory.set("k", 2)

    class Lost(WrappedStore):
        def tree(self, oid: Oid) -> Any:
            if oid == root:
                raise Corrupt("gone")
            return self.inner.tree(oid)

    reader = world.open("reader", store=Lost(world.store()))
    assert [2] == [one.value for one in reader.memory.history("k")]
    assert isinstance(world.snapshot(SPACE), Snapshot)


def test_what_gc_leaves(tmp_path: Path) -> None:
    """The versions that it keeps, a clear word about those that it let go, and watches that begin anew."""
    world = World(tmp_path / "hub.git")
    hub = world.open()
    for number in range(5):
        hub.memory.set("k", number)
        hub.memory.set("other", number)
        world.runtime.advance(86_400)
    old, *_ = [version.revision for version in reversed(hub.memory.history("k"))]
    assert 5 == len(hub.memory.history("k"))
    hub.gc(2.5 * 86_400)
    reader = world.open("reader")
    assert [4, 3, 2] == [one.value for one in reader.memory.history("k")]
    with pytest.raises(NotFound, match="is no longer kept"):
        reader.memory.get("k", revision=old)
    assert 3 == reader.memory.get("k", revision=reader.memory.history("k")[1].revision)
    changes = reader.memory.watch("k", since=old)
    assert not callable(changes)
    assert ["resync", "set"] == [next(changes).kind, next(changes).kind]
    assert ["k", "other"] == check_namespace(world.snapshot(SPACE))
    world.close()
