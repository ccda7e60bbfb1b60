"""Locks: one holder, growing tokens, and an owner who notices in time."""

from __future__ import annotations

import os
import socket
import threading

import pytest

from ghcoord.coord.locks import DEFAULT_TTL
from ghcoord.errors import (
    FenceRefused,
    InvalidName,
    LeaseLost,
    LockHeld,
    NotFound,
    NotOwner,
    TooLarge,
    UsageError,
)
from ghcoord.hub import Hub
from ghcoord.model.lease import GIVE_UP_AT, RENEW_AT
from ghcoord.model.lock import Lock
from ghcoord.testing.clock import START
from ghcoord.testing.faults import CommitFault, HeadsFault
from tests.coord.world import World

MARGIN = 0.5  # of the in-memory store


def taken(lock: Lock | None) -> Lock:
    """The lock that the test counts on having got."""
    assert lock is not None
    return lock


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
    assert ("deploy/prod", "me", DEFAULT_TTL) == (lock.name, lock.owner, lock.ttl)
    assert {"hostname": "mine", "pid": os.getpid(), "run": 7} == lock.metadata
    assert (START, START + DEFAULT_TTL) == (lock.acquired_at.timestamp(), lock.expires_at.timestamp())
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
    kinds = [event.kind for event in b.events() if event.space == "locks"]
    assert ["lock acquired", "lock expired", "lock acquired"] == kinds[:3] or {"lock expired"} < set(kinds)


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
    assert lock == b.locks.force_unlock("x")
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


# -- holding


def test_holding_renews_in_the_background_and_releases(world: World) -> None:
    """Through many ttls the lock stays with its holder, renewed each third; after the block it is free."""
    a, b = world.open("a"), world.open("b")
    with a.locks.hold("x", ttl=9) as held:
        before = a.commits
        for _ in range(10):
            world.runtime.advance(6)
            assert None is b.locks.acquire("x")
            held.check()
            a.memory.set("k", 1, fence=("x", held.token))
        assert 10 + 60 / (9 * RENEW_AT) == pytest.approx(a.commits - before, abs=2)
        assert not held.lost
    assert "b" == taken(b.locks.acquire("x")).owner


def test_outside_of_the_block_nothing_is_held(hub: Hub) -> None:
    """Before and after, the grant cannot be used."""
    held = hub.locks.hold("x")
    for _ in range(2):
        assert held.lost
        for look in (lambda: held.lock, lambda: held.token, held.check):
            with pytest.raises(LeaseLost):
                look()
        with held:
            assert held.token == held.lock.token


def test_holding_a_held_lock_raises(world: World) -> None:
    """The error names the holder; with ``wait`` only after that time."""
    a, b = world.open("a"), world.open("b")
    a.locks.acquire("x", ttl=100)
    started = world.runtime.monotonic()
    with pytest.raises(LockHeld, match="held by 'a'"), b.locks.hold("x", wait=4):
        pytest.fail("not reached")
    assert 4 <= world.runtime.monotonic() - started < 5


def test_an_exception_passes_and_releases(hub: Hub) -> None:
    """The block's own error is what the caller sees, and the lock is free."""
    with pytest.raises(ZeroDivisionError), hub.locks.hold("x"):
        raise ZeroDivisionError
    assert not hub.locks.is_locked("x")


def test_a_lock_taken_away_is_noticed(world: World) -> None:
    """At the next renewal: ``on_lost`` once, ``lost`` true, and leaving raises; the other's lock is not released."""
    a, b = world.open("a"), world.open("b")
    calls: list[float] = []
    started = world.runtime.monotonic()

    def work() -> None:
        with a.locks.hold("x", ttl=9, on_lost=lambda: calls.append(world.runtime.monotonic())) as held:
            b.locks.force_unlock("x")
            b.locks.acquire("x", ttl=100)
            assert not held.lost
            world.runtime.advance(20)
            assert held.lost
            with pytest.raises(LeaseLost, match="stop the work"):
                held.check()

    with pytest.raises(LeaseLost, match="lost before the work ended"):
        work()
    assert [pytest.approx(started + 3, abs=0.1)] == calls
    assert "b" == taken(b.locks.get("x")).owner


