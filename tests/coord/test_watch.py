"""Watching memory: the last value is never missed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ghcoord.coord.memory.memory import Change
from ghcoord.coord.memory.watch import DOUBT
from ghcoord.errors import (
    Corrupt,
    GhcoordError,
    Unavailable,
)
from ghcoord.hub import Hub
from ghcoord.store.base import Oid
from ghcoord.store.wrappers import WrappedStore
from ghcoord.testing.faults import HeadsFault
from tests.coord.world import World, edited, where

SPACE = "memory/global"


class Watched:
    """A watch that collects, in manual time."""

    def __init__(self, world: World, hub: Hub, key: str, **more: Any) -> None:
        self.world = world
        self.changes: list[Change] = []
        self.errors: list[GhcoordError] = []
        stop = hub.memory.watch(key, self.changes.append, on_error=self.errors.append, **more)
        assert callable(stop)
        self.stop: Callable[[], None] = stop

    def seen(self) -> list[tuple[str, str, Any]]:
        """What was seen up to now, and since the last call."""
        self.world.runtime.advance(2.5)
        found = [(change.kind, change.key, change.value) for change in self.changes]
        self.changes.clear()
        return found


@pytest.fixture
def watched(world: World) -> Iterator[Callable[..., Watched]]:
    """Starts watches and stops them in the end."""
    started: list[Watched] = []

    def start(hub: Hub, key: str, **more: Any) -> Watched:
        started.append(Watched(world, hub, key, **more))
        return started[-1]

    yield start
    for one in started:
        one.stop()


def test_a_watch_sees_what_comes(world: World, watched: Callable[..., Watched]) -> None:
    """Setting, deleting, expiring; not what was there before, nor other keys and namespaces."""
    hub, other = world.open(), world.open("other")
    hub.memory.set("k", "before")
    hub.memory.set("gone", 1)
    hub.memory.delete("gone")
    watch = watched(hub, "k")
    assert [] == watch.seen()
    other.memory.set("k", 1)
    other.memory.set("k2", 1)
    other.memory.set("k", 1, "elsewhere")
    assert [("set", "k", 1)] == watch.seen()
    other.memory.set("k", None)
    assert [("set", "k", None)] == watch.seen()
    other.memory.delete("k")
    assert [("deleted", "k", None)] == watch.seen()
    other.memory.set("k", 2, ttl=4)
    assert [("set", "k", 2)] == watch.seen()
    assert [("expired", "k", None)] == watch.seen()
    assert [] == watch.seen()
    other.memory.delete("k")
    assert [] == watch.seen(), "it was over already"
    watch.stop()
    other.memory.set("k", 3)
    assert [] == watch.seen()


def test_a_change_right_after_watching_is_seen(world: World, watched: Callable[..., Watched]) -> None:
    """The base is what is there when ``watch`` returns."""
    hub = world.open()
    watch = watched(hub, "k")
    hub.memory.set("k", 1)
    assert [("set", "k", 1)] == watch.seen()


def test_a_prefix_watch_sees_every_key_below(world: World, watched: Callable[..., Watched]) -> None:
    """Sorted by path; the empty prefix sees all."""
    hub = world.open()
    hub.memory.set("a/old", 0, ttl=3)
    below, everything = watched(hub, "a/", prefix=True), watched(hub, "", prefix=True)
    hub.memory.set("a/1", 1)
    hub.memory.set("a/2", 2)
    hub.memory.set("b", 3)
    assert {("set", "a/1", 1), ("set", "a/2", 2)} == set(below.seen())
    assert {("set", "a/1", 1), ("set", "a/2", 2), ("set", "b", 3), ("expired", "a/old", None)} == set(everything.seen())
    hub.memory.delete("a/1")
    assert [("expired", "a/old", None), ("deleted", "a/1", None)] == below.seen()


def test_the_last_value_is_never_missed(world: World, watched: Callable[..., Watched]) -> None:
    """Of many changes between two polls at least the last is seen."""
    hub = world.open()
    watch = watched(hub, "k")
    for round_ in range(5):
        for number in range(7):
            hub.memory.set("k", (round_, number))
            if number == 3:
                hub.memory.delete("k")
        assert ("set", "k", [round_, 6]) == watch.seen()[-1]


def test_a_value_that_was_over_before_it_was_seen_ends(world: World, watched: Callable[..., Watched]) -> None:
    """Replaced by a short-lived one between two polls, a key is reported as set and expired, not as still there."""
    hub = world.open()
    hub.memory.set("k", "for ever")
    watch = watched(hub, "k")
    hub.memory.set("k", "short", ttl=0.1)
    assert [("set", "k", "short"), ("expired", "k", None)] == watch.seen()
    assert [] == watch.seen()


def test_a_renewed_ttl_does_not_expire(world: World, watched: Callable[..., Watched]) -> None:
    """Only the present value's end counts."""
    hub = world.open()
    watch = watched(hub, "k")
    hub.memory.set("k", 1, ttl=3)
    assert [("set", "k", 1)] == watch.seen()
    hub.memory.set("k", 1, ttl=30)
    assert [("set", "k", 1)] == watch.seen()
    assert [] == watch.seen() + watch.seen()


