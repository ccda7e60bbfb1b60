"""Daemons on a server with limits, in virtual time: few commits, long leases, nobody in another's way."""

from __future__ import annotations

from pathlib import Path

import pytest

from ghcoord.coord.tasks.tasks import Submission
from ghcoord.hub import Hub
from ghcoord.testing.simulation import SimRuntime
from tests.worker.crowd import Crowd

HOUR = 3600.0


@pytest.fixture
def crowd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Crowd:
    return Crowd(tmp_path, monkeypatch)


def naps(hub: Hub, count: int, seconds: float) -> None:
    hub.tasks.submit_many([Submission("nap", {"seconds": seconds})] * count)


def wait_until_done(hub: Hub, runtime: SimRuntime, count: int) -> None:
    while hub.tasks.counts()["succeeded"] < count:
        runtime.sleep(5)


def test_a_single_task_is_leased_and_reported_at_once(crowd: Crowd) -> None:
    """A quiet hub with one worker: seconds, not the time between two commits."""
    took: list[float] = []

    def user(hub: Hub, runtime: SimRuntime) -> None:
        runtime.sleep(60)
        began = crowd.now
        naps(hub, 1, 1.0)
        wait_until_done(hub, runtime, 1)
        took.append(crowd.now - began)
        crowd.stop()

    crowd.worker("w1")
    crowd.user(user)
    crowd.run()
    assert [] == [entry for entry in crowd.log if "error" in entry[1]]
    assert took[0] < 20


def test_short_tasks_are_leased_ahead_and_reported_together(crowd: Crowd) -> None:
    """400 tasks of half a second on four slots: a commit for a hundred of them or so, and hardly a request more."""

    def user(hub: Hub, runtime: SimRuntime) -> None:
        naps(hub, 400, 0.5)
        wait_until_done(hub, runtime, 400)
        crowd.stop()

    crowd.worker("w1", slots=4)
    crowd.user(user)
    crowd.run()
    assert 400 == len({task for _, task in crowd.ran}) == len(crowd.ran)
    assert len(crowd.server.attempts) <= 20


def test_a_busy_worker_does_not_poll(crowd: Crowd) -> None:
    """While it has a long task on its only slot it asks for nothing, except when it renews its lease."""
    asked: list[int] = []

    def user(hub: Hub, runtime: SimRuntime) -> None:
        naps(hub, 1, 600.0)
        runtime.sleep(60)
        asked.append(len(crowd.server.polls) + len(crowd.server.attempts))
        runtime.sleep(400)
        asked.append(len(crowd.server.polls) + len(crowd.server.attempts))
        crowd.stop()

    crowd.worker("w1")
    crowd.user(user)
    crowd.run()
    renewals = 400 / (60 * 0.4) + 1
    assert asked[1] - asked[0] <= 3 * renewals, "a poll, a commit, and seldom a look at the others"
    assert 1 == len(crowd.ran), "what ran was finished before it stopped"


def test_what_was_leased_ahead_goes_back_when_tasks_take_long(crowd: Crowd) -> None:
    """The first tasks of a kind show how long they take: the others are free for a worker that comes later."""

    def user(hub: Hub, runtime: SimRuntime) -> None:
        naps(hub, 8, 300.0)
        runtime.sleep(240)
        assert 1 == hub.tasks.counts()["leased"]
        crowd.worker("w2")
        runtime.sleep(300)
        assert {"w1", "w2"} == {task.worker for task in hub.tasks.list(limit=100) if task.worker}
        for daemon in crowd.daemons.values():
            daemon.cancel()

    crowd.worker("w1")
    crowd.user(user)
    crowd.run()


def test_who_drains_gives_back_what_has_not_started(crowd: Crowd) -> None:
    """At once, with what has ended."""

    def user(hub: Hub, runtime: SimRuntime) -> None:
        naps(hub, 100, 10.0)
        runtime.sleep(60)
        assert hub.tasks.counts()["leased"] > 1
        crowd.stop()
        runtime.sleep(60)
        assert 0 == hub.tasks.counts()["leased"]
        assert [] == hub.workers.list()

    crowd.worker("w1")
    crowd.user(user)
    crowd.run()
    assert 1 <= len(crowd.ran) < 12


@pytest.mark.slow
def test_five_idle_workers_live_on_few_commits(crowd: Crowd) -> None:
    """Leases grow with their number; one that dies is noticed after lease and margin, the others never."""
    died = back = 0.0

    def user(hub: Hub, runtime: SimRuntime) -> None:
        nonlocal died, back
        runtime.sleep(HOUR)
        ttls = {worker.ttl for worker in hub.workers.list() if worker.alive}
        assert ttls == {max(ttls)}
        assert 5 == hub.workers.count("active")
        crowd.kill("w0")
        died = crowd.now
        lease = max(ttls)
        while hub.workers.count("active") == 5:
            runtime.sleep(5)
        back = crowd.now - died
        assert 0.55 * lease <= back <= lease + 5 + 60
        runtime.sleep(HOUR)
        assert 4 == hub.workers.count("active")
        assert max(worker.ttl for worker in hub.workers.list() if worker.alive) < lease
        crowd.stop()

    for number in range(5):
        crowd.worker(f"w{number}")
    crowd.user(user)
    crowd.run()
    assert [] == [entry for entry in crowd.log if "error" in entry[1]]
    assert 1 == sum("is gone" in text for _, _, text in crowd.log)
    assert crowd.server.busiest(HOUR, crowd.server.won) <= 250
    assert crowd.server.busiest(60) <= 40


def test_one_that_is_told_to_stop_before_it_has_registered(crowd: Crowd) -> None:
    """It ends, and leaves nothing behind."""

    def user(hub: Hub, runtime: SimRuntime) -> None:
        while "w1" not in crowd.daemons:
            runtime.sleep(0.01)
        crowd.stop()
        runtime.sleep(30)
        assert [] == hub.workers.list()

    crowd.worker("w1")
    crowd.user(user)
    crowd.run()
