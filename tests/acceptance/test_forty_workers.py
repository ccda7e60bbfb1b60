"""Forty workers of one identity within the published limits, in virtual time."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from ghcoord.coord.tasks.tasks import Submission
from ghcoord.hub import Hub
from ghcoord.testing.simulation import SimRuntime
from tests.worker.crowd import Crowd

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

WORKERS = 40
TASKS = 20_000
BATCH = 500
KILOBYTE = 1024
HOUR, MINUTE = 3600.0, 60.0


def submit_all(hub: Hub) -> None:
    """20,000 tasks of up to a second and a kilobyte, 500 with each commit."""
    chance = random.Random(7)
    for _ in range(TASKS // BATCH):
        tasks = [Submission("nap", {"seconds": round(chance.uniform(0, 1), 3)}) for _ in range(BATCH)]
        made = hub.tasks.submit_many(tasks)
        assert all(len(task.model_dump_json()) <= KILOBYTE for task in made[:3])


def work(crowd: Crowd, start: float) -> float:
    """Submit, let 40 workers that start at the same moment do it all, and stop them; how long all that took."""
    took = 0.0

    def user(hub: Hub, runtime: SimRuntime) -> None:
        nonlocal took
        submit_all(hub)
        while crowd.now < HOUR and hub.tasks.counts()["succeeded"] < TASKS:
            runtime.sleep(30)
        took = crowd.now
        crowd.stop()

    crowd.user(user)
    for number in range(WORKERS):
        crowd.worker(f"w{number:02d}", after=start)
    crowd.run()
    assert TASKS == len(crowd.ran) == len({task for _, task in crowd.ran}), "each ran once"
    assert [] == [entry for entry in crowd.log if "error" in entry[1] or "is gone" in entry[2]]
    assert took < HOUR
    return took


@pytest.mark.parametrize("shared", [False, True], ids=["a-machine-each", "one-machine"])
def test_twenty_thousand_tasks_within_an_hour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: bool) -> None:
    """No attempt too many: the 81st within a minute and the 501st within an hour would end the run."""
    crowd = Crowd(tmp_path, monkeypatch, shared=shared)
    took = work(crowd, start=2 * MINUTE)
    server = crowd.server
    print(f"\n{TASKS} tasks in {took / 60:.0f} minutes: {len(server.attempts)} attempts, {len(server.won)} commits")
    print(f"at most {server.busiest(MINUTE)} attempts a minute, {server.busiest(HOUR)} an hour")
    print(f"{server.busiest(HOUR, server.reads)} reads and {server.busiest(HOUR, server.polls)} polls an hour")


def test_the_twin_never_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same through the github driver and the twin with the published limits: no 403, no 429, ever."""
    crowd = Crowd(tmp_path, monkeypatch, twin=True)
    twin = crowd.twin
    assert twin is not None
    with crowd.reachable():
        took = work(crowd, start=2 * MINUTE)
        assert 0 == twin.refusals
        assert [] == twin.violations
        assert not {403, 429} & {one.status for one in twin.log}
    kinds = {kind: sum(one.kind == kind for one in twin.log) for kind in ("poll", "read", "write")}
    print(f"\n{TASKS} tasks in {took / 60:.0f} minutes: {kinds}, {len(twin.commits())} commits")


@pytest.mark.parametrize("shared", [False, True], ids=["a-machine-each", "one-machine"])
def test_idle_workers_leave_half_of_the_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: bool) -> None:
    """At most 250 commits in every hour, nobody taken for dead; one that is, after its lease and the margin."""
    crowd = Crowd(tmp_path, monkeypatch, shared=shared)
    noticed = lease = 0.0

    def user(hub: Hub, runtime: SimRuntime) -> None:
        nonlocal noticed, lease
        runtime.sleep(3 * HOUR)
        assert WORKERS == hub.workers.count("active")
        lease = max(worker.ttl for worker in hub.workers.list())
        crowd.kill("w00")
        died = crowd.now
        while WORKERS == hub.workers.count("active"):
            runtime.sleep(10)
        noticed = crowd.now - died
        crowd.stop()

    crowd.user(user)
    for number in range(WORKERS):
        crowd.worker(f"w{number:02d}")
    crowd.run()
    server = crowd.server
    assert server.busiest(HOUR, server.won) <= 250
    assert 1 == sum("is gone" in text for _, _, text in crowd.log)
    assert 0.55 * lease <= noticed <= lease + 10 * MINUTE
    print(f"\n{WORKERS} idle workers: at most {server.busiest(HOUR, server.won)} commits an hour,")
    print(
        f"{server.busiest(HOUR)} attempts an hour, {server.busiest(MINUTE)} a minute; lease {lease / 60:.0f} minutes,"
    )
    print(f"the death of one was noticed after {noticed / 60:.0f} minutes")