def test_errors_of_the_hub_do_not_end_a_watch(world: World, watched: Callable[..., Watched]) -> None:
    """They are reported, and what changed meanwhile is seen afterwards."""
    hub, faulty = world.open_faulty()
    watch = watched(hub, "k")
    faulty.fail_heads(*[HeadsFault.UNAVAILABLE] * 300)
    world.open("other").memory.set("k", 1)
    while not watch.errors:
        assert [] == watch.seen()
    assert isinstance(watch.errors[0], Unavailable)
    faulty._heads_faults.clear()
    world.runtime.advance(3)
    assert [("set", "k", 1)] == watch.seen()


class Moody(WrappedStore):
    """A store whose reading of one object fails when asked to."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.fail: Oid | None = None

    def blob(self, oid: Oid) -> bytes:
        if oid == self.fail:
            raise GhcoordError("moody")
        return self.inner.blob(oid)


def test_an_error_in_the_middle_loses_no_change(world: World, watched: Callable[..., Watched]) -> None:
    """A deletion found just before an error is still reported after it."""
    store = Moody(world.store())
    hub, other = world.open(store=store), world.open("other")
    keys = sorted((f"k{n}" for n in range(20)), key=lambda key: where("key", key))
    other.memory.set(keys[0], 1)
    watch = watched(hub, "k", prefix=True)
    other.memory.delete(keys[0])
    other.memory.set(keys[-1], 2)
    entry = world.snapshot(SPACE).entry(where("key", keys[-1]))
    assert entry is not None
    store.fail = entry.oid
    assert [] == watch.seen()
    assert watch.errors
    store.fail = None
    assert [("deleted", keys[0], None), ("set", keys[-1], 2)] == watch.seen()


def test_a_watch_survives_a_replaced_history(world: World, watched: Callable[..., Watched]) -> None:
    """When what it compares with is gone, it says so and gives the present state."""
    hub = world.open()
    hub.memory.set("a", 1)
    hub.memory.set("b", 2, ttl=1)
    hub.memory.set("c", 3)
    watch = watched(hub, "", prefix=True)
    base = world.snapshot(SPACE)
    hub.memory.set("a", 10)
    hub.memory.delete("c")
    keys = base.entry("keys")
    assert keys is not None
    reader = hub._context.transactor.store
    reader.inner = Forgetful(reader.inner, keys.oid)  # type: ignore[attr-defined]
    reader._trees._kept.clear()  # type: ignore[attr-defined]
    world.runtime.advance(1)
    assert [("resync", "", None), ("set", "a", 10)] == watch.seen()
    hub.memory.delete("a")
    assert [("deleted", "a", None)] == watch.seen()


class Forgetful(WrappedStore):
    """A store that has lost one tree."""

    def __init__(self, inner: Any, lost: Oid) -> None:
        super().__init__(inner)
        self._lost = lost

    def tree(self, oid: Oid) -> Any:
        if oid == self._lost:
            raise Corrupt(f"no tree {oid}")
        return self.inner.tree(oid)


def test_a_watch_sees_a_vanished_namespace(world: World, watched: Callable[..., Watched]) -> None:
    """A deleted branch is the end of its keys, once it is certain that no answer lagged behind."""
    hub = world.open()
    hub.memory.set("k", 1)
    watch = watched(hub, "k")
    world.set_head(SPACE, None)
    assert [] == watch.seen()
    world.runtime.advance(DOUBT)
    assert [("deleted", "k", None)] == watch.seen()


def test_an_answer_that_lags_behind_takes_nothing_back(world: World, watched: Callable[..., Watched]) -> None:
    """An older state that shows for a moment is no change, nor is what follows it."""
    hub = world.open()
    hub.memory.set("k", 1)
    watch = watched(hub, "", prefix=True)
    old = world.store().heads()[SPACE]
    hub.memory.set("k", 2)
    hub.memory.set("j", 2)
    assert [("set", "k", 2), ("set", "j", 2)] == watch.seen()
    new = world.store().heads()[SPACE]
    world.set_head(SPACE, old)
    assert [] == watch.seen()
    world.set_head(SPACE, new)
    assert [] == watch.seen()
    hub.memory.set("k", 3)
    assert [("set", "k", 3)] == watch.seen()


def test_a_watch_sees_what_people_edit(world: World, watched: Callable[..., Watched]) -> None:
    """A sound edit is a change; a broken one is none, and the restored value comes back."""
    hub = world.open()
    hub.memory.set("k", 1)
    watch = watched(hub, "k")
    path = where("key", "k")
    world.put(SPACE, {path: edited(world.files(SPACE)[path], value=2)})
    assert [("set", "k", 2)] == watch.seen()
    hub.memory.set("other", 0)
    watch.seen()
    world.put(SPACE, {path: b"{broken"})
    assert [] == watch.seen()
    hub.memory.set("other", 1)
    assert ("set", "k", 2) == watch.seen()[-1]


def test_an_iterator_of_changes(world: World) -> None:
    """Without a callback: an iterator from the moment of the call, whose errors are the caller's."""
    hub, faulty = world.open_faulty()
    changes = hub.memory.watch("k")
    assert not callable(changes)
    entry = hub.memory.set("k", 1)
    assert Change("set", "k", 1, entry.revision) == next(changes)
    gone = hub.memory.set("k", 2, ttl=5)
    assert ["set", "expired"] == [next(changes).kind, next(changes).kind]
    assert gone.revision > entry.revision
    faulty.fail_heads(*[HeadsFault.UNAVAILABLE] * 500)
    with pytest.raises(Unavailable):
        next(changes)


