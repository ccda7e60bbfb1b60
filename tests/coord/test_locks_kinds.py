"""Semaphores, shared locks, entering again, locks on paths, figures: what the callers of a hub see."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ghcoord.coord.context import LOCK_STATS_TABLE
from ghcoord.coord.locks.locks import FORGET_EVERY
from ghcoord.coord.locks.records import HEADROOM
from ghcoord.errors import (
    Corrupt,
    FenceRefused,
    GhcoordError,
    LeaseLost,
    LockError,
    LockHeld,
    NewerSchema,
    NotFound,
    TooLarge,
    UsageError,
)
from ghcoord.hub import Hub
from ghcoord.model import lock_paths
from ghcoord.model.codec import MAX_RECORD
from ghcoord.model.lock import Mode
from ghcoord.model.lock_stats import IDLE_AFTER
from tests.coord.world import MARGIN, Daemon, World, edited, taken, where

# -- several holders


def test_a_semaphore_has_so_many_holders(both: World) -> None:
    """Each with a token of its own, also twice the same owner; one more is refused, another number an error."""
    a, b = both.open("a"), both.open("b")
    first, second = (taken(hub.locks.acquire("s", ttl=60, permits=2)) for hub in (a, b))
    assert (Mode.PERMIT, 2) == (first.mode, first.permits)
    assert second.token > first.token
    assert None is a.locks.acquire("s", permits=2)
    with pytest.raises(UsageError, match="in use with 2 permits, not 3 permits"):
        a.locks.acquire("s", permits=3)
    assert [first, second] == b.locks.holders("s") == b.locks.list()
    assert first == b.locks.get("s")
    a.locks.release("s", "a", first.token)
    third = taken(b.locks.acquire("s", permits=2))
    with pytest.raises(UsageError, match="'b' holds the lock 's' 2 times"):
        b.locks.renew("s", "b")
    assert third.token == b.locks.renew("s", "b", third.token).token
    assert [second] == a.locks.force_unlock("s", second.token)
    assert [third.token] == [lock.token for lock in a.locks.holders("s")]
    assert None is b.locks.release("s", "b", whole=True)
    assert taken(a.locks.acquire("s", permits=3)).token > third.token, "free, it may be asked for with any number"


def test_every_holder_of_a_semaphore_may_write(both: World) -> None:
    """Also the older one after the younger has written; none any more once its own grant has ended."""
    hub = both.open()
    older, younger = (taken(hub.locks.acquire("s", permits=2)).token for _ in range(2))
    for number, token in enumerate((younger, older, younger)):
        hub.memory.set("k", number, fence=("s", token))
    hub.locks.release("s", "me", younger)
    hub.memory.set("k", 3, fence=("s", older))
    with pytest.raises(FenceRefused, match="held by 'me' under token"):
        hub.memory.set("k", 4, fence=("s", younger))
    hub.locks.release("s", "me", older)
    with pytest.raises(FenceRefused, match="is not held"):
        hub.memory.set("k", 4, fence=("s", older))
    assert 3 == hub.memory.get("k")


def test_a_fence_of_the_past_is_refused_when_the_locks_went_back(world: World) -> None:
    """A branch of locks that was set back knows less than the memory does: the old token is worth nothing."""
    hub = world.open()
    old = taken(hub.locks.acquire("s", permits=2)).token
    head = world.store().heads()["locks"]
    new = taken(hub.locks.acquire("s", permits=2)).token
    hub.memory.set("k", 1, fence=("s", new))
    world.set_head("locks", head)
    fresh = world.open("fresh")
    with pytest.raises(FenceRefused, match=f"higher token {new}"):
        fresh.memory.set("k", 2, fence=("s", old))


def test_readers_share_and_a_writer_waits(world: World) -> None:
    """Readers beside readers; a writer in the queue keeps later readers out, and is next."""
    a, b, c = world.open("a"), world.open("b"), world.open("c")
    first = taken(a.locks.acquire("r", ttl=60, shared=True))
    assert (Mode.SHARED, 1) == (first.mode, first.permits)
    second = taken(b.locks.acquire("r", ttl=60, shared=True))
    assert None is c.locks.acquire("r")
    writer = c.locks.pursuit("r", ttl=60, wait=100, fair=True)
    assert None is writer.step()
    assert None is a.locks.acquire("r", shared=True), "else writers starved"
    reader = a.locks.pursuit("r", ttl=60, wait=100, fair=True, shared=True)
    assert None is reader.step()
    a.locks.release("r", "a", first.token)
    assert None is writer.step()
    b.locks.release("r", "b", second.token)
    assert None is reader.step()
    granted = writer.step()
    assert granted is not None
    c.locks.release("r", "c")
    assert reader.step() is not None


@pytest.mark.parametrize("how", [{"permits": 2}, {"shared": True}])
def test_a_dead_worker_leaves_no_grant(world: World, how: dict[str, Any]) -> None:
    """Recovery takes every kind of grant from it, and no other's."""
    hub = world.open()
    dead = Daemon(hub, "w1")
    hub.locks.acquire("x", "w1", ttl=3600, **how)
    hub.locks.acquire("x", "w2", ttl=3600, **how)
    hub.locks.paths.acquire(["src/**"], "w1", ttl=3600)
    hub.locks.paths.acquire(["docs/**"], "w2", ttl=3600)
    world.runtime.advance(60)
    assert 2 == hub.workers.recover(dead.worker_id).locks
    assert ["docs/**", "x"] == [lock.name for lock in hub.locks.list()]
    assert {"w2"} == {lock.owner for lock in hub.locks.list()}


