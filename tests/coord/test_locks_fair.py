"""The queue of a fair lock: 64 waiters in the order of their commits, and what a dead one costs the rest."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from ghcoord.bootstrap import open_hub
from ghcoord.clock import SystemRuntime
from ghcoord.config import Settings
from ghcoord.coord.layout import LOCKS
from ghcoord.errors import LockError, Unavailable
from ghcoord.hub import Hub
from ghcoord.model.lock import Lock
from ghcoord.store.base import Store
from ghcoord.store.heads import walk
from ghcoord.store.local import LocalStore, create_repository
from ghcoord.store.message import read_events
from ghcoord.testing.faults import CommitFault
from ghcoord.testing.simulation import FaultRates, SimRuntime, Simulation
from tests.coord.world import PREFIX, World, kinds, taken
from tests.simulation.test_hub_sim import opened

POLL = 1.0
"""Poll interval of both stores in seconds."""


def history(store: Store) -> list[dict[str, Any]]:
    """Every event of the locks, oldest first, as the commits hold them."""
    commits = [info for info, _ in walk(store, store.heads()[LOCKS])]
    return [json.loads(line) for info in reversed(commits) for line in read_events(info.message)]


def order(events: list[dict[str, Any]], kind: str) -> list[str]:
    return [event["waiter"] for event in events if event["kind"] == kind and "waiter" in event]


# -- in simulated time


def simulated(count: int, then: Callable[[SimRuntime, Hub, int, Lock], None]) -> tuple[Simulation, list[int]]:
    """So many processes wait for a held lock, which is then released; ``then`` is what each does with it."""
    simulation = Simulation(1, FaultRates.none())
    got: list[int] = []

    def first(runtime: SimRuntime, store: Store) -> None:
        hub = opened(runtime, store, "first")
        lock = taken(hub.locks.acquire("x", ttl=600))
        while len(hub.locks.waiters("x")) < count:
            runtime.sleep(0.1)
        hub.locks.release("x", "first", lock.token)

    def waiter(number: int) -> Callable[[SimRuntime, Store], None]:
        def run(runtime: SimRuntime, store: Store) -> None:
            hub = opened(runtime, store, f"w{number}")
            runtime.sleep(0.5)
            lock = taken(hub.locks.acquire("x", ttl=5, wait=600, fair=True))
            got.append(number)
            then(runtime, hub, number, lock)

        return run

    simulation.process("first", first)
    for number in range(count):
        simulation.process(f"w{number}", waiter(number))
    simulation.run(10**6)
    return simulation, got


def let_go(runtime: SimRuntime, hub: Hub, number: int, lock: Lock) -> None:
    runtime.sleep(0.01)
    hub.locks.release("x", lock.owner, lock.token)


def test_sixty_four_waiters_get_it_in_the_order_of_their_commits() -> None:
    """All of them, first come first served, and only three commits for each."""
    simulation, got = simulated(64, let_go)
    assert list(range(64)) == sorted(got)
    events = history(simulation.store)
    assert 64 == len(order(events, "lock queued"))
    assert order(events, "lock queued") == order(events, "lock acquired")
    assert {"lock queued": 64, "lock acquired": 65, "lock released": 65} == {
        kind: sum(event["kind"] == kind for event in events) for kind in {event["kind"] for event in events}
    }


def gaps(events: list[dict[str, Any]]) -> list[float]:
    """Seconds from each release or loss to the next grant."""
    found = []
    for one, following in pairwise(events):
        if following["kind"] == "lock acquired" and one["kind"] == "lock released":
            found.append(following["at"] - one["at"])
    return found


def test_who_falls_silent_after_it_was_granted_costs_its_lease() -> None:
    """The head dies with the lock: the next has it when the lease and the margin are over, the order stays."""
    died: list[Lock] = []

    def die(runtime: SimRuntime, hub: Hub, number: int, lock: Lock) -> None:
        if died or number < 3:
            let_go(runtime, hub, number, lock)
        else:
            died.append(lock)

    simulation, _ = simulated(8, die)
    events = history(simulation.store)
    assert order(events, "lock queued") == order(events, "lock acquired")
    grants = [event["at"] for event in events if event["kind"] == "lock acquired"]
    following = min(at for at in grants if at > died[0].acquired_at.timestamp() + 0.01)
    ttl, margin = 5.0, 0.5
    assert ttl + margin <= following - died[0].acquired_at.timestamp() <= ttl + margin + 2 * POLL
    assert max(gaps(events)) <= 2 * POLL


def test_who_falls_silent_while_waiting_costs_two_polls(world: World) -> None:
    """The head is dead when the lock becomes free: the next has it two polls later, and nobody pays again for it."""
    hub = world.open("holder")
    held = taken(hub.locks.acquire("x", ttl=600))
    waiting = {
        name: world.open(name).locks.pursuit("x", ttl=600, wait=600, fair=True) for name in ("dead", "next", "last")
    }
    for name, pursuit in waiting.items():
        assert None is pursuit.step(), name
    hub.locks.release("x", "holder", held.token)
    freed = world.runtime.monotonic()
    granted = None
    while granted is None:
        pause = waiting["next"].pause
        world.runtime.advance(pause)
        assert pause > 0
        granted = waiting["next"].step()
    assert 2 * POLL == pytest.approx(world.runtime.monotonic() - freed, abs=0.001), "it knows when to come"
    assert ["last"] == [one.owner for one in hub.locks.waiters("x")]
    hub.locks.release("x", "next", granted.lock.token)
    assert None is hub.locks.acquire("x"), "the place of the last one is kept"
    world.runtime.advance(waiting["last"].pause)
    last = waiting["last"].step()
    assert last is not None, "it does not pay for the dead one again"
    assert 1 == kinds(hub).count("lock waiter passed over")


# -- the caller's side


def test_a_wait_that_ends_leaves_the_queue(world: World) -> None:
    """After ``wait`` seconds the answer is no, and nobody has to step over an entry that is not meant any more."""
    a, b = world.open("a"), world.open("b")
    a.locks.acquire("x", ttl=600)
    started = world.runtime.monotonic()
    assert None is b.locks.acquire("x", wait=5, fair=True)
    assert 5 == pytest.approx(world.runtime.monotonic() - started, abs=0.1)
    assert [] == a.locks.waiters("x")
    assert "lock wait ended" in kinds(a)
    stats = a.locks.stats("x")
    assert stats is not None
    assert (1, 1) == (stats.acquisitions, stats.left)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_wait_leaves_the_queue(world: World, stop: type[BaseException]) -> None:
    """Ctrl-C while waiting: the place is given up on the way out."""
    a, b = world.open("a"), world.open("b")
    a.locks.acquire("x", ttl=600)
    looks = 0

    def seen(record: object) -> None:
        nonlocal looks
        looks += 1
        if looks == 3:
            assert ["b"] == [one.owner for one in a.locks.waiters("x")]
            raise stop

    with pytest.raises(stop):
        b.locks.pursuit("x", wait=60, fair=True, seen=seen).run()
    assert [] == a.locks.waiters("x")


def test_a_waiter_commits_to_get_in_and_out_and_only_looks_in_between(world: World) -> None:
    """Three minutes of waiting are two commits: no renewals, however long it takes."""
    a, b = world.open("a"), world.open("b")
    with a.locks.hold("x", ttl=600):
        before = b.commits
        assert None is b.locks.acquire("x", wait=180, fair=True)
        assert 2 == b.commits - before


def test_the_further_back_the_fewer_looks(world: World) -> None:
    """Each place adds to the pause, which has a bound: who is far behind may be first sooner than it thinks."""
    hub = world.open()
    hub.locks.acquire("x", "holder", ttl=600)
    pauses = []
    for number in range(8):
        pursuit = hub.locks.pursuit("x", f"w{number}", wait=600, fair=True)
        pursuit.step()
        pauses.append(round(pursuit.pause, 3))
    assert [0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.25, 1.25] == pauses
    assert max(pauses) < 2 * POLL


def test_whoever_does_not_queue_waits_for_those_who_do(world: World) -> None:
    """A plain acquire, also one that waits, gets past nobody; when the queue is empty it is served."""
    a, b, c = world.open("a"), world.open("b"), world.open("c")
    held = taken(a.locks.acquire("x", ttl=600))
    pursuit = b.locks.pursuit("x", ttl=600, wait=600, fair=True)
    pursuit.step()
    a.locks.release("x", "a", held.token)
    assert None is c.locks.acquire("x")
    assert None is c.locks.acquire("x", wait=1.5)
    granted = pursuit.step()
    assert granted is not None
    b.locks.release("x", "b", granted.lock.token)
    assert "c" == taken(c.locks.acquire("x")).owner


def test_a_lost_reply_leaves_no_grant_behind(world: World) -> None:
    """The commit that took it landed and nobody was told: whoever gave up frees the lock, not its lease."""
    a = world.open("a")
    held = taken(a.locks.acquire("x", ttl=600))
    b, faulty = world.open_faulty("b")
    pursuit = b.locks.pursuit("x", ttl=600, wait=600, fair=True)
    pursuit.step()
    a.locks.release("x", "a", held.token)
    real = faulty.heads

    def cut_off() -> dict[str, str]:
        raise Unavailable("cut off")

    def commit(*args: Any, **more: Any) -> Any:
        faulty.heads = cut_off  # type: ignore[method-assign]
        return landing(*args, **more)

    landing = faulty.commit
    faulty.commit = commit  # type: ignore[method-assign]
    faulty.fail_commits(CommitFault.REPLY_LOST)
    with pytest.raises(Exception, match="look before repeating"):
        pursuit.step()
    assert "b" == taken(a.locks.get("x")).owner, "it has it and does not know"
    faulty.heads, faulty.commit = real, landing  # type: ignore[method-assign]
    pursuit.leave()
    assert not a.locks.is_locked("x")


def test_taking_a_lock_is_tried_again_when_the_hub_is_away(world: World) -> None:
    """As often as the settings say, that long apart; then the error comes through."""
    from ghcoord.config import LockSettings
    from ghcoord.testing.faults import FaultyStore

    faulty = FaultyStore(world.store())
    hub = world.open(store=faulty, locks=LockSettings(retry_attempts=2, retry_delay=7.0))
    calls: list[float] = []

    def unavailable() -> dict[str, str]:
        calls.append(world.runtime.monotonic())
        raise Unavailable("away")

    real = faulty.heads
    faulty.heads = unavailable  # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        hub.locks.acquire("x")
    pauses = [b - a for a, b in pairwise(calls) if b - a >= 7.0]
    assert 1 == len(pauses)
    faulty.heads = real  # type: ignore[method-assign]
    assert hub.locks.acquire("x") is not None


def test_a_full_queue_is_an_error(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so and changes nothing; leaving makes room again."""
    monkeypatch.setattr("ghcoord.model.lock_steps.MAX_WAITERS", 2)
    hub = world.open()
    hub.locks.acquire("x", "holder", ttl=600)
    waiting = [hub.locks.pursuit("x", f"w{number}", wait=600, fair=True) for number in range(3)]
    for pursuit in waiting[:2]:
        pursuit.step()
    with pytest.raises(LockError, match="2 wait for the lock 'x' already"):
        waiting[2].step()
    waiting[0].leave()
    assert None is waiting[2].step()
    assert ["w1", "w2"] == [one.owner for one in hub.locks.waiters("x")]


