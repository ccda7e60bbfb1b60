"""What things cost in requests, counted from the twin's own log. A figure that rises fails."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ghcoord.coord.tasks.tasks import Submission
from ghcoord.hub import Hub
from ghcoord.model.lock import Lock
from ghcoord.testing.simulation import SimRuntime
from ghcoord.twin.inprocess import in_process
from ghcoord.twin.log import Exchange
from ghcoord.twin.server import Twin
from tests.acceptance.naive_loop import NaiveWorker
from tests.worker.crowd import Crowd

TASKS = 1000


@pytest.fixture
def crowd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Crowd]:
    """The twin with the published limits, in virtual time."""
    made = Crowd(tmp_path, monkeypatch, twin=True)
    with made.reachable():
        yield made


def log(crowd: Crowd) -> list[Exchange]:
    assert crowd.twin is not None
    return crowd.twin.log


def paid(sent: list[Exchange]) -> list[Exchange]:
    """Those that are not a 304."""
    return [one for one in sent if one.status != 304]


def naive() -> tuple[float, float]:
    """Requests and writes a task of the reference's loop."""
    twin = Twin()
    token = twin.user("me")
    twin.repository("me", "hub", empty=False)
    try:
        with in_process(twin) as url:
            worker = NaiveWorker(f"{url}/api/v3", "me/hub", token)
            for number in range(3):
                worker.put(f"tasks/pending/t{number}.json", {"id": number})
            worker.put("workers/worker-1.json", {"status": "active", "active": 0})
            worker.calls = worker.writes = 0
            before = len(twin.log)
            while worker.one_task() is not None:
                pass
            assert worker.calls == len(twin.log) - before
            return (worker.calls - 1) / 3, worker.writes / 3
    finally:
        twin.stop()


@pytest.mark.slow
def test_a_thousand_short_tasks(crowd: Crowd) -> None:
    """One worker with 50 slots: at most 60 commits in all, a fifth of a request a task; the naive loop beside it."""
    figures: list[tuple[int, int]] = []
    assert crowd.twin is not None

    def user(hub: Hub, runtime: SimRuntime) -> None:
        chance = random.Random(5)
        assert crowd.twin is not None
        commits = len(crowd.twin.commits())
        hub.tasks.submit_many([Submission("nap", {"seconds": chance.uniform(0, 2)}) for _ in range(TASKS)])
        before = len(log(crowd))
        crowd.worker("w1", slots=50, until_idle=10.0)
        while "w1" not in crowd.daemons or hub.tasks.counts()["succeeded"] < TASKS:
            runtime.sleep(120)
        sent = log(crowd)[before:]
        figures.append((len(paid(sent)), len(crowd.twin.commits()) - commits))

    crowd.user(user)
    crowd.run()
    requests, commits = figures[0]
    calls, writes = naive()
    print(f"\n{'':24}{'requests a task':>16}{'writes a task':>16}")
    print(f"{'the naive loop':24}{calls:16.3f}{writes:16.3f}")
    print(f"{'ghcoord':24}{requests / TASKS:16.3f}{commits / TASKS:16.3f}")
    assert TASKS == len(crowd.ran)
    assert (13, 6) == (calls, writes)
    assert commits <= 60
    assert requests / TASKS <= 0.2


def test_an_idle_workers_polls_cost_nothing(crowd: Crowd) -> None:
    """On a hub where nothing happens each is answered by 304, until its lease is due."""
    seen: list[list[Exchange]] = []

    def user(hub: Hub, runtime: SimRuntime) -> None:
        runtime.sleep(15)
        commits = len([one for one in log(crowd) if one.kind == "write"])
        while len([one for one in log(crowd) if one.kind == "write"]) == commits:
            runtime.sleep(1)
        runtime.sleep(7)
        before = len(log(crowd))
        runtime.sleep(14)
        seen.append(log(crowd)[before:])
        crowd.stop()

    crowd.worker("w1")
    crowd.user(user)
    crowd.run()
    assert 2 <= len(seen[0])
    assert {("poll", 304)} == {(one.kind, one.status) for one in seen[0]}


def spent(crowd: Crowd, before: int) -> list[str]:
    return [f"{one.operation} {one.status}" for one in paid(log(crowd)[before:])]


def counted(crowd: Crowd, run: Callable[[Hub], object], warm: Callable[[Hub], object]) -> list[str]:
    """The requests of ``run`` in a process that has done ``warm`` just before."""
    found: list[list[str]] = []

    def user(hub: Hub, runtime: SimRuntime) -> None:
        warm(hub)
        before = len(log(crowd))
        run(hub)
        found.append(spent(crowd, before))

    crowd.user(user)
    crowd.run()
    return found[0]


def test_a_lock_with_a_known_head(crowd: Crowd) -> None:
    """One request to take it, one to give it back."""
    locks: list[Lock] = []

    def take(hub: Hub) -> None:
        lock = hub.locks.acquire("deploy", "me")
        assert lock is not None
        locks.append(lock)

    def again(hub: Hub) -> None:
        take(hub)
        hub.locks.release("deploy", "me", locks.pop().token)

    sent = counted(crowd, take, again)
    assert 1 == len(sent), sent


def test_giving_a_lock_back(crowd: Crowd) -> None:
    """One request."""
    locks: list[Lock] = []

    def take(hub: Hub) -> None:
        lock = hub.locks.acquire("deploy", "me")
        assert lock is not None
        locks.append(lock)

    sent = counted(crowd, lambda hub: hub.locks.release("deploy", "me", locks[0].token), take)
    assert 1 == len(sent), sent


def race(crowd: Crowd, processes: int) -> list[str]:
    """Cold processes try one lock once, without waiting; who got it."""
    won: list[str] = []

    def one(name: str) -> None:
        def user(hub: Hub, runtime: SimRuntime) -> None:
            if hub.locks.acquire("deploy", name) is not None:
                won.append(name)

        crowd.user(user, name)

    for number in range(processes):
        one(f"p{number:02d}")
    crowd.run()
    return won


def test_a_cold_command_takes_a_lock(crowd: Crowd) -> None:
    """Three requests at most, everything that opening the hub costs among them."""
    before = len(log(crowd))
    assert ["p00"] == race(crowd, 1)
    assert crowd.requests["p00"] <= 3, spent(crowd, before)


def test_twenty_cold_processes_try_one_lock(crowd: Crowd) -> None:
    """One gets it; none needs more than five requests."""
    before = len(log(crowd))
    assert 1 == len(race(crowd, 20))
    worst, most = crowd.requests.most_common(1)[0]
    asked = {name: count for name, count in crowd.requests.items() if name.startswith("p")}
    assert max(asked.values()) <= 5, (worst, most, spent(crowd, before))
