"""Locks: one holder, growing tokens, and an owner who notices in time."""

from __future__ import annotations

import os
import socket

import pytest

from ghcoord.errors import (
    FenceRefused,
    InvalidName,
    LeaseLost,
    NotFound,
    NotOwner,
    TooLarge,
    UsageError,
)
from ghcoord.hub import Hub
from ghcoord.testing.clock import START
from tests.coord.world import MARGIN, World, kinds, taken


def test_a_lock_has_one_holder(both: World) -> None:
    """Who comes second gets nothing, without a commit; after the release it is theirs, with a higher token."""
    a, b = both.open("a"), both.open("b")
    first = taken(a.locks.acquire("x"))
    before = b.commits
    assert None is b.locks.acquire("x")
    assert None is a.locks.acquire("x"), "the owner has it already"
    assert before == b.commits
    a.locks.release("x", "a", first.token)
    second = taken(b.locks.acquire("x", ttl=5))
    assert second.token > first.token
    assert ("b", 5.0) == (second.owner, second.ttl)
    assert second == a.locks.get("x")


def test_a_lock_says_who_holds_it(hub: Hub) -> None:
    """Owner, ttl and place are filled in; metadata of the caller's is kept and goes first."""
    lock = taken(hub.locks.acquire("deploy/prod", metadata={"run": 7, "hostname": "mine"}))
    assert ("deploy/prod", "me", 300.0) == (lock.name, lock.owner, lock.ttl)
    assert {"hostname": "mine", "pid": os.getpid(), "run": 7} == lock.metadata
    assert (START, START + 300.0) == (lock.acquired_at.timestamp(), lock.expires_at.timestamp())
    assert socket.gethostname() == taken(hub.locks.acquire("y")).metadata["hostname"]


def test_the_settings_give_the_ttl(world: World) -> None:
    """``locks.ttl`` of the settings holds where no ttl is given."""
    from ghcoord.config import LockSettings

    hub = world.open(locks=LockSettings(ttl=7.0))
    assert 7.0 == taken(hub.locks.acquire("x")).ttl


def test_an_expired_lock_is_free_only_after_a_margin(world: World) -> None:
    """At the end of its ttl it counts as not held; it is taken over not before ttl + margin."""
    a, b = world.open("a"), world.open("b")
    old = taken(a.locks.acquire("x", ttl=10))
    world.runtime.advance(9.99)
    assert b.locks.is_locked("x")
    world.runtime.advance(0.01)
    assert not b.locks.is_locked("x")
    assert None is b.locks.get("x")
    assert None is b.locks.acquire("x")
    world.runtime.advance(MARGIN)
    assert None is b.locks.acquire("x")
    world.runtime.advance(0.01)
    new = taken(b.locks.acquire("x"))
    assert new.token > old.token
    assert ["lock acquired", "lock acquired", "lock expired"] == sorted(kinds(b))


def test_waiting_gets_the_lock_when_it_is_released(world: World) -> None:
    """``wait`` tries until the lock is free."""
    a, b = world.open("a"), world.open("b")
    a.locks.acquire("x", ttl=100)

    def release() -> None:
        world.runtime.sleep(3)
        a.locks.release("x", "a")

    world.runtime.spawn(release, "a")
    started = world.runtime.monotonic()
    assert "b" == taken(b.locks.acquire("x", wait=10)).owner
    assert 3 <= world.runtime.monotonic() - started < 4


def test_waiting_ends(world: World) -> None:
    """After ``wait`` seconds the answer is no."""
    a, b = world.open("a"), world.open("b")
    a.locks.acquire("x", ttl=100)
    started = world.runtime.monotonic()
    assert None is b.locks.acquire("x", wait=5)
    assert 5 == pytest.approx(world.runtime.monotonic() - started, abs=0.5)


def test_waiting_gets_a_dead_holders_lock(world: World) -> None:
    """Who waits long enough takes over from somebody who is gone, not before ttl + margin."""
    a, b = world.open("a"), world.open("b")
    a.locks.acquire("x", ttl=5)
    started = world.runtime.monotonic()
    taken(b.locks.acquire("x", wait=60))
    assert 5 + MARGIN < world.runtime.monotonic() - started < 5 + MARGIN + 1


def test_without_a_common_clock_only_observing_ends_a_lease(world: World) -> None:
    """Where the store has no clock, one look never takes over; watching for ttl + margin does."""
    from dataclasses import replace

    a = world.open("a")
    a.locks.acquire("x", ttl=5)
    store = world.store()
    store.capabilities = replace(store.capabilities, server_time=False)  # type: ignore[misc]
    b = world.open("b", store=store)
    world.runtime.advance(1000)
    assert None is b.locks.acquire("x")
    assert 0 == b.locks.clean()
    started = world.runtime.monotonic()
    taken(b.locks.acquire("x", wait=60))
    assert 5 + MARGIN < world.runtime.monotonic() - started < 8


