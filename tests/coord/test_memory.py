"""Memory: conditions hold, the last value is never missed, and nobody writes under an old token."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from pydantic import BaseModel

from ghcoord.coord.memory import Change, FencedBy
from ghcoord.errors import (
    Corrupt,
    FenceRefused,
    GhcoordError,
    InvalidName,
    RevisionMismatch,
    SyncError,
    TooLarge,
    Unavailable,
    Unsupported,
    UsageError,
)
from ghcoord.hub import Hub
from ghcoord.store.base import Oid
from ghcoord.store.wrappers import WrappedStore
from ghcoord.testing.clock import START
from ghcoord.testing.faults import CommitFault, HeadsFault
from tests.coord.world import World, edited, where

SPACE = "memory/global"
ODD_NAMES = ["a", "A", "Team/One", "ä ö", "名前", "x.lock", "..x..", "@{x", "-v", "a" * 60, "HEAD", "%41"]


# -- setting and getting


def test_a_value_is_what_was_set(both: World) -> None:
    """Any JSON, with revision, time and author; setting it again moves the revision."""
    a, b = both.open("a"), both.open("b")
    for value in (1, 1.5, "é\n", None, True, [], {"a": [None, {"b": None}]}, 2**60):
        entry = a.memory.set("k", value)
        assert value == b.memory.get("k")
        assert entry == b.memory.entry("k")
    assert ("k", "a", START) == (entry.key, entry.updated_by, entry.updated_at.timestamp())
    assert a.memory.set("k", 1).revision > entry.revision


def test_missing_is_not_null(hub: Hub) -> None:
    """``get`` gives None for both; ``entry`` tells them apart."""
    hub.memory.set("null", None)
    assert (None, None) == (hub.memory.get("null"), hub.memory.get("missing"))
    assert (True, True) == (hub.memory.entry("null") is not None, hub.memory.entry("missing") is None)
    assert None is hub.memory.get("x", "no-such-namespace")
    assert [] == hub.memory.list("no-such-namespace")


def test_deleting(both: World) -> None:
    """Says whether there was something; makes no commit where there was not."""
    hub = both.open()
    hub.memory.set("k", 1)
    assert hub.memory.delete("k")
    before = hub.commits
    assert not hub.memory.delete("k")
    assert not hub.memory.delete("k", "elsewhere")
    assert before == hub.commits
    assert None is hub.memory.entry("k")
    assert [] == hub.memory.list()


class Point(BaseModel):
    x: int


def test_values_can_be_typed(hub: Hub) -> None:
    """By a pydantic model or any callable; what does not fit is an error that names the key."""
    hub.memory.set("p", {"x": 3})
    hub.memory.set("n", "12")
    assert Point(x=3) == hub.memory.get("p", model=Point)
    assert 12 == hub.memory.get("n", model=int)
    assert None is hub.memory.get("missing", model=Point)
    for key, model in (("n", Point), ("p", int)):
        with pytest.raises(Corrupt, match=f"value of '{key}' does not fit {model.__name__}"):
            hub.memory.get(key, model=model)


def test_bad_arguments_are_refused(hub: Hub) -> None:
    """Before anything is written."""
    before = hub.commits
    for bad in ("", "a//b", "../x", "x" * 257, "a\n", "\ud800"):
        for call in (
            lambda key=bad: hub.memory.set(key, 1),
            lambda key=bad: hub.memory.get(key),
            lambda key=bad: hub.memory.delete(key),
            lambda key=bad: hub.memory.watch(key),
            lambda name=bad: hub.memory.set("k", 1, name),
            lambda name=bad: hub.memory.list(name),
        ):
            with pytest.raises(InvalidName):
                call()
    for name in ("x" * 61, "名" * 30):
        with pytest.raises(InvalidName, match="namespace is too long"):
            hub.memory.set("k", 1, name)
    for call in (
        lambda: hub.memory.set("k", object()),
        lambda: hub.memory.set("k", float("nan")),
        lambda: hub.memory.set("k", {1: 2}),
        lambda: hub.memory.set("k", 1, ttl=0),
        lambda: hub.memory.set("k", 1, ttl=-1),
        lambda: hub.memory.set("k", 1, ttl=float("nan")),
        lambda: hub.memory.set("k", 1, ttl=1e9),
    ):
        with pytest.raises(UsageError):
            call()
    with pytest.raises(TooLarge):
        hub.memory.set("k", "x" * 1_000_000)
    assert before == hub.commits


def test_namespaces_are_apart(both: World) -> None:
    """Any name is one branch of its own, listed under its own name, and git accepts it."""
    hub = both.open()
    for name in ODD_NAMES:
        hub.memory.set("k", name, name)
    assert sorted(ODD_NAMES) == hub.memory.namespaces()
    assert ODD_NAMES == [hub.memory.get("k", name) for name in ODD_NAMES]
    assert ODD_NAMES == [name for name in ODD_NAMES if hub.memory.delete("k", name)]
    assert sorted(ODD_NAMES) == hub.memory.namespaces(), "they held a key once"


def test_foreign_branches_are_not_namespaces(world: World) -> None:
    """A branch that a person made beside them disturbs nothing."""
    hub = world.open()
    hub.memory.set("k", 1)
    for name in ("memory/FOO", "memory/100%", "memory/a!", "memory/%zz", "other"):
        world.put(name, {"keys/x": b"{}"})
    assert ["global"] == hub.memory.namespaces()
    assert {"global"} == set(hub.memory.sync())
    assert [] == hub.broken()


def test_spellings_of_one_key_are_one_key(hub: Hub) -> None:
    """Composed and decomposed letters are the same, in every method."""
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    changes = hub.memory.watch(composed)
    assert not callable(changes)
    entry = hub.memory.set(decomposed, 1)
    assert composed == entry.key
    assert Change("set", composed, 1, entry.revision) == next(changes)
    assert [composed] == hub.memory.list() == hub.memory.list(prefix=decomposed)
    assert 1 == hub.memory.get(composed) == hub.memory.get(decomposed)
    assert hub.memory.delete(decomposed)


def test_keys_are_listed_by_prefix(both: World) -> None:
    """Sorted, whatever letters; entries too."""
    hub = both.open()
    keys = ["b", "a/2", "a/1", "a", "ä", "A/1", "a/10"]
    for key in keys:
        hub.memory.set(key, key)
    assert sorted(keys) == hub.memory.list()
    assert ["a/1", "a/10", "a/2"] == hub.memory.list(prefix="a/")
    assert ["a/1", "a/10"] == [entry.value for entry in hub.memory.entries(prefix="a/1")]
    assert [] == hub.memory.list(prefix="zz")


def test_a_broken_entry_stops_no_other(world: World) -> None:
    """Reading it says so; listing leaves it out; a plain write repairs it, a conditional one refuses to guess."""
    hub = world.open()
    hub.memory.set("a", 1)
    hub.memory.set("b", 2)
    world.put(SPACE, {where("key", "c"): b"{broken"})
    assert ["a", "b"] == hub.memory.list()
    with pytest.raises(Corrupt, match=r"is not JSON"):
        hub.memory.get("c")
    assert 2 == hub.memory.get("b")
    hub.memory.set("c", 3, if_revision=0)
    assert 3 == hub.memory.get("c"), "what was broken was set aside"


# -- conditions


def test_compare_and_set(both: World) -> None:
    """Exactly at the revision, zero for unset; a loser gets both numbers and changes nothing."""
    a, b = both.open("a"), both.open("b")
    first = a.memory.set("k", 1, if_revision=0)
    second = b.memory.set("k", 2, if_revision=first.revision)
    for expected in (0, first.revision, second.revision + 1):
        for call in (
            lambda expected=expected: a.memory.set("k", 9, if_revision=expected),
            lambda expected=expected: a.memory.delete("k", if_revision=expected),
        ):
            with pytest.raises(RevisionMismatch) as caught:
                call()
            assert (expected, second.revision) == (caught.value.expected, caught.value.actual)
    with pytest.raises(RevisionMismatch, match="'none' is not set"):
        a.memory.set("none", 1, if_revision=5)
    assert second == a.memory.entry("k")
    assert a.memory.delete("k", if_revision=second.revision)
    assert a.memory.set("k", 3, if_revision=0).revision > second.revision


def test_compare_and_set_counts_exactly(world: World) -> None:
    """Two handles that increment by compare-and-set lose nothing, also when replies are lost."""
    (a, faulty), b = world.open_faulty("a"), world.open("b")
    a.memory.set("n", 0)
    faulty.fail_commits(*[CommitFault.REPLY_LOST, CommitFault.CONFLICT_AFTER_LANDING, None] * 4)
    for number in range(30):
        hub = (a, b)[number % 2]
        entry = hub.memory.entry("n")
        assert entry is not None
        hub.memory.set("n", entry.value + 1, if_revision=entry.revision)
    assert 30 == b.memory.get("n")


def test_a_ttl_ends_a_key(both: World) -> None:
    """At its end it is as if never set: not read, not listed, free for compare-and-set; setting again renews."""
    hub = both.open()
    hub.memory.set("k", 1, ttl=10)
    both.runtime.advance(9)
    hub.memory.set("k", 2, ttl=10)
    both.runtime.advance(9.9)
    assert (2, ["k"]) == (hub.memory.get("k"), hub.memory.list())
    both.runtime.advance(0.1)
    assert (None, None, []) == (hub.memory.get("k"), hub.memory.entry("k"), hub.memory.list())
    assert not hub.memory.delete("k"), "there was nothing any more"
    assert {} == {path: data for path, data in both.files(SPACE).items() if path.startswith("keys/")}
    hub.memory.set("k", 3, ttl=1)
    both.runtime.advance(5)
    hub.memory.set("k", 4, if_revision=0)
    both.runtime.advance(100)
    assert 4 == hub.memory.get("k"), "without a ttl it stays"


# -- fences


def test_only_the_holder_writes(both: World) -> None:
    """The present grant's token, in any namespace; nobody else's, older or newer."""
    a, b = both.open("a"), both.open("b")
    lock = a.locks.acquire("x", ttl=10)
    assert lock is not None
    a.memory.set("k", 1, fence=("x", lock.token))
    a.memory.set("k", 2, "other", fence=FencedBy("x", lock.token))
    for name, token in (("x", lock.token - 1), ("x", lock.token + 1), ("y", lock.token)):
        with pytest.raises(FenceRefused):
            b.memory.set("k", 9, fence=(name, token))
        with pytest.raises(FenceRefused):
            b.memory.delete("k", fence=(name, token))
    assert 1 == b.memory.get("k")
    assert a.memory.delete("k", fence=("x", lock.token))
    assert not a.memory.delete("k", fence=("x", lock.token))


def test_the_fence_holds_before_the_new_holder_wrote(both: World) -> None:
    """The old token is refused as soon as the lock is granted anew, also in a namespace nobody wrote to yet."""
    a, b = both.open("a"), both.open("b")
    old = a.locks.acquire("x", ttl=5)
    assert old is not None
    a.memory.set("k", "a", fence=("x", old.token))
    both.runtime.advance(10)
    new = b.locks.acquire("x", ttl=5)
    assert new is not None
    for namespace in ("global", "fresh"):
        with pytest.raises(FenceRefused, match="held by 'b'"):
            a.memory.set("k", "late", namespace, fence=("x", old.token))
    assert ("a", None) == (b.memory.get("k"), b.memory.get("k", "fresh"))
    b.memory.set("k", "b", fence=("x", new.token))
    assert "b" == a.memory.get("k")


def test_the_highest_token_seen_is_a_second_check(world: World) -> None:
    """Even if the lock's record was put back by hand, a write under an older token is refused."""
    hub = world.open()
    old = hub.locks.acquire("x")
    assert old is not None
    record = world.files("locks")[where("lock", "x")]
    hub.locks.release("x", "me")
    world.runtime.advance(1)
    new = hub.locks.acquire("x")
    assert new is not None
    hub.memory.set("k", 1, fence=("x", new.token))
    world.put("locks", {where("lock", "x"): record})
    with pytest.raises(FenceRefused, match=f"higher token {new.token}"):
        hub.memory.set("k", 2, fence=("x", old.token))


