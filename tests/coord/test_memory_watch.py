"""Going on with a watch, and what a watch costs: what was heard counts, what came after is told."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from ghcoord.coord.memory import watch as memory_watch
from ghcoord.coord.memory.memory import Change
from ghcoord.coord.memory.watch import DOUBT, Watch
from ghcoord.coord.memory.write import SetKey
from ghcoord.errors import Corrupt
from ghcoord.hub import Hub
from ghcoord.store.base import CommitInfo, Oid
from ghcoord.store.wrappers import WrappedStore
from tests.coord.memory_checks import set_together
from tests.coord.world import World, edited, where

SPACE = "memory/global"


def watch(hub: Hub, key: str = "", since: int | None = None, *, prefix: bool = True) -> Callable[[], list[Change]]:
    """What looks once and returns what it found."""
    return Watch(hub._context, SPACE, key, prefix=prefix, since=since).look


def told(changes: list[Change]) -> list[tuple[str, str, Any]]:
    return [(change.kind, change.key, change.value) for change in changes]


# -- going on


def test_a_watch_goes_on_from_a_revision(both: World) -> None:
    """It and whatever changed after it, once; nothing that was before."""
    hub = both.open()
    hub.memory.set("old", 1)
    hub.memory.set("gone", 1)
    heard = hub.memory.set("k", 1).revision
    hub.memory.set("k", 2)
    hub.memory.delete("gone")
    hub.memory.set("new", 3)
    hub.memory.set("new", 4)
    assert [("deleted", "gone", None), ("set", "k", 2), ("set", "new", 4)] == told(watch(hub, since=heard)())
    assert [("set", "k", 2)] == told(watch(hub, "k", heard, prefix=False)())
    assert [("set", "new", 4)] == told(watch(hub, since=hub.revision(SPACE))())
    look = watch(hub, since=hub.revision(SPACE) + 1)
    assert [] == look()
    hub.memory.set("new", 5)
    assert [("set", "new", 5)] == told(look())
    everything = told(watch(hub, since=0)())
    assert [("set", "old", 1), ("set", "k", 2), ("set", "new", 5)] == everything
    assert [] == watch(hub, "zz", since=0)()


def test_what_ended_behind_a_revision_that_ran_ahead_is_told(both: World) -> None:
    """Revisions outrun the clock while commits come fast: an end between the two is told to who goes on from there."""
    hub = both.open()
    hub.memory.set("short", 1, ttl=0.02)
    look = watch(hub)
    for number in range(40):
        heard = hub.memory.set("k", number).revision
    assert [("set", "k", 39)] == told(look())
    both.runtime.advance(0.03)
    assert ("expired", "short", None) in told(watch(hub, since=heard)())


def test_a_revision_that_is_not_there(world: World) -> None:
    """An answer may lag behind: first nothing; the next one is waited for, another history begins anew."""
    hub = world.open()
    next_one = hub.memory.set("k", 1, ttl=5).revision + 1
    look, beyond = watch(hub, since=next_one), watch(hub, since=next_one + 1)
    assert [] == look() == beyond()
    world.runtime.advance(DOUBT)
    assert [("expired", "k", None)] == told(look())
    assert [("resync", "", None)] == told(beyond())
    hub.memory.set("k", 2)
    assert [("set", "k", 2)] == told(look()) == told(beyond())


def test_going_on_behind_an_answer_that_lags(world: World) -> None:
    """What was heard, and is gone by now, is told as deleted, though the first answer does not know it yet."""
    hub = world.open()
    hub.memory.set("old", 1)
    lagging = world.store().heads()[SPACE]
    heard = hub.memory.set("k", 1).revision
    hub.memory.delete("k")
    new = world.store().heads()[SPACE]
    world.set_head(SPACE, lagging)
    look = watch(hub, since=heard)
    assert [] == look()
    world.set_head(SPACE, new)
    assert [("deleted", "k", None)] == told(look())


def test_the_callback_goes_on_too(world: World) -> None:
    """Through the method that people call, with a callback and as an iterator."""
    hub = world.open()
    heard = hub.memory.set("k", 1).revision
    hub.memory.set("k", 2)
    seen: list[Change] = []
    stop = hub.memory.watch("k", seen.append, since=heard)
    changes = hub.memory.watch("k", since=heard)
    assert not callable(changes)
    world.runtime.advance(3)
    stop()
    assert [("set", "k", 2)] == told(seen)
    assert 2 == next(changes).value


@pytest.mark.parametrize("at", range(6))
def test_stopped_anywhere_it_misses_nothing(world: World, at: int) -> None:
    """Whoever hears the first changes of a look, stops, and goes on from the highest revision, ends up the same."""
    hub = world.open()
    for key in ("a", "b", "c"):
        hub.memory.set(key, 0)
    look = watch(hub)
    mirror: dict[str, Any] = {"a": 0, "b": 0, "c": 0}
    heard = hub.revision(SPACE)
    hub.memory.delete("c")
    hub.memory.set("b", 1)
    set_together(world, hub, SetKey("d", 1), SetKey("a", 1), SetKey("b", 2))
    hub.memory.delete("d")
    hub.memory.set_many({"e": 1, "f": 1})

    def take(changes: list[Change]) -> None:
        nonlocal heard
        for change in changes:
            if change.kind == "set":
                mirror[change.key] = change.value
            else:
                mirror.pop(change.key, None)
            heard = max(heard, change.revision)

    take(look()[:at])
    take(watch(hub, since=heard)())
    assert {"a": 1, "b": 2, "e": 1, "f": 1} == mirror


@pytest.mark.parametrize("seed", range(5))
def test_looks_with_a_cursor_tell_what_one_watch_tells(world: World, seed: int) -> None:
    """One look after the other, each going on from the cursor of the one before: nothing missed, nothing twice."""
    hub, chance = world.open(), random.Random(seed)
    whole = hub.memory.changes("", "n", prefix=True)
    cursor = hub.memory.changes("", "n", prefix=True).cursor
    for _ in range(40):
        for _ in range(chance.randrange(4)):
            key = chance.choice("abc")
            if chance.random() < 0.3:
                hub.memory.delete(key, "n")
            else:
                hub.memory.set(key, chance.randrange(100), "n", ttl=chance.choice([None, 2, 5]))
            world.runtime.advance(chance.choice([0, 0.25, 1.5]))
        if chance.random() < 0.2:
            hub.memory.sweep("n")
        look = hub.memory.changes("", "n", prefix=True, since=cursor)
        assert whole.look() == look.look()
        cursor = look.cursor
        assert [] == hub.memory.changes("", "n", prefix=True, since=cursor).look()


def test_what_ended_meanwhile_is_told(world: World) -> None:
    """Removed since then or not; not what had ended before."""
    hub = world.open()
    for key, ttl in (("before", 1), ("swept", 5), ("left", 6)):
        hub.memory.set(key, 1, ttl=ttl)
    world.runtime.advance(2)
    heard = hub.memory.set("k", 1).revision
    world.runtime.advance(3.5)
    assert 1 == hub.memory.sweep()
    world.runtime.advance(10)
    assert [("expired", "swept", None), ("expired", "left", None)] == told(watch(hub, since=heard + 1)())


def test_an_edit_by_hand_is_told_to_who_goes_on(world: World) -> None:
    """Taken over or not: it has no revision of its own before."""
    hub = world.open()
    heard = hub.memory.set("k", 1).revision
    path = where("key", "k")
    world.put(SPACE, {path: edited(world.files(SPACE)[path], value=2)})
    assert [("set", "k", 2)] == told(watch(hub, since=heard)())
    world.put(SPACE, {"note": b"x"})
    assert [("set", "k", 2)] == told(watch(hub, since=heard)())
    world.runtime.advance(1)
    hub.memory.set("other", 1)
    assert ("set", "k", 2) in told(watch(hub, since=heard)())


class Shallow(WrappedStore):
    """A store whose commits before one are gone."""

    lost: Oid = ""

    def commit_info(self, oid: Oid) -> CommitInfo:
        if oid == self.lost:
            raise Corrupt(f"no commit {oid}")
        return self.inner.commit_info(oid)


def test_where_history_was_cut_it_begins_anew(world: World) -> None:
    """``resync``, then every key that is set; then on as ever."""
    hub, store = world.open(), Shallow(world.store())
    heard = hub.memory.set("a", 1).revision
    hub.memory.set("ended", 1, ttl=1)
    store.lost = world.store().heads()[SPACE]
    hub.memory.set("b", 2)
    world.runtime.advance(5)
    look = watch(world.open("reader", store=store), since=heard)
    assert [("resync", "", None), ("set", "a", 1), ("set", "b", 2)] == told(look())
    hub.memory.set("c", 3)
    assert [("set", "c", 3)] == told(look())


def test_far_back_it_begins_anew(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather than walking for ever."""
    monkeypatch.setattr(memory_watch, "RESUME_COMMITS", 5)
    hub = world.open()
    revisions = [hub.memory.set("k", number).revision for number in range(10)]
    assert "resync" == watch(hub, since=revisions[0])()[0].kind
    assert [("set", "k", 9)] == told(watch(hub, since=revisions[7])())