@pytest.mark.parametrize("by", ["clean", "tend"])
def test_grants_are_cleaned_one_by_one(world: World, by: str) -> None:
    """Of several holders only the silent one goes, by the clock or by watching; so do path locks."""
    hub = world.open()
    hub.locks.acquire("s", "dead", ttl=5, permits=2)
    hub.locks.acquire("s", "alive", ttl=500, permits=2)
    hub.locks.paths.acquire(["a"], "dead", ttl=5)
    hub.locks.tend()
    world.runtime.advance(5 + MARGIN + 0.1)
    assert 2 == getattr(hub.locks, by)()
    assert [("s", "alive")] == [(lock.name, lock.owner) for lock in hub.locks.list(include_expired=True)]


@pytest.mark.parametrize("kind", ["permits", "shared", "fair", "paths"])
def test_every_kind_is_held_and_renewed(world: World, kind: str) -> None:
    """``hold`` renews it in the background and lets go of just this grant at the end."""
    a, b = world.open("a"), world.open("b")
    how: dict[str, Any] = {
        "permits": {"permits": 2},
        "shared": {"shared": True},
        "fair": {"fair": True, "wait": 5.0},
    }.get(kind, {})
    held = a.locks.paths.hold(["src/**"], ttl=9) if kind == "paths" else a.locks.hold("x", ttl=9, **how)
    other = taken(b.locks.acquire("x", ttl=600, **how)) if kind in ("permits", "shared") else None
    with held:
        world.runtime.advance(60)
        assert not held.lost
        assert {held.token, *([other.token] if other else [])} == {lock.token for lock in b.locks.list()}
        if kind == "paths":
            with (
                pytest.raises(LockHeld, match=r"the path lock 'src/a.py' is held by 'a'"),
                b.locks.paths.hold(["src/a.py"]),
            ):
                pytest.fail("not reached")
    assert [] == [lock for lock in b.locks.list() if lock.owner == "a"]


# -- entering again


def test_the_holder_enters_again_with_its_token(both: World) -> None:
    """Same token, one deeper; released as often, or at once; somebody who only names the owner is refused."""
    a, b = both.open("a"), both.open("b")
    token = taken(a.locks.acquire("x", ttl=60)).token
    again = taken(a.locks.acquire("x", token=token, ttl=30))
    assert (token, 2, 60.0) == (again.token, again.depth, again.ttl)
    assert None is a.locks.acquire("x", "a")
    left = taken(a.locks.release("x", "a", token))
    assert 1 == left.depth
    assert None is b.locks.acquire("x")
    assert None is a.locks.release("x", "a", token)
    assert not b.locks.is_locked("x")
    with pytest.raises(LeaseLost):
        a.locks.acquire("x", token=token)
    deep = taken(a.locks.acquire("x", ttl=60)).token
    for _ in range(3):
        a.locks.acquire("x", token=deep)
    assert None is a.locks.release("x", "a", whole=True)
    assert not b.locks.is_locked("x")