def test_a_lock_taken_away_shortly_before_the_end_is_noticed_on_leaving(world: World) -> None:
    """Leaving the block asks the hub: no silent success under somebody else's lock."""
    a, b = world.open("a"), world.open("b")
    with pytest.raises(LeaseLost), a.locks.hold("x", ttl=9):
        b.locks.force_unlock("x")

    def fail() -> None:
        with a.locks.hold("x", ttl=9):
            b.locks.force_unlock("x")
            raise KeyError("the block's own error goes first")

    with pytest.raises(KeyError):
        fail()


@pytest.mark.parametrize("fault", [HeadsFault.UNAVAILABLE, CommitFault.REQUEST_LOST, CommitFault.UNAVAILABLE])
def test_an_owner_who_cannot_renew_gives_up_before_others_take_over(
    world: World, fault: HeadsFault | CommitFault
) -> None:
    """Cut off from the hub, ``on_lost`` is called at two thirds of the ttl, however long a renewal is stuck."""
    hub, faulty = world.open_faulty()
    ttl = 15.0
    calls: list[float] = []
    started = world.runtime.monotonic()

    def work() -> None:
        with hub.locks.hold("x", ttl=ttl, on_lost=lambda: calls.append(world.runtime.monotonic() - started)) as held:
            if isinstance(fault, HeadsFault):
                faulty.fail_heads(*[fault] * 100_000)
            else:
                faulty.fail_commits(*[fault] * 100_000)
            world.runtime.advance(ttl * GIVE_UP_AT - 0.5)
            assert not held.lost
            assert [] == calls
            world.runtime.advance(1.0)
            assert held.lost
            assert 1 == len(calls)
            assert ttl * GIVE_UP_AT <= calls[0] < ttl
            world.runtime.advance(100)
            assert 1 == len(calls)

    with pytest.raises(LeaseLost):
        work()


def test_a_short_outage_costs_nothing(world: World) -> None:
    """A renewal that fails is tried again in time."""
    hub, faulty = world.open_faulty()
    with hub.locks.hold("x", ttl=30) as held:
        faulty.fail_commits(*[CommitFault.REQUEST_LOST] * 3)
        world.runtime.advance(60)
        assert not held.lost
        assert hub.locks.is_locked("x")


def test_a_late_grant_counts_from_its_request(world: World) -> None:
    """The owner's time runs from sending the request, not from the answer."""
    hub, faulty = world.open_faulty()
    faulty.fail_commits(*[CommitFault.REPLY_LOST])
    with hub.locks.hold("x", ttl=30) as held:
        assert not held.lost
    assert not hub.locks.is_locked("x")


def test_twenty_threads_one_winner() -> None:
    """Threads of one process that race for a lock: one gets it, in real time."""
    from ghcoord.bootstrap import open_hub
    from ghcoord.clock import SystemRuntime
    from ghcoord.config import Settings
    from ghcoord.store.inmemory import MemoryStore

    runtime = SystemRuntime()
    hub = open_hub(MemoryStore(runtime.now), runtime, Settings(), actor="me")
    for round_ in range(3):
        won: list[Lock] = []
        gate = threading.Barrier(20)

        def race(number: int, name: str = f"x{round_}", won: list[Lock] = won, gate: threading.Barrier = gate) -> None:
            gate.wait()
            lock = hub.locks.acquire(name, f"o{number}")
            if lock is not None:
                won.append(lock)

        threads = [threading.Thread(target=race, args=(n,)) for n in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert 1 == len(won)
        assert won[0] == hub.locks.get(f"x{round_}")


def test_events_tell_the_story_of_a_lock(both: World) -> None:
    """Granting, releasing, forcing: each with lock, owner and token."""
    hub = both.open()
    token = taken(hub.locks.acquire("x")).token
    hub.locks.release("x", "me")
    both.runtime.advance(1)
    hub.locks.acquire("x")
    both.runtime.advance(1)
    hub.locks.force_unlock("x")
    told = [event for event in hub.events() if event.space == "locks"]
    assert ["lock forced", "lock acquired", "lock released", "lock acquired"] == [event.kind for event in told]
    assert {"lock": "x", "owner": "me", "token": token} == told[-1].fields
