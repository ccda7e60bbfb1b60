"""Locks that are taken for namespaces: what fences writes where a server commits to one space at a time."""

from __future__ import annotations

import pytest

from ghcoord.coord.layout import LOCKS
from ghcoord.coord.workers.tick import Beat
from ghcoord.errors import FenceRefused, Unsupported, UsageError
from ghcoord.hub import Hub, SetKey
from ghcoord.testing.far import FarStore, SingleSpaceStore
from tests.coord.world import World


def of(world: World, kind: type[FarStore], actor: str = "me") -> Hub:
    """A hub on a store of that kind; the same one for each call with one world."""
    if not isinstance(world._memory, kind):
        world._memory = kind(world.runtime.now)
    return world.open(actor)


def test_a_hub_is_made_space_by_space(world: World) -> None:
    """Without commits over several spaces a hub is made all the same, and making it again changes nothing."""
    one, two = of(world, SingleSpaceStore), of(world, SingleSpaceStore)
    assert (True, False) == (one.created, two.created)
    assert one.id == two.id
    assert {"meta", "fleet", "locks"} == set(one.heads())


def test_only_a_lock_taken_for_the_namespace_fences_it(world: World) -> None:
    """A token that was not raised in the namespace is refused, with the way to do it."""
    hub = of(world, SingleSpaceStore)
    lock = hub.locks.acquire("x", guards=["a"])
    assert lock is not None
    assert ("a",) == lock.guards
    hub.memory.set("k", 1, "a", fence=("x", lock.token))
    with pytest.raises(FenceRefused, match="lock acquire x --for b"):
        hub.memory.set("k", 1, "b", fence=("x", lock.token))
    assert (1, None) == (hub.memory.get("k", "a"), hub.memory.get("k", "b"))


@pytest.mark.parametrize("kind", [SingleSpaceStore, FarStore])
def test_the_next_grant_ends_the_token_before(world: World, kind: type[FarStore]) -> None:
    """Once another has got the lock, the holder who was taken for dead writes no more."""
    old, new = of(world, kind, "old"), of(world, kind, "new")
    first = old.locks.acquire("x", guards=["a"], ttl=10)
    assert first is not None
    world.runtime.advance(30)
    old.memory.set("k", "late but alone", "a", fence=("x", first.token))
    second = new.locks.acquire("x", guards=["a"])
    assert second is not None
    with pytest.raises(FenceRefused):
        old.memory.set("k", "too late", "a", fence=("x", first.token))
    new.memory.set("k", "mine", "a", fence=("x", second.token))
    world.runtime.advance(2)
    assert "mine" == old.memory.get("k", "a")


@pytest.mark.parametrize("forced", [False, True])
def test_a_released_token_guards_nothing(world: World, forced: bool) -> None:
    """After its release, or when it was forced, a token is refused, also while nobody else has the lock."""
    hub = of(world, SingleSpaceStore)
    lock = hub.locks.acquire("x", guards=["a", "b", "a"])
    assert lock is not None
    assert ("a", "b") == lock.guards
    if forced:
        hub.locks.force_unlock("x")
    else:
        hub.locks.release("x", "me", lock.token)
    for namespace in ("a", "b"):
        with pytest.raises(FenceRefused, match="was released"):
            hub.memory.set("k", 1, namespace, fence=("x", lock.token))


def test_a_grant_overtaken_on_the_way_is_given_back(world: World) -> None:
    """Who finds a higher token raised already has no lock, and leaves none behind."""
    hub, other = of(world, SingleSpaceStore, "slow"), of(world, SingleSpaceStore, "quick")
    transact = hub._context.transactor.transact
    taken = []

    def overtaken(spaces, run, **how):  # type: ignore[no-untyped-def]
        if spaces != (LOCKS,) and not taken:
            world.runtime.advance(1000)
            taken.append(other.locks.acquire("x", guards=["a"]))
        return transact(spaces, run, **how)

    hub._context.transactor.transact = overtaken  # type: ignore[method-assign]
    with pytest.raises(FenceRefused, match="higher token"):
        hub.locks.acquire("x", guards=["a"], ttl=10)
    (holder,) = other.locks.holders("x")
    assert ("quick", taken[0].token) == (holder.owner, holder.token)


def test_what_cannot_be_guarded(world: World) -> None:
    """Locks with several holders, several namespaces at once, and too many are refused."""
    hub = of(world, SingleSpaceStore)
    for how in ({"shared": True}, {"permits": 2}):
        with pytest.raises(UsageError, match="held alone"):
            hub.locks.acquire("x", guards=["a"], **how)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="at most"):
        hub.locks.acquire("x", guards=[f"n{number}" for number in range(99)])
    with pytest.raises(Unsupported, match="one space at a time"):
        hub.memory.apply([SetKey("k", 1, "a"), SetKey("k", 1, "b")])
    assert [] == hub.locks.list()


def test_what_needs_several_spaces_says_so(world: World) -> None:
    """Anything else over several spaces is unsupported, and says where it works."""
    hub = of(world, SingleSpaceStore)
    with pytest.raises(Unsupported, match="git push"):
        hub._context.transact(("fleet", "locks"), lambda tx: None)


def test_a_dead_workers_tasks_are_recovered_all_the_same(world: World) -> None:
    """One space at a time: tasks come back at once, its locks with the end of their lease."""
    hub = of(world, SingleSpaceStore)
    hub.workers.register("w1", capacity=1)
    hub.tasks.submit("echo", id="t")
    assert hub.locks.acquire("x", "w1") is not None
    worker = hub.workers.get("w1")
    assert worker is not None
    assert hub.beat(Beat("w1", worker.token, tools=("echo",), want=1)).leased
    world.runtime.advance(200)
    recovered = hub.workers.recover("w1")
    assert (1, 0) == (recovered.tasks, recovered.locks)
    assert ["t"] == [task.id for task in hub.tasks.list("queued")]
    assert hub.locks.is_locked("x")