def test_a_callback_may_stop_its_own_watch() -> None:
    """With real threads too: the first change ends it."""
    from ghcoord.bootstrap import open_hub
    from ghcoord.clock import SystemRuntime
    from ghcoord.config import Settings
    from ghcoord.store.inmemory import MemoryStore

    runtime = SystemRuntime()
    hub = open_hub(MemoryStore(runtime.now), runtime, Settings(poll=0.01), actor="me")
    seen: list[Change] = []
    stopped = threading.Event()

    def once(change: Change) -> None:
        seen.append(change)
        assert callable(stop)
        stop()
        stopped.set()

    stop = hub.memory.watch("k", once)
    hub.memory.set("k", 1)
    assert stopped.wait(5)
    hub.memory.set("k", 2)
    stopped.wait(0.1)
    assert ["set"] == [change.kind for change in seen]


def test_after_stopping_nothing_more_is_told(world: World) -> None:
    """A callback that stops the watch at the first of several changes is not called for the others."""
    hub = world.open()
    seen: list[str] = []

    def once(change: Change) -> None:
        seen.append(change.key)
        stop()

    stop = hub.memory.watch("", once, prefix=True)
    for key in "abc":
        hub.memory.set(key, 1)
    world.runtime.advance(5)
    assert 1 == len(seen)
