"""What becomes of workers that died."""

from __future__ import annotations

import pytest

from ghcoord.coord.workers.recovery import STALE_AFTER
from ghcoord.errors import NotFound, UsageError
from ghcoord.hub import Hub
from ghcoord.model.task import State
from tests.coord.world import MARGIN, Daemon, World, edited, status, token_of, where


def two_with_work(world: World) -> tuple[Hub, Daemon, Daemon]:
    """Two workers with a task each and a lock each."""
    hub = world.open()
    for number in (1, 2):
        hub.tasks.submit("echo", id=f"t{number}")
    daemons = Daemon(hub, "w1"), Daemon(hub, "w2")
    for daemon in daemons:
        daemon.lease()
        hub.locks.acquire(f"of-{daemon.worker_id}", daemon.worker_id, ttl=3600)
    return hub, *daemons


def test_a_silent_worker_is_stale_after_ttl_and_margin(world: World) -> None:
    """Not before; looking changes nothing; a longer threshold may be given, a shorter is refused."""
    hub, _, second = two_with_work(world)
    world.runtime.advance(10)
    second.beat(renew=True)
    world.runtime.advance(5 + MARGIN)
    before = hub.commits
    assert [] == hub.workers.stale() == hub.workers.mark_stale()
    world.runtime.advance(0.1)
    assert ["w1"] == hub.workers.stale()
    assert [] == hub.workers.stale(20)
    with pytest.raises(UsageError, match=r"under the workers' lease and margin: give at least 15\.5 s"):
        hub.workers.stale(15)
    with pytest.raises(UsageError, match="give at least"):
        hub.workers.mark_stale(15)
    with pytest.raises(UsageError, match="give at least"):
        hub.workers.reap(15)
    assert before == hub.commits
    world.runtime.advance(5)
    assert ["w1"] == hub.workers.mark_stale(20)
    assert ("offline", "active") == (status(hub), status(hub, "w2"))
    assert [] == hub.workers.mark_stale(20), "once"


def test_marked_offline_what_a_worker_holds_stays_its(world: World) -> None:
    """Its result still counts until somebody recovers it; then no more."""
    hub, first, second = two_with_work(world)
    world.runtime.advance(16)
    second.beat(renew=True)
    hub.workers.mark_stale()
    task = world.check_index()["t1"]
    assert State.LEASED is task.state
    reply = first.report(task)
    assert ({}, True, False) == (reply.refused, bool(reply.lost), reply.replaced)
    assert State.SUCCEEDED is world.check_index()["t1"].state


def test_recovering_is_one_commit_over_both_spaces(both: World) -> None:
    """Tasks queued, locks free, worker offline: all at once, and its late result is refused."""
    hub, first, _ = two_with_work(both)
    task = both.check_index()["t1"]
    with pytest.raises(UsageError, match="worker 'w1' is alive"):
        hub.workers.recover("w1")
    with pytest.raises(NotFound):
        hub.workers.recover("w9")
    both.runtime.advance(18)
    heads = [both.snapshot(space).head for space in ("fleet", "locks")]
    before = hub.commits
    assert (1, 1, 0) == hub.workers.recover("w1")
    assert before + 1 == hub.commits
    store = both.store()
    for space, head in zip(("fleet", "locks"), heads, strict=True):
        assert (head,) == store.commit_info(both.snapshot(space).head or "").parents
    assert (State.QUEUED, 1) == (both.check_index()["t1"].state, both.check_index()["t1"].lost)
    assert ["of-w2"] == [lock.name for lock in hub.locks.list()]
    assert ("offline", "active") == (status(hub), status(hub, "w2"))
    assert "t1" in first.report(task).refused
    assert (0, 0, 0) == hub.workers.recover("w1"), "again: nothing left"


def test_reaping_recovers_and_in_the_end_removes(world: World) -> None:
    """Dead workers are recovered at once and removed after five minutes, or after the time given."""
    hub, *_ = two_with_work(world)
    world.runtime.advance(16)
    assert 0 == hub.workers.reap()
    assert ["offline", "offline"] == [worker.status for worker in hub.workers.list()]
    assert {State.QUEUED} == {task.state for task in world.check_index().values()}
    assert [] == hub.locks.list()
    hub.workers.register("w3")
    world.runtime.advance(STALE_AFTER - 16)
    assert 0 == hub.workers.reap()
    world.runtime.advance(0.1)
    hub.workers.heartbeat("w3")
    assert 2 == hub.workers.reap()
    assert ["w3"] == [worker.id for worker in hub.workers.list()]
    hub.workers.set_status("w3", "offline")
    world.runtime.advance(100)
    assert 1 == hub.workers.reap(95)
    assert 0 == hub.workers.count()