def test_a_renewal_begins_the_lease_anew(both: World) -> None:
    """Renewed in time, a lock stays; the token is the same; a new ttl counts."""
    a, b = both.open("a"), both.open("b")
    lock = taken(a.locks.acquire("x", ttl=10))
    for _ in range(4):
        both.runtime.advance(8)
        renewed = a.locks.renew("x", "a", lock.token)
        assert (lock.token, lock.acquired_at) == (renewed.token, renewed.acquired_at)
        assert renewed.renewal > lock.renewal
        assert None is b.locks.acquire("x")
    a.locks.renew("x", "a", ttl=100)
    both.runtime.advance(99)
    assert None is b.locks.acquire("x")


def test_an_expired_lock_that_nobody_took_may_be_renewed(world: World) -> None:
    """The grant is still the same: late is not lost."""
    a = world.open("a")
    lock = taken(a.locks.acquire("x", ttl=5))
    world.runtime.advance(500)
    assert lock.token == a.locks.renew("x", "a", lock.token).token
    assert a.locks.is_locked("x")


def test_after_a_loss_the_old_token_is_good_for_nothing(both: World) -> None:
    """Renewing, releasing and fenced writes under it are refused as a lost lease, before the new holder wrote."""
    a, b = both.open("a"), both.open("b")
    old = taken(a.locks.acquire("x", ttl=5))
    a.memory.set("k", 1, fence=("x", old.token))
    both.runtime.advance(10)
    b.locks.clean()
    with pytest.raises(FenceRefused, match="is not held"):
        a.memory.set("k", 2, fence=("x", old.token))
    new = taken(b.locks.acquire("x", ttl=5))
    for attempt in (
        lambda: a.locks.renew("x", "a", old.token),
        lambda: a.locks.release("x", "a", old.token),
        lambda: a.memory.set("k", 2, fence=("x", old.token)),
        lambda: a.memory.set("other", 2, "elsewhere", fence=("x", old.token)),
        lambda: a.memory.delete("k", fence=("x", old.token)),
    ):
        with pytest.raises(LeaseLost):
            attempt()
    assert 1 == b.memory.get("k")
    b.memory.set("k", 3, fence=("x", new.token))
    assert new == b.locks.get("x")


def test_strangers_are_told_whose_it_is(hub: Hub) -> None:
    """Renewing and releasing without holding, and of what nobody holds, are different errors."""
    hub.locks.acquire("x", "a")
    for call in (hub.locks.renew, hub.locks.release):
        with pytest.raises(NotOwner, match="held by 'a', not by 'b'"):
            call("x", "b")
        with pytest.raises(NotFound, match="'y' is not held"):
            call("y", "b")
        with pytest.raises(LeaseLost, match="no longer held under token 3"):
            call("y", "b", 3)
        with pytest.raises(LeaseLost, match="not 3"):
            call("x", "a", 3)
    with pytest.raises(NotFound):
        hub.locks.force_unlock("y")


def test_tokens_only_grow(both: World, tmp_path: object) -> None:
    """Whatever ends a grant, even the loss of the whole branch, the next token is higher."""
    a = both.open("a")
    tokens = []

    def next_token() -> None:
        lock = a.locks.acquire("x", ttl=5)
        tokens.append(taken(lock).token)

    next_token()
    a.locks.release("x", "a")
    next_token()
    a.locks.force_unlock("x")
    next_token()
    both.runtime.advance(6 + 2)
    assert 1 == a.locks.clean()
    next_token()
    assert 1 == a.locks.release_all("a")
    next_token()
    both.runtime.advance(8)
    next_token()
    both.put("locks", dict.fromkeys(both.files("locks")))
    next_token()
    both.runtime.advance(1)
    both.set_head("locks", None)
    assert a.check_history() is not None
    assert "locks" not in a.adopt_history()
    next_token()
    assert None is a.check_history()
    assert tokens == sorted(set(tokens))
    assert 8 == len(tokens)


def test_tokens_grow_in_one_moment(hub: Hub) -> None:
    """Grants within one millisecond have different tokens."""
    tokens = [taken(hub.locks.acquire(f"x{n}")).token for n in range(20)]
    assert tokens == sorted(set(tokens))


def test_forcing_ends_a_grant_at_once(both: World) -> None:
    """The holder's fenced writes are refused from then on."""
    a, b = both.open("a"), both.open("b")
    lock = taken(a.locks.acquire("x"))
    assert [lock] == b.locks.force_unlock("x")
    with pytest.raises(FenceRefused, match="is not held"):
        a.memory.set("k", 1, fence=("x", lock.token))
    with pytest.raises(LeaseLost):
        a.locks.renew("x", "a", lock.token)


