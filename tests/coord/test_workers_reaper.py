"""Reaping: what it would do, and doing it in the background."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from ghcoord.coord.workers.reaper import Reaped, Recovered
from ghcoord.coord.workers.recovery import STALE_AFTER
from ghcoord.errors import NotFound, UsageError
from ghcoord.hub import Hub
from ghcoord.model.task import State
from ghcoord.testing.faults import HeadsFault
from tests.coord.world import MARGIN, Daemon, World, status


@pytest.fixture
def dead(world: World) -> Hub:
    """A hub whose worker w1 died with a task, two locks and three sessions; w2 has been offline for long."""
    hub = world.open()
    hub.workers.register("w2", ttl=15.0)
    hub.workers.set_status("w2", "offline")
    world.runtime.advance(STALE_AFTER)
    hub.tasks.submit("echo", id="t1")
    daemon = Daemon(hub)
    daemon.lease()
    hub.workers.heartbeat("w1", active_sessions=3)
    for name in ("x", "y"):
        hub.locks.acquire(name, "w1", ttl=3600)
    world.runtime.advance(16)
    return hub


def test_a_preview_is_what_then_happens(dead: Hub, world: World) -> None:
    """It names workers, tasks, locks and sessions and changes nothing; reaping then does exactly that."""
    before = dead.commits, world.files("fleet"), world.files("locks")
    plan = dead.workers.preview_reap()
    assert Reaped({"w1": Recovered(locks=2, tasks=1, sessions=3)}, ["w2"]) == plan
    assert Recovered(locks=2, tasks=1, sessions=3) == dead.workers.preview_recover("w1")
    assert before == (dead.commits, world.files("fleet"), world.files("locks"))
    assert plan == dead.workers.reap_now()
    assert ("offline", "gone") == (status(dead), status(dead, "w2"))
    assert State.QUEUED is world.check_index()["t1"].state
    assert [] == dead.locks.list()
    assert Reaped({}, []) == dead.workers.preview_reap() == dead.workers.reap_now()


def test_a_preview_refuses_what_the_deed_would(dead: Hub) -> None:
    """A live worker, an unknown one, a threshold that is too short."""
    Daemon(dead, "w3")
    with pytest.raises(UsageError, match="worker 'w3' is alive"):
        dead.workers.preview_recover("w3")
    with pytest.raises(NotFound):
        dead.workers.preview_recover("w9")
    for call in (dead.workers.preview_reap, dead.workers.reap_now):
        with pytest.raises(UsageError, match="give at least 15"):
            call(3)


def test_sessions_die_with_their_worker(dead: Hub) -> None:
    """They are counted once, and the record no longer has them."""
    assert Recovered(locks=2, tasks=1, sessions=3) == dead.workers.recover("w1")
    worker = dead.workers.get("w1")
    assert worker is not None
    assert (0, "offline") == (worker.active_sessions, worker.status)
    assert Recovered(0, 0, 0) == dead.workers.recover("w1")


def test_who_would_be_recovered_and_removed_is_both(world: World) -> None:
    """A worker silent for longer than the threshold is recovered and removed by one call, and by one preview."""
    hub = world.open()
    Daemon(hub)
    world.runtime.advance(STALE_AFTER + 1)
    plan = hub.workers.preview_reap()
    assert (["w1"], ["w1"]) == (list(plan.recovered), plan.removed)
    assert plan == hub.workers.reap_now()
    assert 0 == hub.workers.count()


def test_a_summary_names_the_first_ones() -> None:
    """Counts, five names each, and how many more."""
    many = Reaped({f"w{n}": Recovered(1, 2, 0) for n in range(7)}, ["a"])
    assert "7 workers recovered (w0, w1, w2, w3, w4, … 2 more) with 14 tasks and 7 locks, 1 removed (a)" == many.summary
    assert "0 workers recovered, 0 removed" == Reaped({}, []).summary


# -- in the background


def test_a_reaper_recovers_and_removes(world: World) -> None:
    """At its interval, without a daemon; each pass is told, and leaving the block ends it."""
    hub = world.open()
    hub.tasks.submit("echo", id="t1")
    Daemon(hub).lease()
    told: list[tuple[str, str]] = []
    seen: list[Reaped] = []
    with hub.workers.reaper(60, log=lambda level, text: told.append((level, text)), on_pass=seen.append) as reaper:
        world.runtime.advance(59)
        assert (1, [("debug", "0 workers recovered, 0 removed")]) == (reaper.passes, told)
        world.runtime.advance(1)
        assert ("offline", State.QUEUED) == (status(hub), world.check_index()["t1"].state)
        assert ("info", "1 workers recovered (w1) with 1 tasks and 0 locks, 0 removed") == told[-1]
        world.runtime.advance(STALE_AFTER)
        assert "gone" == status(hub)
        assert [Reaped({}, ["w1"])] == [done for done in seen if done.removed]
        before = reaper.passes
    world.runtime.advance(600)
    assert before == reaper.passes == len(told) == len(seen)


def test_a_reaper_survives_errors(world: World) -> None:
    """A hub that cannot be reached is an error of one pass; the next one works."""
    hub, faulty = world.open_faulty()
    told: list[str] = []
    reaper = hub.workers.reaper(10, log=lambda level, text: told.append(level))
    faulty.fail_heads(*[HeadsFault.UNAVAILABLE] * 20)
    reaper.start()
    world.runtime.advance(120)
    reaper.stop()
    assert ("error", "debug") == (told[0], told[-1])
    assert reaper.last == Reaped({}, [])


def test_a_reaper_survives_what_nobody_foresaw(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any exception of a pass is told with its kind and ends that pass alone."""
    hub = world.open()
    told: list[tuple[str, str]] = []

    def broken() -> list[object]:
        raise ZeroDivisionError("odd record")

    monkeypatch.setattr(hub.workers, "_scan", broken)
    with hub.workers.reaper(10, log=lambda level, text: told.append((level, text))):
        world.runtime.advance(15)
    assert [("error", "unexpected ZeroDivisionError: odd record")] * 2 == told