def test_a_hold_ends_once_what_was_entered_within_it_ends(hub: Hub) -> None:
    """Leaving the block is one release: whoever entered with the token keeps the lock until its own."""
    with hub.locks.hold("x", ttl=60) as held:
        hub.locks.acquire("x", token=held.token)
        token = held.token
    assert hub.locks.is_locked("x")
    hub.locks.release("x", "me", token)
    assert not hub.locks.is_locked("x")


# -- paths


def test_path_locks_keep_agents_apart(both: World) -> None:
    """What overlaps is refused, all patterns or none; what does not is granted beside it; releasing frees all of it."""
    a, b = both.open("a"), both.open("b")
    mine = taken(a.locks.paths.acquire(["src/**", "README.md"], ttl=60, metadata={"task": 7}))
    assert (("README.md", "src/**"), "README.md src/**", 7) == (mine.paths, mine.name, mine.metadata["task"])
    for wanted in (["src/a.py"], ["docs/x", "*.md"], ["**"], ["src"]):
        assert None is b.locks.paths.acquire(wanted)
        assert [mine] == b.locks.paths.overlapping(wanted)
    other = taken(b.locks.paths.acquire(["docs/**", "tests/*.py"]))
    assert other.token > mine.token
    assert [mine, other] == a.locks.paths.list() == sorted(a.locks.list(), key=lambda lock: lock.token)
    assert None is a.locks.paths.acquire(["src/b.py"]), "one's own claims are in the way as well"
    assert mine.token == a.locks.paths.renew(["README.md", "src/**"], "a").token
    with pytest.raises(NotFound, match="'src/\\*\\*' is not held"):
        a.locks.paths.release(["src/**"], "a")
    assert None is a.locks.paths.release(["src/**", "README.md"], "a", mine.token)
    assert [] == b.locks.paths.overlapping(["src/**"])


def test_path_locks_of_readers_overlap(world: World) -> None:
    """Readers beside readers, nobody beside a writer; each grant is one of its own."""
    a, b = world.open("a"), world.open("b")
    first = taken(a.locks.paths.acquire(["src/**"], ttl=60, shared=True))
    second = taken(b.locks.paths.acquire(["src/**"], ttl=60, shared=True))
    assert None is b.locks.paths.acquire(["src/x"])
    assert second.token > first.token
    b.locks.paths.release(["src/**"], "b", second.token)
    a.locks.paths.release(["src/**"], "a")
    assert taken(b.locks.paths.acquire(["src/x"], ttl=60))
    assert None is a.locks.paths.acquire(["src/**"], shared=True)


def test_a_path_lock_is_waited_for_and_taken_from_the_dead(world: World) -> None:
    """It is granted when the holder lets go, or when its lease and a margin are over."""
    a, b = world.open("a"), world.open("b")
    a.locks.paths.acquire(["src/**"], ttl=5)
    started = world.runtime.monotonic()
    assert None is b.locks.paths.acquire(["src/a"], wait=2)
    assert taken(b.locks.paths.acquire(["src/a"], ttl=60, wait=60))
    assert 5 + MARGIN < world.runtime.monotonic() - started < 5 + MARGIN + 1
    assert ["src/a"] == [lock.name for lock in a.locks.list(include_expired=True)]


def test_a_path_lock_is_entered_again_and_forced(world: World) -> None:
    """With its token; forcing ends whatever overlaps."""
    hub = world.open()
    token = taken(hub.locks.paths.acquire(["src/**"], ttl=60)).token
    assert 2 == taken(hub.locks.paths.acquire(["src/**"], token=token)).depth
    assert 1 == taken(hub.locks.paths.release(["src/**"], "me")).depth
    with pytest.raises(UsageError, match="nothing else but a ttl"):
        hub.locks.paths.acquire(["src/**"], token=token, shared=True)
    assert [token] == [lock.token for lock in hub.locks.paths.force_unlock(["src/a.py"])]
    with pytest.raises(NotFound, match="no path lock overlaps"):
        hub.locks.paths.force_unlock(["src/a.py"])