# -- what is told


def test_a_value_swept_before_the_look_has_expired(world: World) -> None:
    """Not deleted; and it is told once, whether the end or the removal is noticed first."""
    hub = world.open()
    hub.memory.set("one", 1, ttl=5)
    hub.memory.set("two", 1, ttl=5)
    early, late = watch(hub), watch(hub)
    world.runtime.advance(6)
    assert [("expired", "one", None), ("expired", "two", None)] == told(early())
    hub.memory.sweep()
    assert [] == early()
    assert {("expired", "one", None), ("expired", "two", None)} == set(told(late()))


def test_an_end_put_there_by_hand_is_told(world: World) -> None:
    """Also one that has passed, before anybody has taken it over."""
    hub = world.open()
    hub.memory.set("k", 1)
    look = watch(hub)
    world.runtime.advance(100)
    path = where("key", "k")
    world.put(SPACE, {path: edited(world.files(SPACE)[path], ttl=3.0)})
    assert [("set", "k", 1), ("expired", "k", None)] == told(look())
    assert [] == look()


def test_a_record_that_vanished_while_it_was_broken(world: World) -> None:
    """Its end is told all the same."""
    hub = world.open()
    hub.memory.set("k", 1)
    look = watch(hub)
    world.put(SPACE, {where("key", "k"): b"{broken"})
    assert [] == look()
    world.put(SPACE, {where("key", "k"): None})
    assert [("deleted", "k", None)] == told(look())


# -- what it costs


def test_a_watch_costs_what_changed(world: World) -> None:
    """Among many keys: to begin with nothing, then the way to what differs, and no record of others."""

    class Counting(WrappedStore):
        reads = 0

        def tree(self, oid: Oid) -> Any:
            self.reads += 1
            return self.inner.tree(oid)

        def blob(self, oid: Oid) -> bytes:
            self.reads += 1
            return self.inner.blob(oid)

    hub = world.open()
    hub.memory.set_many({f"k{n:04d}": n for n in range(600)})
    hub.memory.set_many({f"t{n:04d}": n for n in range(100)}, ttl=500)
    store = Counting(world.store())
    reader = world.open("reader", store=store)
    look = watch(reader, "k00")
    store.reads = 0
    assert [] == look()
    assert store.reads <= 6
    hub.memory.set("k0001", "new")
    hub.memory.set("other", "new")
    store.reads = 0
    assert [("set", "k0001", "new")] == told(look())
    # Both ways from the top to two records, the record that matters before and after, and what tells of ends.
    assert store.reads <= 2 * (2 + 3 + 3) + 2 + 4
    world.runtime.advance(1)
    store.reads = 0
    assert [] == look()
    assert store.reads <= 6