def test_a_reaper_goes_by_its_own_observation(world: World) -> None:
    """A clock that jumps ahead makes it no sooner than the clock's judgement; one that stands back no later."""
    hub = world.open()
    Daemon(hub)
    with hub.workers.reaper(5):
        world.runtime.settle()
        world.runtime.jump_wall(-10_000)
        world.runtime.advance(15 + MARGIN + 5)
    assert "offline" == status(hub), "by the clock its lease would still run for hours"


def test_starting_and_stopping_again(world: World) -> None:
    """A reaper is started once, stopped without having been started, and started anew."""
    hub = world.open()
    reaper = hub.workers.reaper(60)
    reaper.stop()
    reaper.start()
    reaper.start()
    world.runtime.advance(30)
    assert 1 == reaper.passes
    reaper.stop()
    reaper.start()
    world.runtime.advance(1)
    assert 2 == reaper.passes
    reaper.stop()


@pytest.mark.parametrize("make", [lambda hub: hub.workers.reaper(0), lambda hub: hub.workers.reaper(float("nan"))])
def test_an_interval_that_cannot_be(hub: Hub, make: Callable[[Hub], object]) -> None:
    """Nothing is started for it."""
    with pytest.raises(UsageError, match="give more than 0"):
        make(hub)


def test_a_reapers_default_log(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Without a log of the caller's it is the standard one, ``ghcoord.reaper``."""
    hub = world.open()
    Daemon(hub)
    world.runtime.advance(20)
    with caplog.at_level(logging.DEBUG, "ghcoord.reaper"), hub.workers.reaper(60):
        world.runtime.advance(61)
    assert [("ghcoord.reaper", logging.INFO), ("ghcoord.reaper", logging.DEBUG)] == [
        (record.name, record.levelno) for record in caplog.records
    ]