# -- in real time


@pytest.mark.slow
def test_sixty_four_threads_on_a_hub_on_disk(tmp_path: Path) -> None:
    """The same with 64 threads on eight handles of one repository, in real time."""
    path = tmp_path / "hub.git"
    create_repository(path, PREFIX + "fleet")
    runtime = SystemRuntime()

    def opened_hub(actor: str) -> Hub:
        store = LocalStore(path, runtime)
        return open_hub(store, runtime, Settings(), actor=actor, state=tmp_path / "state", make=True)

    holder, hubs = opened_hub("holder"), [opened_hub(f"h{number}") for number in range(8)]
    held = taken(holder.locks.acquire("x", ttl=100))
    failed: list[int] = []

    def wait(number: int) -> None:
        hub = hubs[number % 8]
        lock = hub.locks.acquire("x", f"o{number}", ttl=30, wait=100, fair=True)
        if lock is None:
            failed.append(number)
        else:
            hub.locks.release("x", lock.owner, lock.token)

    threads = [threading.Thread(target=wait, args=(number,)) for number in range(64)]
    for thread in threads:
        thread.start()
    while len(holder.locks.waiters("x")) < 64:
        runtime.sleep(0.05)
    holder.locks.release("x", "holder", held.token)
    for thread in threads:
        thread.join(100)
    assert [] == failed
    events = history(LocalStore(path, runtime))
    assert 64 == len(order(events, "lock queued"))
    assert order(events, "lock queued") == order(events, "lock acquired")
    for hub in (holder, *hubs):
        hub.close()