@pytest.mark.parametrize(("limit", "number"), [("MAX_CLAIMS", 3), ("MAX_HELD_PATTERNS", 6)])
def test_path_locks_are_bounded(world: World, monkeypatch: pytest.MonkeyPatch, limit: str, number: int) -> None:
    """Beyond so many claims, or patterns of all of them, the next is refused with the reason."""
    monkeypatch.setattr(lock_paths, limit, number)
    monkeypatch.setattr(f"ghcoord.coord.locks.paths.{limit}", number)
    hub = world.open()
    for name in ("a", "b", "c"):
        hub.locks.paths.acquire([f"{name}/1", f"{name}/2"], ttl=60)
    with pytest.raises(LockError, match="3 path locks with 6 patterns are held already"):
        hub.locks.paths.acquire(["d"])


# -- figures


def test_figures_of_a_lock(world: World) -> None:
    """Grants, waits, expiries and those who left, while it is held and afterwards."""
    a, b = world.open("a"), world.open("b")
    assert None is a.locks.stats("x")
    a.locks.acquire("x", ttl=60)
    world.runtime.spawn(lambda: (world.runtime.sleep(3), a.locks.release("x", "a")), "a")  # type: ignore[func-returns-value]
    b.locks.acquire("x", ttl=5, wait=60)
    stats = a.locks.stats("x")
    assert stats is not None
    assert (2, 1, 0, "b") == (stats.acquisitions, stats.contended, stats.expired, stats.last_owner)
    assert 3 == pytest.approx(stats.waited_max, abs=0.3)
    assert 3 == pytest.approx(stats.held_max, abs=0.1)
    world.runtime.advance(6)
    assert 1 == a.locks.clean()
    (stats,) = a.locks.all_stats()
    assert (2, 1, 8) == (stats.acquisitions, stats.expired, round(stats.held_total))


@pytest.mark.parametrize("by", ["clean", "tend"])
def test_figures_that_nobody_needs_any_more_go(world: World, by: str) -> None:
    """A day after the last use; those of a lock that is held stay."""
    hub = world.open()
    for name in ("old", "held"):
        hub.locks.acquire(name, ttl=3600)
        hub.locks.release(name, "me")
    hub.locks.acquire("held", ttl=IDLE_AFTER * 3)
    world.runtime.advance(IDLE_AFTER + max(FORGET_EVERY, 1))
    before = hub.commits
    getattr(hub.locks, by)()
    assert before + 1 == hub.commits
    assert ["held"] == [stats.name for stats in hub.locks.all_stats()]
    assert None is hub.locks.stats("old")
    getattr(hub.locks, by)()
    assert before + 1 == hub.commits


@pytest.mark.parametrize(("error", "taken_again"), [(Corrupt, 1), (NewerSchema, 3)])
def test_unreadable_figures_stop_nobody(
    world: World, monkeypatch: pytest.MonkeyPatch, error: type[GhcoordError], taken_again: int
) -> None:
    """Those that a person broke start again; those of a newer version are left alone."""
    hub = world.open()
    for _ in range(3):
        hub.locks.acquire("x", ttl=60)
        hub.locks.release("x", "me")
    hub.locks.acquire("x", ttl=60)

    def unreadable(*args: object) -> None:
        raise error("unreadable")

    with monkeypatch.context() as patched:
        patched.setattr(LOCK_STATS_TABLE, "get", unreadable)
        hub.locks.release("x", "me")
    assert not hub.locks.is_locked("x")
    assert taken_again == hub.locks.all_stats()[0].acquisitions


def _operation(hub: Hub) -> Any:
    from ghcoord.store.base import Operation

    return Operation(ids=("0" * 20,), revision=hub.revision("locks") + 1, time=1)


# -- cost, old records, hostile ones


def test_an_uncontended_lock_is_two_commits_and_a_small_record(both: World) -> None:
    """One to take it, one to give it back; a record of some hundred bytes, and nothing left but the figures."""
    hub = both.open()
    before = hub.commits
    hub.locks.acquire("x")
    assert len(both.files("locks")[where("lock", "x")]) < 700
    hub.locks.release("x", "me")
    assert before + 2 == hub.commits
    left = {path: data for path, data in both.files("locks").items() if path.endswith(".json") and "/" in path}
    assert [LOCK_STATS_TABLE.path("x")] == list(left)
    assert len(left[LOCK_STATS_TABLE.path("x")]) < 400