def test_cleaning_removes_only_the_expired(world: World) -> None:
    """Locks within ttl + margin stay; without any expired one there is no commit."""
    hub = world.open()
    hub.locks.acquire("short", ttl=5)
    hub.locks.acquire("long", ttl=50)
    world.runtime.advance(5 + MARGIN)
    before = hub.commits
    assert 0 == hub.locks.clean()
    assert before == hub.commits
    world.runtime.advance(0.1)
    assert 1 == hub.locks.clean()
    assert ["long"] == [lock.name for lock in hub.locks.list(include_expired=True)]


def test_tending_removes_what_stood_still_before_ones_own_eyes(world: World) -> None:
    """After ttl + margin of watching, whatever the clocks say; a renewed lock stays; nothing to do is no commit."""
    a, b = world.open("a"), world.open("b")
    a.locks.acquire("dead", ttl=5)
    a.locks.acquire("alive", ttl=5)
    world.runtime.jump_wall(10_000)
    before = b.commits
    assert 0 == b.locks.tend()
    world.runtime.advance(5 + MARGIN)
    a.locks.renew("alive", "a")
    assert 0 == b.locks.tend()
    assert before == b.commits
    world.runtime.advance(0.1)
    assert 1 == b.locks.tend()
    assert ["alive"] == [lock.name for lock in b.locks.list(include_expired=True)]
    assert 0 == b.locks.tend()
    assert before + 1 == b.commits


def test_listing_filters(world: World) -> None:
    """By owner, with or without the expired, sorted by name."""
    hub = world.open()
    for name, owner, ttl in (("c", "a", 100), ("a", "b", 100), ("b", "a", 5)):
        hub.locks.acquire(name, owner, ttl=ttl)
    assert ["a", "b", "c"] == [lock.name for lock in hub.locks.list()]
    assert ["b", "c"] == [lock.name for lock in hub.locks.list("a")]
    world.runtime.advance(20)
    assert ["a", "c"] == [lock.name for lock in hub.locks.list()]
    assert ["b", "c"] == [lock.name for lock in hub.locks.list("a", include_expired=True)]
    assert [] == hub.locks.list("nobody")


def test_all_locks_of_an_owner_end_in_one_commit(world: World) -> None:
    """``release_all`` takes every lock of the owner and no other's."""
    hub = world.open()
    for number in range(5):
        hub.locks.acquire(f"x{number}", "a")
    hub.locks.acquire("y", "b")
    before = hub.commits
    assert 5 == hub.locks.release_all("a")
    assert before + 1 == hub.commits
    assert ["y"] == [lock.name for lock in hub.locks.list()]
    assert 0 == hub.locks.release_all("a")


def test_spellings_of_one_name_are_one_lock(hub: Hub) -> None:
    """Composed and decomposed letters are the same name and the same owner, in every method."""
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    lock = taken(hub.locks.acquire(decomposed, decomposed))
    assert (composed, composed) == (lock.name, lock.owner)
    assert None is hub.locks.acquire(composed, "other")
    assert [lock] == hub.locks.list(decomposed)
    assert lock.token == hub.locks.renew(decomposed, decomposed, lock.token).token
    hub.memory.set("k", 1, fence=(decomposed, lock.token))
    hub.locks.release(decomposed, decomposed)
    hub.locks.acquire(composed, composed)
    assert 1 == hub.locks.release_all(decomposed)
    with hub.locks.hold(decomposed, decomposed):
        assert hub.locks.is_locked(composed)


@pytest.mark.parametrize("name", ["", "a/../b", "/x", "x" * 257, "x\n", "\ud800"])
def test_bad_names_are_refused(hub: Hub, name: str) -> None:
    """Every method refuses a name that cannot be one."""
    for call in (
        lambda: hub.locks.acquire(name),
        lambda: hub.locks.renew(name, "a"),
        lambda: hub.locks.release(name, "a"),
        lambda: hub.locks.force_unlock(name),
        lambda: hub.locks.get(name),
        lambda: hub.memory.set("k", 1, fence=(name, 5)),
    ):
        with pytest.raises(InvalidName):
            call()


def test_bad_arguments_are_refused(hub: Hub) -> None:
    """Owners, ttls and metadata are checked before anything is written."""
    before = hub.commits
    for call in (
        lambda: hub.locks.acquire("x", "a\nb"),
        lambda: hub.locks.acquire("x", ttl=0.5),
        lambda: hub.locks.acquire("x", ttl=float("nan")),
        lambda: hub.locks.acquire("x", metadata={"a": object()}),
        lambda: hub.locks.renew("x", "a", ttl=0),
        lambda: hub.locks.release_all(""),
    ):
        with pytest.raises(UsageError):
            call()
    with pytest.raises(TooLarge):
        hub.locks.acquire("x", metadata={"a": "x" * 2_000_000})
    assert before == hub.commits
