"""Holding a lock: renewed in the background, and its loss noticed in time."""

from __future__ import annotations

import threading

import pytest

from ghcoord.errors import (
    LeaseLost,
    LockHeld,
)
from ghcoord.hub import Hub
from ghcoord.model.lease import GIVE_UP_AT, RENEW_AT
from ghcoord.model.lock import Lock
from ghcoord.testing.faults import CommitFault, HeadsFault
from tests.coord.world import World, taken


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
    """The owner's time runs from sending the request, not from the answer, which may have been long on its way."""
    hub, faulty = world.open_faulty()
    lost_at: list[float] = []
    sent = world.runtime.monotonic()
    faulty.fail_commits(*[CommitFault.REQUEST_LOST] * 9)

    def work() -> None:
        with hub.locks.hold("x", ttl=60, on_lost=lambda: lost_at.append(world.runtime.monotonic())):
            assert world.runtime.monotonic() > sent + 1
            faulty.fail_commits(*[CommitFault.REQUEST_LOST] * 100_000)
            world.runtime.advance(60)

    with pytest.raises(LeaseLost):
        work()
    assert [pytest.approx(sent + 60 * GIVE_UP_AT, abs=0.1)] == lost_at


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