def test_conditions_add_up(hub: Hub) -> None:
    """A fenced write may be a compare-and-set too: both must hold, and a refusal leaves no trace."""
    lock = hub.locks.acquire("x")
    assert lock is not None
    with pytest.raises(RevisionMismatch):
        hub.memory.set("k", 1, if_revision=5, fence=("x", lock.token))
    assert [] == hub.memory.namespaces()
    hub.memory.set("k", 1, if_revision=0, fence=("x", lock.token))


def test_without_commits_over_two_spaces_fences_are_refused(world: World) -> None:
    """Not weaker: unsupported."""
    hub = world.open()
    store = world.store()
    store.capabilities = replace(store.capabilities, multi_space=False)  # type: ignore[misc]
    with pytest.raises(Unsupported, match="fenced writes"):
        hub.memory.set("k", 1, fence=("x", 5))
    hub.memory.set("k", 1)


# -- synchronising


def test_syncing_tells_the_revisions(both: World) -> None:
    """Of one namespace or of all; zero for one that is not there."""
    hub = both.open()
    one, other = hub.memory.set("k", 1), hub.memory.set("k", 1, "Other")
    assert {"global": one.revision, "Other": other.revision} == hub.memory.sync()
    assert {"Other": other.revision} == hub.memory.sync("Other")
    assert {"new": 0} == hub.memory.sync("new")


def test_syncing_without_the_hub_is_an_error(world: World) -> None:
    """It names the namespace; the cause is there."""
    hub, faulty = world.open_faulty()
    faulty.fail_heads(*[HeadsFault.UNAVAILABLE] * 500)
    with pytest.raises(SyncError, match="cannot synchronise global") as caught:
        hub.memory.sync("global")
    assert "global" == caught.value.namespace
    assert isinstance(caught.value.__cause__, Unavailable)


# -- watching


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
    assert base.root is not None
    reader = hub._context.transactor.store
    reader.inner = Forgetful(reader.inner, base.root)  # type: ignore[attr-defined]
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
    """A deleted branch is the end of its keys."""
    hub = world.open()
    hub.memory.set("k", 1)
    watch = watched(hub, "k")
    world.set_head(SPACE, None)
    assert [("deleted", "k", None)] == watch.seen()


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