def test_a_lock_of_the_first_version_goes_on(world: World) -> None:
    """One that an older ghcoord wrote is held, renewed, refused to others and released."""
    hub = world.open("a")
    lock = taken(hub.locks.acquire("x", ttl=60))
    record = json.loads(world.files("locks")[where("lock", "x")])
    flat = {key: record["grants"][0][key] for key in ("owner", "token", "ttl", "acquired_at", "renewed_at", "renewal")}
    old = {"format": 1, "name": "x", "metadata": record["grants"][0]["metadata"], **flat}
    world._memory.commit(
        {"locks": world.store().heads()["locks"]},
        {"locks": {where("lock", "x"): json.dumps(old).encode()}},
        _operation(hub),
    )
    assert lock == hub.locks.get("x")
    assert None is world.open("b").locks.acquire("x")
    hub.memory.set("k", 1, fence=("x", lock.token))
    assert lock.token == hub.locks.renew("x", "a", lock.token).token
    hub.locks.release("x", "a", lock.token)
    assert not hub.locks.is_locked("x")


def test_a_full_record_keeps_room_for_what_follows(world: World) -> None:
    """Who would fill it up is refused, in the queue or beside others; holders still renew and release."""
    hub = world.open()
    big = {"text": "x" * (MAX_RECORD - HEADROOM - 500)}
    first = taken(hub.locks.acquire("x", ttl=60, metadata=big))
    with pytest.raises(TooLarge, match="no room for another"):
        hub.locks.acquire("x", "w", wait=60, fair=True)
    taken(hub.locks.acquire("r", shared=True, metadata=big))
    with pytest.raises(TooLarge, match="no room for another"):
        hub.locks.acquire("r", shared=True)
    hub.locks.renew("x", "me", first.token)
    hub.locks.release("x", "me", first.token)


@pytest.mark.parametrize(
    "change",
    [
        {"waiters": [{"id": "w", "owner": "w", "since": "2023-11-14T22:13:20Z", "deadline": "9999-01-01T00:00:00Z"}]},
        {"waiters": 7},
        {"grants": [{}]},
        {"permits": 10**9},
        {"latest": -1},
    ],
)
def test_hostile_records_are_set_aside(world: World, change: dict[str, Any]) -> None:
    """A record that is none is reported, its last good version comes back, and the other locks go on."""
    hub = world.open()
    lock = taken(hub.locks.acquire("x", ttl=60))
    path = where("lock", "x")
    world.put("locks", {path: edited(world.files("locks")[path], **change)})
    assert [] == hub.locks.list()
    assert hub.locks.acquire("y") is not None
    assert lock == hub.locks.get("x")


def test_a_strange_queue_blocks_nobody_for_long(world: World) -> None:
    """Waiters that nobody knows, with times from the future, cost two of their poll intervals."""
    hub = world.open()
    hub.locks.acquire("x", "a", ttl=60)
    path = where("lock", "x")
    ghost = {"since": "2023-11-14T22:13:20Z", "deadline": "9999-01-01T00:00:00Z", "poll": 5, "owner": "nobody"}
    ghosts = [{**ghost, "id": f"g{n}", "offered_at": "2090-01-01T00:00:00Z"} for n in range(2)]
    world.put("locks", {path: edited(world.files("locks")[path], waiters=ghosts)})
    hub.locks.release("x", "a")
    started = world.runtime.monotonic()
    taken(hub.locks.acquire("x", wait=600, fair=True))
    assert 20 == pytest.approx(world.runtime.monotonic() - started, abs=1.5)


def test_the_hub_may_limit_the_locks(world: World) -> None:
    """``quota.locks``: one more than that is refused, of every kind; who holds one is not disturbed."""
    hub = world.open()
    hub.config.set("quota.locks", 2)
    hub.locks.acquire("x", ttl=60)
    hub.locks.paths.acquire(["src/**"], ttl=60)
    for more in (lambda: hub.locks.acquire("y"), lambda: hub.locks.paths.acquire(["docs/**"])):
        with pytest.raises(LockError, match="allows 2 locks at a time"):
            more()
    assert None is hub.locks.acquire("x", "other")
    hub.locks.release("x", "me")
    assert hub.locks.acquire("y") is not None