def test_reaping_takes_from_all_the_dead_in_one_commit(world: World) -> None:
    """Noticing and recovering are one step: a worker that reports in between is never hit."""
    hub, first, _ = two_with_work(world)
    world.runtime.advance(16)
    before = hub.commits
    assert 0 == hub.workers.reap()
    assert before + 1 == hub.commits
    assert first.beat().lost


def test_tending_goes_by_ones_own_observation(world: World) -> None:
    """A worker is taken for dead when it stood still for ttl + margin before one's own eyes, whatever clocks say."""
    hub, first, second = two_with_work(world)
    other = world.open("other")
    world.runtime.advance(100)
    assert {} == other.workers.tend(), "first seen now"
    for _ in range(3):
        world.runtime.advance(15)
        second.beat(renew=True)
        world.runtime.jump_wall(10_000)
        if other.workers.tend():
            break
    assert ("offline", "active") == (status(hub), status(hub, "w2"))
    assert (State.QUEUED, State.LEASED) == (world.check_index()["t1"].state, world.check_index()["t2"].state)
    assert first.beat().lost
    before = other.commits
    assert {} == other.workers.tend()
    assert before == other.commits


def test_tending_says_what_it_recovered(world: World) -> None:
    """By worker, and only once."""
    hub, *_ = two_with_work(world)
    hub.workers.tend()
    world.runtime.advance(15 + MARGIN)
    assert {} == hub.workers.tend()
    world.runtime.advance(0.1)
    assert {"w1": (1, 1, 0), "w2": (1, 1, 0)} == hub.workers.tend()
    assert {} == hub.workers.tend()


@pytest.mark.parametrize("worker_id", ["w1", "W" * 128, "A.b_C-" + "X" * 100 + "1"])
def test_leases_whose_worker_is_gone_are_recovered(world: World, worker_id: str) -> None:
    """A worker's record deleted by hand, however its id is spelt: its tasks come back; of a live one they stay."""
    hub = world.open()
    hub.tasks.submit("echo", id="t1")
    daemon = Daemon(hub, worker_id)
    daemon.lease()
    before = hub.commits
    assert {} == hub.workers.tend()
    assert before == hub.commits
    world.put("fleet", {where("worker", worker_id): None})
    assert {worker_id: (0, 1, 0)} == hub.workers.tend()
    assert State.QUEUED is world.check_index()["t1"].state
    assert {} == hub.workers.tend()


def test_leases_of_a_worker_set_offline_are_recovered(world: World) -> None:
    """Whoever is declared offline loses its tasks at the next tending."""
    hub, *_ = two_with_work(world)
    hub.workers.set_status("w1", "offline")
    assert ["w1"] == list(hub.workers.tend())
    assert State.QUEUED is world.check_index()["t1"].state


def test_sweeping_removes_the_long_gone(world: World) -> None:
    """Offline for five minutes, or for a ttl that is longer; the living stay."""
    hub, *_ = two_with_work(world)
    hub.workers.register("slow", ttl=2 * STALE_AFTER)
    hub.workers.set_status("w1", "offline")
    hub.workers.set_status("slow", "offline")
    world.runtime.advance(STALE_AFTER + 1)
    before = hub.commits
    assert 1 == hub.workers.sweep()
    assert before + 1 == hub.commits
    assert ["slow", "w2"] == [worker.id for worker in hub.workers.list()]
    assert State.QUEUED is world.check_index()["t1"].state
    assert 0 == hub.workers.sweep()
    assert before + 1 == hub.commits


def test_a_broken_worker_record_stops_nobody_else(world: World) -> None:
    """Its own calls put it right again; the others are listed and work."""
    hub, first, second = two_with_work(world)
    path = where("worker", "w1")
    world.put("fleet", {path: b"{broken"})
    assert ["w2"] == [worker.id for worker in hub.workers.list()]
    assert 1 == len(hub.broken())
    assert {"t2": token_of(world.check_index()["t2"])} == second.beat(renew=True).held
    assert not first.beat(renew=True).lost, "the last good version came back"
    world.put("fleet", {path: edited(world.files("fleet")[path], status="draining", drain_requested=True)})
    assert first.beat().drain
