"""Memory: conditions hold, the last value is never missed, and nobody writes under an old token."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from ghcoord.coord.memory.memory import Change, FencedBy
from ghcoord.errors import (
    Corrupt,
    FenceRefused,
    InvalidName,
    RevisionMismatch,
    SyncError,
    TooLarge,
    Unavailable,
    UsageError,
)
from ghcoord.hub import Hub
from ghcoord.testing.clock import START
from ghcoord.testing.faults import CommitFault, HeadsFault
from tests.coord.world import World, where

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
    assert [] == hub.memory.namespaces(), "none holds a key any more"
    assert set(ODD_NAMES) == set(hub.memory.sync()), "their branches stay"


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
